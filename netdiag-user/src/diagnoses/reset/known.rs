//! Resets whose cause this machine knows: its own end sent the RST, or the other end is here too.

use super::cause::{Cause, cause, got_reset, refused_by_listener, said_nothing};
use crate::diagnoses::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, words};
use crate::enrich::facts::NetnsFact;
use crate::probes::Closer;
use crate::track::{Connection, Place};

/// Which end sent the RST.
struct Sender<'a> {
    cause: Cause,
    closer: Option<&'a Closer>,
    /// This connection's own end.
    own: bool,
    connection: &'a Connection,
}

fn sender(evidence: &Evidence) -> Option<Sender<'_>> {
    if let Some((cause, closer)) = cause(&evidence.connection) {
        return Some(Sender { cause, closer, own: true, connection: &evidence.connection });
    }
    if !got_reset(evidence) || refused_by_listener(evidence) {
        return None;
    }
    let connection = evidence.other_end.as_deref()?;
    let (cause, closer) = cause(connection)?;
    Some(Sender { cause, closer, own: false, connection })
}

pub(super) fn unread_data(evidence: &Evidence) -> Verdict {
    let Some(sender) = sender(evidence) else { return Verdict::Healthy };
    match sender.cause {
        Cause::Unread(bytes) => found_unread(evidence, &sender, bytes).found(),
        Cause::Unknown if sender.connection.tcp.unread.is_none() => {
            Verdict::NotEnough("how many bytes were left unread".into())
        }
        _ => Verdict::Healthy,
    }
}

pub(super) fn linger(evidence: &Evidence) -> Verdict {
    let Some(sender) = sender(evidence) else { return Verdict::Healthy };
    let Connection { linger, tcp, .. } = sender.connection;
    match sender.cause {
        // A health check or a port scan: nothing could be lost.
        Cause::Linger if sender.own && said_nothing(&evidence.connection) => Verdict::Healthy,
        Cause::Linger => found_linger(evidence, &sender).found(),
        Cause::Unknown if linger.is_none() || *linger == Some(true) && tcp.lingertime.is_none() => {
            Verdict::NotEnough("whether SO_LINGER was set".into())
        }
        _ => Verdict::Healthy,
    }
}

pub(super) fn process_exited(evidence: &Evidence) -> Verdict {
    let Some(sender) = sender(evidence) else { return Verdict::Healthy };
    match sender.cause {
        Cause::Exited(unread) => found_exited(evidence, &sender, unread).found(),
        Cause::Unknown => Verdict::NotEnough(
            "why the socket went to CLOSE without a FIN: its listener was closed, or connect() with AF_UNSPEC".into(),
        ),
        _ => Verdict::Healthy,
    }
}

impl Sender<'_> {
    /// "nginx[800]".
    fn name(&self) -> String {
        let owner = self.connection.owner.as_ref();
        let closer = self.closer.map(|closer| (&closer.comm, closer.pid));
        match closer.or(owner.map(|owner| (&owner.comm, owner.pid))) {
            Some((comm, pid)) => format!("{comm}[{pid}]"),
            None => "the program".to_owned(),
        }
    }

    fn pid(&self) -> Option<u32> {
        self.closer.map(|closer| closer.pid).or(self.connection.owner.as_ref().map(|owner| owner.pid))
    }

    fn place(&self, evidence: &Evidence) -> Where {
        let netns = self.connection.netns;
        let facts = &evidence.facts;
        let known =
            facts.netns.iter().chain(&facts.other_netns).chain(facts.peer_namespaces.iter().flatten());
        let name =
            |known: &NetnsFact| (known.inode == u64::from(netns)).then(|| known.name.clone()).flatten();
        let place = Place { netns, netns_name: known.into_iter().find_map(name), interface: None };
        let side = if self.own { WhereSide::Local } else { WhereSide::Peer };
        Where::new(side, Stage::Application).at(&place)
    }

    fn finding(&self, evidence: &Evidence, cause: String) -> Finding {
        let after = words::duration(evidence.connection.duration());
        let headline = match self.own {
            true => format!("reset by this side after {after}"),
            false => format!("reset by the peer after {after}{}", errno(evidence)),
        };
        Finding::new(Confidence::Certain, self.place(evidence), headline, cause)
    }

    /// Whose bytes are at stake.
    fn harm(&self) -> &'static str {
        match self.own {
            true => "The other end gets ECONNRESET, and may lose what it had not read yet.",
            false => "So this end got an error in place of a regular end, and may have lost the last answer.",
        }
    }

    fn counters(&self, evidence: &Evidence) -> String {
        format!(
            "{}nstat -az TcpExtTCPAbortOnClose TcpExtTCPAbortOnData TcpOutRsts",
            words::in_netns(self.place(evidence).netns_name.as_deref())
        )
    }

    fn trace(&self, calls: &str) -> String {
        let pid = self.pid().map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
        format!("strace -f -tt -e trace={calls} -p {pid}")
    }
}

