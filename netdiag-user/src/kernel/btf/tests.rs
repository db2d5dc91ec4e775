use std::{collections::HashMap, process::Command, sync::OnceLock};

use proptest::prelude::*;

use super::*;

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;
const KIND_FLAG: u32 = 1 << 31;

/// Builds BTF by hand. Names are not shared, so equal names have different offsets.
struct Builder {
    types: Vec<u32>,
    strings: Vec<u8>,
    next_id: u32,
    first_string: u32,
}

impl Builder {
    fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], next_id: 1, first_string: 0 }
    }

    /// Continues a base.
    fn split(base: &Builder) -> Self {
        let first_string = base.first_string + base.strings.len() as u32;
        Self { types: Vec::new(), strings: Vec::new(), next_id: base.next_id, first_string }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let offset = self.first_string + self.strings.len() as u32;
        self.strings.extend(name.bytes());
        self.strings.push(0);
        offset
    }

    fn add(&mut self, name: &str, info: u32, size_or_type: u32, tail: &[u32]) -> u32 {
        let name = self.name(name);
        self.types.extend([name, info, size_or_type]);
        self.types.extend(tail);
        self.next_id += 1;
        self.next_id - 1
    }

    fn simple(&mut self, kind: u32, name: &str, size_or_type: u32) -> u32 {
        self.add(name, kind << 24, size_or_type, &[])
    }

    fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.add(name, INT << 24, bytes, &[bytes * 8])
    }

    /// Members and enumerators: a name and two more words.
    fn triples(&mut self, kind: u32, name: &str, size: u32, entries: &[(&str, u32, u32)]) -> u32 {
        let tail: Vec<u32> = entries.iter().flat_map(|&(name, a, b)| [self.name(name), a, b]).collect();
        self.add(name, kind_of(kind) | entries.len() as u32, size, &tail)
    }

    /// Parameters and 32-bit enumerators: a name and one more word.
    fn pairs(&mut self, kind: u32, name: &str, size_or_type: u32, entries: &[(&str, u32)]) -> u32 {
        let tail: Vec<u32> = entries.iter().flat_map(|&(name, a)| [self.name(name), a]).collect();
        self.add(name, kind_of(kind) | entries.len() as u32, size_or_type, &tail)
    }

    fn bytes(&self) -> Vec<u8> {
        let types_len = self.types.len() as u32 * 4;
        let mut data = Vec::new();
        data.extend(0xeb9fu16.to_ne_bytes());
        data.extend([1, 0]);
        for word in [24, 0, types_len, types_len, self.strings.len() as u32].iter().chain(&self.types) {
            data.extend(word.to_ne_bytes());
        }
        data.extend(&self.strings);
        data
    }
}

/// The kind in its place; KIND_FLAG is in place already.
fn kind_of(kind: u32) -> u32 {
    ((kind & 0x1f) << 24) | (kind & KIND_FLAG)
}

