use proptest::prelude::*;

use super::frames::Frames;
use super::layout::Layout;
use super::testing::{BASE, INODE, Kernel, NET, cmp, immediate, layout, vmap};
use super::verdict::{Question, Site, Verdict, find};
use crate::probes::Snapshot;
use crate::track::Hook;

const CHAIN: u64 = BASE + 0x1_0000;
const OTHER: u64 = BASE + 0x4_0000;
/// The place in the code, and where it goes back to.
const LOCATION: u64 = 0xffff_ffff_8100_1000;
const CALLER: u64 = 0xffff_ffff_8100_2000;
const DROP: u8 = 0;
const ACCEPT: u8 = 1;
/// A verdict in the frame: a rule's `drop`, and none at all.
const DROPPED: u64 = 0xffff_8881_0000_0000;
const UNDECIDED: u64 = 0x0000_5611_ffff_ffff;

fn ask(
    layout: &Layout,
    kernel: &mut Kernel,
    saved: &[u64],
    own: &[u64],
    site: Site,
) -> Option<(String, Option<u64>)> {
    let words: Vec<u64> = [saved, &[LOCATION], own, &[CALLER]].concat();
    let frames = Frames::find(&words, LOCATION, &[LOCATION, CALLER]).unwrap();
    let question = Question { layout, frames: &frames, hook: Some(Hook::Output), site };
    Some(match find(question, &mut Snapshot::new(kernel, 1000))? {
        Verdict::Rule { chain, rule, .. } => (chain.name, Some(rule.handle)),
        Verdict::Policy { chain } => (chain.name, None),
    })
}

fn plain(kernel: &mut Kernel, saved: &[u64], own: &[u64]) -> Option<(String, Option<u64>)> {
    ask(&layout(), kernel, saved, own, Site::default())
}

fn rule(chain: &str, handle: u64) -> Option<(String, Option<u64>)> {
    Some((chain.to_owned(), Some(handle)))
}

#[test]
fn the_rule_of_a_dropping_expression_is_found() {
    let mut kernel = Kernel::new();
    kernel.chain(OTHER, "base", Some(DROP), &[(2, vec![cmp()])]);
    let rules = kernel.chain(
        CHAIN,
        "c",
        None,
        &[(4, vec![cmp(), immediate(0)]), (9, vec![cmp(), cmp(), immediate(0)])],
    );
    let last = rules[1].expressions[2];
    assert_eq!(plain(&mut kernel, &[rules[1].rule, last], &[OTHER, DROPPED]), rule("c", 9));
    // Where the marker does not name the chain, those of the table at hand are looked through.
    let old = Layout { last_chain: None, ..layout() };
    assert_eq!(ask(&old, &mut kernel, &[last], &[OTHER, DROPPED], Site::default()), rule("c", 9));
    assert_eq!(ask(&old, &mut kernel, &[last], &[DROPPED], Site::default()), None, "no chain, no name");
}

#[test]
fn expressions_that_do_not_drop_name_nothing() {
    let mut kernel = Kernel::new();
    let rules = kernel.chain(CHAIN, "c", Some(ACCEPT), &[(4, vec![cmp(), immediate(1)])]);
    for expression in &rules[0].expressions {
        assert_eq!(plain(&mut kernel, &[*expression], &[CHAIN, DROPPED]), None);
    }
}

#[test]
fn a_rule_that_is_no_more_in_its_chain_is_not_named() {
    let mut kernel = Kernel::new();
    let rules = kernel.chain(CHAIN, "c", Some(ACCEPT), &[(4, vec![immediate(0)])]);
    let found = [rules[0].expressions[0]];
    assert_eq!(plain(&mut kernel, &found, &[CHAIN]), rule("c", 4));
    kernel.set(CHAIN, 0);
    assert_eq!(plain(&mut kernel, &found, &[CHAIN]), None);
}

#[test]
fn two_rules_at_hand_are_one_too_many() {
    let mut kernel = Kernel::new();
    let rules = kernel.chain(CHAIN, "c", Some(ACCEPT), &[(4, vec![immediate(0)]), (5, vec![immediate(0)])]);
    let both = [rules[0].expressions[0], rules[1].expressions[0]];
    assert_eq!(plain(&mut kernel, &both, &[CHAIN]), None);
}