/// " (ECONNRESET)".
pub(super) fn errno(evidence: &Evidence) -> String {
    evidence.connection.errno.map(|errno| format!(" ({})", words::errno_name(errno))).unwrap_or_default()
}

pub(super) fn bytes(count: u64) -> String {
    if count == 1 { "1 byte".into() } else { format!("{count} bytes") }
}

fn found_unread(evidence: &Evidence, sender: &Sender, unread: u32) -> Finding {
    let (name, unread) = (sender.name(), bytes(unread.into()));
    sender
        .finding(evidence, format!("{name} closed the socket with {unread} unread, so the kernel sent RST"))
        .explain(format!(
            "{name} called close() while {unread} that had arrived were still unread. TCP must not pretend that they were \
             delivered, so the kernel sends RST in place of FIN (RFC 1122, 4.2.2.13). {}",
            sender.harm()
        ))
        .next("see what it reads before it closes", sender.trace("network,read,write,close,shutdown"))
        .next("see whether it happens often (TCPAbortOnClose)", sender.counters(evidence))
        .advise("in the program: shutdown(SHUT_WR), read to the end or a limit, then close()")
}

fn found_linger(evidence: &Evidence, sender: &Sender) -> Finding {
    let name = sender.name();
    let how = if sender.closer.is_some_and(|closer| closer.exiting) { "ended" } else { "closed the socket" };
    sender
        .finding(evidence, format!("{name} {how} with SO_LINGER set to zero seconds, which means RST"))
        .explain(format!(
            "{name} had set the option SO_LINGER with zero seconds. With it, close() sends RST in place of FIN and throws \
             away everything that was not sent yet. It is the program's own choice. {}",
            sender.harm()
        ))
        .next("see where it sets the option", sender.trace("setsockopt,close"))
        .next("see whether it happens often (TCPAbortOnData)", sender.counters(evidence))
        .advise("remove the option from the program or its library's configuration (so_linger, SetLinger(0), option nolinger)")
}

