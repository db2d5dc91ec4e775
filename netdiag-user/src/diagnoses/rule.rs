//! What to say of a firewall's rule that is known, and what to do about it.

use super::{Confidence, Finding, FirewallFact};
use crate::enrich::firewall::BY_NFTABLES;
use crate::probes::{Basis, DropRule, Engine, Tuple};
use crate::track::Hook;

/// What should pass the rule.
#[derive(Debug, Clone, Copy)]
pub(super) enum Allow<'a> {
    /// This packet, by protocol and where it goes.
    Packet(&'a Tuple),
    /// Answers to what this side began.
    Answers,
}

/// The engine that the function which freed the packet tells, where it tells one.
pub(super) fn engine_at(symbol: Option<&str>) -> Option<String> {
    (symbol == Some(BY_NFTABLES)).then(|| "nftables".to_owned())
}

/// The fact for the finding. `engine` is what the drop's place says, where no rule is known.
pub(super) fn fact(engine: Option<String>, hook: Option<Hook>, rule: Option<&DropRule>) -> FirewallFact {
    let by_rule = rule.map(|rule| match rule.engine {
        Engine::Nftables => "nftables".to_owned(),
        Engine::Iptables | Engine::IptablesLegacy => "iptables".to_owned(),
    });
    FirewallFact { engine: by_rule.or(engine), hook, rule: rule.cloned() }
}

/// How sure a finding can be that names a rule: one that was found by comparing is likely, and one of several possible.
pub(super) fn confidence(firewall: Option<&FirewallFact>) -> Confidence {
    match firewall.and_then(|firewall| firewall.rule.as_ref()) {
        Some(rule) if !rule.others.is_empty() => Confidence::Possible,
        Some(rule) if !rule.basis.is_exact() => Confidence::Likely,
        _ => Confidence::Certain,
    }
}

/// The rule, if it is one that answers, or may be: whoever was told did not meet one that drops in silence.
pub(super) fn that_rejects(rule: &DropRule) -> Option<DropRule> {
    let mut rejecting = rule.candidates().filter(|rule| rule.rejects);
    let first = rejecting.next()?;
    let others = rejecting.cloned().collect();
    Some(DropRule { others, ..first.clone() })
}

/// In a rule that drops what is more than a rate or a number: the words of nft and of iptables' matches.
const LIMITS: &[&str] = &["limit rate over ", "ct count over ", "--hashlimit-above ", "--connlimit-above "];

fn is_limit(rule: &DropRule) -> bool {
    rule.text.as_ref().is_some_and(|text| LIMITS.iter().any(|words| text.contains(words)))
}

/// A sentence that names it, and one more where it is a limit.
pub(super) fn sentence(rule: &DropRule) -> String {
    let named = naming(rule);
    if rule.others.is_empty() && is_limit(rule) {
        return format!(
            "{named} It is a limit: what is within it passes, and only more than that is dropped."
        );
    }
    named
}

fn naming(rule: &DropRule) -> String {
    let name = name(rule);
    if !rule.others.is_empty() {
        let all: Vec<String> = rule.candidates().map(self::name).collect();
        return format!(
            "The kernel does not say which rule it was; so the packet was compared with the ruleset, and {} fit: {}.",
            all.len(),
            all.join("; ")
        );
    }
    let removed = if rule.gone { " It has been removed or replaced since." } else { "" };
    match (rule.basis, rule.is_policy()) {
        (Basis::Kernel, true) => {
            format!("No rule of {} accepted it, and the chain's policy is to drop.", place(rule))
        }
        (Basis::Kernel, false) => format!("It is {name}.{removed}"),
        (Basis::Trace, _) => format!("It is {name}, as a trace of this packet says.{removed}"),
        (Basis::Counter, _) => format!(
            "It is probably {name}. The kernel does not say so itself, but of all that fits this packet only its \
             counter grew when the packet was dropped.{removed}"
        ),
        (Basis::Matching, _) => format!(
            "It is probably {name}. The kernel does not say so itself, but of the ruleset nothing else that drops fits \
             this packet.{removed}"
        ),
    }
}

fn place(rule: &DropRule) -> String {
    let DropRule { family, table, chain, .. } = rule;
    match rule.engine {
        Engine::Nftables => format!("chain {chain} of table {family} {table}"),
        Engine::Iptables | Engine::IptablesLegacy => {
            format!("chain {chain} of {}'s table {table}", command(rule))
        }
    }
}

fn name(rule: &DropRule) -> String {
    let place = place(rule);
    let words = rule.text.as_ref().map(|text| format!(": `{text}`")).unwrap_or_default();
    match (rule.number, rule.handle) {
        (Some(number), Some(handle)) => format!("rule {number} of {place} (handle {handle}){words}"),
        (Some(number), None) => format!("rule {number} of {place}{words}"),
        (None, Some(handle)) => format!("the rule with handle {handle} in {place}{words}"),
        (None, None) => format!("the policy of {place}"),
    }
}

