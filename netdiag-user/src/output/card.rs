//! The card: one problem, for a person in trouble.

use std::fmt::Write;

use jiff::Timestamp;

use super::held::HeldPart;
use super::path;
use super::report::{FirewallPart, Report};
use super::style::{Look, Tone, columns, wrap};
use super::timeline;
use crate::diagnoses::{Confidence, NextStep};
use crate::enrich::droppers::BpfProgram;

/// Programs of which one dropped the packet that are shown.
const MAX_PROGRAMS: usize = 3;
/// Holders of ports that are shown.
const MAX_HOLDERS: usize = 5;
/// Where the text of a labelled row begins.
const LABEL: usize = 9;
/// Where the code begins if the cause is shorter.
const CODE_COLUMN: usize = 47;
/// Between a command and the words about it.
const GAP: usize = 5;

/// A diagnosis as a card; ends in a newline.
pub fn card(report: &Report, look: &Look) -> String {
    let mut card = Card { look, text: String::new() };
    card.headline(report);
    card.cause(report);
    card.text.push('\n');
    card.path(report);
    card.text.push('\n');
    if look.verbose && !report.explanation.is_empty() {
        card.row("why", std::slice::from_ref(&report.explanation));
    }
    if let Some(translated) = &report.connection.translated {
        card.row("nat", &[format!("{} → {}, by this machine", report.connection.peer, translated.peer)]);
    }
    if let Some(firewall) = &report.firewall {
        card.row("rule", &rules(firewall));
    }
    let programs: Vec<String> = report.programs.iter().take(MAX_PROGRAMS).map(BpfProgram::text).collect();
    card.row("program", &programs);
    let holders: Vec<String> = report.holders.iter().take(MAX_HOLDERS).map(HeldPart::text).collect();
    card.row("held by", &holders);
    let when: Vec<String> =
        timeline::rows(report).into_iter().map(|(time, text)| format!("{time}  {text}")).collect();
    card.row("when", &when);
    if report.count > 1 {
        card.row("count", &[format!("{} times since {}", report.count, clock_time(report.first))]);
    }
    card.next(&report.next_steps);
    if !report.alternatives.is_empty() {
        card.row("also", &[format!("possible: {}", report.alternatives.join(", "))]);
    }
    card.row("note", &notes(report));
    card.text
}

/// The line for repeats of a card that was shown before; ends in a newline.
pub fn repeat_line(report: &Report, look: &Look) -> String {
    let times =
        if report.count == 1 { "once more".to_owned() } else { format!("{} times more", report.count) };
    let span = if report.first == report.last {
        format!("at {}", clock_time(report.last))
    } else {
        format!("between {} and {}", report.first.strftime("%H:%M:%S"), clock_time(report.last))
    };
    let line = format!("{} {}: {times}, {span} ({})", report.subject(), report.headline, report.code);
    let mut text = String::new();
    for (index, line) in wrap(&look.safe(&line), look.columns() - 2, look.columns() - 2).iter().enumerate() {
        let mark = if index == 0 { look.paint(Tone::Bad, &look.safe("✗")) } else { " ".into() };
        let _ = writeln!(text, "{mark} {line}");
    }
    text
}

struct Card<'a> {
    look: &'a Look,
    text: String,
}

