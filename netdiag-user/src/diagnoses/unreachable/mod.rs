//! Symptom `unreachable`: there is no way to that address.

mod failure;
mod icmp;
mod ipv6;
mod ipv6_only;
mod link;
mod neighbour;
mod routing;
mod scope;
mod source;
#[cfg(test)]
mod testing;
mod typed_route;

use super::Diagnosis;

pub const ALL: &[Diagnosis] = &[
    Diagnosis {
        code: "unreachable.no-route",
        title: "the routing table has no route to that address",
        specificity: 40,
        needs: &["socket_calls"],
        page: include_str!("../pages/unreachable/no-route.md"),
        check: routing::no_route,
    },
    Diagnosis {
        code: "unreachable.no-default-route",
        title: "this namespace has no default route",
        specificity: 50,
        needs: &["socket_calls"],
        page: include_str!("../pages/unreachable/no-default-route.md"),
        check: routing::no_default_route,
    },
    Diagnosis {
        code: "unreachable.blackhole-route",
        title: "a blackhole route swallows that destination",
        specificity: 70,
        needs: &["socket_calls"],
        page: include_str!("../pages/unreachable/blackhole-route.md"),
        check: typed_route::blackhole,
    },
    Diagnosis {
        code: "unreachable.unreachable-route",
        title: "a route of type \"unreachable\" covers that destination",
        specificity: 70,
        needs: &["socket_calls"],
        page: include_str!("../pages/unreachable/unreachable-route.md"),
        check: typed_route::unreachable,
    },
    Diagnosis {
        code: "unreachable.prohibit-route",
        title: "a route or rule of type \"prohibit\" forbids that destination",
        specificity: 70,
        needs: &["socket_calls"],
        page: include_str!("../pages/unreachable/prohibit-route.md"),
        check: typed_route::prohibit,
    },
    Diagnosis {
        code: "unreachable.neighbour-unresolved",
        title: "nobody on the link answers for the next hop",
        specificity: 60,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/unreachable/neighbour-unresolved.md"),
        check: neighbour::unresolved,
    },
    Diagnosis {
        code: "unreachable.interface-down",
        title: "the interface that leads there is down or has no carrier",
        specificity: 75,
        needs: &[],
        page: include_str!("../pages/unreachable/interface-down.md"),
        check: link::interface_down,
    },
    Diagnosis {
        code: "unreachable.icmp-unreachable",
        title: "a router or host answered \"unreachable\"",
        specificity: 45,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/unreachable/icmp-unreachable.md"),
        check: icmp::unreachable,
    },
    Diagnosis {
        code: "unreachable.icmp-prohibited",
        title: "a router or firewall answered \"administratively prohibited\"",
        specificity: 50,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/unreachable/icmp-prohibited.md"),
        check: icmp::prohibited,
    },
    Diagnosis {
        code: "unreachable.no-ipv6",
        title: "the destination is IPv6, and this host has no working IPv6",
        specificity: 85,
        needs: &["socket_calls"],
        page: include_str!("../pages/unreachable/no-ipv6.md"),
        check: ipv6::no_ipv6,
    },
    Diagnosis {
        code: "unreachable.ipv6-only-socket",
        title: "the destination is IPv4, and the socket may carry IPv6 only",
        specificity: 90,
        needs: &["socket_calls"],
        page: include_str!("../pages/unreachable/ipv6-only-socket.md"),
        check: ipv6_only::socket,
    },
    Diagnosis {
        code: "unreachable.martian-source",
        title: "the source address is not valid on that path",
        specificity: 80,
        needs: &[],
        page: include_str!("../pages/unreachable/martian-source.md"),
        check: source::martian,
    },
    Diagnosis {
        code: "unreachable.scope-missing",
        title: "a link-local address was given without its interface",
        specificity: 80,
        needs: &["socket_calls"],
        page: include_str!("../pages/unreachable/scope-missing.md"),
        check: scope::missing,
    },
];
