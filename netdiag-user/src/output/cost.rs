//! What netdiag itself cost, as tables: the end of `run --stats` and `watch --stats`.

use serde::Serialize;

use crate::kernel::loader::Session;
use crate::kernel::stats::{self, MapCost, ProgramCost};

/// Part of kind `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cost {
    pub programs: Vec<ProgramCost>,
    pub maps: Vec<MapCost>,
    /// User and system time of netdiag's own process.
    pub cpu_us: Option<u64>,
    /// Its memory that is in RAM.
    pub resident_bytes: Option<u64>,
}

impl Cost {
    /// `counted`: the kernel has counted the runs of programs from the start.
    pub fn read(session: &Session, counted: bool) -> Self {
        Self {
            programs: stats::programs(session, counted),
            maps: stats::maps(session),
            cpu_us: stats::cpu_us(),
            resident_bytes: stats::resident_bytes(),
        }
    }

    /// Lines without the last one's end. `sent`, `lost`: records.
    pub fn text(&self, sent: u64, lost: u64) -> String {
        let blocks = [self.own(sent, lost), self.program_table(), self.map_table()];
        blocks.into_iter().filter(|block| !block.is_empty()).collect::<Vec<_>>().join("\n\n")
    }

    fn own(&self, sent: u64, lost: u64) -> String {
        let cpu = self.cpu_us.map_or("?".to_owned(), |us| format!("{:.3} s", us as f64 / 1e6));
        let resident = self.resident_bytes.map_or("?".to_owned(), size);
        let maps = size(self.maps.iter().filter_map(|map| map.memory_bytes).sum());
        let programs = size(self.programs.iter().filter_map(|program| program.memory_bytes).sum());
        let records = if sent == 1 { "record" } else { "records" };
        format!(
            "cost: {cpu} CPU, {resident} resident, {maps} kernel maps, {programs} kernel programs; {sent} {records} \
             sent, {lost} lost"
        )
    }

    fn program_table(&self) -> String {
        if self.programs.iter().all(|program| program.runs.is_none()) {
            return "Runs of programs were not counted: that takes Linux 5.8 and CAP_SYS_ADMIN, or \
                    `sysctl kernel.bpf_stats_enabled=1`."
                .to_owned();
        }
        let mut table = Table::new(&["program", "runs", "ns/run", "ms", "hook"], &[1, 2, 3]);
        let mut never = Vec::new();
        for program in &self.programs {
            let (Some(runs), Some(time)) = (program.runs, program.run_time_ns) else { continue };
            if runs == 0 {
                never.push(program.name.as_str());
                continue;
            }
            table.row([
                program.name.clone(),
                runs.to_string(),
                (time / runs).to_string(),
                format!("{:.3}", time as f64 / 1e6),
                program.hook.clone().unwrap_or_else(|| "not attached".to_owned()),
            ]);
        }
        let mut text = table.text();
        if !never.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&wrapped("never run:", &never));
        }
        text
    }

    fn map_table(&self) -> String {
        let mut table = Table::new(&["map", "in use", "room for", "memory", "type"], &[1, 2, 3]);
        for map in &self.maps {
            table.row([
                map.name.clone(),
                map.entries.map_or("-".to_owned(), |entries| entries.to_string()),
                map.max_entries.to_string(),
                map.memory_bytes.map_or("?".to_owned(), size),
                map.kind.to_owned(),
            ]);
        }
        table.text()
    }
}

/// `head` and the names behind it, on as many lines as it takes.
fn wrapped(head: &str, names: &[&str]) -> String {
    const WIDTH: usize = 100;
    let mut lines = vec![head.to_owned()];
    for (index, name) in names.iter().enumerate() {
        let comma = if index + 1 < names.len() { "," } else { "" };
        let line = lines.last().map_or(0, String::len);
        match lines.last_mut() {
            Some(last) if line + name.len() + 2 <= WIDTH => last.push_str(&format!(" {name}{comma}")),
            _ => lines.push(format!("  {name}{comma}")),
        }
    }
    lines.join("\n")
}