impl Card<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn headline(&mut self, report: &Report) {
        let look = self.look;
        let mark = look.paint(Tone::Bad, &look.safe("✗"));
        let (subject, what) = (look.safe(&report.subject()), look.safe(&report.headline));
        let used = 2 + columns(&subject) + 3;
        if used + columns(&what) <= look.columns() {
            let (subject, what) = (look.paint(Tone::Strong, &subject), look.paint(Tone::Bad, &what));
            self.line(&format!("{mark} {subject}   {what}"));
            return;
        }
        for (index, part) in wrap(&subject, look.columns() - 2, look.columns() - 2).iter().enumerate() {
            let mark = if index == 0 { mark.as_str() } else { " " };
            self.line(&format!("{mark} {}", look.paint(Tone::Strong, part)));
        }
        for line in wrap(&what, look.columns() - 2, look.columns() - 2) {
            self.line(&format!("  {}", look.paint(Tone::Bad, &line)));
        }
    }

    fn cause(&mut self, report: &Report) {
        let look = self.look;
        let cause = look.safe(&report.cause);
        let tag = look.safe(&format!("{} · {}", report.code, report.confidence.as_str()));
        let pad = CODE_COLUMN.saturating_sub(2 + columns(&cause)).max(3);
        let fits = 2 + columns(&cause) + pad + columns(&tag) <= look.columns();
        let tone = match report.confidence {
            Confidence::Certain | Confidence::Likely => Tone::Faint,
            Confidence::Possible => Tone::Doubt,
        };
        let tag = look.paint(tone, &tag);
        if fits {
            self.line(&format!("  {cause}{:pad$}{tag}", ""));
            return;
        }
        for line in wrap(&cause, look.columns() - 2, look.columns() - 2) {
            self.line(&format!("  {line}"));
        }
        self.line(&format!("  {tag}"));
    }

    fn path(&mut self, report: &Report) {
        let look = self.look;
        let mut line = " ".to_owned();
        let mut used = 1;
        for piece in path::picture(report) {
            let text = look.safe(&piece.text);
            // A link at the end of a line shows that it goes on.
            if used > 1 && used + 1 + columns(&text) > look.columns().saturating_sub(3) {
                self.line(&line);
                line = " ".repeat(3);
                used = 3;
            }
            let _ = write!(line, " {}", look.paint(piece.tone, &text));
            used += 1 + columns(&text);
        }
        self.line(&line);
    }

    /// A label and its lines; nothing if there are none.
    fn row(&mut self, label: &str, lines: &[String]) {
        let look = self.look;
        let room = look.columns() - LABEL;
        let mut label = Some(label);
        for line in lines {
            for (index, part) in wrap_kept(&look.safe(line), room).into_iter().enumerate() {
                let indent = if index == 0 { "" } else { "  " };
                let head = self.label(label.take());
                self.line(&format!("{head}{indent}{part}"));
            }
        }
    }

    fn label(&self, label: Option<&str>) -> String {
        let padded = format!("{:width$}", label.unwrap_or_default(), width = LABEL - 2);
        format!("  {}", self.look.paint(if label.is_some() { Tone::Strong } else { Tone::Plain }, &padded))
    }

    fn next(&mut self, steps: &[NextStep]) {
        let look = self.look;
        let room = look.columns() - LABEL;
        let mut label = Some("next");
        for step in steps {
            let text = look.safe(&step.text);
            let command = step.command.as_deref().map(|command| look.safe(command));
            match command {
                Some(command) if columns(&command) + GAP + columns(&text) <= room => {
                    let head = self.label(label.take());
                    let gap = " ".repeat(GAP);
                    let command = look.paint(Tone::Code, &command);
                    self.line(&format!("{head}{command}{gap}{text}"));
                }
                Some(command) => {
                    let end = if text.ends_with(['?', '.', ':', '!']) { "" } else { ":" };
                    self.row(label.take().unwrap_or_default(), &[format!("{text}{end}")]);
                    let head = self.label(None);
                    let command = look.paint(Tone::Code, &command);
                    self.line(&format!("{head}  {command}"));
                }
                None => self.row(label.take().unwrap_or_default(), &[text]),
            }
        }
    }
}

/// Wraps without joining the two spaces between a time and its text.
fn wrap_kept(line: &str, room: usize) -> Vec<String> {
    if columns(line) <= room {
        return vec![line.to_owned()];
    }
    match line.split_once("  ") {
        Some((time, text)) if columns(time) < room / 2 => {
            let used = columns(time) + 2;
            let mut lines = wrap(text, room - used, room - 2);
            if let Some(first) = lines.first_mut() {
                *first = format!("{time}  {first}");
            }
            lines
        }
        _ => wrap(line, room, room - 2),
    }
}

