//! Whether the sockets in TIME_WAIT are a problem, in words.

use super::{LENGTH, Look, PortUse};
use crate::diagnoses::words::{in_netns, thousands};
use crate::whose::Side;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// TCP at work.
    Harmless,
    /// Ports for a destination run short.
    Pressure,
    /// connect() fails, or is about to.
    Exhausted,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    pub explanation: String,
    /// What to do, with a command where there is one; most useful first.
    pub next_steps: Vec<(String, Option<String>)>,
    /// What people try and should not.
    pub avoid: Vec<&'static str>,
}

/// Shares of the range, in percent.
const PRESSURE_PERCENT: u64 = 70;
const EXHAUSTED_PERCENT: u64 = 95;
/// The kernel counts these away; this share of the bound is close to it.
const OVERFLOW_PERCENT: u64 = 90;

const AVOID: &[&str] = &[
    "tcp_fin_timeout is about FIN_WAIT2 and changes nothing here",
    "tcp_tw_recycle broke clients behind NAT and is gone since Linux 4.12",
    "SO_LINGER with 0 avoids TIME_WAIT by resetting connections, and loses data that is on its way",
    "a lower tcp_max_tw_buckets destroys the guard against old segments, and frees next to nothing",
];

/// What the sockets of this look mean.
pub fn verdict(look: &Look) -> Verdict {
    let count = look.sockets.len() as u64;
    let inbound = look.sockets.iter().filter(|socket| socket.held.side == Side::Inbound).count() as u64;
    if count == 0 {
        let explanation = "There is none.".to_owned();
        return Verdict { level: Level::Harmless, explanation, next_steps: Vec::new(), avoid: Vec::new() };
    }
    let worst = look.ports.iter().max_by_key(|one| (level_of(one), one.used_percent()));
    let level = worst.map_or(Level::Harmless, level_of);
    let mut explanation = match worst {
        Some(worst) if level > Level::Harmless => trouble(worst, level),
        _ => harmless(count, inbound, worst),
    };
    let overflowing: Vec<String> = overflowing(look);
    if !overflowing.is_empty() {
        explanation += &format!(
            " {}: above that the kernel destroys them at once, which is safe for the machine and leaves peers \
             that send their FIN again without an answer.",
            overflowing.join("; ")
        );
    }
    let next_steps = match worst.filter(|_| level > Level::Harmless) {
        Some(worst) => steps(look, worst),
        None => Vec::new(),
    };
    let avoid = if level > Level::Harmless { AVOID.to_vec() } else { Vec::new() };
    Verdict { level, explanation, next_steps, avoid }
}

fn level_of(one: &PortUse) -> Level {
    // At this rate so many are there at the end of the first one's minute.
    let coming = one.rate * LENGTH.as_secs_f64();
    match one.used_percent() {
        EXHAUSTED_PERCENT.. => Level::Exhausted,
        PRESSURE_PERCENT.. => Level::Pressure,
        _ if coming >= one.size as f64 => Level::Pressure,
        _ => Level::Harmless,
    }
}

fn trouble(worst: &PortUse, level: Level) -> String {
    let to = format!("from {} to {}", worst.source, worst.destination);
    let (size, left) = (thousands(worst.size), thousands(worst.left()));
    let first = match level {
        Level::Exhausted => format!("A problem: {left} of {size} local ports are left for connections {to}"),
        _ if worst.used_percent() >= PRESSURE_PERCENT => {
            format!("Getting tight: {left} of {size} local ports are left for connections {to}")
        }
        _ => format!(
            "Tight if it goes on like this: {left} of {size} local ports are left for connections {to}"
        ),
    };
    let new =
        if worst.rate > 0.0 { format!(", and {:.0} a second are added", worst.rate) } else { String::new() };
    format!(
        "{first}{new}. The side that closes first keeps the port for 60 seconds; when none is left, connect() fails \
         with EADDRNOTAVAIL (local.ports-exhausted). Other destinations are not concerned."
    )
}

