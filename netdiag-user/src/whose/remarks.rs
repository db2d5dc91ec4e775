//! What is wrong with a socket, as far as it shows in one look.
//!
//! Times come from `tcp_info` and are lower bounds: the kernel does not keep when a state was entered, but when
//! something last happened.

use std::time::Duration;

use super::Held;
use crate::diagnoses::leak;
use crate::diagnoses::words::duration;
use crate::enrich::sockets::{Protocol, State, Timer};
use crate::enrich::tcp_info::TcpInfo;

/// From this age on a connection in CLOSE_WAIT is no accident.
pub const CLOSE_WAIT_OLD: Duration = leak::OLD;
/// Data that lies in a queue for less is on its way.
const NOT_READ: Duration = Duration::from_secs(2);
/// The same for a connection that waits for accept().
const NOT_ACCEPTED: Duration = Duration::from_secs(1);
/// Retransmissions in a row; the first may be a loss probe.
const STUCK_RETRANSMITS: u8 = 2;
/// Share of the accept queue, in percent, from which on it is filling.
const FILLING_PERCENT: u64 = 75;

/// What a remark is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    AcceptQueueFull,
    AcceptQueueFilling,
    /// Data lies unread.
    NotRead,
    /// The connection waits for accept().
    NotAccepted,
    /// The peer closed over a minute ago, and this side does not.
    CloseWait,
    /// Data that was written does not get through.
    SendStuck,
    /// No answer to the SYN.
    SynUnanswered,
    /// SYNs come in that nobody finishes, more than the queue holds.
    SynFlood,
    /// As many half-open connections as the queue holds.
    SynQueueFull,
}

impl Kind {
    /// The entry of the catalogue that explains it.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::AcceptQueueFull => Some("timeout.accept-queue-full"),
            Self::CloseWait => Some("leak.close-wait"),
            Self::SynFlood => Some("flood.syn-flood"),
            Self::SynQueueFull => Some("timeout.syn-queue-full"),
            _ => None,
        }
    }
}

/// A remark, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    pub kind: Kind,
    pub text: String,
}

/// What there is to say about a socket.
pub fn of(held: &Held) -> Vec<Remark> {
    let socket = &held.socket;
    if socket.protocol != Protocol::Tcp {
        return Vec::new();
    }
    let looks: [fn(&Held) -> Option<Remark>; 5] =
        [accept_queue, close_wait, not_read, send_stuck, syn_unanswered];
    looks.iter().filter_map(|look| look(held)).collect()
}

/// How long a connection exists at least: since then nothing was sent or received.
pub fn age_at_least(held: &Held) -> Option<Duration> {
    let info = held.socket.tcp.as_ref()?;
    if matches!(held.socket.state, State::SynSent | State::Listen | State::Close) {
        return None;
    }
    let longest = info.last_data_sent_ms.max(info.last_data_recv_ms).max(info.last_ack_recv_ms);
    Some(milliseconds(longest))
}

/// How long a socket is in CLOSE_WAIT at least: the peer's FIN acknowledged something, and nothing did since.
pub fn close_wait_at_least(held: &Held) -> Option<Duration> {
    let info = held.socket.tcp.as_ref().filter(|_| held.socket.state == State::CloseWait)?;
    Some(milliseconds(info.last_ack_recv_ms))
}

/// The kernel refuses a connection when more than `backlog` wait (include/net/sock.h, `sk_acceptq_is_full`).
fn accept_queue(held: &Held) -> Option<Remark> {
    let (waiting, backlog) = held.socket.accept_queue()?;
    let room = u64::from(backlog) + 1;
    if waiting > backlog {
        let text = format!(
            "accept queue full: {waiting} connections wait for accept(), {room} may; new ones are dropped or refused"
        );
        return Some(Remark { kind: Kind::AcceptQueueFull, text });
    }
    let filling = waiting > 0 && u64::from(waiting) * 100 >= room * FILLING_PERCENT;
    let text = || format!("accept queue filling: {waiting} connections wait for accept(), {room} may");
    filling.then(|| Remark { kind: Kind::AcceptQueueFilling, text: text() })
}

