//! Drops for people.

use jiff::tz::TimeZone;

use super::card::rules;
use super::drop::{DropReport, SamplePart};
use super::report::FirewallPart;
use super::style::{Look, Tone};

/// A group of drops that are a loss, as a block of lines.
pub fn drop_block(report: &DropReport, look: &Look) -> String {
    drop_block_in(report, look, &TimeZone::system())
}

fn drop_block_in(report: &DropReport, look: &Look, zone: &TimeZone) -> String {
    let mut lines = vec![head(report, look)];
    let mut row = |name: &str, text: String| lines.push(format!("  {name:<7} {}", look.safe(&text)));
    let several = match report.rules {
        0 | 1 => String::new(),
        many => format!("{many} rules, for one: "),
    };
    for (number, text) in report.firewall.iter().flat_map(rules).enumerate() {
        let (name, lead) = if number == 0 { ("rule", several.as_str()) } else { ("", "") };
        row(name, format!("{lead}{text}"));
    }
    if let Some(sample) = &report.sample {
        row("packet", packet(sample, report.flows));
        row("whose", whose(report, sample));
    }
    if let (Some(first), Some(last)) = (report.first, report.last) {
        let clock = |time: jiff::Timestamp| time.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f").to_string();
        row(
            "seen",
            if first == last { clock(first) } else { format!("{} to {}", clock(first), clock(last)) },
        );
    }
    if look.verbose && !report.explanation.is_empty() {
        row("", report.explanation.clone());
    }
    let shown = match (look.verbose, report.rules) {
        (true, _) => report.next_steps.len(),
        // A step is about one of them.
        (false, 2..) => 0,
        (false, 0 | 1) => 1,
    };
    for step in report.next_steps.iter().take(shown) {
        let text = look.safe(&step.text);
        match &step.command {
            Some(command) => {
                let command = look.paint(Tone::Code, &look.safe(command));
                lines.push(format!("  next    {command}     {}", look.paint(Tone::Faint, &text)));
            }
            None => lines.push(format!("  next    {text}")),
        }
    }
    lines.join("\n") + "\n"
}

/// `inet filter output handle 12`, `inet filter output policy`; `None` while the rule is not known.
fn rule_label(firewall: &FirewallPart) -> Option<String> {
    let (table, chain) = (firewall.table.as_ref()?, firewall.chain.as_ref()?);
    let family = firewall.family.as_deref().unwrap_or_default();
    let name = match (firewall.handle, firewall.rule_number) {
        (Some(handle), _) => format!("handle {handle}"),
        (None, Some(number)) => format!("rule {number}"),
        (None, None) => "policy".to_owned(),
    };
    let doubt = match (firewall.exact, firewall.candidates.len()) {
        (Some(false), 0) => " (probably)".to_owned(),
        (_, 0) => String::new(),
        (_, candidates) => format!(" or {} more", candidates - 1),
    };
    Some(format!("{family} {table} {chain} {name}{doubt}"))
}

/// A group in a line: what came to it since it was last told.
pub fn drop_line(report: &DropReport, look: &Look) -> String {
    let sample = report.sample.as_ref().map(|sample| format!("   {}", packet(sample, report.flows)));
    let rule = report.firewall.as_ref().filter(|_| report.rules == 1).and_then(rule_label);
    let rule = rule.map(|label| format!("   {label}")).unwrap_or_default();
    format!("{}{}\n", head(report, look), look.safe(&format!("{rule}{}", sample.unwrap_or_default())))
}

/// What is normal, in a line below a heading.
pub fn normal_line(report: &DropReport, look: &Look) -> String {
    let at = report.symbol.as_ref().map(|symbol| format!(" in {symbol}")).unwrap_or_default();
    let text = format!("  {:>9} × {}{at}   {}", report.count, report.reason, report.meaning);
    look.paint(Tone::Faint, &look.safe(text.trim_end())) + "\n"
}

fn head(report: &DropReport, look: &Look) -> String {
    let code = report.code.as_deref().unwrap_or(&report.reason);
    let count = look.paint(Tone::Bad, &look.safe(&format!("✗ {} × {code}", report.count)));
    let mut text = format!("   {}/s   {}", report.rate, report.reason);
    if let Some(place) = &report.place {
        // What the whole group has in common.
        let by = report.by.as_str();
        let hook = report.firewall.as_ref().and_then(|firewall| firewall.hook);
        match (hook, &place.symbol) {
            (Some(hook), _) if by == "rule" => text.push_str(&format!(", hook {hook}")),
            (None, Some(symbol)) if by == "rule" => text.push_str(&format!(" in {symbol}")),
            _ => {}
        }
        let netns = place.netns_name.clone().or(place.netns.map(|inode| inode.to_string()));
        if let Some(netns) = netns.filter(|_| !["reason", "process"].contains(&by)) {
            text.push_str(&format!(", namespace {netns}"));
        }
    }
    if !report.sampled {
        text.push_str(": not sampled, so counted by reason only");
        if report.not_ip > 0 {
            text.push_str(&format!(" ({} no IP packets)", report.not_ip));
        }
    } else if report.firewall.is_none() && !report.meaning.is_empty() {
        text.push_str(&format!(": {}", report.meaning));
    }
    format!("{count}{}", look.safe(&text))
}