/// The iptables that nftables runs, or the other.
fn command(rule: &DropRule) -> &'static str {
    match (rule.engine == Engine::IptablesLegacy, rule.family == "ip6") {
        (false, false) => "iptables-nft",
        (false, true) => "ip6tables-nft",
        (true, false) => "iptables-legacy",
        (true, true) => "ip6tables-legacy",
    }
}

/// What lists the rules of its family.
pub(super) fn save_command(rule: &DropRule) -> String {
    format!("{}-save -c", command(rule))
}

/// What may be done about it; `ns` makes a command run in its namespace.
pub(super) fn steps(finding: Finding, ns: &str, rule: &DropRule, allow: Allow<'_>) -> Finding {
    if !rule.others.is_empty() {
        return by_counting(finding, ns, rule, allow);
    }
    let finding = match is_limit(rule) && !rule.gone {
        true => finding.advise("if so much is right, raise the rule's limit; else find out who sends it"),
        false => finding,
    };
    match rule.engine {
        Engine::Nftables => by_nft(finding, ns, rule, allow),
        Engine::Iptables | Engine::IptablesLegacy => by_iptables(finding, ns, rule, allow),
    }
}

/// Of several rules the one that counts is to be found first.
fn by_counting(finding: Finding, ns: &str, rule: &DropRule, allow: Allow<'_>) -> Finding {
    if rule.engine == Engine::Nftables {
        let list = format!("{ns}nft -a list ruleset");
        return finding
            .next(
                "see these rules; put `counter` into them and try again: the one that grows dropped it",
                list,
            )
            .advise(format!("then delete it, or put `{} accept` before it", expression(allow)));
    }
    let list = format!("{ns}{} -t {} -nvL --line-numbers", command(rule), quoted(&rule.table));
    finding
        .next("try again and see which of these rules' counters grows: that one dropped it", list)
        .advise(format!("then delete it, or put `{} -j ACCEPT` before it", matches(allow)))
}

fn by_nft(finding: Finding, ns: &str, rule: &DropRule, allow: Allow<'_>) -> Finding {
    let chain = format!("{} {} {}", rule.family, quoted(&rule.table), quoted(&rule.chain));
    let list = format!("{ns}nft -a list chain {chain}");
    if rule.gone {
        return finding.next("that rule is gone: see what is there now, and try again", list);
    }
    let accept = format!("{} accept", expression(allow));
    match rule.handle {
        Some(handle) => finding
            .next("if the rule is wrong, delete it", format!("{ns}nft delete rule {chain} handle {handle}"))
            .next(
                "or put an accept before it, as narrow as this",
                format!("{ns}nft insert rule {chain} handle {handle} {accept}"),
            )
            .next("see it among its neighbours", list),
        None => finding
            .next("accept it, as narrowly as this", format!("{ns}nft add rule {chain} {accept}"))
            .next("see the chain and its policy", list),
    }
}

fn by_iptables(finding: Finding, ns: &str, rule: &DropRule, allow: Allow<'_>) -> Finding {
    let (table, chain) = (quoted(&rule.table), quoted(&rule.chain));
    let run = format!("{ns}{} -t {table}", command(rule));
    let list = format!("{run} -nvL {chain} --line-numbers");
    if rule.gone {
        return finding.next("that rule is gone: see what is there now, and try again", list);
    }
    let accept = format!("{} -j ACCEPT", matches(allow));
    let finding = match (rule.handle, rule.number) {
        (None, None) => finding.next("accept it, as narrowly as this", format!("{run} -A {chain} {accept}")),
        (Some(handle), None) => finding.next(
            "if the rule is wrong, delete it",
            format!("{ns}nft delete rule {} {table} {chain} handle {handle}", rule.family),
        ),
        (_, Some(number)) => {
            let spec =
                rule.text.as_deref().and_then(|text| text.strip_prefix("-A ")).filter(|text| is_plain(text));
            let which = spec.map_or_else(|| format!("{chain} {number}"), str::to_owned);
            finding.next("if the rule is wrong, delete it", format!("{run} -D {which}")).next(
                "or put an accept before it, as narrow as this",
                format!("{run} -I {chain} {number} {accept}"),
            )
        }
    };
    finding.next("see it among its neighbours", list)
}

/// In nft's words.
fn expression(allow: Allow<'_>) -> String {
    let Allow::Packet(tuple) = allow else { return "ct state established,related".into() };
    let to = tuple.destination;
    let family = if to.is_ipv4() { "ip" } else { "ip6" };
    match protocol(tuple) {
        Some(protocol) => format!("{family} daddr {} {protocol} dport {}", to.ip(), to.port()),
        None => format!("{family} daddr {}", to.ip()),
    }
}

/// In iptables' words.
fn matches(allow: Allow<'_>) -> String {
    let Allow::Packet(tuple) = allow else { return "-m conntrack --ctstate ESTABLISHED,RELATED".into() };
    let to = tuple.destination;
    match protocol(tuple) {
        Some(protocol) => format!("-d {} -p {protocol} --dport {}", to.ip(), to.port()),
        None => format!("-d {}", to.ip()),
    }
}