/// A FIN counts one in the receive queue until the application has read the end (net/ipv4/tcp.c,
/// `tcp_recvmsg_locked`).
fn close_wait(held: &Held) -> Option<Remark> {
    let age = close_wait_at_least(held).filter(|age| *age >= CLOSE_WAIT_OLD)?;
    let why = match (held.is_unowned(), held.socket.rqueue) {
        (true, _) => "nobody has accepted it",
        (false, 0) => "the program has read the end and does not close it",
        (false, _) => "the program has not read the end",
    };
    let text = format!("in CLOSE_WAIT for at least {}: the peer has closed, and {why}", duration(age));
    Some(Remark { kind: Kind::CloseWait, text })
}

fn not_read(held: &Held) -> Option<Remark> {
    let (socket, info) = (&held.socket, held.socket.tcp.as_ref()?);
    if !matches!(socket.state, State::Established | State::CloseWait | State::FinWait1 | State::FinWait2) {
        return None;
    }
    let fin = u32::from(socket.state == State::CloseWait);
    let unread = socket.rqueue.saturating_sub(fin);
    let since = milliseconds(info.last_data_recv_ms);
    if held.is_unowned() {
        // Of a closed socket nobody reads; one that is established and has no file was not accepted yet.
        let waits = milliseconds(info.last_ack_recv_ms);
        let open = socket.state == State::Established && waits >= NOT_ACCEPTED;
        let text = || format!("waits for accept() for at least {}", duration(waits));
        return open.then(|| Remark { kind: Kind::NotAccepted, text: text() });
    }
    let lies = unread > 0 && since >= NOT_READ;
    let text =
        || format!("receive queue not read: {unread} bytes lie there for at least {}", duration(since));
    lies.then(|| Remark { kind: Kind::NotRead, text: text() })
}

fn send_stuck(held: &Held) -> Option<Remark> {
    let (socket, info) = (&held.socket, held.socket.tcp.as_ref()?);
    let sends = matches!(
        socket.state,
        State::Established | State::CloseWait | State::FinWait1 | State::Closing | State::LastAck
    );
    if !sends || socket.wqueue == 0 {
        return None;
    }
    let why = match socket.timer {
        Some(Timer::ZeroWindowProbe) if info.snd_wnd.is_none_or(|window| window == 0) => {
            "the peer's window is zero, so its program does not read".to_owned()
        }
        Some(Timer::Retransmit) if socket.retransmits >= STUCK_RETRANSMITS => {
            format!("not acknowledged, sent again {} times in a row{}", socket.retransmits, silence(info))
        }
        _ => return None,
    };
    let text = format!("send queue stuck: {} bytes; {why}", socket.wqueue);
    Some(Remark { kind: Kind::SendStuck, text })
}

fn silence(info: &TcpInfo) -> String {
    format!(", nothing heard for {}", duration(milliseconds(info.last_ack_recv_ms)))
}

fn syn_unanswered(held: &Held) -> Option<Remark> {
    let socket = &held.socket;
    let again = socket.state == State::SynSent && socket.retransmits > 0;
    let text = || format!("no answer to its SYN, which was sent again {} times", socket.retransmits);
    again.then(|| Remark { kind: Kind::SynUnanswered, text: text() })
}

