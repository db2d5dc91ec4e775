//! IPv4 asked of an IPv6 socket that may not carry it.

use super::failure::{self, Failure};
use crate::diagnoses::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};

/// What IPV6_V6ONLY is when a socket is made.
const DEFAULT: &str = "net.ipv6.bindv6only";

/// net/ipv6/tcp_ipv6.c tcp_v6_connect, net/ipv6/udp.c udpv6_sendmsg: refused before a route is looked for.
pub(super) fn socket(evidence: &Evidence) -> Verdict {
    let Some(failure) = Failure::of(evidence) else { return Verdict::Healthy };
    let peer = failure::peer(evidence);
    if !evidence.connection.ipv6_only || !peer.is_ipv4() || !failure.is_call(&[libc::ENETUNREACH]) {
        return Verdict::Healthy;
    }
    let local = evidence.connection.local.ip();
    // net/ipv6/af_inet6.c, __inet6_bind.
    let bound = (local.is_ipv6() && !local.is_unspecified()).then_some(local);
    let default = evidence.facts.sysctls.get(DEFAULT).map(|value| value.trim() != "0");
    let why = match default {
        _ if bound.is_some() => {
            "The kernel sets it for a socket that is bound to one IPv6 address.".to_owned()
        }
        Some(true) => format!("{DEFAULT}=1 makes that the default of every IPv6 socket here."),
        Some(false) => format!("{DEFAULT}=0 here, so it is the program that sets the option."),
        None => format!("Either the program sets the option, or {DEFAULT}=1 makes it the default."),
    };
    let prefix = failure::own_prefix(evidence);
    let finding = Finding::new(
        Confidence::Certain,
        Where::new(WhereSide::Local, Stage::Socket).at(&failure::own_place(evidence, None)),
        failure::headline(evidence, failure),
        match bound {
            Some(local) => format!("the socket is bound to the IPv6 address {local}, and {peer} is IPv4"),
            None => format!("the socket is IPv6 only (IPV6_V6ONLY), and {peer} is IPv4"),
        },
    )
    .explain(format!(
        "The program asked an IPv6 socket for the IPv4 address {peer} (as ::ffff:{peer}). Such a socket carries IPv4 \
         unless it has the option IPV6_V6ONLY, and this one has. The kernel refused before it looked for a route, and \
         no packet left. {why}"
    ));
    if bound.is_some() {
        return finding.advise("let the program bind to an IPv4 address for IPv4, or to ::").found();
    }
    let finding = finding.next("see the default", format!("{prefix}sysctl {DEFAULT}"));
    let finding = match default {
        Some(true) => finding.next(
            "let new IPv6 sockets carry IPv4, and restart the program",
            format!("{prefix}sysctl -w {DEFAULT}=0"),
        ),
        _ => finding.advise("let the program clear IPV6_V6ONLY before it connects"),
    };
    finding
        .advise("or let it use IPv4 sockets for IPv4 addresses (Java: -Djava.net.preferIPv4Stack=true)")
        .found()
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::diagnoses::testing::Case;

    const CODE: &str = "unreachable.ipv6-only-socket";

    fn only(errno: i32) -> Case {
        call(errno).with(|e| e.connection.ipv6_only = true)
    }

    fn set(case: Case, value: &str) -> Case {
        case.with(|e| drop(e.facts.sysctls.insert(DEFAULT.into(), value.into())))
    }

    #[test]
    fn whatever_the_routes_say() {
        for case in [only(libc::ENETUNREACH).answer(via(None)), only(libc::ENETUNREACH).default_route(false)]
        {
            let (code, finding) = case.answer(failed(libc::ENETUNREACH, None)).diagnosed();
            assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        }
        hit(only(libc::ENETUNREACH), CODE, Confidence::Certain);
    }

    #[test]
    fn whose_wish_it_is() {
        let said = |case| hit(case, CODE, Confidence::Certain).explanation;
        assert!(said(set(only(libc::ENETUNREACH), "1\n")).contains("the default of every IPv6 socket"));
        assert!(said(set(only(libc::ENETUNREACH), "0\n")).contains("it is the program"));
        assert!(said(only(libc::ENETUNREACH)).contains("Either"));
        let bound = set(only(libc::ENETUNREACH).ends("[fd00::1]:0", "10.0.2.2:80"), "1");
        assert!(said(bound).contains("bound to one IPv6 address"));
    }

    #[test]
    fn another_destination_option_or_error() {
        miss(call(libc::ENETUNREACH), CODE);
        miss(only(libc::EACCES), CODE);
        miss(only(libc::ENETUNREACH).ends("[::]:0", "[2001:db8::1]:80"), CODE);
    }
}
