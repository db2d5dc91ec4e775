//! Changes of nftables' ruleset (group `NFNLGRP_NFTABLES`; include/uapi/linux/netfilter/nf_tables.h).
//!
//! A transaction is a message for each change, and one for the new generation at its end, which says whose it was
//! (net/netfilter/nf_tables_api.c, `nf_tables_fill_gen_info`).

use super::change::{Change, ChangeKind, ChangedBy, RuleName};
use crate::enrich::netlink::{self, Attributes};
use crate::enrich::nf_tables::family;
use crate::enrich::notices::Notice;

const SUBSYSTEM: u16 = 10;
mod message {
    pub(super) const NEWTABLE: u16 = 0;
    pub(super) const DELTABLE: u16 = 2;
    pub(super) const NEWCHAIN: u16 = 3;
    pub(super) const DELCHAIN: u16 = 5;
    pub(super) const NEWRULE: u16 = 6;
    pub(super) const DELRULE: u16 = 8;
    pub(super) const NEWSET: u16 = 9;
    pub(super) const DELSET: u16 = 11;
    pub(super) const NEWSETELEM: u16 = 12;
    pub(super) const DELSETELEM: u16 = 14;
    pub(super) const NEWGEN: u16 = 15;
}
/// Attributes 1 to 3 are the table's name, then the chain's or set's, then the rule's handle, but of chains.
const TABLE: u16 = 1;
const SECOND: u16 = 2;
const THIRD: u16 = 3;
const CHAIN_POLICY: u16 = 5;
const GEN_PROC_PID: u16 = 2;
const GEN_PROC_NAME: u16 = 3;
/// `struct nfgenmsg`
const HEADER: usize = 4;
/// Changes of one transaction that are kept one by one.
const MAX_TOLD: usize = 64;

/// The transaction that is being read.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    changes: Vec<Change>,
    left_out: usize,
}

impl Transaction {
    /// The changes of a transaction that is complete with this message.
    pub(super) fn add(&mut self, notice: &Notice<'_>) -> Vec<Change> {
        if notice.kind >> 8 != SUBSYSTEM {
            return Vec::new();
        }
        let kind = notice.kind & 0xff;
        if kind == message::NEWGEN {
            return self.complete(by(notice.payload));
        }
        if self.changes.len() >= MAX_TOLD {
            self.left_out += 1;
        } else if let Some(change) = change(kind, notice.payload)
            && !self.changes.contains(&change)
        {
            self.changes.push(change);
        }
        Vec::new()
    }

    fn complete(&mut self, by: Option<ChangedBy>) -> Vec<Change> {
        let Self { mut changes, left_out } = std::mem::take(self);
        if left_out > 0 {
            let text = format!("ruleset: {left_out} more changes in one go");
            changes.push(Change::new(ChangeKind::RulesetChanged, text));
        }
        changes.iter_mut().for_each(|change| change.by.clone_from(&by));
        changes
    }
}

fn find(payload: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes::at(payload, HEADER).value(wanted)
}

fn by(payload: &[u8]) -> Option<ChangedBy> {
    let pid = u32::from_be_bytes(find(payload, GEN_PROC_PID)?.try_into().ok()?);
    Some(ChangedBy { pid, comm: netlink::text(find(payload, GEN_PROC_NAME)?) })
}

fn change(kind: u16, payload: &[u8]) -> Option<Change> {
    let family = family(u64::from(*payload.first()?))?;
    let text = |wanted| find(payload, wanted).map(netlink::text);
    let table = text(TABLE)?;
    let name = |chain: String, handle| {
        Some(RuleName { family: family.to_owned(), table: table.clone(), chain, handle })
    };
    let changed = |text: String, chain: String| {
        Some(Change { rule: name(chain, None), ..Change::new(ChangeKind::RulesetChanged, text) })
    };
    let set = |how: &str| changed(format!("set {family} {table} {} {how}", text(SECOND)?), String::new());
    match kind {
        message::NEWRULE | message::DELRULE => {
            let chain = text(SECOND)?;
            let handle =
                find(payload, THIRD).and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
            let subject = match handle {
                Some(handle) => format!("{family} {table} {chain} handle {handle}"),
                None => format!("{family} {table} {chain}"),
            };
            let kind = if kind == message::NEWRULE { ChangeKind::RuleAdded } else { ChangeKind::RuleRemoved };
            Some(Change { rule: name(chain, handle), ..Change::new(kind, subject) })
        }
        message::NEWCHAIN => {
            let chain = text(THIRD)?;
            let policy = match find(payload, CHAIN_POLICY) {
                Some([0, 0, 0, 0]) => " (policy drop)",
                Some([0, 0, 0, 1]) => " (policy accept)",
                _ => "",
            };
            changed(format!("chain {family} {table} {chain} added or changed{policy}"), chain)
        }
        message::DELCHAIN => {
            let chain = text(THIRD)?;
            changed(format!("chain {family} {table} {chain} removed"), chain)
        }
        message::NEWTABLE => changed(format!("table {family} {table} added or changed"), String::new()),
        message::DELTABLE => changed(format!("table {family} {table} removed"), String::new()),
        message::NEWSET => set("added"),
        message::DELSET => set("removed"),
        message::NEWSETELEM => set("got elements"),
        message::DELSETELEM => set("lost elements"),
        _ => None,
    }
}
