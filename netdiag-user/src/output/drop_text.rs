//! Drops for people.

use jiff::tz::TimeZone;

use super::drop::{DropReport, SamplePart};
use super::style::{Look, Tone};

/// A group of drops that are a loss, as a block of lines.
pub fn drop_block(report: &DropReport, look: &Look) -> String {
    let mut lines = vec![head(report, look)];
    let mut row = |name: &str, text: String| lines.push(format!("  {name:<7} {}", look.safe(&text)));
    if let Some(firewall) = &report.firewall
        && let (Some(table), Some(chain)) = (&firewall.table, &firewall.chain)
    {
        let family = firewall.family.as_deref().unwrap_or_default();
        let place = format!("{family} {table} {chain}");
        let gone = if firewall.removed == Some(true) { "  (removed since)" } else { "" };
        let several = match report.rules {
            0 | 1 => String::new(),
            many => format!("{many} rules, for one: "),
        };
        row(
            "rule",
            several
                + &match (firewall.handle, &firewall.rule) {
                    (Some(handle), Some(rule)) => {
                        let comment = firewall.comment.as_ref().map(|words| format!("  # {words}"));
                        format!("{place} handle {handle}:  {rule}{}{gone}", comment.unwrap_or_default())
                    }
                    (Some(handle), None) => format!("{place} handle {handle}{gone}"),
                    (None, _) => format!("{place}: the chain's policy"),
                },
        );
    }
    if let Some(sample) = &report.sample {
        row("packet", packet(sample, report.flows));
        row("whose", whose(report, sample));
    }
    if let (Some(first), Some(last)) = (report.first, report.last) {
        let clock =
            |time: jiff::Timestamp| time.to_zoned(TimeZone::system()).strftime("%H:%M:%S%.3f").to_string();
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

/// A group in a line: what came to it since it was last told.
pub fn drop_line(report: &DropReport, look: &Look) -> String {
    let sample = report.sample.as_ref().map(|sample| format!("   {}", packet(sample, report.flows)));
    format!("{}{}\n", head(report, look), look.safe(&sample.unwrap_or_default()))
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
