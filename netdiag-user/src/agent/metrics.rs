//! The table of metrics and their values.

mod text;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernel::histograms::Distribution;

/// All names begin with it.
pub const PREFIX: &str = "netdiag";
/// What the label values are called that have no series of their own.
pub const OTHER: &str = "other";
/// Series of a metric whose label values netdiag itself chooses: there are never so many.
const OWN_SERIES: usize = 256;
/// Longer label values are cut.
const LONGEST: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the agent runs; its name gets `_total`.
    Counter,
    Gauge,
    /// How often values were in each of its buckets; one label.
    Histogram,
}

/// Who chooses the values of a metric's labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// netdiag: codes, probes, maps.
    Own,
    /// The world: so many get a series of their own as the configuration allows, the rest shares one.
    Open,
}

#[derive(Debug)]
pub struct Metric {
    /// Without prefix and suffix.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub values: Values,
    pub help: &'static str,
}

impl Metric {
    /// As queries call it.
    pub fn exposed(&self) -> String {
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{PREFIX}_{}{suffix}", self.name)
    }
}

macro_rules! metrics {
    ($($name:ident: $kind:ident $values:ident $text:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub static $name: Metric = Metric {
            name: $text,
            kind: Kind::$kind,
            labels: &[$($label),*],
            values: Values::$values,
            help: $help,
        };)*
        /// Every metric there is.
        pub static METRICS: &[&Metric] = &[$(&$name),*];
    };
}