fn milliseconds(count: u32) -> Duration {
    Duration::from_millis(count.into())
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::Side;
    use super::*;
    use crate::enrich::process::Process;
    use crate::enrich::sockets::{Family, SocketInfo};

    fn held(state: State, change: impl FnOnce(&mut SocketInfo, &mut TcpInfo)) -> Held {
        let mut socket = SocketInfo { inode: 5, ..SocketInfo::new(Family::Inet, Protocol::Tcp, state) };
        let mut info = TcpInfo::default();
        change(&mut socket, &mut info);
        socket.tcp = (state != State::Listen).then_some(info);
        let holders = vec![Rc::new(Process { pid: 7, comm: "server".into(), ..Process::default() })];
        Held { netns: 1, netns_name: None, socket, side: Side::Outbound, holders }
    }

    fn kinds(held: &Held) -> Vec<Kind> {
        of(held).into_iter().map(|remark| remark.kind).collect()
    }

    #[test]
    fn an_accept_queue_is_full_above_the_backlog() {
        let listener = |waiting, backlog| {
            kinds(&held(State::Listen, |socket, _| (socket.rqueue, socket.wqueue) = (waiting, backlog)))
        };
        assert_eq!(listener(0, 0), []);
        assert_eq!(listener(1, 0), [Kind::AcceptQueueFull]);
        assert_eq!(listener(1, 1), []);
        assert_eq!(listener(2, 1), [Kind::AcceptQueueFull]);
        assert_eq!(listener(96, 128), []);
        assert_eq!(listener(97, 128), [Kind::AcceptQueueFilling]);
        assert_eq!(listener(129, 128), [Kind::AcceptQueueFull]);
    }

    #[test]
    fn close_wait_for_a_minute() {
        let wait = |ms, rqueue| {
            held(State::CloseWait, |socket, info| (info.last_ack_recv_ms, socket.rqueue) = (ms, rqueue))
        };
        assert_eq!(of(&wait(59_999, 0)), []);
        let remarks = of(&wait(61_000, 0));
        assert_eq!(remarks[0].kind, Kind::CloseWait);
        assert!(
            remarks[0].text.contains("at least 1 min 1 s") && remarks[0].text.contains("has read the end")
        );
        assert!(of(&wait(61_000, 1))[0].text.contains("has not read the end"));
        let mut forgotten = wait(61_000, 1);
        forgotten.socket.inode = 0;
        assert!(of(&forgotten)[0].text.contains("nobody has accepted it"));
    }

    #[test]
    fn data_that_lies_unread() {
        let data = |state, rqueue, ms| {
            kinds(&held(state, |socket, info| (socket.rqueue, info.last_data_recv_ms) = (rqueue, ms)))
        };
        assert_eq!(data(State::Established, 10, 2000), [Kind::NotRead]);
        assert_eq!(data(State::Established, 10, 1999), []);
        assert_eq!(data(State::Established, 0, 9000), []);
        assert_eq!(data(State::CloseWait, 1, 9000), [], "that is the FIN");
        assert_eq!(data(State::LastAck, 10, 9000), []);
        let mut waiting = held(State::Established, |_, info| info.last_ack_recv_ms = 1500);
        waiting.socket.inode = 0;
        assert_eq!(kinds(&waiting), [Kind::NotAccepted]);
    }

    #[test]
    fn a_send_queue_that_does_not_move() {
        let stuck = |timer, retransmits, window| {
            kinds(&held(State::Established, |socket, info| {
                (socket.wqueue, socket.timer, socket.retransmits) = (100, timer, retransmits);
                info.snd_wnd = window;
            }))
        };
        assert_eq!(stuck(Some(Timer::ZeroWindowProbe), 0, Some(0)), [Kind::SendStuck]);
        assert_eq!(stuck(Some(Timer::ZeroWindowProbe), 0, Some(1)), []);
        assert_eq!(stuck(Some(Timer::Retransmit), 2, Some(9000)), [Kind::SendStuck]);
        assert_eq!(stuck(Some(Timer::Retransmit), 1, Some(9000)), []);
        assert_eq!(stuck(None, 0, Some(9000)), []);
    }

    #[test]
    fn a_syn_without_an_answer() {
        let syn = |again| kinds(&held(State::SynSent, |socket, _| socket.retransmits = again));
        assert_eq!(syn(0), []);
        assert_eq!(syn(1), [Kind::SynUnanswered]);
    }

    #[test]
    fn age_is_the_longest_silence() {
        let quiet = held(State::Established, |_, info| {
            (info.last_data_sent_ms, info.last_data_recv_ms, info.last_ack_recv_ms) = (5, 70, 6);
        });
        assert_eq!(age_at_least(&quiet), Some(Duration::from_millis(70)));
        assert_eq!(age_at_least(&held(State::SynSent, |_, info| info.last_data_sent_ms = 5)), None);
    }
}
