//! `netdiag explain CODE`

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use jiff::Timestamp;
use netdiag::diagnoses::{self, Diagnosis};
use netdiag::output::{Head, page};
use serde::Serialize;

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
            Format::Json => write_entry(&mut out, diagnosis, true)?,
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

/// kind = "catalogue": an entry, with its page where one was asked for.
#[derive(Debug, Serialize)]
struct Entry {
    #[serde(flatten)]
    head: Head,
    code: &'static str,
    symptom: &'static str,
    title: &'static str,
    needs: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<&'static str>,
}

fn write_entry(out: &mut dyn Write, diagnosis: &'static Diagnosis, page: bool) -> anyhow::Result<()> {
    let entry = Entry {
        head: Head::new("catalogue", Timestamp::now()),
        code: diagnosis.code,
        symptom: diagnosis.symptom(),
        title: diagnosis.title,
        needs: diagnosis.needs,
        page: page.then_some(diagnosis.page),
    };
    writeln!(out, "{}", serde_json::to_string(&entry)?)?;
    Ok(())
}

fn list(
    out: &mut dyn Write,
    global: &Global,
    entries: impl Iterator<Item = &'static Diagnosis>,
) -> anyhow::Result<()> {
    for diagnosis in entries {
        match global.format {
            Format::Text => writeln!(out, "{:<32} {}", diagnosis.code, diagnosis.title)?,
            Format::Json => write_entry(out, diagnosis, false)?,
        }
    }
    Ok(())
}

/// The code that shares the most letters in order with what was typed, if that is most of it.
fn near(code: &str) -> Option<&'static str> {
    diagnoses::catalogue()
        .map(|d| (strsim::levenshtein(code, d.code), d.code))
        .min()
        .filter(|(distance, near)| *distance * 3 <= near.len())
        .map(|(_, near)| near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_code() {
        assert_eq!(near("refused.no-listner"), Some("refused.no-listener"));
        assert_eq!(near("something.else-entirely"), None);
    }
}