metrics! {
    BUILD: Gauge Own "build_info" ["version"] "Always 1";
    STARTED: Gauge Own "start_time_seconds" [] "When the agent started, seconds since 1970";
    FAILURES: Counter Own "connection_failures" ["code", "direction"]
        "Connections that failed, by diagnosis; unexplained: no diagnosis fits";
    FAILURES_BY_PROCESS: Counter Open "connection_failures_by_process" ["process", "symptom"]
        "The same by name of the process that is an end of the connection";
    FAILURES_BY_DESTINATION: Counter Open "connection_failures_by_destination" ["destination", "symptom"]
        "The same by address and port that was connected to";
    OPENED: Counter Own "connections_opened" [] "Connections opened by processes of this machine";
    ESTABLISHED: Counter Own "connections_established" [] "Those of them that reached ESTABLISHED";
    CONNECT_LATENCY: Histogram Own "connect_latency_seconds" ["path"]
        "From SYN_SENT to ESTABLISHED, of all connections made; path: over the network, or local to this machine";
    ROUND_TRIP: Histogram Own "rtt_seconds" ["path"]
        "Smoothed round-trip time when a connection leaves ESTABLISHED, of all connections of both sides";
    CLOSE_WAIT: Gauge Open "close_wait_sockets" ["process"]
        "Connections that the peer has closed and the process has not, once a minute";
    TIME_WAIT: Gauge Open "time_wait_sockets" ["process"]
        "Sockets in TIME_WAIT by the process that closed the connection; unknown: before the agent watched";
    TIME_WAIT_TO: Gauge Open "time_wait_sockets_by_destination" ["destination"]
        "The same by the end that was connected to";
    TIME_WAIT_MISSED: Counter Own "time_wait_owners_missed" ["cause"]
        "Sockets in TIME_WAIT whose owner is not known although they were closed while the agent watched";
    DROPS: Counter Own "packet_drops" ["reason"]
        "Packets that this machine dropped, by the kernel's reason, as far as they were sent or counted with one that was";
    FIREWALL_DROPS: Counter Open "firewall_drops" ["rule"]
        "Those of them that a rule or a chain's policy dropped, where the rule was looked up";
    RESETS: Counter Own "resets" ["direction"]
        "RST received by connections that have ended; RST sent in answer to a segment of a socket";
    RETRANSMITS: Counter Own "retransmits" [] "Segments sent again of connections that had trouble and have ended";
    RECORDS: Counter Own "records_sent" [] "Records that the kernel side sent";
    RECORDS_LOST: Counter Own "records_lost" ["cause"] "Records and entries that are missing because something was full";
    RECORDS_LIMITED: Counter Own "records_limited" ["kind"] "Records above their rate, which were counted and not sent";
    PROBE: Gauge Own "probe_attached" ["probe", "signal"] "1: attached; 0: this kernel does not allow it";
    MAP_ENTRIES: Gauge Own "map_entries" ["map"] "Entries in use, of maps in which they can be counted";
    MAP_CAPACITY: Gauge Own "map_capacity_entries" ["map"] "Entries that these maps have room for";
    MAP_BYTES: Gauge Own "map_memory_bytes" ["map"] "Kernel memory of a map";
    PROGRAM_CPU: Gauge Own "program_cpu_ratio" ["program"]
        "Share of one processor that a kernel program used, in a sample of one second a minute";
    CPU: Counter Own "process_cpu_seconds" [] "User and system time of the agent's own process";
    RESIDENT: Gauge Own "process_resident_memory_bytes" [] "Memory of that process which is in RAM";
    COST_CPU: Gauge Own "cost_cpu_ratio" [] "Share of one processor in the last ten seconds: the agent's process, and its kernel programs as last sampled";
    COST_MEMORY: Gauge Own "cost_memory_bytes" [] "Memory of the agent's process, its kernel programs and maps";
    SHED: Gauge Own "shed" ["what"] "1: given up to keep within the budget";
    OVER_BUDGET: Gauge Own "over_budget" [] "1: over the budget, and nothing is left that could be given up";
    HEARTBEATS: Counter Own "heartbeats" ["result"] "The agent's own failing connections on loopback: sent, seen, failed";
    HEARTBEAT_SEEN: Gauge Own "heartbeat_last_seen_timestamp_seconds" [] "When the record of one last arrived, seconds since 1970";
    STORED: Counter Own "history_stored" [] "Diagnoses stored; repeats of one within ten seconds are one";
    NOT_STORED: Counter Own "history_lost" ["cause"] "Diagnoses that could not be stored";
    HISTORY_BYTES: Gauge Own "history_size_bytes" [] "Size of all files of the store";
    HISTORY_OK: Gauge Own "history_healthy" [] "1: the store takes diagnoses; 0: it does not, and /healthz says why";
    HISTORY_SET_ASIDE: Counter Own "history_files_set_aside" [] "Files of the store that were damaged";
    SERIES_FOLDED: Counter Own "label_values_folded" ["metric"] "Additions to a series called other, because a metric has as many as it may";
}