/// The rule, or each that may have been the one.
pub(super) fn rules(firewall: &FirewallPart) -> Vec<String> {
    /// More than these are in the JSON.
    const SHOWN: usize = 8;
    if firewall.candidates.is_empty() {
        return rule_text(firewall).into_iter().collect();
    }
    let count = firewall.candidates.len();
    let mut rules = vec![format!("one of {count} that fit the packet; the kernel does not say which:")];
    rules.extend(firewall.candidates.iter().take(SHOWN).filter_map(rule_text));
    if count > SHOWN {
        rules.push(format!("and {} more", count - SHOWN));
    }
    rules
}

/// `inet filter output handle 12:  ip daddr 10.1.2.3 drop`; `None` while the rule is not known.
fn rule_text(firewall: &FirewallPart) -> Option<String> {
    let table = firewall.table.as_ref()?;
    let engine = firewall.engine.as_ref().filter(|engine| *engine != "nftables");
    let parts = engine.into_iter().chain(&firewall.family).chain([table]).chain(&firewall.chain);
    let mut text: Vec<String> = parts.cloned().collect();
    text.extend(firewall.handle.map(|handle| format!("handle {handle}")));
    text.extend(firewall.rule_number.map(|number| format!("rule {number}")));
    let mut text = text.join(" ");
    match (&firewall.rule, firewall.policy) {
        (_, Some(true)) => text.push_str(":  the chain's policy"),
        (Some(rule), _) => {
            let _ = write!(text, ":  {rule}");
        }
        (None, _) => {}
    }
    if let Some(comment) = &firewall.comment {
        let _ = write!(text, "  # {comment}");
    }
    if firewall.removed == Some(true) {
        text.push_str("  (removed since)");
    }
    match (firewall.exact, firewall.basis.as_deref()) {
        (Some(false), Some("counter")) => text.push_str("  (by its counter)"),
        (Some(false), _) => text.push_str("  (found by matching)"),
        _ => {}
    }
    Some(text)
}

fn notes(report: &Report) -> Vec<String> {
    let coverage = &report.coverage;
    let mut notes = Vec::new();
    if let (Some(netns), Some(container)) = (report.place.netns, &report.place.container) {
        let short: String = container.id.chars().take(12).collect();
        notes.push(format!(
            "network namespace {netns} is that of container {short}: enter it with nsenter -t {} -n",
            container.pid
        ));
    }
    if coverage.lost_events > 0 {
        let records = if coverage.lost_events == 1 { "record was" } else { "records were" };
        notes.push(format!("{} {records} lost meanwhile: something may be missing", coverage.lost_events));
    }
    if coverage.lost_steps > 0 {
        notes.push(format!("{} more steps of this connection were not kept", coverage.lost_steps));
    }
    if !coverage.missing.is_empty() && report.confidence != Confidence::Certain {
        notes.push(format!(
            "not possible on this kernel, and could have told more: {}",
            coverage.missing.join(", ")
        ));
    }
    if !coverage.shed.is_empty() && report.confidence != Confidence::Certain {
        notes.push(format!("given up to keep within the agent's budget: {}", coverage.shed.join(", ")));
    }
    if !coverage.not_looked_up.is_empty() && report.confidence != Confidence::Certain {
        let what = coverage.not_looked_up.join(", ");
        notes.push(format!("not looked up, as so many connections failed at once: {what}"));
    }
    let flow = report.connection.call.is_none() && report.connection.has_peer();
    if !coverage.since && flow {
        notes.push("seen only from the first sign of trouble on, not from its start".to_owned());
    }
    // What the kernel itself said needs no packets as a proof.
    if report.confidence != Confidence::Certain && !coverage.wire && flow {
        notes.push(match coverage.wire_since_suspect {
            true => "packets on the wire were watched only from the first retransmit on".to_owned(),
            false => "packets on the wire were not watched".to_owned(),
        });
    }
    if report.process.is_none() {
        notes.push("it was not seen which process opened or accepted it".to_owned());
    }
    notes
}

/// "12:01:02 UTC"
fn clock_time(time: Timestamp) -> String {
    time.strftime("%H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests;
