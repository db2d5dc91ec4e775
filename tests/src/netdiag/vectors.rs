//! Records test vectors: the evidence of a scenario's connections, for netdiag-user/tests/vectors.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use super::report::Report;

/// What says more about the machine of the recording than about the connection.
const PRIVATE: [&str; 6] = ["exe", "command_line", "cgroup", "unit", "container", "pod"];

/// `NETDIAG_VECTORS`: where to put vectors, one directory a code.
pub(super) fn directory() -> Option<PathBuf> {
    std::env::var_os("NETDIAG_VECTORS").map(PathBuf::from)
}

/// Copies the evidence of each diagnosed connection to `DIRECTORY/CODE/SCENARIO.json`, the first of each code.
pub(super) fn record(directory: &Path, evidence: &Path, report: &Report) -> Result<()> {
    // Nothing failed, nothing was saved.
    let lines = std::fs::read_to_string(evidence).unwrap_or_default();
    // The runner names a scenario's thread after it; a thread that the scenario itself made records nothing.
    let thread = std::thread::current();
    let Some(scenario) = thread.name() else { return Ok(()) };
    let mut recorded = BTreeSet::new();
    for line in lines.lines() {
        let mut evidence: Value = serde_json::from_str(line)?;
        let Some(code) = code_of(&evidence["connection"], report) else { continue };
        if !recorded.insert(code) {
            continue;
        }
        sanitise(&mut evidence);
        let directory = directory.join(code);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(format!("{scenario}.json")), format!("{evidence:#}\n"))?;
    }
    Ok(())
}

/// The diagnosis that was reported for a connection.
fn code_of<'a>(connection: &Value, report: &'a Report) -> Option<&'a str> {
    let end = |value: &Value| value.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
    // As the application saw them, which the report tells.
    let ends = connection.get("before_nat").unwrap_or(connection);
    let (local, peer) = (end(&ends["local"])?, end(&ends["peer"])?);
    let is =
        |part: &Value, end: SocketAddr| part["address"] == end.ip().to_string() && part["port"] == end.port();
    let reported = report.diagnoses.iter().find(|diagnosis| {
        let part = &diagnosis["connection"];
        part["cookie"] == connection["cookie"] && is(&part["local"], local) && is(&part["peer"], peer)
    })?;
    reported["code"].as_str()
}

/// Numbers become 0, because their field must be there; text goes.
fn sanitise(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| value.is_number() || !PRIVATE.contains(&name.as_str()));
            for (name, value) in map {
                if PRIVATE.contains(&name.as_str()) {
                    *value = 0.into();
                }
                sanitise(value);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(sanitise),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn private_things_go() {
        let mut value = json!({"a": [{"exe": "/bin/x", "cgroup": 5, "comm": "x", "unit": null}]});
        sanitise(&mut value);
        assert_eq!(value, json!({"a": [{"cgroup": 0, "comm": "x"}]}));
    }
}