type Labels = Vec<(&'static str, String)>;
type Series = BTreeMap<Labels, f64>;

/// The values of all metrics. Shared by who counts and who reads.
#[derive(Debug)]
pub struct Board {
    series: Mutex<BTreeMap<&'static str, Series>>,
    distributions: Mutex<BTreeMap<&'static str, BTreeMap<&'static str, Distribution>>>,
    /// Series of metrics with open values.
    top: usize,
}

impl Board {
    pub fn new(top: usize) -> Arc<Self> {
        Arc::new(Self { series: Mutex::default(), distributions: Mutex::default(), top })
    }

    /// Adds to a counter.
    pub fn add(&self, metric: &'static Metric, values: &[&str], by: f64) {
        let mut all = self.lock();
        let folded = {
            let (key, folded) = self.key(all.entry(metric.name).or_default(), metric, values);
            *all.entry(metric.name).or_default().entry(key).or_insert(0.0) += by;
            folded
        };
        if folded {
            let labels = vec![("metric", metric.exposed())];
            *all.entry(SERIES_FOLDED.name).or_default().entry(labels).or_insert(0.0) += by;
        }
    }

    pub fn inc(&self, metric: &'static Metric, values: &[&str]) {
        self.add(metric, values, 1.0);
    }

    /// Sets a gauge, or a counter that somebody else counts.
    pub fn set(&self, metric: &'static Metric, values: &[&str], to: f64) {
        let mut all = self.lock();
        let series = all.entry(metric.name).or_default();
        let (key, _) = self.key(series, metric, values);
        series.insert(key, to);
    }

    /// The value of a series; 0 if there is none.
    pub fn get(&self, metric: &'static Metric, values: &[&str]) -> f64 {
        let all = self.lock();
        let Some(series) = all.get(metric.name) else { return 0.0 };
        let (key, _) = self.key(series, metric, values);
        series.get(&key).copied().unwrap_or(0.0)
    }

    /// Sets all series of a gauge with one label: the largest, and the rest as [`OTHER`].
    pub fn replace(&self, metric: &'static Metric, values: HashMap<String, f64>) {
        debug_assert_eq!(metric.labels.len(), 1, "{}", metric.name);
        let label = metric.labels.first().copied().unwrap_or_default();
        let mut values: Vec<(String, f64)> = values.into_iter().collect();
        values.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let rest: f64 = values.iter().skip(self.top).map(|(_, value)| value).sum();
        let more = values.len() > self.top;
        values.truncate(self.top);
        let mut series: Series =
            values.into_iter().map(|(name, value)| (vec![(label, cut(&name))], value)).collect();
        if more {
            *series.entry(vec![(label, OTHER.to_owned())]).or_insert(0.0) += rest;
        }
        self.lock().insert(metric.name, series);
    }

    /// Sets a histogram's series; netdiag chooses the label.
    pub fn distribute(&self, metric: &'static Metric, label: &'static str, to: Distribution) {
        self.lock_distributions().entry(metric.name).or_default().insert(label, to);
    }

    /// The series' labels, and whether they had to become [`OTHER`].
    fn key(&self, series: &Series, metric: &Metric, values: &[&str]) -> (Labels, bool) {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let limit = if metric.values == Values::Open { self.top } else { OWN_SERIES };
        let key: Labels = metric.labels.iter().copied().zip(values.iter().map(|value| cut(value))).collect();
        if key.is_empty() || series.contains_key(&key) || series.len() < limit {
            return (key, false);
        }
        (metric.labels.iter().map(|label| (*label, OTHER.to_owned())).collect(), true)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_distributions(
        &self,
    ) -> MutexGuard<'_, BTreeMap<&'static str, BTreeMap<&'static str, Distribution>>> {
        self.distributions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At most [`LONGEST`] bytes.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of a metric: name with labels, and value.
    fn samples(text: &str, name: &str) -> Vec<(String, f64)> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let named = lines.filter(|line| line.split(['{', ' ']).next() == Some(name));
        named
            .map(|line| {
                let (labels, value) = line.rsplit_once(' ').unwrap();
                (labels.to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    #[test]
    fn it_is_openmetrics() {
        let board = Board::new(10);
        board.inc(&FAILURES, &["refused.no-listener", "outbound"]);
        board.inc(&FAILURES, &["refused.no-listener", "outbound"]);
        board.set(&RESIDENT, &[], 1e6);
        let text = board.text();
        assert!(text.contains("# TYPE netdiag_connection_failures counter\n"), "{text}");
        let line =
            "netdiag_connection_failures_total{code=\"refused.no-listener\",direction=\"outbound\"} 2.0\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("netdiag_process_resident_memory_bytes 1000000.0\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_strangers_choose_is_escaped_and_cut() {
        let board = Board::new(10);
        let name = format!("a\"b\\c\nd{}", "é".repeat(200));
        board.inc(&FAILURES_BY_PROCESS, &[&name, "refused"]);
        let text = board.text();
        let line = text.lines().find(|line| line.contains("process=")).unwrap();
        assert!(line.contains(r#"process="a\"b\\c\nd"#), "{line}");
        assert!(line.len() < 2 * LONGEST + 100, "{line}");
    }

    #[test]
    fn series_are_bounded_and_no_count_is_lost() {
        let board = Board::new(7);
        // The one about the others has a series for each of them at most.
        // A histogram's are those that `distribute` is called with.
        let chosen = |metric: &&&Metric| {
            !metric.labels.is_empty() && metric.name != SERIES_FOLDED.name && metric.kind != Kind::Histogram
        };
        for metric in METRICS.iter().filter(chosen) {
            for n in 0..1_000 {
                let value = format!("v{n}");
                let values: Vec<&str> = metric.labels.iter().map(|_| value.as_str()).collect();
                match metric.kind {
                    Kind::Counter => board.inc(metric, &values),
                    Kind::Gauge | Kind::Histogram => board.set(metric, &values, 1.0),
                }
            }
        }
        let text = board.text();
        for metric in METRICS.iter().filter(chosen) {
            let bound = if metric.values == Values::Open { 7 } else { OWN_SERIES };
            let found = samples(&text, &metric.exposed());
            assert!(found.len() > 3 && found.len() <= bound + 1, "{}: {}", metric.name, found.len());
            if metric.kind == Kind::Counter {
                assert_eq!(found.iter().map(|(_, value)| value).sum::<f64>(), 1_000.0, "{}", metric.name);
            }
        }
        let folded = samples(&text, &SERIES_FOLDED.exposed());
        let by = format!("metric=\"{}\"", FAILURES_BY_PROCESS.exposed());
        assert!(folded.iter().any(|(labels, value)| labels.contains(&by) && *value == 993.0), "{folded:?}");
    }

    #[test]
    fn histograms_are_cumulative() {
        let board = Board::new(1);
        let buckets = vec![(0.5, 2), (1.0, 0), (2.0, 3), (f64::INFINITY, 1)];
        board.distribute(&CONNECT_LATENCY, "network", Distribution { buckets, sum: 12.5 });
        board.distribute(
            &CONNECT_LATENCY,
            "local",
            Distribution { buckets: vec![(f64::INFINITY, 0)], sum: 0.0 },
        );
        let text = board.text();
        assert!(text.contains("# TYPE netdiag_connect_latency_seconds histogram\n"), "{text}");
        let network = samples(&text, "netdiag_connect_latency_seconds_bucket")
            .into_iter()
            .filter(|(labels, _)| labels.contains("path=\"network\""));
        let network: Vec<(String, f64)> = network.collect();
        assert_eq!(network.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2.0, 2.0, 5.0, 6.0]);
        assert!(network[3].0.contains("le=\"+Inf\"") && network[0].0.contains("le=\"0.5\""), "{network:?}");
        assert!(text.contains("netdiag_connect_latency_seconds_sum{path=\"network\"} 12.5\n"), "{text}");
        assert!(text.contains("netdiag_connect_latency_seconds_count{path=\"network\"} 6\n"), "{text}");
    }

    #[test]
    fn the_largest_have_their_own_series() {
        let board = Board::new(2);
        let counts = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        board.replace(&CLOSE_WAIT, counts(&[("a", 1.0), ("b", 5.0), ("c", 3.0), ("d", 1.0)]));
        let shown = || samples(&board.text(), "netdiag_close_wait_sockets");
        let series = |name: &str, n: f64| (format!("netdiag_close_wait_sockets{{process=\"{name}\"}}"), n);
        assert_eq!(shown(), [series("b", 5.0), series("c", 3.0), series("other", 2.0)]);
        board.replace(&CLOSE_WAIT, counts(&[("c", 4.0)]));
        assert_eq!(shown(), [series("c", 4.0)]);
    }

    #[test]
    fn names_are_those_of_prometheus() {
        let mut names: Vec<String> = METRICS.iter().map(|metric| metric.exposed()).collect();
        for metric in METRICS {
            let fine = metric.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(
                fine && !metric.name.ends_with("_total") && !metric.help.ends_with('.'),
                "{}",
                metric.name
            );
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }
}