fn harmless(count: u64, inbound: u64, worst: Option<&PortUse>) -> String {
    let mut text =
        "No problem: TCP at work. The side that closes a connection first keeps its ends for 60 seconds, so \
                    that late segments do no harm; each takes some 300 bytes of memory."
            .to_owned();
    if inbound == count {
        text += " All are on the side of a server, where they take no ephemeral port.";
    } else if inbound > 0 {
        text += &format!(
            " {} of {} are on the side of a server, where they take no ephemeral port.",
            thousands(inbound),
            thousands(count)
        );
    }
    if let Some(worst) = worst {
        text += &format!(
            " Of {} local ports, {} are left for the busiest destination, {}.",
            thousands(worst.size),
            thousands(worst.left()),
            worst.destination
        );
    }
    text
}

fn overflowing(look: &Look) -> Vec<String> {
    let count = |netns: u64| look.sockets.iter().filter(|socket| socket.held.netns == netns).count() as u64;
    let near = look.rooms.iter().filter_map(|(netns, room)| {
        let (max, now) = (room.max?, count(*netns));
        (room.overflows > 0 && now * 100 >= max * OVERFLOW_PERCENT).then(|| {
            format!("{} of at most {} (tcp_max_tw_buckets) are there", thousands(now), thousands(max))
        })
    });
    near.collect()
}

fn steps(look: &Look, worst: &PortUse) -> Vec<(String, Option<String>)> {
    let room = look.rooms.get(&worst.netns);
    let prefix = in_netns(worst.netns_name.as_deref());
    let set = |setting: &str| Some(format!("{prefix}sysctl -w {setting}"));
    let mut steps = vec![(
        "the cure: let the program keep connections open and use them again (keep-alive, a connection pool)"
            .to_owned(),
        None,
    )];
    if worst.size < 40_000 {
        steps.push((
            "quick relief: more local ports (first put those of local services into ip_local_reserved_ports)"
                .to_owned(),
            set("net.ipv4.ip_local_port_range=\"1024 65535\""),
        ));
    }
    if room.and_then(|room| room.reuse).is_some_and(|reuse| reuse != 1) {
        steps.push((
            "let new connections take over a port that is in TIME_WAIT for a second (needs TCP timestamps at both \
             ends)"
                .to_owned(),
            set("net.ipv4.tcp_tw_reuse=1"),
        ));
    }
    steps.push(("more source or destination addresses multiply the room".to_owned(), None));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port_use(used: u64, rate: f64) -> PortUse {
        PortUse {
            netns: 1,
            netns_name: Some("blue".into()),
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
            size: 1000,
            used,
            time_wait: used,
            rate,
        }
    }

    #[test]
    fn levels() {
        assert_eq!(level_of(&port_use(699, 0.0)), Level::Harmless);
        assert_eq!(level_of(&port_use(700, 0.0)), Level::Pressure);
        assert_eq!(level_of(&port_use(950, 0.0)), Level::Exhausted);
        assert_eq!(level_of(&port_use(100, 16.0)), Level::Harmless);
        assert_eq!(level_of(&port_use(100, 17.0)), Level::Pressure);
    }

    #[test]
    fn words() {
        let text = trouble(&port_use(990, 20.0), Level::Exhausted);
        assert!(text.starts_with("A problem: 10 of 1,000 local ports are left"), "{text}");
        assert!(text.contains("20 a second are added"), "{text}");
        let steps = steps(&Look::default(), &port_use(990, 20.0));
        assert_eq!(
            steps[1].1.as_deref(),
            Some("ip netns exec blue sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"")
        );
        assert!(harmless(10, 10, None).contains("All are on the side of a server"));
        assert!(harmless(10, 4, Some(&port_use(6, 0.0))).contains("4 of 10"));
        let none = verdict(&Look::default());
        assert_eq!((none.level, none.explanation.as_str()), (Level::Harmless, "There is none."));
    }
}