fn sample() -> Builder {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let byte = b.int("unsigned char", 1);
    let short = b.simple(TYPEDEF, "__be16", 0);
    let u16 = b.int("unsigned short", 2);
    b.types[(short as usize - 1) * 4 + 2] = u16;
    let pair = b.triples(STRUCT, "", 4, &[("skc_dport", short, 0), ("skc_num", u16, 16)]);
    let either = b.triples(UNION, "", 4, &[("skc_portpair", int, 0), ("", pair, 0)]);
    let array = b.add("", ARRAY << 24, 0, &[either, int, 3]);
    let matrix = b.add("", ARRAY << 24, 0, &[array, int, 2]);
    let common = b.triples(
        STRUCT,
        "sock_common",
        40,
        &[("skc_family", u16, 0), ("", either, 32), ("ports", array, 64), ("matrix", matrix, 160)],
    );
    let volatile = b.simple(VOLATILE, "", common);
    let sock_fwd = b.simple(FWD, "request_sock", 0);
    let fwd_ptr = b.simple(PTR, "", sock_fwd);
    let sock = b.triples(
        STRUCT | KIND_FLAG,
        "sock",
        64,
        &[
            ("__sk_common", volatile, 0),
            ("sk_pad", byte, (40 * 8) | (3 << 24)),
            ("sk_shutdown", byte, (40 * 8 + 3) | (5 << 24)),
            ("sk_type", byte, (41 * 8) | (8 << 24)),
            ("sk_req", fwd_ptr, 48 * 8),
        ],
    );
    b.simple(TYPEDEF, "sock_t", sock);
    let old_bits = b.add("", INT << 24, 4, &[(2 << 16) | 3]);
    b.triples(STRUCT, "old", 4, &[("low", old_bits, 8)]);
    let enum32 = b.pairs(ENUM, "reason", 4, &[("NOT_SET", 2), ("MAX", u32::MAX)]);
    b.pairs(ENUM, "reason", 4, &[]);
    b.pairs(ENUM | KIND_FLAG, "signed", 4, &[("MINUS", u32::MAX)]);
    b.triples(ENUM64, "wide", 8, &[("BIG", 1, 2), ("MINUS", u32::MAX, u32::MAX)]);
    b.simple(TYPEDEF, "reason_t", enum32);
    let const_sock = b.simple(CONST, "", sock);
    let ptr = b.simple(PTR, "", const_sock);
    let void_ptr = b.simple(PTR, "", 0);
    let proto = b.pairs(FUNC_PROTO, "", 0, &[("", void_ptr), ("", ptr), ("", enum32)]);
    let proto_ptr = b.simple(PTR, "", proto);
    b.simple(TYPEDEF, "btf_trace_kfree_sock", proto_ptr);
    b.simple(TYPEDEF, "btf_trace_broken", ptr);
    let named = b.pairs(FUNC_PROTO, "", int, &[("__data", void_ptr), ("sk", ptr), ("reason", enum32)]);
    b.simple(FUNC, "__traceiter_kfree_sock", named);
    let const_ptr = b.simple(CONST, "", ptr);
    let ptr_ptr = b.simple(PTR, "", const_ptr);
    let array_ptr = b.simple(PTR, "", array);
    let tag = b.simple(TYPE_TAG, "user", int);
    let user_ptr = b.simple(PTR, "", tag);
    let types = b.pairs(
        FUNC_PROTO,
        "",
        0,
        &[("a", ptr_ptr), ("b", array_ptr), ("c", proto_ptr), ("d", fwd_ptr), ("e", user_ptr), ("", 0)],
    );
    b.simple(FUNC, "types", types);
    // Same name, same place of `same`, other places of the rest.
    b.triples(STRUCT, "twin", 8, &[("same", int, 0), ("other", int, 32), ("one", int, 32)]);
    b.triples(STRUCT, "twin", 12, &[("same", int, 0), ("other", int, 64)]);
    b.simple(FUNC, "overloaded", types);
    b.simple(FUNC, "overloaded", proto);
    b
}

fn sample_btf() -> Btf {
    Btf::from_bytes(sample().bytes()).unwrap()
}

fn bits(btf: &Btf, path: &str) -> (u32, u32) {
    let field = btf.field(path).unwrap();
    (field.bit_offset, field.bit_size)
}

#[test]
fn fields_through_anonymous_members_typedefs_and_arrays() {
    let btf = sample_btf();
    assert_eq!(bits(&btf, "sock_common.skc_family"), (0, 16));
    assert_eq!(bits(&btf, "sock_common.skc_portpair"), (32, 32));
    assert_eq!(bits(&btf, "sock_common.skc_num"), (48, 16));
    assert_eq!(bits(&btf, "sock_common.ports"), (64, 96));
    assert_eq!(bits(&btf, "sock_common.ports.skc_num"), (80, 16));
    assert_eq!(bits(&btf, "sock_common.matrix"), (160, 192));
    assert_eq!(bits(&btf, "sock.__sk_common.skc_dport"), (32, 16));
    assert_eq!(bits(&btf, "sock_t.__sk_common.skc_dport"), (32, 16));
    assert_eq!(bits(&btf, "sock.sk_req"), (384, 64));
    assert_eq!(btf.field("sock.sk_req").unwrap().byte_offset(), Some(48));
}

#[test]
fn bit_fields() {
    let btf = sample_btf();
    assert_eq!(bits(&btf, "sock.sk_shutdown"), (323, 5));
    assert_eq!(bits(&btf, "old.low"), (10, 3));
    assert_eq!(btf.field("sock.sk_shutdown").unwrap().byte_offset(), None);
    assert_eq!(btf.field("sock.sk_pad").unwrap().byte_offset(), None, "starts at a byte, ends inside it");
    assert_eq!(btf.field("sock.sk_type").unwrap().byte_offset(), Some(41));
    assert_eq!(btf.field("sock.sk_type").unwrap().byte_size(), Some(1));
}

