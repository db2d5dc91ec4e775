//! The catalogue: one file per symptom, one entry per diagnosis, its page beside it in `pages/`.

pub mod drop;
mod evidence;
mod finding;
pub(crate) mod flood;
pub mod leak;
mod local;
mod refused;
mod reset;
mod rule;
#[cfg(test)]
mod testing;
mod timeout;
mod unreachable;
pub(crate) mod words;

pub use evidence::{Coverage, Evidence};
pub use finding::{Confidence, Finding, FirewallFact, NextStep, Stage, Verdict, Where, WhereSide};

/// One entry of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Diagnosis {
    /// `symptom.cause`; never reused.
    pub code: &'static str,
    /// One line, the page's title.
    pub title: &'static str,
    /// Among findings of one confidence the higher wins: a cause that explains another's evidence is more
    /// specific than it.
    pub specificity: u8,
    /// Signals of `kernel::registry` without which it cannot be found at all.
    pub needs: &'static [&'static str],
    /// Markdown.
    pub page: &'static str,
    pub check: fn(&Evidence) -> Verdict,
}

impl Diagnosis {
    pub fn symptom(&self) -> &'static str {
        self.code.split_once('.').map_or(self.code, |(symptom, _)| symptom)
    }
}

/// All diagnoses, by symptom.
pub fn catalogue() -> impl Iterator<Item = &'static Diagnosis> {
    [refused::ALL, timeout::ALL, unreachable::ALL, reset::ALL, local::ALL, leak::ALL, flood::ALL, drop::ALL]
        .into_iter()
        .flatten()
}

/// Entry of a code.
pub fn find(code: &str) -> Option<&'static Diagnosis> {
    catalogue().find(|diagnosis| diagnosis.code == code)
}

/// Asks every diagnosis and takes the best: `certain` before `likely` before `possible`, then the more
/// specific. Others that are as sure become alternatives of a `possible` one. A finding is no surer than its rule.
pub fn diagnose(evidence: &Evidence) -> Option<(&'static Diagnosis, Finding)> {
    let mut found: Vec<(&'static Diagnosis, Finding)> = catalogue()
        .filter_map(|diagnosis| match (diagnosis.check)(evidence) {
            Verdict::Found(finding) => Some((diagnosis, *finding)),
            Verdict::Healthy | Verdict::NotEnough(_) => None,
        })
        .collect();
    found.sort_by_key(|(diagnosis, finding)| (finding.confidence, std::cmp::Reverse(diagnosis.specificity)));
    let mut rest = found.into_iter();
    let (diagnosis, mut finding) = rest.next()?;
    // That a rule dropped it is one thing, which one another.
    let named = rule::confidence(finding.firewall.as_ref());
    if named > finding.confidence {
        finding.confidence = named;
        return Some((diagnosis, finding));
    }
    if finding.confidence == Confidence::Possible {
        for (other, _) in rest {
            if !finding.alternatives.contains(&other.code) {
                finding.alternatives.push(other.code);
            }
        }
    }
    Some((diagnosis, finding))
}

/// Why nothing was found: what each diagnosis that could not decide is missing.
pub fn undecided(evidence: &Evidence) -> Vec<(&'static str, String)> {
    catalogue()
        .filter_map(|diagnosis| match (diagnosis.check)(evidence) {
            Verdict::NotEnough(why) => Some((diagnosis.code, why)),
            Verdict::Healthy | Verdict::Found(_) => None,
        })
        .collect()
}