/// Bytes for a reader.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// Columns as wide as what is in them.
struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
    /// Columns of numbers, which end below each other.
    numbers: &'static [usize],
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    fn new(heads: &[&str; COLUMNS], numbers: &'static [usize]) -> Self {
        Self { rows: vec![heads.map(str::to_owned)], numbers }
    }

    fn row(&mut self, row: [String; COLUMNS]) {
        self.rows.push(row);
    }

    /// Lines without the last one's end; nothing if there is only the head.
    fn text(&self) -> String {
        if self.rows.len() < 2 {
            return String::new();
        }
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let line = |row: &[String; COLUMNS]| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let width = width(column);
                if self.numbers.contains(&column) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, hook: Option<&str>, counts: Option<(u64, u64)>) -> ProgramCost {
        ProgramCost {
            name: name.to_owned(),
            hook: hook.map(str::to_owned),
            runs: counts.map(|(runs, _)| runs),
            run_time_ns: counts.map(|(_, time)| time),
            memory_bytes: Some(12_288),
        }
    }

    fn map(name: &str, kind: &'static str, entries: Option<u32>, max_entries: u32, memory: u64) -> MapCost {
        MapCost { name: name.to_owned(), kind, entries, max_entries, memory_bytes: Some(memory) }
    }

    fn cost(programs: Vec<ProgramCost>) -> Cost {
        let maps = vec![
            map("EVENTS", "ringbuf", None, 1 << 20, 1_056_768),
            map("SOCKETS", "hash", Some(12), 65_536, 8_126_464),
        ];
        Cost { programs, maps, cpu_us: Some(43_210), resident_bytes: Some(14_200_000) }
    }

    #[test]
    fn programs_and_maps_are_aligned() {
        let cost = cost(vec![
            program("inet_sock_set_state", Some("tp_btf inet_sock_set_state"), Some((120, 52_800))),
            program("kfree_skb", Some("tp_btf kfree_skb"), Some((7, 1_400_000))),
            program("icmp_send", Some("tp_btf icmp_send"), Some((0, 0))),
            program("wire_ingress", None, Some((0, 0))),
        ]);
        insta::assert_snapshot!(cost.text(3, 0), @r"
        cost: 0.043 s CPU, 14.2 MB resident, 9.2 MB kernel maps, 49.2 kB kernel programs; 3 records sent, 0 lost

        program              runs  ns/run     ms  hook
        inet_sock_set_state   120     440  0.053  tp_btf inet_sock_set_state
        kfree_skb               7  200000  1.400  tp_btf kfree_skb
        never run: icmp_send, wire_ingress

        map      in use  room for  memory  type
        EVENTS        -   1048576  1.1 MB  ringbuf
        SOCKETS      12     65536  8.1 MB  hash
        ");
    }

    #[test]
    fn what_is_not_counted_is_no_zero() {
        let cost = cost(vec![program("kfree_skb", Some("tp_btf kfree_skb"), None)]);
        insta::assert_snapshot!(cost.text(1, 2), @r"
        cost: 0.043 s CPU, 14.2 MB resident, 9.2 MB kernel maps, 12.3 kB kernel programs; 1 record sent, 2 lost

        Runs of programs were not counted: that takes Linux 5.8 and CAP_SYS_ADMIN, or `sysctl kernel.bpf_stats_enabled=1`.

        map      in use  room for  memory  type
        EVENTS        -   1048576  1.1 MB  ringbuf
        SOCKETS      12     65536  8.1 MB  hash
        ");
    }

    #[test]
    fn programs_that_never_ran() {
        let cost = Cost { maps: vec![], ..cost(vec![program("kfree_skb", None, Some((0, 0)))]) };
        assert_eq!(cost.text(0, 0).lines().last(), Some("never run: kfree_skb"));
    }

    #[test]
    fn many_names_take_several_lines() {
        let text = wrapped("never run:", &["a_name_of_some_length"; 6]);
        assert!(text.lines().count() == 2 && text.lines().all(|line| line.len() <= 100), "{text}");
        assert!(text.contains("length,\n  a_name") && text.ends_with("length"), "{text}");
    }

    #[test]
    fn sizes() {
        assert_eq!([size(999), size(12_288), size(8_126_464)], ["999 B", "12.3 kB", "8.1 MB"]);
    }
}