#[test]
fn what_is_not_there() {
    let btf = sample_btf();
    let paths = [
        "",
        ".",
        "sock",
        "sock.",
        ".sk_type",
        "sock.nix",
        "sock.sk_req.x",
        "sock..sk_type",
        "nix.x",
        "request_sock.sk",
        "int.x",
        "reason_t.x",
        "sock_common.matrix.skc_num",
        "so\0ck.sk_type",
    ];
    for path in paths {
        assert!(matches!(btf.field(path), Err(BtfError::NotFound { .. })), "{path:?}");
    }
    assert!(btf.has_type("sock") && btf.has_type("reason") && btf.has_type("__be16") && btf.has_type("int"));
    assert!(!btf.has_type("request_sock") && !btf.has_type("types") && !btf.has_type(""));
    assert!(btf.field("sock.nix").unwrap_err().to_string().contains("sock.nix"));
}

#[test]
fn twins_answer_only_together() {
    let btf = sample_btf();
    assert_eq!(bits(&btf, "twin.same"), (0, 32));
    assert!(matches!(btf.field("twin.other"), Err(BtfError::Ambiguous { .. })));
    assert!(matches!(btf.field("twin.one"), Err(BtfError::Ambiguous { .. })));
    assert!(matches!(btf.field("twin.none"), Err(BtfError::NotFound { .. })));
    assert!(matches!(btf.func_params("overloaded"), Err(BtfError::Ambiguous { .. })));
    assert_eq!(btf.func_id("overloaded"), None);
    assert!(btf.func_id("types").is_some());
}

#[test]
fn enums() {
    let btf = sample_btf();
    let reason = vec![("NOT_SET".to_owned(), 2), ("MAX".to_owned(), 0xffff_ffff)];
    assert_eq!(btf.enum_values("reason").unwrap(), reason, "an empty enum is a forward declaration");
    assert_eq!(btf.enum_values("reason_t").unwrap(), reason);
    assert_eq!(btf.enum_values("signed").unwrap(), [("MINUS".to_owned(), -1)]);
    assert_eq!(
        btf.enum_values("wide").unwrap(),
        [("BIG".to_owned(), 0x2_0000_0001), ("MINUS".to_owned(), -1)]
    );
    assert!(matches!(btf.enum_values("sock"), Err(BtfError::NotFound { .. })));
    assert!(matches!(btf.enum_values("sock_t"), Err(BtfError::NotFound { .. })));
}

fn shown(params: &[Param]) -> Vec<(&str, &str)> {
    params.iter().map(|param| (param.name.as_str(), param.type_name.as_str())).collect()
}

#[test]
fn signatures() {
    let btf = sample_btf();
    let params = btf.tracepoint_params("kfree_sock").unwrap();
    assert_eq!(shown(&params), [("sk", "const struct sock *"), ("reason", "enum reason")]);
    let params = btf.func_params("types").unwrap();
    assert_eq!(
        shown(&params),
        [
            ("a", "const struct sock *const *"),
            ("b", "union {...} (*)[3]"),
            ("c", "void (*)(...)"),
            ("d", "struct request_sock *"),
            ("e", "int *"),
            ("", "..."),
        ]
    );
    assert!(matches!(btf.tracepoint_params("nix"), Err(BtfError::NotFound { .. })));
    assert!(matches!(btf.tracepoint_params("broken"), Err(BtfError::Malformed { .. })));
    assert!(matches!(btf.func_params("sock"), Err(BtfError::NotFound { .. })));
}

#[test]
fn split_btf_continues_its_base() {
    let builder = sample();
    let base = Btf::from_bytes(builder.bytes()).unwrap();
    let mut split = Builder::split(&builder);
    // Type 1 is the base's `int`; the second member's name is a string of the base.
    let base_name = builder.strings.windows(8).position(|window| window == b"sk_type\0").unwrap() as u32;
    let outer = split.triples(STRUCT, "nft_chain", 8, &[("handle", 1, 0), ("", 1, 32)]);
    let last = split.types.len() - 3;
    split.types[last] = base_name;
    split.simple(TYPEDEF, "nft_chain_t", outer);
    let module = base.split(split.bytes()).unwrap();
    assert_eq!(bits(&module, "nft_chain.handle"), (0, 32));
    assert_eq!(bits(&module, "nft_chain_t.sk_type"), (32, 32));
    assert_eq!(bits(&module, "sock.sk_req"), (384, 64), "the base's types are there too");
    assert!(!base.has_type("nft_chain"));
    assert_eq!(bits(&module.split(split.bytes()).unwrap(), "nft_chain.handle"), (0, 32));

    // A type of the module that contradicts the kernel's.
    let mut other = Builder::split(&builder);
    other.triples(STRUCT, "sock", 8, &[("sk_req", 1, 0)]);
    let module = base.split(other.bytes()).unwrap();
    assert!(matches!(module.field("sock.sk_req"), Err(BtfError::Ambiguous { .. })));
    // A module may have no types and no strings of its own.
    let empty = base.split(Builder::split(&builder).bytes()).unwrap();
    assert_eq!(bits(&empty, "sock.sk_req"), (384, 64));
}

