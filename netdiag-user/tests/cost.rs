//! What the kernel side costs, counted in the object and not measured: a program that grows is noticed in every
//! test run, on any machine.

// A test may panic; clippy takes only functions marked #[test] for one.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use aya_obj::Object;
use aya_obj::generated::bpf_insn;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netdiag-ebpf"));

/// What is counted, in the order of the table's columns.
const COLUMNS: [&str; 7] = ["instructions", "look-ups", "updates", "deletes", "records", "reads", "other"];
/// Another compiler may inline differently: growth by this much is none.
const SLACK_PERCENT: u32 = 15;

const HEAD: &str = "\
# What each program consists of, with the functions it calls: instructions, and calls of helpers in the code, by
# kind (look-ups, updates and deletes in maps; records reserved in the ring buffer; reads of kernel or user memory;
# other). Neither is what one run executes. The test `cost` fails if a program outgrows its line by more than 15 %.
# Then measure with `cargo xtask bench`, and if it is worth it, write the table anew:
#   NETDIAG_COST=write cargo test -p netdiag-user --test cost
";

type Counts = [u32; COLUMNS.len()];
type Table = BTreeMap<String, Counts>;

/// The programs of the object, each linked with what it calls.
fn programs(object: &[u8]) -> Table {
    let mut object = Object::parse(object).unwrap();
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).unwrap();
    let linked = |program: &aya_obj::Program| counts(&object.functions[&program.function_key()].instructions);
    object.programs.iter().map(|(name, program)| (name.clone(), linked(program))).collect()
}

fn counts(instructions: &[bpf_insn]) -> Counts {
    /// BPF_JMP | BPF_CALL; source register 0: a helper, otherwise a function.
    const CALL: u8 = 0x85;
    let mut counts = [0; COLUMNS.len()];
    counts[0] = u32::try_from(instructions.len()).unwrap();
    let helpers = instructions.iter().filter(|one| one.code == CALL && one.src_reg() == 0);
    for helper in helpers {
        counts[column(helper.imm)] += 1;
    }
    counts
}

/// Where a helper is counted; numbers of `enum bpf_func_id` in include/uapi/linux/bpf.h.
fn column(helper: i32) -> usize {
    match helper {
        // map_lookup_elem, sk_storage_get, task_storage_get, map_lookup_percpu_elem
        1 | 107 | 156 | 195 => 1,
        // map_update_elem
        2 => 2,
        // map_delete_elem, sk_storage_delete, task_storage_delete
        3 | 108 | 157 => 3,
        // perf_event_output, ringbuf_output, ringbuf_reserve
        25 | 130 | 131 => 4,
        // probe_read, probe_read_str, and both of user and of kernel memory
        4 | 45 | 112..=115 => 5,
        _ => 6,
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cost.txt")
}

fn parse(text: &str) -> Table {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("program "));
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let numbers: Vec<u32> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        Some((name, numbers.try_into().ok()?))
    };
    lines.map(|line| row(line).unwrap_or_else(|| panic!("not a line of the table: {line:?}"))).collect()
}

fn written(table: &Table) -> String {
    let width = table.keys().map(String::len).max().unwrap_or(0);
    let mut text = format!("{HEAD}{:<width$}", "program");
    for column in COLUMNS {
        text.push_str(&format!("  {column}"));
    }
    for (name, counts) in table {
        text.push_str(&format!("\n{name:<width$}"));
        for (column, count) in COLUMNS.iter().zip(counts) {
            text.push_str(&format!("  {count:>width$}", width = column.len()));
        }
    }
    text + "\n"
}

/// What has grown beyond the slack, appeared or gone.
fn complaints(limits: &Table, found: &Table) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, counts) in found {
        let Some(limits) = limits.get(name) else {
            complaints.push(format!("{name} has no line"));
            continue;
        };
        for ((column, limit), count) in COLUMNS.iter().zip(limits).zip(counts) {
            let most = limit + limit * SLACK_PERCENT / 100;
            if *count > most {
                complaints
                    .push(format!("{name}: {limit} {column} have become {count}, at most {most} may be"));
            }
        }
    }
    let gone = limits.keys().filter(|name| !found.contains_key(*name));
    complaints.extend(gone.map(|name| format!("{name} is not in the object any more")));
    complaints
}

#[test]
fn no_program_outgrows_its_line() {
    let found = programs(OBJECT);
    if std::env::var_os("NETDIAG_COST").is_some_and(|what| what == "write") {
        std::fs::write(file(), written(&found)).unwrap();
    }
    let complaints = complaints(&parse(&std::fs::read_to_string(file()).unwrap()), &found);
    assert!(
        complaints.is_empty(),
        "the kernel side is not what tests/cost.txt says:\n  {}\nMeasure with `cargo xtask bench`. If the cost is \
         worth it, write the table anew: NETDIAG_COST=write cargo test -p netdiag-user --test cost",
        complaints.join("\n  ")
    );
}

#[test]
fn every_program_of_the_registry_is_counted() {
    let found = programs(OBJECT);
    let ways = netdiag::kernel::registry::PROBES.iter().flat_map(|probe| probe.ways);
    for (_, program) in ways.flat_map(|way| way.programs) {
        assert!(found.contains_key(*program), "{program} is not among {found:?}");
    }
    let recorder = found["inet_sock_set_state"];
    assert!(recorder[0] > 50 && recorder[1] > 0 && recorder[5] > 0, "{recorder:?}");
}

#[test]
fn helpers_are_told_apart() {
    let instruction = |code, imm, source| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, source),
        off: 0,
        imm,
    };
    let call = |helper, source| instruction(0x85, helper, source);
    let other = instruction(0xb7, 1, 0);
    let all = [call(1, 0), call(2, 0), call(3, 0), call(131, 0), call(113, 0), call(113, 0), call(14, 0)];
    // The last call is one of a function, and no helper.
    let instructions = [&all[..], &[other, call(1, 1)]].concat();
    assert_eq!(counts(&instructions), [9, 1, 1, 1, 1, 2, 1]);
}

#[test]
fn growth_is_told_and_slack_is_not() {
    let table = |counts: Counts| Table::from([("kfree_skb".to_owned(), counts)]);
    let limits = table([100, 6, 1, 0, 1, 20, 3]);
    assert!(complaints(&limits, &table([115, 6, 1, 0, 1, 23, 3])).is_empty());
    assert!(complaints(&limits, &table([10, 0, 0, 0, 0, 0, 0])).is_empty());
    let grown = complaints(&limits, &table([116, 6, 1, 1, 1, 20, 3]));
    assert_eq!(
        grown,
        [
            "kfree_skb: 100 instructions have become 116, at most 115 may be",
            "kfree_skb: 0 deletes have become 1, at most 0 may be"
        ]
    );
    assert_eq!(complaints(&Table::new(), &limits), ["kfree_skb has no line"]);
    assert_eq!(complaints(&limits, &Table::new()), ["kfree_skb is not in the object any more"]);
    assert_eq!(parse(&written(&limits)), limits);
}
