//! The kernel's struct fields that programs read, by name.
//!
//! Rust has no CO-RE: user space resolves each path in the running kernel's BTF and writes the byte offsets
//! into the frozen `.rodata` global `OFFSETS` before load, so the verifier sees constants. A field that the
//! kernel does not have is [`ABSENT`], and the branch that reads it is switched off: never a plausible default.

/// Offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct FieldSpec {
    /// `struct.member[.member...]` as BTF names it.
    pub path: &'static str,
    /// Without a required field nothing works; an optional one costs detail.
    pub required: bool,
    /// Size in bytes that programs read; the resolver refuses a field of another size. 0: an address only. [`BIT`]: a
    /// single bit, and its offset is in bits.
    pub size: u32,
}

/// See [`FieldSpec::size`].
pub const BIT: u32 = u32::MAX;

macro_rules! fields {
    ($($name:ident = $path:literal, $size:expr, $need:ident;)*) => {
        /// Index into `OFFSETS`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        pub enum Field { $($name,)* }

        /// All fields, in the order of [`Field`].
        pub const FIELDS: &[FieldSpec] = &[
            $(FieldSpec { path: $path, required: fields!(@$need), size: $size },)*
        ];
    };
    (@required) => { true };
    (@optional) => { false };
}

fields! {
    SkFamily = "sock_common.skc_family", 2, required;
    SkState = "sock_common.skc_state", 1, required;
    SkDaddr = "sock_common.skc_daddr", 4, required;
    SkRcvSaddr = "sock_common.skc_rcv_saddr", 4, required;
    SkDport = "sock_common.skc_dport", 2, required;
    SkNum = "sock_common.skc_num", 2, required;
    SkBoundDevIf = "sock_common.skc_bound_dev_if", 4, required;
    SkV6Daddr = "sock_common.skc_v6_daddr", 16, optional;
    SkV6RcvSaddr = "sock_common.skc_v6_rcv_saddr", 16, optional;
    SkIpv6Only = "sock_common.skc_ipv6only", BIT, optional;
    SkNet = "sock_common.skc_net", 8, required;
    SkFlags = "sock_common.skc_flags", 8, required;
    SkRtxQueue = "sock.tcp_rtx_queue.rb_node", 8, required;
    SkWriteQueueLen = "sock.sk_write_queue.qlen", 4, required;
    SkErr = "sock.sk_err", 4, required;
    SkErrSoft = "sock.sk_err_soft", 4, required;
    SkLockOwned = "sock.sk_lock.owned", 4, required;
    SkProtocol = "sock.sk_protocol", 2, required;
    SkLingertime = "sock.sk_lingertime", 8, optional;
    SkAckBacklog = "sock.sk_ack_backlog", 4, required;
    SkMaxAckBacklog = "sock.sk_max_ack_backlog", 4, required;
    SkSocket = "sock.sk_socket", 8, optional;
    InetSport = "inet_sock.inet_sport", 2, required;
    IcskRetransmits = "inet_connection_sock.icsk_retransmits", 1, optional;
    IcskProbesOut = "inet_connection_sock.icsk_probes_out", 1, optional;
    IcskUserTimeout = "inet_connection_sock.icsk_user_timeout", 4, optional;
    TcpSrtt = "tcp_sock.srtt_us", 4, optional;
    TcpTotalRetrans = "tcp_sock.total_retrans", 4, optional;
    TcpPacketsOut = "tcp_sock.packets_out", 4, optional;
    TcpBytesAcked = "tcp_sock.bytes_acked", 8, optional;
    TcpBytesReceived = "tcp_sock.bytes_received", 8, optional;
    TcpRcvNxt = "tcp_sock.rcv_nxt", 4, optional;
    TcpCopiedSeq = "tcp_sock.copied_seq", 4, optional;
    TcpSndUna = "tcp_sock.snd_una", 4, optional;
    TcpWriteSeq = "tcp_sock.write_seq", 4, optional;
    NetInum = "net.ns.inum", 4, required;
    DevIfindex = "net_device.ifindex", 4, required;
    DevName = "net_device.name", 16, optional;
    DevNet = "net_device.nd_net", 8, required;
    SkbHead = "sk_buff.head", 8, required;
    SkbData = "sk_buff.data", 8, required;
    SkbNetworkHeader = "sk_buff.network_header", 2, required;
    SkbProtocol = "sk_buff.protocol", 2, required;
    SkbIif = "sk_buff.skb_iif", 4, required;
    SkbDev = "sk_buff.dev", 8, required;
    SkbSk = "sk_buff.sk", 8, required;
    SkbDst = "sk_buff._skb_refdst", 8, optional;
    DstDev = "dst_entry.dev", 8, optional;
    NeighTbl = "neighbour.tbl", 8, optional;
    NeighNudState = "neighbour.nud_state", 1, optional;
    NeighUpdated = "neighbour.updated", 8, optional;
    NeighDev = "neighbour.dev", 8, optional;
    NeighKey = "neighbour.primary_key", 0, optional;
    NeighTableFamily = "neigh_table.family", 4, optional;
    Flow4Daddr = "flowi4.daddr", 4, optional;
    Flow4Saddr = "flowi4.saddr", 4, optional;
    Flow4Ports = "flowi4.uli", 0, optional;
    Flow6Daddr = "flowi6.daddr", 16, optional;
    Flow6Saddr = "flowi6.saddr", 16, optional;
    Flow6Ports = "flowi6.uli", 0, optional;
    FlowOif = "flowi_common.flowic_oif", 4, optional;
    FlowIif = "flowi_common.flowic_iif", 4, optional;
    FlowProto = "flowi_common.flowic_proto", 1, optional;
    Fib6Type = "fib6_result.fib6_type", 1, optional;
    Fib6Flags = "fib6_result.fib6_flags", 4, optional;
    Fib6TableId = "fib6_table.tb6_id", 4, optional;
    TaskTgid = "task_struct.tgid", 4, required;
    TaskPid = "task_struct.pid", 4, required;
    TaskFlags = "task_struct.flags", 4, required;
    TaskComm = "task_struct.comm", 16, required;
    TaskCred = "task_struct.cred", 8, required;
    CredUid = "cred.uid.val", 4, required;
    TaskCgroups = "task_struct.cgroups", 8, required;
    CssSetDflCgrp = "css_set.dfl_cgrp", 8, required;
    CgroupKn = "cgroup.kn", 8, required;
    KernfsNodeId = "kernfs_node.id", 8, required;
    TaskFiles = "task_struct.files", 8, optional;
    TaskNsproxy = "task_struct.nsproxy", 8, optional;
    NsproxyNet = "nsproxy.net_ns", 8, optional;
    FilesFdt = "files_struct.fdt", 8, optional;
    FdtFd = "fdtable.fd", 8, optional;
    FdtMaxFds = "fdtable.max_fds", 4, optional;
    FilePrivate = "file.private_data", 8, optional;
    SocketSk = "socket.sk", 8, optional;
    RegsDi = "pt_regs.di", 8, optional;
    RegsSi = "pt_regs.si", 8, optional;
    RegsOrigAx = "pt_regs.orig_ax", 8, optional;
    RegsR8 = "pt_regs.r8", 8, optional;
}

/// Number of rows, for `[u32; FIELD_COUNT]`.
pub const FIELD_COUNT: usize = FIELDS.len();
