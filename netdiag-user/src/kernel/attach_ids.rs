//! The kernel's BTF as far as aya needs it: the ids of tracepoints and functions.
//!
//! To attach to one of them, aya wants BTF and looks for one typedef or function by its name. Its reader keeps each of the
//! kernel's 100,000 types with all members: 40 ms and 25 MB, for twenty numbers that [`Btf`] has found already.

use super::btf::{Btf, HEADER_LEN, MAGIC, VERSION};
use super::registry::Attach;

/// Kinds of types, as the word that has them (Documentation/bpf/btf.rst).
const TYPEDEF: u32 = 8 << 24;
const CONST: u32 = 10 << 24;
const FUNC: u32 = 12 << 24;

/// BTF in which what these hooks are called by has the ids that the kernel gave it. All other types are place holders.
pub fn of(btf: &Btf, hooks: impl IntoIterator<Item = Attach>) -> Result<aya::Btf, aya::BtfError> {
    let mut wanted: Vec<(u32, String, u32)> = hooks.into_iter().filter_map(|hook| named(btf, hook)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    aya::Btf::parse(&encode(&wanted), aya::Endianness::default())
}

/// Id, name and kind; `None` where the kernel has no such thing, or it is called by another name than BTF's.
fn named(btf: &Btf, hook: Attach) -> Option<(u32, String, u32)> {
    match hook {
        Attach::BtfTracepoint(name) | Attach::Device(name) => {
            Some((btf.tracepoint_id(name)?, format!("btf_trace_{name}"), TYPEDEF))
        }
        Attach::Fentry(name) | Attach::Fexit(name) => Some((btf.func_id(name)?, name.to_owned(), FUNC)),
        Attach::Tracepoint(..)
        | Attach::Kprobe(_)
        | Attach::Kretprobe(_)
        | Attach::Tcx
        | Attach::OnDemand => None,
    }
}

/// `wanted`: sorted by id.
fn encode(wanted: &[(u32, String, u32)]) -> Vec<u8> {
    let last = wanted.last().map_or(0, |(id, ..)| *id);
    let mut strings = vec![0];
    let mut types: Vec<u8> = Vec::with_capacity(12 * last as usize);
    let mut next = wanted.iter().peekable();
    for id in 1..=last {
        let (name, info) = match next.next_if(|(wanted, ..)| *wanted == id) {
            Some((_, name, kind)) => {
                let at = strings.len() as u32;
                strings.extend_from_slice(name.as_bytes());
                strings.push(0);
                (at, *kind)
            }
            None => (0, CONST),
        };
        // Each refers to void.
        types.extend([name, info, 0].iter().flat_map(|word| word.to_ne_bytes()));
    }
    let sections = [0, types.len() as u32, types.len() as u32, strings.len() as u32];
    let mut data = Vec::with_capacity(HEADER_LEN + types.len() + strings.len());
    data.extend(MAGIC.to_ne_bytes());
    // No flags.
    data.extend([VERSION, 0]);
    data.extend((HEADER_LEN as u32).to_ne_bytes());
    data.extend(sections.iter().flat_map(|word| word.to_ne_bytes()));
    data.extend(types);
    data.extend(strings);
    data
}

#[cfg(test)]
mod tests {
    use aya_obj::btf::BtfKind;

    use super::*;

    #[test]
    fn names_have_the_ids_that_were_asked_for() {
        let named = |id, name: &str, kind| (id, name.to_owned(), kind);
        let data = encode(&[
            named(3, "btf_trace_kfree_skb", TYPEDEF),
            named(5, "icmp_unreach", FUNC),
            named(7, "btf_trace_sys_exit", TYPEDEF),
        ]);
        let btf = aya::Btf::parse(&data, aya::Endianness::default()).unwrap();
        let id = |name: &str, kind| btf.id_by_type_name_kind(name, kind).ok();
        assert_eq!(id("btf_trace_kfree_skb", BtfKind::Typedef), Some(3));
        assert_eq!(id("icmp_unreach", BtfKind::Func), Some(5));
        assert_eq!(id("btf_trace_sys_exit", BtfKind::Typedef), Some(7));
        assert_eq!(id("btf_trace_unknown", BtfKind::Typedef), None);
        assert_eq!(Btf::from_bytes(data).unwrap().tracepoint_id("sys_exit"), Some(7));
    }

    #[test]
    fn the_kernel_s_own_ids() {
        let Ok(btf) = Btf::vmlinux() else { return };
        let Ok(whole) = aya::Btf::from_sys_fs() else { return };
        let short = of(&btf, [Attach::BtfTracepoint("kfree_skb"), Attach::Fentry("icmp_unreach")]).unwrap();
        for (name, kind) in [("btf_trace_kfree_skb", BtfKind::Typedef), ("icmp_unreach", BtfKind::Func)] {
            let id = |btf: &aya::Btf| btf.id_by_type_name_kind(name, kind).ok();
            assert_eq!(id(&short), id(&whole));
        }
    }
}
