//! What netdiag said, and what a scenario expects of it.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::net::Namespace;

/// Everything that one run of netdiag left.
#[derive(Debug)]
pub struct Report {
    /// Its exit code (128+N if signal N ended it).
    pub status: i32,
    /// Standard output; for `run`, mostly the command's.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The objects with kind `diagnosis`.
    pub diagnoses: Vec<Value>,
    /// The objects of every other kind.
    pub others: Vec<Value>,
    /// The namespaces as they were when netdiag ended, for failure messages.
    pub state: String,
}

impl Report {
    pub(super) fn read(
        file: &Path,
        status: i32,
        stdout: String,
        stderr: String,
        state: String,
    ) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("netdiag (exit {status}) wrote no report\n-- stderr --\n{stderr}"))?;
        let objects = parse(&text).with_context(|| format!("-- stderr --\n{stderr}"))?;
        let (diagnoses, others) = objects.into_iter().partition(|object| object["kind"] == "diagnosis");
        Ok(Self { status, stdout, stderr, diagnoses, others, state })
    }

    /// Keeps only the diagnoses whose connection is in one of these namespaces: what `watch` without
    /// a filter saw of other scenarios is none of this one's business.
    pub(super) fn keep_only(&mut self, inodes: &[u64]) {
        let in_one = |value: &Value| value.as_u64().is_some_and(|inode| inodes.contains(&inode));
        self.diagnoses.retain(|diagnosis| {
            let places = [&diagnosis["connection"]["netns"], &diagnosis["where"]["netns"]];
            places.iter().all(|place| place.is_null()) || places.into_iter().any(in_one)
        });
    }

    /// The codes of all diagnoses, in the order they came.
    pub fn codes(&self) -> Vec<&str> {
        self.diagnoses.iter().filter_map(|diagnosis| diagnosis["code"].as_str()).collect()
    }

    /// Objects of another kind, such as `drop` or `status`.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.others.iter().filter(move |object| object["kind"] == kind)
    }

    /// The one diagnosis, which must have this code.
    ///
    /// # Errors
    /// With everything known in the message when there is another, none or more.
    pub fn the_only(&self, code: &str) -> Result<Diagnosis<'_>> {
        if self.codes() != [code] {
            bail!("expected {code} and nothing else, got {:?}\n{}", self.codes(), self.dump());
        }
        Ok(Diagnosis { value: &self.diagnoses[0], report: self })
    }

    /// A diagnosis with this code; there may be others.
    ///
    /// # Errors
    /// With everything known in the message when there is none.
    pub fn one_of(&self, code: &str) -> Result<Diagnosis<'_>> {
        match self.diagnoses.iter().find(|diagnosis| diagnosis["code"] == code) {
            Some(value) => Ok(Diagnosis { value, report: self }),
            None => bail!("expected {code}, got {:?}\n{}", self.codes(), self.dump()),
        }
    }

    /// Requires that no diagnosis has this code: the near miss.
    ///
    /// # Errors
    /// With everything known in the message when there is one.
    pub fn never(&self, code: &str) -> Result<&Self> {
        ensure!(!self.codes().contains(&code), "{code} is a false alarm here\n{}", self.dump());
        Ok(self)
    }

    /// Requires that nothing was diagnosed.
    ///
    /// # Errors
    /// With everything known in the message when something was.
    pub fn nothing(&self) -> Result<&Self> {
        ensure!(self.diagnoses.is_empty(), "expected no diagnosis, got {:?}\n{}", self.codes(), self.dump());
        Ok(self)
    }

    /// Requires the exit code of the command that ran under `netdiag run`.
    ///
    /// # Errors
    /// With everything known in the message when it is another.
    pub fn exits(&self, status: i32) -> Result<&Self> {
        ensure!(self.status == status, "expected exit code {status}, got {}\n{}", self.status, self.dump());
        Ok(self)
    }

    /// All of it as text.
    pub fn dump(&self) -> String {
        let mut text = format!("exit code {}\n", self.status);
        for object in self.diagnoses.iter().chain(&self.others) {
            let _ = writeln!(text, "{object:#}");
        }
        let _ = writeln!(
            text,
            "-- stdout --\n{}\n-- stderr --\n{}",
            self.stdout.trim_end(),
            self.stderr.trim_end()
        );
        let _ = write!(text, "-- namespaces --\n{}", self.state);
        text
    }
}

