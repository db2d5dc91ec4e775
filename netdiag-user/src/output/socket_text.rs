//! Sockets and holders of ports for people.

use super::event::duration_us;
use super::socket::SocketReport;
use super::style::{Look, Tone};
use super::table::{Align, Table};
use crate::diagnoses::words::duration;
use crate::enrich::sockets::{Protocol, State};

/// Sockets as a table, with the remarks below each.
pub fn socket_table(reports: &[SocketReport], look: &Look) -> String {
    let mut table = Table::new(&[
        ("STATE", Align::Left),
        ("RECV-Q", Align::Right),
        ("SEND-Q", Align::Right),
        ("LOCAL", Align::Left),
        ("PEER", Align::Left),
        ("PROCESS", Align::Left),
        ("MORE", Align::Left),
    ]);
    for report in reports {
        let queue = |queue: Option<u32>| queue.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        let more = report.limit().into_iter().chain(report.numbers()).chain(report.home());
        let more: Vec<String> = more.collect();
        let state = match report.protocol {
            Protocol::Tcp => report.state.to_string(),
            Protocol::Udp => "UDP".to_owned(),
        };
        table.row(vec![
            state,
            queue(report.receive_queue),
            queue(report.send_queue),
            report.local.to_string(),
            report.peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string()),
            look.safe(&report.who()),
            look.safe(&more.join(", ")),
        ]);
        for remark in &report.remarks {
            table.line(format!("  {}", look.paint(Tone::Doubt, &format!("! {}", look.safe(&remark.text)))));
        }
    }
    table.text()
}

/// One holder of a port, some lines with their ends.
pub fn port_text(report: &SocketReport, look: &Look) -> String {
    let protocol = match report.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let state = match (report.protocol, report.state, report.peer) {
        (Protocol::Tcp, State::Listen, _) => "listens".to_owned(),
        (Protocol::Udp, _, None) => "is bound".to_owned(),
        (_, _, Some(peer)) => format!("to {peer}, {}", report.state),
        (_, state, None) => state.to_string(),
    };
    let mut text =
        format!("{protocol} {}   {}   {state}", report.local, look.paint(Tone::Strong, &report.who()));
    if let Some(started) = report.processes.first().and_then(|holder| holder.started) {
        let ago = report.head.time.duration_since(started).unsigned_abs();
        let since = started.strftime("%Y-%m-%d %H:%M:%S");
        text += &format!("   runs since {since} UTC ({})", duration(ago));
    }
    text.push('\n');
    let mut details: Vec<String> = report.limit().into_iter().chain(report.home()).collect();
    if report.state == State::Listen {
        details.extend(report.numbers());
        details.extend(report.connections.map(|count| format!("{count} connections")));
    }
    if !details.is_empty() {
        text += &format!("  {}\n", look.safe(&details.join(" · ")));
    }
    for holder in &report.processes {
        let program = holder.process.command_line.as_deref().or(holder.process.exe.as_deref());
        if let Some(program) = program {
            let line = look.safe(&format!("  {} uid {}: {program}", holder.process.pid, holder.process.uid));
            let end = line.char_indices().nth(look.columns()).map_or(line.len(), |(at, _)| at);
            text += &format!("{}\n", &line[..end]);
        }
    }
    for remark in &report.remarks {
        text += &format!("  {}\n", look.paint(Tone::Doubt, &format!("! {}", look.safe(&remark.text))));
    }
    text
}

impl SocketReport {
    /// Systemd unit, container and namespace, where there are any.
    fn home(&self) -> Vec<String> {
        let process = self.processes.first().map(|holder| &holder.process);
        let container = process.and_then(|process| process.container.as_deref());
        let mut home: Vec<String> = process.and_then(|process| process.unit.clone()).into_iter().collect();
        home.extend(container.map(|id| format!("container {}", short(id))));
        home.extend(self.netns_name.as_ref().map(|name| format!("netns {name}")));
        home
    }

    fn limit(&self) -> Option<String> {
        self.v6only.filter(|only| *only).map(|_| "IPv6 only".to_owned())
    }

    fn numbers(&self) -> Vec<String> {
        let mut numbers = Vec::new();
        if let (Some(waiting), Some(backlog)) = (self.accept_queue, self.backlog) {
            numbers.push(format!("accept queue {waiting} of {}", u64::from(backlog) + 1));
        }
        numbers.extend(self.rtt_us.map(|us| format!("rtt {}", duration_us(us.into()))));
        let again = self.retransmits.filter(|count| *count > 0);
        numbers.extend(again.map(|count| format!("{count} retransmitted")));
        let age = self.age_at_least_us.filter(|us| *us >= 1_000_000);
        numbers.extend(age.map(|us| format!("age > {}", duration_us(us))));
        numbers
    }
}

/// Enough of a container's id to tell it from others, as its engine shows it.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddr};

    use super::*;
    use crate::output::socket::tests::listener;

    #[test]
    fn a_listener_as_text() {
        let text = socket_table(&[listener()], &Look::default());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("nginx[77] +1") && lines[1].contains("accept queue 5 of 5"), "{text}");
        assert!(lines[1].ends_with("nginx.service, netns blue"), "{text}");
        assert!(lines[2].starts_with("  ! accept queue full"), "{text}");
        let port = port_text(&listener(), &Look::default());
        assert!(
            port.starts_with("tcp 0.0.0.0:443   nginx[77] +1   listens\n  nginx.service · netns blue"),
            "{port}"
        );
    }

    #[test]
    fn a_listener_of_ipv6_only() {
        let mut report = listener();
        (report.local, report.v6only) = (SocketAddr::from((Ipv6Addr::UNSPECIFIED, 443)).into(), Some(true));
        let text = socket_table(&[report.clone()], &Look::default());
        assert!(text.contains("[::]:443") && text.contains("IPv6 only, accept queue"), "{text}");
        let port = port_text(&report, &Look::default());
        assert!(port.contains("\n  IPv6 only · nginx.service"), "{port}");
        report.v6only = Some(false);
        assert!(!port_text(&report, &Look::default()).contains("only"));
    }
}