#[test]
fn a_policy_needs_a_chain_that_was_walked_to_its_end() {
    let mut kernel = Kernel::new();
    let rules = kernel.chain(CHAIN, "c", Some(DROP), &[(4, vec![cmp(), immediate(0)])]);
    let (left, end) = (rules[0].expressions[0], kernel.end_of(CHAIN));
    let policy = Some(("c".to_owned(), None));
    assert_eq!(plain(&mut kernel, &[end, left], &[CHAIN, UNDECIDED]), policy);
    assert_eq!(plain(&mut kernel, &[left], &[CHAIN, UNDECIDED]), None);
    assert_eq!(plain(&mut kernel, &[end, left], &[CHAIN, DROPPED]), None);
    let for_rules = Site { rules: true, policies: false };
    assert_eq!(ask(&layout(), &mut kernel, &[end, left], &[CHAIN, UNDECIDED], for_rules), None);
    // Another hook's chain is not at work.
    kernel.set(CHAIN - 112 + 56, 1 << 32);
    assert_eq!(plain(&mut kernel, &[end, left], &[CHAIN, UNDECIDED]), None);
}

#[test]
fn a_verdict_map_and_a_policy_are_told_apart() {
    let mut kernel = Kernel::new();
    let rules = kernel.chain(CHAIN, "c", Some(DROP), &[(4, vec![cmp(), vmap()])]);
    let (map, header, end) = (rules[0].expressions[1], rules[0].rule, kernel.end_of(CHAIN));
    assert_eq!(plain(&mut kernel, &[end, header, map], &[CHAIN, DROPPED]), rule("c", 4));
    assert_eq!(plain(&mut kernel, &[end, end, map], &[CHAIN, UNDECIDED]), Some(("c".to_owned(), None)));
    // Rests of earlier packets: only what was learnt of the place decides.
    let mut doubt = |site| ask(&layout(), &mut kernel, &[end, header, map], &[CHAIN, UNDECIDED], site);
    assert_eq!(doubt(Site::default()), None);
    assert_eq!(doubt(Site { rules: true, policies: false }), rule("c", 4));
    assert_eq!(doubt(Site { rules: false, policies: true }), Some(("c".to_owned(), None)));
    assert_eq!(doubt(Site { rules: true, policies: true }), None);
}

#[test]
fn the_other_generation_is_not_current() {
    let mut kernel = Kernel::new();
    kernel.chain(CHAIN, "c", Some(DROP), &[(4, vec![immediate(0)])]);
    let layout = layout();
    let mut current = |generation: u64, inode: u32| {
        kernel.set(NET + 496, generation << 32);
        let mut memory = Snapshot::new(&mut kernel, 1000);
        let chain = layout.chain(&mut memory, CHAIN).unwrap();
        let rule = layout.rules_around(&mut memory, CHAIN + 0x1000 + 16).pop().unwrap();
        layout.is_current(&mut memory, NET, inode, &chain, rule)
    };
    assert_eq!(current(0, INODE), Some(true));
    assert_eq!(current(1, INODE), None, "there is none");
    assert_eq!(current(9, INODE), None);
    assert_eq!(current(0, 1), None, "another namespace");
}

proptest! {
    /// Whatever the memory says: no panic, and no end of reading.
    #[test]
    fn any_memory_is_survived(
        changes in proptest::collection::vec((0u64..0x3000, any::<u64>()), 0..200),
        pointers in proptest::collection::vec((0u64..0x3000, 0u64..0x3000), 0..200),
    ) {
        let mut kernel = Kernel::new();
        let rules = kernel.chain(CHAIN, "c", Some(DROP), &[(4, vec![cmp(), vmap()]), (5, vec![immediate(0)])]);
        for (at, word) in changes {
            kernel.set(CHAIN + at / 8 * 8, word);
        }
        for (at, to) in pointers {
            kernel.set(CHAIN + at / 8 * 8, CHAIN + to);
        }
        let saved = [rules[0].expressions[1], rules[1].expressions[0], u64::MAX, u64::MAX - 7];
        let _ = plain(&mut kernel, &saved, &[CHAIN, UNDECIDED]);
    }
}