fn found_exited(evidence: &Evidence, sender: &Sender, unread: u32) -> Finding {
    let name = sender.name();
    let (cause, because) = match unread {
        0 => (
            format!("{name} ended before the connection was accepted"),
            "The connection stood in the accept queue of its listening socket, and nobody had accepted it"
                .to_owned(),
        ),
        _ => {
            let unread = bytes(unread.into());
            (
                format!("{name} ended with {unread} unread, so the kernel sent RST"),
                format!(
                    "{unread} that had arrived were still unread, so the kernel could not end the connection with FIN"
                ),
            )
        }
    };
    let finding = sender.finding(evidence, cause).explain(format!(
        "The process {name} exited or was killed, and the kernel closed its sockets. {because}: it sent RST. {}",
        sender.harm()
    ));
    let finding = finding
        .next(
            "was it killed for lack of memory, or did it crash?",
            "journalctl -k | grep -iE 'out of memory|oom-kill|segfault' | tail",
        )
        .next("what did it say before it ended?", "journalctl --since '-10 min' | tail -50");
    finding.advise("if it was a restart: stop accepting, finish requests, then exit")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnoses::testing::{Case, PEER_NETNS};
    use crate::probes::TcpState;
    use crate::track::What;

    fn closing() -> Case {
        Case::ending(TcpState::Established, TcpState::Close)
    }

    /// nginx[800] in namespace `srv` is the other end.
    fn reset_here(change: impl FnOnce(&mut Connection)) -> Case {
        let mut other = closing().build().connection;
        (other.local, other.peer) = (other.peer, other.local);
        other.netns = PEER_NETNS;
        other.owner = None;
        other.closer = Some(Closer { pid: 800, uid: 33, comm: "nginx".into(), exiting: false });
        change(&mut other);
        closing()
            .errno(libc::ECONNRESET)
            .peer_on_this_machine()
            .at(4999, What::ResetReceived)
            .with(|e| e.other_end = Some(Box::new(other)))
    }

    #[test]
    fn our_own_end() {
        let (code, finding) = closing().tcp(|tcp| tcp.unread = Some(100)).diagnosed();
        assert_eq!(
            (code, finding.confidence, finding.place.side),
            ("reset.unread-data", Confidence::Certain, WhereSide::Local)
        );
        assert!(finding.cause.starts_with("curl[4213] closed the socket with 100 bytes unread"));
        let linger = || closing().with(|e| e.connection.linger = Some(true));
        let (code, _) = linger().tcp(|tcp| tcp.bytes_acked = Some(121)).diagnosed();
        assert_eq!(code, "reset.linger");
        let check = linger().tcp(|tcp| (tcp.bytes_acked, tcp.bytes_received) = (Some(1), Some(0)));
        assert_eq!(check.asked("reset.linger"), Verdict::Healthy);
        let exited = closing().tcp(|tcp| tcp.unread = Some(1)).with(|e| {
            e.connection.closer = Some(Closer { pid: 4213, uid: 1000, comm: "curl".into(), exiting: true });
        });
        assert_eq!(exited.diagnosed().0, "reset.process-exited");
    }

    #[test]
    fn the_other_end_on_this_machine() {
        let (code, finding) = reset_here(|other| other.tcp.unread = Some(5)).diagnosed();
        assert_eq!((code, finding.place.side), ("reset.unread-data", WhereSide::Peer));
        assert_eq!(finding.place.netns_name.as_deref(), Some("srv"));
        assert!(finding.cause.starts_with("nginx[800] closed"), "{}", finding.cause);
        assert_eq!(reset_here(|other| other.linger = Some(true)).diagnosed().0, "reset.linger");
        let exiting = |other: &mut Connection| {
            other.closer = Some(Closer { pid: 800, uid: 33, comm: "nginx".into(), exiting: true });
        };
        let (code, finding) = reset_here(exiting).diagnosed();
        assert_eq!(code, "reset.process-exited");
        assert!(finding.cause.contains("before the connection was accepted"));
    }

    #[test]
    fn near_misses() {
        for code in ["reset.unread-data", "reset.linger"] {
            assert_eq!(closing().asked(code), Verdict::Healthy);
            let fin_only = Case::ending(TcpState::CloseWait, TcpState::Close).tcp(|tcp| tcp.unread = Some(1));
            assert_eq!(fin_only.asked(code), Verdict::Healthy);
        }
        assert!(matches!(closing().asked("reset.process-exited"), Verdict::NotEnough(_)));
        assert!(matches!(
            closing().tcp(|tcp| tcp.unread = None).asked("reset.unread-data"),
            Verdict::NotEnough(_)
        ));
        let lingers =
            closing().with(|e| e.connection.linger = Some(true)).tcp(|tcp| tcp.lingertime = Some(500));
        assert_eq!(lingers.asked("reset.linger"), Verdict::Healthy);
        for from in [TcpState::FinWait2, TcpState::LastAck, TcpState::Closing] {
            let case = Case::ending(from, TcpState::Close).tcp(|tcp| tcp.unread = Some(9));
            case.with(|e| e.connection.linger = Some(true)).healthy("reset");
        }
    }
}
