//! Per-CPU counters: what was seen, and everything that could not be sent, by cause.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Index into the per-CPU array `COUNTERS`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $name,)* }

        /// All counters with their names, in the order of their numbers.
        pub const COUNTERS: &[(Counter, &str)] = &[$((Counter::$name, $text),)*];
    };
}

counters! {
    /// Connections opened by a process of this machine (entered SYN_SENT).
    Opened = "connections_opened",
    /// Connections that reached ESTABLISHED.
    Established = "connections_established",
    /// Connections that the user asked for, whatever their end.
    Asked = "connections_asked_for",
    /// Those of them that have been told.
    AskedDone = "connections_asked_for_done",
    /// Records put into the ring buffer.
    Sent = "records_sent",
    /// Records lost because the ring buffer was full.
    LostRing = "records_lost_ring_full",
    /// Sockets without an entry because the map was full.
    LostSocket = "sockets_lost_map_full",
    /// Timelines that could not be created.
    LostTimeline = "timelines_lost",
    /// Steps beyond the length of a timeline.
    LostStep = "steps_lost_timeline_full",
    /// Drops of reasons that are no loss.
    DropNoise = "drops_ignored_by_reason",
    /// Drops above the rate of their flow and cause.
    DropLimited = "drops_over_rate",
    /// Other records above the rate of their kind.
    OtherLimited = "records_over_rate",
    /// Packets whose headers could not be read.
    Unparsed = "packets_unparsed",
}

/// Number of counters.
pub const COUNTER_COUNT: usize = COUNTERS.len();
