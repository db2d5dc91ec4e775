//! Symptom `refused`: the answer was no.

use super::words::{self, host_port};
use super::{Confidence, Diagnosis, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use crate::track::What;

pub const ALL: &[Diagnosis] = &[Diagnosis {
    code: "refused.no-listener",
    title: "nothing listens on that port of this machine",
    specificity: 50,
    needs: &["inet_sock_set_state", "kfree_skb"],
    page: include_str!("pages/refused/no-listener.md"),
    check: no_listener,
}];

/// The RST came from this machine, for lack of a socket: the SYN itself was dropped with NO_SOCKET.
fn no_listener(evidence: &Evidence) -> Verdict {
    if evidence.connection.errno != Some(libc::ECONNREFUSED) {
        return Verdict::Healthy;
    }
    let Some((_, What::Dropped { place, symbol, .. })) = evidence.drop_of(&["NO_SOCKET"], true) else {
        return Verdict::Healthy;
    };
    let peer = evidence.connection.peer;
    let there = words::netns_phrase(evidence, Some(place.netns), place.netns_name.as_deref());
    Finding::new(
        Confidence::Certain,
        Where::new(WhereSide::Local, Stage::Socket).at(place).symbol(symbol.as_deref()),
        "refused",
        format!("nothing listens on {}{there}", host_port(peer)),
    )
    .explain("The SYN reached this machine's own TCP, which found no listening socket and answered with RST.")
    .next("see what listens there", format!("ss -ltnp 'sport = :{}'", peer.port()))
    .found()
}
