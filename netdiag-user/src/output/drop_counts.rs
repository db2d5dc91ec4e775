//! All drops in numbers: part of kind `status`, and the last line of `drops`.

use serde::{Deserialize, Serialize};

use crate::drops::{Groups, ReasonTotal};

/// Drops of one reason since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    pub reason: String,
    pub code: Option<String>,
    pub normal: bool,
    pub count: u64,
    /// IP packets of which nothing but the reason is known.
    pub not_sampled: u64,
    /// Packets that are not IP.
    pub not_ip: u64,
}

/// Every drop of the machine, whatever the filter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DropCounts {
    pub seconds: f64,
    pub total: u64,
    pub losses: u64,
    pub normal: u64,
    /// Losses of which nothing but the reason is known.
    pub not_sampled: u64,
    pub reasons: Vec<ReasonCount>,
}

impl DropCounts {
    pub fn new(groups: &Groups, totals: &[ReasonTotal], seconds: f64) -> Self {
        let total = totals.iter().map(|total| total.all).sum();
        let is_loss = |total: &&ReasonTotal| !total.class.is_normal();
        let losses: u64 = totals.iter().filter(is_loss).map(|total| total.all).sum();
        let (more, less) = groups.reclassified();
        let losses = (losses + more).saturating_sub(less);
        let reasons = totals.iter().map(|total| ReasonCount {
            reason: total.name.clone(),
            code: total.class.code().map(str::to_owned),
            normal: total.class.is_normal(),
            count: total.all,
            not_sampled: if total.class.is_normal() { 0 } else { total.not_sampled() },
            not_ip: total.not_ip,
        });
        Self {
            seconds,
            total,
            losses,
            normal: total.saturating_sub(losses),
            not_sampled: totals.iter().filter(is_loss).map(ReasonTotal::not_sampled).sum(),
            reasons: reasons.collect(),
        }
    }

    /// One line without its end. `lost`: records.
    pub fn text(&self, lost: u64) -> String {
        let Self { seconds, total, losses, normal, not_sampled, .. } = self;
        let drops = if *total == 1 { "drop" } else { "drops" };
        let word = if *losses == 1 { "loss" } else { "losses" };
        let sampled = match not_sampled {
            0 => String::new(),
            some => format!(" ({some} not sampled)"),
        };
        let lost = match lost {
            0 => "nothing lost".to_owned(),
            some => format!("{some} records lost: groups may be missing, counts by reason are not"),
        };
        format!(
            "netdiag: {total} {drops} in {seconds:.1} s: {losses} {word}{sampled}, {normal} normal; {lost}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::By;
    use crate::drops::testing::{by_rule, dropped};
    use crate::kernel::drops::Total;

    #[test]
    fn one_line() {
        let mut groups = Groups::new(By::Rule);
        groups.add(by_rule(3));
        groups.add(crate::drops::Dropped { reason: 2, ..dropped("NOT_SPECIFIED", "ip_error") });
        let all = [Total { reason: 12, all: 5, unparsed: 1 }, Total { reason: 2, all: 9, unparsed: 0 }];
        let name = |reason| if reason == 12 { "NETFILTER_DROP".into() } else { "NOT_SPECIFIED".into() };
        let counts = DropCounts::new(&groups, &groups.totals(&all, name), 2.0);
        // One of those without a reason is a loss by its place.
        assert_eq!((counts.total, counts.losses, counts.normal, counts.not_sampled), (14, 6, 8, 3));
        assert_eq!(
            counts.text(0),
            "netdiag: 14 drops in 2.0 s: 6 losses (3 not sampled), 8 normal; nothing lost"
        );
        assert!(counts.text(4).ends_with("4 records lost: groups may be missing, counts by reason are not"));
    }
}