#[test]
fn module_names_stay_in_their_directory() {
    let btf = sample_btf();
    for name in ["", ".", "..", "../../../etc/passwd", "a/b", "a\0b", "vmlinux"] {
        assert!(matches!(btf.module(name), Err(BtfError::NotFound { .. })), "{name:?}");
    }
    assert!(matches!(btf.module("no_such_module"), Err(BtfError::Io { .. })));
}

#[test]
fn malformed_files() {
    let refused = |data: Vec<u8>| matches!(Btf::from_bytes(data), Err(BtfError::Malformed { .. }));
    let good = sample().bytes();
    for length in 0..good.len() {
        assert!(refused(good[..length].to_vec()), "cut to {length} bytes");
    }
    let changed = |at: usize, value: u8| {
        let mut data = good.clone();
        data[at] = value;
        data
    };
    assert!(refused(changed(0, 0)), "magic");
    assert!(refused(changed(2, 2)), "version");
    assert!(refused(changed(4, 23)), "header length");
    assert!(refused(changed(good.len() - 1, b'x')), "last string");
    let mut swapped = good.clone();
    swapped.swap(0, 1);
    assert!(Btf::from_bytes(swapped).unwrap_err().to_string().contains("other byte order"));
}

#[test]
fn loops_of_types_end() {
    let mut b = Builder::new();
    b.simple(TYPEDEF, "loop", 1);
    // Struct 2 contains itself, twice, without a name.
    b.triples(STRUCT, "nest", 4, &[("", 2, 0), ("", 2, 0)]);
    b.add("", ARRAY << 24, 0, &[3, 3, 1]);
    b.triples(STRUCT, "holder", 4, &[("array", 3, 0), ("pointer", 4 + 1, 0)]);
    b.simple(PTR, "", 5);
    let proto = b.pairs(FUNC_PROTO, "", 6, &[("p", 5)]);
    b.simple(FUNC, "looping", proto);
    b.triples(STRUCT, "far", 4, &[("away", 4_000_000_000, 0)]);
    let returns = b.next_id;
    b.pairs(FUNC_PROTO, "", returns, &[("self", returns)]);
    b.simple(FUNC, "returning", returns);
    let btf = Btf::from_bytes(b.bytes()).unwrap();
    for path in ["loop.x", "nest.x", "holder.array", "far.away"] {
        assert!(matches!(btf.field(path), Err(BtfError::Malformed { .. })), "{path}");
    }
    // Only one level of arrays is looked into.
    assert!(matches!(btf.field("holder.array.x"), Err(BtfError::NotFound { .. })));
    assert!(matches!(btf.func_params("looping"), Err(BtfError::Malformed { .. })));
    assert!(matches!(btf.func_params("returning"), Err(BtfError::Malformed { .. })));
}

/// Asks every kind of question; the answers do not matter.
fn interrogate(btf: &Btf) {
    for path in [
        "sock_common.skc_num",
        "sock.__sk_common.skc_dport",
        "sock_t.sk_shutdown",
        "sock.sk_req",
        "old.low",
        "twin.other",
        "net.ns.inum",
        "tcp_sock.inet_conn.icsk_inet.sk.sk_err",
        "sk_buff.network_header",
        "nf_conn.tuplehash.tuple.src.u.tcp.port",
    ] {
        let _ = btf.field(path);
    }
    for name in ["sock", "sock_t", "reason", "reason_t", "wide", "skb_drop_reason", "task_struct", "size_t"] {
        let _ = (btf.enum_values(name), btf.has_type(name));
    }
    for name in ["kfree_sock", "kfree_skb", "inet_sock_set_state", "broken"] {
        let _ = btf.tracepoint_params(name);
    }
    for name in ["types", "overloaded", "tcp_v4_rcv", "__traceiter_kfree_skb"] {
        let _ = btf.func_params(name);
    }
}

