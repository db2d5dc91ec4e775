//! What is packaged beside the program fits it: alerts and dashboard ask for metrics that exist, and the unit is one.

// A test may panic; clippy takes only functions marked #[test] for one.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{files, none, read, root};
use netdiag::agent::metrics::{Kind, METRICS, Metric};

/// Labels that Prometheus adds.
const FOREIGN: &[&str] = &["instance", "job", "severity"];

fn metric(name: &str) -> Option<&'static &'static Metric> {
    METRICS.iter().find(|metric| match metric.kind {
        Kind::Histogram => {
            let series = name.strip_prefix(&metric.exposed());
            series.is_some_and(|series| ["_bucket", "_sum", "_count"].contains(&series))
        }
        Kind::Counter | Kind::Gauge => metric.exposed() == name,
    })
}

/// The words of a query that may name something.
fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).collect()
}

/// The queries of a file: `expr: ...` of the rules, `"expr": "..."` of the dashboard.
fn queries(text: &str) -> Vec<String> {
    let after = |line: &str| {
        let line = line.trim().trim_end_matches(',');
        let plain = line.strip_prefix("expr: ").map(str::to_owned);
        plain.or_else(|| serde_json::from_str(line.strip_prefix("\"expr\": ")?).ok())
    };
    text.lines().filter_map(after).collect()
}

/// What is wrong with a query.
fn complaints(query: &str) -> Vec<String> {
    let metrics: Vec<_> = words(query).into_iter().filter(|word| word.starts_with("netdiag_")).collect();
    let mut wrong: Vec<String> = metrics
        .iter()
        .filter(|name| metric(name).is_none())
        .map(|name| format!("no metric {name}"))
        .collect();
    if metrics.is_empty() {
        wrong.push("asks for no metric of netdiag".to_owned());
    }
    let mut known: Vec<&str> =
        metrics.iter().filter_map(|name| metric(name)).flat_map(|metric| metric.labels).copied().collect();
    if metrics.iter().any(|name| name.ends_with("_bucket")) {
        known.push("le");
    }
    let mut labels = Vec::new();
    for grouping in ["by (", "without (", "on ("] {
        labels
            .extend(query.split(grouping).skip(1).filter_map(|rest| rest.split(')').next()).flat_map(words));
    }
    for matchers in query.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        labels.extend(matchers.split(',').filter_map(|matcher| words(matcher).first().copied()));
    }
    let strange = labels.into_iter().filter(|label| !known.contains(label) && !FOREIGN.contains(label));
    wrong.extend(strange.map(|label| format!("no label {label}")));
    wrong
}

#[test]
fn alerts_and_dashboard_use_metrics_that_exist() {
    let mut wrong = Vec::new();
    for (name, least) in [("prometheus/netdiag.rules.yml", 6), ("grafana/netdiag.json", 12)] {
        let found = queries(&read(&root().join("packaging").join(name)));
        assert!(found.len() >= least, "only {} queries in {name}", found.len());
        for query in found {
            wrong.extend(complaints(&query).into_iter().map(|what| format!("{name}: {query}: {what}")));
        }
    }
    none(&wrong);
}

#[test]
fn alerts_name_codes_that_exist() {
    let text = read(&root().join("packaging/prometheus/netdiag.rules.yml"));
    let exact = text.split("code=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let known = |code: &str| netdiag::diagnoses::catalogue().any(|diagnosis| diagnosis.code == code);
    let wrong: Vec<String> =
        exact.filter(|code| !known(code)).map(|code| format!("no code {code}")).collect();
    none(&wrong);
}

#[test]
fn a_wrong_query_is_noticed() {
    assert_eq!(complaints("rate(netdiag_no_such_total[5m])"), ["no metric netdiag_no_such_total"]);
    let query = "sum by (color) (netdiag_connection_failures_total{shape=\"x\"})";
    assert_eq!(complaints(query), ["no label color", "no label shape"]);
    assert_eq!(complaints("up"), ["asks for no metric of netdiag"]);
}

/// The dashboard is JSON, and the templates of its legends are labels of its queries.
#[test]
fn the_dashboard_can_be_read() {
    let text = read(&root().join("packaging/grafana/netdiag.json"));
    let board: serde_json::Value = serde_json::from_str(&text).unwrap();
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let (query, legend) =
                (target["expr"].as_str().unwrap(), target["legendFormat"].as_str().unwrap());
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                assert!(query.contains(label) || label == "instance", "{query}: no {label}");
            }
        }
    }
}

#[test]
fn every_metric_is_described() {
    let document = read(&root().join("docs/agent.md"));
    let missing = METRICS.iter().filter(|metric| !document.contains(&format!("`{}`", metric.exposed())));
    none(
        &missing
            .map(|metric| format!("docs/agent.md does not describe {}", metric.exposed()))
            .collect::<Vec<_>>(),
    );
}

/// Runs a tool over a file where it is installed.
fn checked_by(tool: &str, arguments: &[&str], file: &Path) {
    let Ok(output) = Command::new(tool).args(arguments).arg(file).output() else { return };
    let success = output.status.success();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(success, "{tool}: {said}");
}

#[test]
fn promtool_accepts_the_rules() {
    checked_by("promtool", &["check", "rules"], &root().join("packaging/prometheus/netdiag.rules.yml"));
}

/// `systemd-analyze verify` wants the program to be where the unit says: it gets this one.
#[test]
fn systemd_accepts_the_unit() {
    let units = files(&root().join("packaging/systemd"), ".service");
    assert!(!units.is_empty());
    for unit in units {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join(unit.file_name().unwrap());
        let text = read(&unit);
        assert!(text.contains("ExecStart=/usr/bin/netdiag agent\n"));
        std::fs::write(&copy, text.replace("/usr/bin/netdiag", env!("CARGO_BIN_EXE_netdiag"))).unwrap();
        let Ok(output) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output()
        else {
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        // It also tells of other units, of the machine's.
        let own: Vec<&str> = said.lines().filter(|line| line.contains("netdiag-agent")).collect();
        assert!(own.is_empty(), "{own:?}");
    }
}
