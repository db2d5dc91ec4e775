//! A connection that was left in CLOSE_WAIT.

use std::time::Duration;

use super::super::words::{duration, host_port, in_netns};
use super::super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use crate::probes::TcpState;
use crate::track::{End, Moment, What};

/// From this time on it is no accident.
pub const OLD: Duration = Duration::from_secs(60);

/// How long a connection was in CLOSE_WAIT: from the peer's FIN until this end was closed. `None`: it was not, or its
/// transitions were not recorded.
pub fn time_in_close_wait(timeline: &[Moment], end: &End, end_ns: u64) -> Option<Duration> {
    let find = |wanted: fn(TcpState, TcpState) -> bool| {
        timeline.iter().find(|moment| matches!(moment.what, What::State { from, to } if wanted(from, to)))
    };
    let entered = find(|_, to| to == TcpState::CloseWait)?.time_ns;
    let left = match find(|from, _| from == TcpState::CloseWait) {
        Some(moment) => moment.time_ns,
        None if matches!(end, End::State { from: TcpState::CloseWait, .. }) => end_ns,
        None => return None,
    };
    Some(Duration::from_nanos(left.saturating_sub(entered)))
}

/// The kernel went to CLOSE_WAIT when the FIN came (net/ipv4/tcp_input.c, `tcp_fin`), and only close() leads on.
pub fn close_wait(evidence: &Evidence) -> Verdict {
    let connection = &evidence.connection;
    let Some(time) = time_in_close_wait(&evidence.timeline, &connection.end, connection.end_ns) else {
        return Verdict::Healthy;
    };
    if time < OLD {
        return Verdict::Healthy;
    }
    let exited = connection.closer.as_ref().is_some_and(|closer| closer.exiting);
    let netns = evidence.facts.netns.as_ref().and_then(|netns| netns.name.as_deref());
    let mut place = Where::new(WhereSide::Local, Stage::Application);
    place.netns = Some(connection.netns);
    place.netns_name = netns.map(str::to_owned);
    let until = if exited { " until the process ended" } else { "" };
    let prefix = in_netns(netns);
    let peer = host_port(connection.peer);
    Finding::new(
        Confidence::Certain,
        place,
        format!("was left in CLOSE_WAIT for {}{until}", duration(time)),
        format!("{peer} had closed, and the program kept its end open"),
    )
    .explain(
        "The peer said that it sends no more (FIN), and the kernel told the program: its next read returned the end, \
         or would have. From then on only close() ends the connection. Each one that is kept so holds a file \
         descriptor, memory and a local port, and a program that leaks them runs out of files in the end. \
         (A program that goes on sending after the peer's FIN uses CLOSE_WAIT rightly.)",
    )
    .next("see all of them, by process and age", "netdiag sockets --state close-wait".to_owned())
    .next("the same with ss", format!("{prefix}ss -tanp state close-wait"))
    .advise("in the program: close() when read returns the end, also on paths that return early or throw")
    .advise("in a pool: test idle connections before they are used again, and close those that the peer has closed")
    .found()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::Case;
    use super::*;

    fn state(from: TcpState, to: TcpState) -> What {
        What::State { from, to }
    }

    fn left_open(ms: u64) -> Case {
        Case::ending(TcpState::LastAck, TcpState::Close)
            .lasted(100 + ms)
            .at(100, state(TcpState::Established, TcpState::CloseWait))
            .at(100 + ms, state(TcpState::CloseWait, TcpState::LastAck))
    }

    #[test]
    fn a_minute_is_a_leak() {
        let finding = left_open(61_000).found("leak.close-wait");
        assert_eq!(finding.confidence, Confidence::Certain);
        assert!(finding.headline.contains("CLOSE_WAIT for 1 min 1 s"), "{}", finding.headline);
        let exited = left_open(61_000).with(|evidence| {
            if let Some(closer) = &mut evidence.connection.closer {
                closer.exiting = true;
            }
        });
        assert!(exited.found("leak.close-wait").headline.ends_with("until the process ended"));
    }

    #[test]
    fn less_is_none() {
        left_open(59_999).healthy("leak");
    }

    #[test]
    fn transitions_that_were_not_recorded_say_nothing() {
        Case::ending(TcpState::LastAck, TcpState::Close).lasted(500_000).healthy("leak");
    }

    #[test]
    fn closed_from_close_wait_with_a_reset() {
        let case = Case::ending(TcpState::CloseWait, TcpState::Close)
            .lasted(90_000)
            .at(100, state(TcpState::Established, TcpState::CloseWait));
        assert_eq!(case.found("leak.close-wait").confidence, Confidence::Certain);
    }
}
