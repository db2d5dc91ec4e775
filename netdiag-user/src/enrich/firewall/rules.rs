//! Rules as the kernel keeps them for its packets: `struct nft_rule_dp` (net/netfilter/nf_tables_api.c,
//! include/net/netfilter/nf_tables.h), one behind the other in a blob, each with its expressions.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::layout::Layout;
use crate::probes::Snapshot;

/// A rule is a header word and at most so many bytes (its length has 12 bits).
const MAX_RULE: u64 = 4096;
/// include/net/netfilter/nf_tables_core.h: more expressions than this no rule has (`NFT_RULE_MAXEXPRS`).
const MAX_EXPRESSIONS: usize = 128;
/// Rules of one chain that are walked.
const MAX_RULES: usize = 100_000;
/// Names of expressions, tables and chains (`NFT_NAME_MAXLEN`).
pub(super) const MAX_NAME: usize = 256;

/// The header of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) address: u64,
    pub(super) handle: u64,
    length: u64,
}

impl Layout {
    /// What a rule consists of, as a number: other rules have others, also under the same handle and address.
    pub(super) fn fingerprint(&self, memory: &mut Snapshot<'_>, rule: Rule) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        rule.address.hash(&mut hasher);
        let mut at = rule.address;
        while at < self.end(rule)? {
            memory.u64(at)?.hash(&mut hasher);
            at = at.checked_add(8)?;
        }
        Some(hasher.finish())
    }

    /// `None` at the marker behind the last rule.
    fn rule(&self, memory: &mut Snapshot<'_>, address: u64) -> Option<Rule> {
        if self.rule_is_last.of(memory, address)? != 0 {
            return None;
        }
        let (length, handle) = (self.rule_length.of(memory, address)?, self.rule_handle.of(memory, address)?);
        Some(Rule { address, handle, length })
    }

    fn end(&self, rule: Rule) -> Option<u64> {
        rule.address.checked_add(self.rule_data)?.checked_add(rule.length)
    }

    fn is_last(&self, memory: &mut Snapshot<'_>, address: u64) -> bool {
        self.rule_is_last.of(memory, address) == Some(1)
    }

    /// The size of an expression, data included.
    fn expression_size(&self, memory: &mut Snapshot<'_>, expression: u64) -> Option<u64> {
        let ops = memory.pointer(expression)?;
        let size = u64::from(memory.u32(ops.checked_add(self.ops_size)?)?);
        (size >= self.expression_data && size.is_multiple_of(8) && size <= MAX_RULE).then_some(size)
    }

    /// The name of an expression's type: `immediate`, `lookup`, `cmp`.
    pub(super) fn expression_name(&self, memory: &mut Snapshot<'_>, expression: u64) -> Option<String> {
        let ops = memory.pointer(expression)?;
        let kind = memory.pointer(ops.checked_add(self.ops_type)?)?;
        let name = memory.pointer(kind.checked_add(self.type_name)?)?;
        memory.name(name, MAX_NAME)
    }

    /// Whether the rule's expressions, one behind the other, end where the rule ends, and `expression` is one of
    /// them.
    fn consists_of(&self, memory: &mut Snapshot<'_>, rule: Rule, expression: u64) -> Option<bool> {
        let end = self.end(rule)?;
        let mut at = rule.address.checked_add(self.rule_data)?;
        let mut passed = false;
        for _ in 0..MAX_EXPRESSIONS {
            if at >= end {
                break;
            }
            passed |= at == expression;
            at = at.checked_add(self.expression_size(memory, at)?)?;
        }
        Some(passed && at == end)
    }

    /// Headers that could be that of the rule which `expression` belongs to, nearest first.
    pub(super) fn rules_around(&self, memory: &mut Snapshot<'_>, expression: u64) -> Vec<Rule> {
        let mut found = Vec::new();
        if self.expression_size(memory, expression).is_none() {
            return found;
        }
        for words in 1..=MAX_RULE / 8 {
            let Some(address) = expression.checked_sub(words * 8) else { break };
            // The page before the blob may not be there; the blob is not there either then.
            if memory.u64(address).is_none() {
                break;
            }
            let Some(rule) = self.rule(memory, address) else { continue };
            let around = self.end(rule).is_some_and(|end| end > expression);
            if around && self.consists_of(memory, rule, expression) == Some(true) {
                found.push(rule);
            }
        }
        found
    }

    /// The marker behind the last rule of the blob that `rule` is in.
    pub(super) fn end_of_blob(&self, memory: &mut Snapshot<'_>, rule: Rule) -> Option<u64> {
        let mut next = self.end(rule)?;
        for _ in 0..MAX_RULES {
            match self.rule(memory, next) {
                Some(rule) => next = self.end(rule)?,
                None => return self.is_last(memory, next).then_some(next),
            }
        }
        None
    }

    /// Whether one of the rules of this blob is at `address`.
    pub(super) fn blob_has(&self, memory: &mut Snapshot<'_>, blob: u64, address: u64) -> Option<bool> {
        let (start, end) = self.blob_bounds(memory, blob)?;
        if !(start..end).contains(&address) {
            return Some(false);
        }
        let mut at = start;
        for _ in 0..MAX_RULES {
            if at >= address {
                break;
            }
            let rule = self.rule(memory, at)?;
            at = self.end(rule)?;
        }
        Some(at == address)
    }

    /// The first rule of a blob, and the marker behind its last one.
    pub(super) fn blob_bounds(&self, memory: &mut Snapshot<'_>, blob: u64) -> Option<(u64, u64)> {
        let start = blob.checked_add(self.blob_data)?;
        let end = start.checked_add(memory.u64(blob.checked_add(self.blob_size)?)?)?;
        Some((start, end))
    }
}