fn packet(sample: &SamplePart, flows: u64) -> String {
    let end = |end: super::report::Endpoint| match end.port {
        0 => end.address.to_string(),
        _ => end.to_string(),
    };
    let at = sample.interface.as_ref().map(|name| format!(" at {name}")).unwrap_or_default();
    let more = match flows {
        0 | 1 => String::new(),
        many if many >= 1024 => "   and 1023 or more other flows".to_owned(),
        2 => "   and 1 other flow".to_owned(),
        many => format!("   and {} other flows", many - 1),
    };
    format!("{} {} → {}{at}{more}", sample.packet, end(sample.source), end(sample.destination))
}

fn whose(report: &DropReport, sample: &SamplePart) -> String {
    let who = match (&report.process, sample.direction.as_str(), report.process_looked_up) {
        (Some(process), ..) => format!("{}[{}]", process.comm, process.pid),
        (None, "forwarded", _) => "no process here: on its way through".to_owned(),
        (None, "inbound", true) => "no process here has a socket for it".to_owned(),
        (None, _, true) => "no process found".to_owned(),
        (None, _, false) => "process not looked for".to_owned(),
    };
    match sample.direction.as_str() {
        "forwarded" => who,
        direction => format!("{direction}, {who}"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::Offset;

    use super::*;
    use crate::drops::testing::{by_rule, dropped};
    use crate::drops::{By, Dropped, Groups};
    use crate::output::{Clock, Style};

    fn report(by: By, drops: Vec<Dropped>) -> DropReport {
        let mut groups = Groups::new(by);
        for drop in drops {
            groups.add(drop);
        }
        DropReport::of_group(groups.all()[0], by, 2.0, &Clock::new(1_700_000_000_000_000_000))
    }

    fn block(report: &DropReport) -> String {
        drop_block_in(report, &Look::default(), &TimeZone::fixed(Offset::UTC))
    }

    #[test]
    fn a_rule() {
        let mut later = by_rule(12);
        later.time_ns += 1_500_000_000;
        later.suppressed = 10;
        let report = report(By::Rule, vec![by_rule(12), later]);
        insta::assert_snapshot!(block(&report), @r"
        ✗ 12 × drop.firewall   6/s   NETFILTER_DROP, hook forward, namespace web
          rule    inet fw c handle 12:  tcp dport 8080 drop
          packet  SYN 10.0.1.2:40000 → 10.0.2.2:8080 at eth0
          whose   no process here: on its way through
          seen    22:13:21.000 to 22:13:22.500
          next    ip netns exec web nft delete rule inet fw c handle 12     if the rule is wrong, delete it
        ");
        insta::assert_snapshot!(drop_line(&report, &Look::default()), @"✗ 12 × drop.firewall   6/s   NETFILTER_DROP, hook forward, namespace web   inet fw c handle 12   SYN 10.0.1.2:40000 → 10.0.2.2:8080 at eth0");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<DropReport>(&json).unwrap(), report);
    }

    #[test]
    fn several_rules_of_one_reason() {
        let report = report(By::Reason, vec![by_rule(12), by_rule(13)]);
        insta::assert_snapshot!(block(&report), @r"
        ✗ 2 × drop.firewall   1/s   NETFILTER_DROP
          rule    2 rules, for one: inet fw c handle 12:  tcp dport 8080 drop
          packet  SYN 10.0.1.2:40000 → 10.0.2.2:8080 at eth0
          whose   no process here: on its way through
          seen    22:13:21.000
        ");
    }

    #[test]
    fn no_rule() {
        let report = report(By::Rule, vec![dropped("NO_SOCKET", "tcp_v4_rcv")]);
        insta::assert_snapshot!(block(&report), @r"
        ✗ 1 × drop.no-socket   0.5/s   NO_SOCKET in tcp_v4_rcv, namespace web: nothing here listens on its port
          packet  SYN 10.0.1.2:40000 → 10.0.2.2:8080 at eth0
          whose   inbound, no process here has a socket for it
          seen    22:13:21.000
          next    ip netns exec web ss -4 -lntup 'sport = :8080'     see what listens here
        ");
    }

    #[test]
    fn normal() {
        let report = report(By::Rule, vec![dropped("NOT_SPECIFIED", "ip6_mc_input")]);
        insta::assert_snapshot!(normal_line(&report, &Look::default()), @"          1 × NOT_SPECIFIED in ip6_mc_input   the kernel gives no reason: mostly the ordinary end of a packet");
    }

    #[test]
    fn strangers_cannot_steer_the_terminal() {
        let mut drop = by_rule(12);
        if let Some(rule) = &mut drop.rule {
            rule.comment = Some("\u{1b}[31m".into());
        }
        let text =
            drop_block(&report(By::Rule, vec![drop]), &Look { style: Style::Plain, ..Look::default() });
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
