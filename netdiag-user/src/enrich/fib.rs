//! The walk through policy rules and routing tables, to name what made a lookup fail.

use std::cmp::Reverse;

use super::links;
use super::netlink::{self, Socket};
use super::netns::NetnsHandle;
use super::routes::{self, Flow, Nexthop, Route, RouteKind, contains};
use super::rules::{self, Rule, RuleAction};

/// Finds what made a lookup fail. The kernel answers with the errno alone, `RTM_F_FIB_MATCH` or not, so the
/// rules and tables are walked as it does; a result is given only if it explains that errno, and none once
/// a rule is met that cannot be judged here.
pub(super) fn culprit(
    socket: &mut Socket,
    netns: Option<&NetnsHandle>,
    flow: &Flow,
    errno: i32,
) -> Option<(Option<Route>, Option<Rule>)> {
    let family = netlink::family(flow.dst);
    let rules = rules::dump(socket, family).ok()?;
    let by_rule = rules.iter().any(|rule| rule.action.errno() == Some(errno));
    let by_route = [libc::EINVAL, libc::EHOSTUNREACH, libc::EACCES].contains(&errno);
    if !by_rule && !by_route {
        return None;
    }
    let oif_name = flow.oif.and_then(|oif| links::names(netns).remove(&oif));
    let mut routes = routes::dump(socket, family, |route| {
        let from_here = |source| flow.src.is_some_and(|src| contains(source, src));
        contains(route.destination, flow.dst) && route.source.is_none_or(from_here)
    })
    .ok()?;
    routes.sort_by_key(|route| (Reverse(route.destination.1), route.metric.unwrap_or(0)));

    let mut from = 0;
    for rule in rules {
        if rule.priority < from || !rule.matches(flow, oif_name.as_deref())? {
            continue;
        }
        match rule.action {
            RuleAction::Table(table) => {
                match routes.iter().find(|route| route.table == table && usable(route, flow, &rule)) {
                    Some(route) if route.kind == RouteKind::Throw => {}
                    Some(route) => {
                        return (route.kind.errno() == Some(errno)).then(|| (Some(route.clone()), None));
                    }
                    None => {}
                }
            }
            RuleAction::Goto(target) => from = target,
            RuleAction::Nop => {}
            RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => {
                return (rule.action.errno() == Some(errno)).then_some((None, Some(rule)));
            }
            RuleAction::Other(_) => return None,
        }
    }
    None
}

/// Whether a lookup that reaches this route ends here. Routes with an error of their own are bound to no
/// interface, and a rule does not suppress them (net/core/fib_rules.c, `fib_rules_lookup`).
fn usable(route: &Route, flow: &Flow, rule: &Rule) -> bool {
    if route.kind.errno().is_some() || route.kind == RouteKind::Throw {
        return true;
    }
    let suppressed = |length| u32::from(route.destination.1) <= length;
    let wanted = |nexthop: &Nexthop| !nexthop.dead && (flow.oif.is_none() || flow.oif == nexthop.oif);
    !rule.suppress_prefixlength.is_some_and(suppressed) && route.nexthops.iter().any(wanted)
}