fn protocol(tuple: &Tuple) -> Option<&'static str> {
    use crate::probes::protocol::{TCP, UDP};
    match tuple.protocol {
        TCP => Some("tcp"),
        UDP => Some("udp"),
        _ => None,
    }
}

/// Whether a shell takes it for words and nothing else: names and rules are somebody else's.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || " _-./,:!=+%@".contains(c))
}

/// For a shell, and within it for nft, which takes quotes too.
fn quoted(name: &str) -> String {
    if is_plain(name) && !name.contains([' ', '!']) {
        return name.to_owned();
    }
    format!("'{}'", name.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::super::{Confidence, Stage, Where, WhereSide};
    use super::*;

    fn rule() -> DropRule {
        DropRule {
            family: "inet".into(),
            table: "fw".into(),
            chain: "c".into(),
            handle: Some(12),
            text: Some("tcp dport 8080 drop".into()),
            ..DropRule::default()
        }
    }

    fn xtables(text: &str) -> DropRule {
        DropRule {
            engine: Engine::Iptables,
            family: "ip6".into(),
            table: "filter".into(),
            chain: "OUTPUT".into(),
            handle: Some(7),
            number: Some(3),
            text: Some(text.into()),
            ..DropRule::default()
        }
    }

    fn commands(ns: &str, rule: &DropRule, allow: Allow<'_>) -> Vec<String> {
        let finding = Finding::new(
            Confidence::Certain,
            Where::new(WhereSide::Local, Stage::Netfilter),
            "it failed",
            "a rule",
        );
        steps(finding, ns, rule, allow).next_steps.into_iter().filter_map(|step| step.command).collect()
    }

    fn tuple() -> Tuple {
        Tuple {
            protocol: 6,
            source: "10.0.1.2:40000".parse().unwrap(),
            destination: "10.0.2.2:8080".parse().unwrap(),
        }
    }

    #[test]
    fn a_rule_can_be_deleted_or_preceded_where_it_is() {
        assert_eq!(
            commands("ip netns exec web ", &rule(), Allow::Packet(&tuple())),
            [
                "ip netns exec web nft delete rule inet fw c handle 12",
                "ip netns exec web nft insert rule inet fw c handle 12 ip daddr 10.0.2.2 tcp dport 8080 accept",
                "ip netns exec web nft -a list chain inet fw c",
            ]
        );
        let says = sentence(&rule());
        assert_eq!(says, "It is the rule with handle 12 in chain c of table inet fw: `tcp dport 8080 drop`.");
    }

    #[test]
    fn a_limit_is_one() {
        let limit = |text: &str| DropRule { text: Some(text.into()), ..rule() };
        let over = limit("tcp dport 80 ct count over 100 drop");
        assert!(sentence(&over).ends_with("only more than that is dropped."));
        assert!(
            !sentence(&limit("limit rate 5/second drop")).contains("It is a limit"),
            "it drops what is within"
        );
        let place = Where::new(WhereSide::Local, Stage::Netfilter);
        let steps =
            steps(Finding::new(Confidence::Certain, place, "", ""), "", &over, Allow::Answers).next_steps;
        assert!(steps[0].text.contains("raise the rule's limit") && steps.len() == 4, "{steps:?}");
    }

    #[test]
    fn a_policy_has_nothing_to_delete() {
        let policy = DropRule { handle: None, text: None, ..rule() };
        assert_eq!(
            commands("", &policy, Allow::Answers),
            ["nft add rule inet fw c ct state established,related accept", "nft -a list chain inet fw c"]
        );
        assert!(sentence(&policy).contains("policy is to drop"));
    }

    #[test]
    fn a_rule_that_is_gone_is_not_to_be_deleted() {
        let gone = DropRule { gone: true, ..rule() };
        assert_eq!(commands("", &gone, Allow::Answers), ["nft -a list chain inet fw c"]);
        assert!(sentence(&gone).ends_with("removed or replaced since."));
    }

    #[test]
    fn iptables_is_told_in_its_own_words() {
        let plain = xtables("-A OUTPUT -p tcp --dport 8080 -j DROP");
        assert_eq!(
            commands("", &plain, Allow::Packet(&tuple())),
            [
                "ip6tables-nft -t filter -D OUTPUT -p tcp --dport 8080 -j DROP",
                "ip6tables-nft -t filter -I OUTPUT 3 -d 10.0.2.2 -p tcp --dport 8080 -j ACCEPT",
                "ip6tables-nft -t filter -nvL OUTPUT --line-numbers",
            ]
        );
        assert!(
            sentence(&plain)
                .starts_with("It is rule 3 of chain OUTPUT of ip6tables-nft's table filter (handle 7)")
        );
    }

    #[test]
    fn what_others_named_is_no_shell_code() {
        let comment = xtables("-A OUTPUT -m comment --comment \"$(reboot)\" -j DROP");
        assert_eq!(commands("", &comment, Allow::Answers)[0], "ip6tables-nft -t filter -D OUTPUT 3");
        let table = DropRule { table: "a;b'c".into(), ..rule() };
        assert_eq!(commands("", &table, Allow::Answers)[0], "nft delete rule inet 'a;b'\\''c' c handle 12");
    }
}