/// One diagnosis with the report that it came from; its checks chain.
#[derive(Debug, Clone, Copy)]
pub struct Diagnosis<'a> {
    /// The object, as in the output contract.
    pub value: &'a Value,
    report: &'a Report,
}

impl Diagnosis<'_> {
    /// The value at a JSON pointer such as `/firewall/hook`; null where there is none.
    pub fn at(&self, pointer: &str) -> &Value {
        value_at(self.value, pointer)
    }

    /// Requires a value at a JSON pointer.
    ///
    /// # Errors
    /// With everything known in the message when it is another.
    pub fn has(self, pointer: &str, expected: impl Into<Value>) -> Result<Self> {
        require(self.value, pointer, &expected.into(), || self.report.dump())?;
        Ok(self)
    }

    /// Requires that the text at a JSON pointer contains `part`.
    ///
    /// # Errors
    /// With everything known in the message when it does not.
    pub fn mentions(self, pointer: &str, part: &str) -> Result<Self> {
        let got = self.at(pointer);
        let text = got.as_str().map_or_else(|| got.to_string(), str::to_owned);
        ensure!(text.contains(part), "expected {part:?} in {pointer}, got {text}\n{}", self.report.dump());
        Ok(self)
    }

    /// Requires `certain`.
    ///
    /// # Errors
    /// As [`Self::has`].
    pub fn certain(self) -> Result<Self> {
        self.has("/confidence", "certain")
    }

    /// Requires the errno that the application got, or none.
    ///
    /// # Errors
    /// As [`Self::has`].
    pub fn errno(self, expected: Option<&str>) -> Result<Self> {
        self.has("/errno", expected.map_or(Value::Null, Value::from))
    }
}

/// The value at a JSON pointer; null where there is none.
pub(super) fn value_at<'a>(object: &'a Value, pointer: &str) -> &'a Value {
    object.pointer(pointer).unwrap_or(&Value::Null)
}

/// Requires a value at a JSON pointer; else the message has all that `dump` knows.
pub(super) fn require(
    object: &Value,
    pointer: &str,
    expected: &Value,
    dump: impl FnOnce() -> String,
) -> Result<()> {
    let got = value_at(object, pointer);
    ensure!(got == expected, "expected {expected} at {pointer}, got {got}\n{}", dump());
    Ok(())
}

/// JSON Lines; each must be an object of the contract.
pub(super) fn parse(text: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for line in text.lines() {
        let object: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        for field in ["schema", "kind", "time", "host"] {
            ensure!(object[field].is_string(), "no {field} in {line}");
        }
        objects.push(object);
    }
    Ok(objects)
}

/// The state of several namespaces.
pub(super) fn state(namespaces: &[&Namespace]) -> String {
    namespaces.iter().map(|namespace| namespace.state()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &str) -> Report {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        Report::read(file.path(), 0, String::new(), "said so".to_owned(), "state".to_owned()).unwrap()
    }

    fn line(kind: &str, code: &str, netns: u64) -> String {
        format!(
            "{{\"schema\":\"netdiag/1\",\"kind\":\"{kind}\",\"time\":\"t\",\"host\":\"h\",\"code\":\"{code}\",\
             \"confidence\":\"certain\",\"connection\":{{\"netns\":{netns}}}}}\n"
        )
    }

    #[test]
    fn the_only_one_is_found_and_a_miss_tells_everything() {
        let report = report(&(line("diagnosis", "timeout.no-reply", 7) + &line("status", "", 7)));
        report.the_only("timeout.no-reply").unwrap().certain().unwrap().has("/connection/netns", 7).unwrap();
        assert_eq!(report.of_kind("status").count(), 1);
        let error = report.the_only("refused.no-listener").unwrap_err().to_string();
        for part in ["refused.no-listener", "timeout.no-reply", "said so", "state"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(report.nothing().is_err() && report.never("timeout.no-reply").is_err());
        report.never("refused.no-listener").unwrap();
    }

    #[test]
    fn other_namespaces_are_left_out() {
        let mut report = report(&(line("diagnosis", "a.b", 7) + &line("diagnosis", "c.d", 8)));
        report.keep_only(&[8]);
        assert_eq!(report.codes(), ["c.d"]);
    }

    #[test]
    fn what_breaks_the_contract_is_an_error() {
        assert!(parse("{}\n").is_err());
        assert!(parse("no json\n").is_err());
        assert!(parse("").unwrap().is_empty());
    }
}
