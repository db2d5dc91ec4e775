//! `netdiag explain CODE`

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use netdiag::diagnoses::{self, Diagnosis};
use netdiag::output::page;

use super::args::{ExplainArgs, Format, Global};
use super::sink::{self, Stream};

pub fn explain(args: ExplainArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let mut out = sink::open(global, Stream::Stdout)?;
    let Some(code) = args.code.filter(|_| !args.list) else {
        list(&mut out, global, diagnoses::catalogue())?;
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(diagnosis) = diagnoses::find(&code) {
        match global.format {
            Format::Text => {
                let page = page(diagnosis.page, &sink::look(global, Stream::Stdout));
                out.write_all(page.as_bytes())?;
            }
            Format::Json => {
                let mut object = entry(diagnosis);
                object["page"] = diagnosis.page.into();
                writeln!(out, "{object}")?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let of_symptom: Vec<_> = diagnoses::catalogue().filter(|d| d.symptom() == code).collect();
    if of_symptom.is_empty() {
        match near(&code) {
            Some(near) => {
                bail!("no diagnosis is called `{code}`; did you mean `{near}`? (`netdiag explain --list`)")
            }
            None => bail!("no diagnosis is called `{code}`: `netdiag explain --list` shows all"),
        }
    }
    list(&mut out, global, of_symptom.into_iter())?;
    Ok(ExitCode::SUCCESS)
}

fn entry(diagnosis: &Diagnosis) -> serde_json::Value {
    serde_json::json!({
        "schema": "netdiag/1",
        "kind": "catalogue",
        "code": diagnosis.code,
        "symptom": diagnosis.symptom(),
        "title": diagnosis.title,
    })
}

fn list(
    out: &mut dyn Write,
    global: &Global,
    entries: impl Iterator<Item = &'static Diagnosis>,
) -> anyhow::Result<()> {
    for diagnosis in entries {
        match global.format {
            Format::Text => writeln!(out, "{:<32} {}", diagnosis.code, diagnosis.title)?,
            Format::Json => writeln!(out, "{}", entry(diagnosis))?,
        }
    }
    Ok(())
}

/// The code that shares the most letters in order with what was typed, if that is most of it.
fn near(code: &str) -> Option<&'static str> {
    diagnoses::catalogue()
        .map(|d| (distance(code, d.code), d.code))
        .min()
        .filter(|(distance, near)| *distance * 3 <= near.len())
        .map(|(_, near)| near)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_code() {
        assert_eq!(near("refused.no-listner"), Some("refused.no-listener"));
        assert_eq!(near("something.else-entirely"), None);
    }

    #[test]
    fn distances() {
        assert_eq!([distance("abc", "abc"), distance("abc", "abd"), distance("", "ab")], [0, 1, 2]);
    }
}
