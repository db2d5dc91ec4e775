//! Sockets in TIME_WAIT for people.

use super::past::when;
use super::socket_text::short;
use super::style::{Look, Tone, wrap};
use super::table::{Align, Table};
use super::time_wait::{Told, share};
use crate::diagnoses::words::thousands;
use crate::whose::time_wait::{By, Key, Level, PortUse, Row};

/// Rows and destinations that are shown to people.
const ROWS: usize = 20;
const PORTS: usize = 5;

/// A table, and below it what it means.
pub fn time_wait_text(told: &Told<'_>, look: &Look) -> String {
    let count = told.count();
    let mut text = format!("{} sockets in TIME_WAIT, {:.1} new a second\n", thousands(count), told.rate());
    if count > 0 {
        text += "\n";
        text += &table(told, look);
        text += "\n";
        text += &notes(told);
        for one in told.ports.iter().take(PORTS) {
            text += &port_line(one);
        }
    }
    let verdict = told.verdict;
    let tone = match verdict.level {
        Level::Harmless => Tone::Plain,
        Level::Pressure => Tone::Doubt,
        Level::Exhausted => Tone::Bad,
    };
    text += "\n";
    for line in wrap(&verdict.explanation, look.columns(), look.columns()) {
        text += &format!("{}\n", look.paint(tone, &look.safe(&line)));
    }
    for (index, (step, command)) in verdict.next_steps.iter().enumerate() {
        let head = if index == 0 { "do     " } else { "       " };
        text += &lines(head, step, look);
        if let Some(command) = command {
            text += &format!("         {}\n", look.paint(Tone::Code, &look.safe(command)));
        }
    }
    for (index, what) in verdict.avoid.iter().enumerate() {
        text += &lines(if index == 0 { "not    " } else { "       " }, what, look);
    }
    text
}

fn lines(head: &str, words: &str, look: &Look) -> String {
    let width = look.columns().saturating_sub(head.len());
    let lines = wrap(words, width, width);
    let line = |(index, line): (usize, &String)| {
        format!("{}{}\n", if index == 0 { head } else { "         " }, look.safe(line))
    };
    lines.iter().enumerate().map(line).collect()
}

fn table(told: &Told<'_>, look: &Look) -> String {
    let what = match told.by {
        By::Process => "OWNER",
        By::Destination => "DESTINATION",
        By::Netns => "NETNS",
        By::Container => "CONTAINER",
    };
    let mut heads = vec![
        ("COUNT", Align::Right),
        ("SHARE", Align::Right),
        ("NEW/S", Align::Right),
        ("EXACT", Align::Right),
        (what, Align::Left),
    ];
    let with_place =
        !matches!(told.by, By::Container | By::Netns) && told.rows.iter().any(|row| !place(row).is_empty());
    if with_place {
        heads.push(("WHERE", Align::Left));
    }
    if told.by != By::Destination {
        heads.push(("DESTINATIONS", Align::Left));
    }
    let mut table = Table::new(&heads);
    for row in told.rows.iter().take(ROWS) {
        let mut cells = vec![
            thousands(row.count),
            format!("{:.0} %", share(row, told) * 100.0),
            format!("{:.1}", row.rate),
            format!("{} %", row.exact * 100 / row.count.max(1)),
            look.safe(&label(row)),
        ];
        if with_place {
            cells.push(look.safe(&place(row)));
        }
        if told.by != By::Destination {
            cells.push(towards(row));
        }
        table.row(cells);
    }
    let mut text = table.text();
    if told.rows.len() > ROWS {
        text += &format!("and {} more rows (--format json has all)\n", told.rows.len() - ROWS);
    }
    text
}

fn towards(row: &Row) -> String {
    let shown =
        row.destinations.iter().take(2).map(|(end, count)| format!("{end} ({})", thousands((*count).into())));
    let mut shown: Vec<String> = shown.collect();
    if row.destinations.len() > shown.len() {
        shown.push(format!("{} more", row.destinations.len() - shown.len()));
    }
    shown.join(", ")
}

fn label(row: &Row) -> String {
    let comm = row.closer.as_ref().map(|closer| closer.comm.as_str()).unwrap_or_default();
    let likely = if row.exact == 0 { "likely " } else { "" };
    let kernel = if row.closer.as_ref().is_some_and(|closer| closer.by_kernel) { " (kernel)" } else { "" };
    match &row.key {
        Key::Living(pid) => format!("{likely}{comm}[{pid}]{kernel}"),
        Key::Ended(..) if row.processes == 1 => {
            let pid = row.closer.as_ref().map_or(0, |closer| closer.pid);
            format!("{likely}{comm}[{pid}] (ended)")
        }
        Key::Ended(comm, _) => {
            format!("{likely}{comm}, {} processes that ended", thousands(row.processes as u64))
        }
        Key::Several(comm) => format!("likely one of several {comm}"),
        Key::Unknown => match row.candidates.as_slice() {
            [] => "not known".to_owned(),
            all => {
                let names: Vec<String> =
                    all.iter().take(3).map(|closer| format!("{}[{}]", closer.comm, closer.pid)).collect();
                format!("not known; perhaps {}", names.join(" or "))
            }
        },
        Key::Destination(end) => end.to_string(),
        Key::Netns => place(row),
        Key::Container(Some(id)) => short(id).to_owned(),
        Key::Container(None) => "in no container".to_owned(),
    }
}

fn place(row: &Row) -> String {
    let mut parts = Vec::new();
    if !matches!(row.key, Key::Destination(_) | Key::Netns)
        && let Some(closer) = &row.closer
    {
        parts.extend(closer.unit().map(str::to_owned));
        parts.extend(closer.container().map(|id| format!("container {}", short(id))));
    }
    match &row.netns {
        Some((_, Some(name))) => parts.push(format!("netns {name}")),
        Some((inode, None)) if row.key == Key::Netns => parts.push(format!("netns {inode}")),
        _ => {}
    }
    parts.join(", ")
}

fn port_line(one: &PortUse) -> String {
    let netns = one.netns_name.as_ref().map(|name| format!(" (netns {name})")).unwrap_or_default();
    format!(
        "ports  {} of {} left from {} to {}{netns}\n",
        thousands(one.left()),
        thousands(one.size),
        one.source,
        one.destination
    )
}

/// How sure the owners are.
fn notes(told: &Told<'_>) -> String {
    let (count, exact) = (told.count(), told.exact());
    let mut text = String::new();
    if told.from_agent {
        text += &format!("note   owners since {}, from the agent\n", when(told.since, told.time));
    }
    if exact < count {
        let older = count - exact - told.missed.min(count - exact);
        if older > 0 {
            text += &format!(
                "note   {} were closed before netdiag watched: their owner is likely, or not known\n",
                thousands(older)
            );
        }
    }
    if told.missed > 0 {
        text += &format!(
            "note   {} were closed while netdiag watched, but it missed by whom\n",
            thousands(told.missed)
        );
    }
    if told.incomplete {
        text += "note   some network namespaces could not be looked into\n";
    }
    text
}