fn changes() -> impl Strategy<Value = (Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>)> {
    let change = (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0), Just(0xff), 1..20u8]);
    (prop::collection::vec(change, 1..16), prop::option::weighted(0.2, any::<prop::sample::Index>()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_btf_never_panics((bytes, cut) in changes()) {
        let base = sample();
        let mut data = base.bytes();
        for (at, value) in bytes {
            let at = at.index(data.len());
            data[at] = value;
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len()));
        }
        if let Ok(btf) = Btf::from_bytes(data.clone()) {
            interrogate(&btf);
        }
        if let Ok(btf) = sample_btf().split(data) {
            interrogate(&btf);
        }
    }
}

fn vmlinux_bytes() -> Option<&'static [u8]> {
    static DATA: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    DATA.get_or_init(|| std::fs::read("/sys/kernel/btf/vmlinux").ok()).as_deref()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_vmlinux_never_panics(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..2000),
        later in any::<bool>(),
    ) {
        let Some(mut data) = vmlinux_bytes().map(<[u8]>::to_vec) else { return Ok(()) };
        // A broken type makes everything after it unreadable, so half of the cases change only strings.
        let length = data.len();
        let start = if later { length * 2 / 3 } else { 24 };
        for (at, value) in places {
            data[start + at.index(length - start - 1)] = value;
        }
        if let Ok(btf) = Btf::from_bytes(data) {
            interrogate(&btf);
        }
    }
}

#[test]
fn this_kernel() {
    let Ok(btf) = Btf::vmlinux() else { return };
    // The same on all kernels from 5.10 to 7.3.
    assert_eq!(bits(&btf, "sock_common.skc_daddr"), (0, 32));
    assert_eq!(bits(&btf, "sock_common.skc_dport"), (96, 16));
    assert_eq!(bits(&btf, "sock_common.skc_state"), (144, 8));
    assert_eq!(bits(&btf, "sk_buff.len"), (112 * 8, 32));
    assert_eq!(bits(&btf, "sk_buff.pkt_type").1, 3);
    assert_eq!(btf.field("sock.__sk_common.skc_dport").unwrap(), btf.field("sock_common.skc_dport").unwrap());
    let params = btf.tracepoint_params("inet_sock_set_state").unwrap();
    assert_eq!(
        shown(&params),
        [("sk", "const struct sock *"), ("oldstate", "const int"), ("newstate", "const int")]
    );
    assert_eq!(shown(&btf.func_params("tcp_v4_rcv").unwrap()), [("skb", "struct sk_buff *")]);
}

/// Every named member of every named struct and union, against bpftool.
#[test]
fn this_kernel_as_bpftool_reads_it() {
    let Ok(btf) = Btf::vmlinux() else { return };
    let dump = Command::new("bpftool").args(["btf", "dump", "file", "/sys/kernel/btf/vmlinux"]).output();
    let Some(dump) = dump.ok().filter(|dump| dump.status.success()) else { return };
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    let quoted = |line: &str| line.split('\'').nth(1).map(str::to_owned);
    let after = |line: &str, key: &str| {
        line.split_once(key).and_then(|(_, rest)| rest.split(' ').next()?.parse::<u32>().ok())
    };
    let mut places: HashMap<String, Vec<(u32, Option<u32>)>> = HashMap::new();
    let mut sizes: HashMap<String, Vec<u32>> = HashMap::new();
    let mut composite = None;
    for line in dump.lines() {
        if line.starts_with('[') {
            let kind = line.split(' ').nth(1);
            composite =
                quoted(line).filter(|name| matches!(kind, Some("STRUCT" | "UNION")) && name != "(anon)");
            if let (Some(name), Some(size)) = (&composite, after(line, " size=")) {
                sizes.entry(name.clone()).or_default().push(size);
            }
        } else if let (Some(composite), Some(member), Some(offset)) =
            (&composite, quoted(line), after(line, "bits_offset="))
            && member != "(anon)"
        {
            let place = (offset, after(line, "bitfield_size="));
            places.entry(format!("{composite}.{member}")).or_default().push(place);
        }
    }
    assert!(places.len() > 10_000, "the dump was understood: {}", places.len());
    let mut ambiguous = 0;
    for (path, expected) in &places {
        match btf.field(path) {
            Ok(field) => {
                let (offset, size) = expected[0];
                assert_eq!(field.bit_offset, offset, "{path}");
                assert!(size.is_none_or(|size| size == field.bit_size), "{path}");
            }
            Err(BtfError::Ambiguous { .. }) => {
                let root = path.split('.').next().unwrap();
                assert!(sizes[root].len() > 1, "{path} is not ambiguous");
                ambiguous += 1;
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }
    assert!(ambiguous < places.len() / 100);
}
