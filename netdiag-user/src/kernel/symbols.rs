//! Names of kernel code addresses, from /proc/kallsyms.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
};

const KALLSYMS: &str = "/proc/kallsyms";
/// /proc/kallsyms does not say where a symbol ends. An address further than this after the nearest symbol is
/// taken to lie in none; the largest function of a 6.18 kernel has 20 KiB.
const MAX_SYMBOL_SIZE: u64 = 64 * 1024;
/// Compiler suffixes that may be followed by a number: the symbol is a part or a variant of the function.
const SUFFIXES: [&str; 6] = [".cold", ".isra", ".constprop", ".part", ".llvm", ".lto_priv"];

/// Why there are no symbols.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SymbolsError {
    /// The kernel shows names, but every address as 0.
    #[error(
        "the kernel hides the addresses in {KALLSYMS}: run as root (CAP_SYSLOG), or set sysctl \
         kernel.kptr_restrict to 0 or 1"
    )]
    Hidden,
    /// A kernel without `CONFIG_KALLSYMS` or a restricted /proc.
    #[error("{KALLSYMS} names no function")]
    Empty,
    /// The file could not be read.
    #[error("cannot read {KALLSYMS}: {0}")]
    Io(#[from] io::Error),
}

/// The functions of the kernel, its modules and its BPF programs at the time of loading. What was loaded into
/// the kernel later needs a new [`Symbols::load`].
pub struct Symbols {
    /// All names, one after the other.
    names: String,
    /// By address; aliases in the order of the file.
    entries: Vec<Entry>,
    modules: Vec<String>,
}

#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    name_start: u32,
    name_len: u16,
    /// Index into `modules` plus 1; 0 for the kernel itself.
    module: u16,
}

/// A place in the kernel's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// The symbol as the kernel lists it. The first one, where several have the same address.
    pub name: &'a str,
    /// The module; `bpf` for a BPF program; `None` for the kernel itself.
    pub module: Option<&'a str>,
    /// Bytes from the symbol's start.
    pub offset: u64,
}

impl<'a> Symbol<'a> {
    /// The function's name in the source: without what the compiler appends to parts and variants of a
    /// function (`.isra.0`, `.constprop.0`, `.part.0`, `.cold`, `.llvm.N`, `.lto_priv.N`).
    pub fn base_name(&self) -> &'a str {
        let mut name = self.name;
        loop {
            let digits_cut = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let bare = digits_cut.strip_suffix('.').filter(|_| digits_cut.len() < name.len()).unwrap_or(name);
            match SUFFIXES.iter().find_map(|suffix| bare.strip_suffix(suffix)) {
                Some(shorter) if !shorter.is_empty() => name = shorter,
                _ => return name,
            }
        }
    }
}

impl fmt::Display for Symbol<'_> {
    /// `name+0xoffset [module]`, as the kernel prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)?;
        self.module.map_or(Ok(()), |module| write!(f, " [{module}]"))
    }
}

impl Symbols {
    /// Reads /proc/kallsyms. Costs tens of milliseconds, nearly all of it the kernel's, and a few megabytes:
    /// load when the first address is to be named.
    ///
    /// # Errors
    /// [`SymbolsError::Hidden`] without CAP_SYSLOG or with `kernel.kptr_restrict` = 2, [`SymbolsError::Empty`],
    /// [`SymbolsError::Io`].
    pub fn load() -> Result<Self, SymbolsError> {
        Self::parse(File::open(KALLSYMS)?)
    }

    /// Reads the format of /proc/kallsyms: `address type name [module]` a line. Lines of another form are
    /// passed over.
    fn parse(mut input: impl Read) -> Result<Self, SymbolsError> {
        let mut symbols = Self {
            names: String::with_capacity(2 << 20),
            entries: Vec::with_capacity(64 << 10),
            modules: Vec::new(),
        };
        let mut buffer = vec![0; 64 << 10];
        let mut filled = 0;
        loop {
            let got = match input.read(&mut buffer[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                got => got?,
            };
            filled += got;
            let lines_end = buffer[..filled].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            buffer[..lines_end].split(|&byte| byte == b'\n').for_each(|line| symbols.add_line(line));
            buffer.copy_within(lines_end..filled, 0);
            filled -= lines_end;
            if got == 0 {
                symbols.add_line(&buffer[..filled]);
                break;
            }
            if filled == buffer.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "line too long").into());
            }
        }
        if symbols.entries.is_empty() {
            return Err(SymbolsError::Empty);
        }
        if symbols.entries.iter().all(|entry| entry.address == 0) {
            return Err(SymbolsError::Hidden);
        }
        // Stable, so that aliases keep their order; the kernel's own part comes sorted already.
        symbols.entries.sort_by_key(|entry| entry.address);
        symbols.entries.shrink_to_fit();
        symbols.names.shrink_to_fit();
        Ok(symbols)
    }

    fn add_line(&mut self, line: &[u8]) {
        let Some((address, rest)) = hexadecimal(line) else { return };
        let [b' ', b't' | b'T' | b'w' | b'W', b' ', rest @ ..] = rest else { return };
        // Padding before a function. Left out, a return address right behind a call that ends a function is
        // named after that function and not after the next one's padding.
        if rest.starts_with(b"__pfx_") {
            return;
        }
        let Ok(rest) = str::from_utf8(rest) else { return };
        let (name, module) = match rest.split_once('\t') {
            Some((name, module)) => (name, module.trim_end().trim_matches(['[', ']'])),
            None => (rest.trim_end(), ""),
        };
        let (Ok(name_start), Ok(name_len)) = (u32::try_from(self.names.len()), u16::try_from(name.len()))
        else {
            return;
        };
        let Some(module) = self.module_index(module) else { return };
        self.names.push_str(name);
        self.entries.push(Entry { address, name_start, name_len, module });
    }

    fn module_index(&mut self, module: &str) -> Option<u16> {
        if module.is_empty() {
            return Some(0);
        }
        // Symbols of one module follow each other.
        let known = self.modules.iter().rposition(|known| known == module);
        let index = known.unwrap_or_else(|| {
            self.modules.push(module.to_owned());
            self.modules.len() - 1
        });
        u16::try_from(index + 1).ok()
    }

    /// The function that contains this address.
    ///
    /// `None` before the first symbol and far behind the nearest one. Ends of functions are not known: an
    /// address in a gap (the end of a module, a BPF program loaded later) may be given to the function before
    /// the gap, so look at a large offset with suspicion.
    pub fn resolve(&self, address: u64) -> Option<Symbol<'_>> {
        let nearest =
            self.entries[..self.entries.partition_point(|entry| entry.address <= address)].last()?;
        let offset = address - nearest.address;
        if nearest.address == 0 || offset > MAX_SYMBOL_SIZE {
            return None;
        }
        let first = self.entries.partition_point(|entry| entry.address < nearest.address);
        let entry = self.entries.get(first)?;
        let module = usize::from(entry.module).checked_sub(1).and_then(|index| self.modules.get(index));
        Some(Symbol { name: self.name(entry), module: module.map(String::as_str), offset })
    }

    /// The code of the functions with these names (of the source, as [`Symbol::base_name`]), parts and variants too: from
    /// the first address to behind the last.
    pub fn ranges(&self, names: &[&str]) -> Vec<[u64; 2]> {
        let is_wanted = |entry: &Entry| {
            let symbol = Symbol { name: self.name(entry), module: None, offset: 0 };
            names.iter().any(|name| symbol.name.starts_with(name) && symbol.base_name() == *name)
        };
        let found = self.entries.iter().enumerate().filter(|(_, entry)| is_wanted(entry));
        let end = |index: usize, start: u64| {
            let next = self.entries[index..].iter().map(|entry| entry.address).find(|next| *next > start);
            next.unwrap_or(u64::MAX).min(start.saturating_add(MAX_SYMBOL_SIZE))
        };
        found.map(|(index, entry)| [entry.address, end(index, entry.address)]).collect()
    }

    fn name(&self, entry: &Entry) -> &str {
        let start = entry.name_start as usize;
        self.names.get(start..start + usize::from(entry.name_len)).unwrap_or_default()
    }
}

impl fmt::Debug for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Symbols")
            .field("symbols", &self.entries.len())
            .field("modules", &self.modules)
            .finish()
    }
}

/// The hexadecimal number at the start of a line, and what follows it.
fn hexadecimal(line: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (at, &byte) in line.iter().enumerate() {
        let Some(digit) = (byte as char).to_digit(16) else { return (at > 0).then(|| (value, &line[at..])) };
        value = value.checked_mul(16)? | u64::from(digit);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000100 t __pfx_tcp_v4_rcv
ffffffff81000110 T tcp_v4_rcv
ffffffff81000400 t helper
ffffffff81000500 t helper
ffffffff81000600 t split.part.0.isra.12
ffffffff81000700 W weak
ffffffff82000000 D some_data
ffffffffc0200000 t nft_do_chain\t[nf_tables]
ffffffffc0100000 t bpf_prog_6deef7357e7b4530_x\t[bpf]
not a line
";

    fn name(symbols: &Symbols, address: u64) -> Option<(String, Option<&str>, u64)> {
        symbols.resolve(address).map(|symbol| (symbol.name.to_owned(), symbol.module, symbol.offset))
    }

    #[test]
    fn resolves_text_only_and_sorts_modules() {
        let symbols = Symbols::parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!(symbols.entries.len(), 9);
        assert_eq!(name(&symbols, 0xffff_ffff_8100_0000), Some(("_stext".into(), None, 0)));
        assert_eq!(name(&symbols, 0xffff_ffff_8100_0110), Some(("tcp_v4_rcv".into(), None, 0)));
        assert_eq!(name(&symbols, 0xffff_ffff_8100_03ff), Some(("tcp_v4_rcv".into(), None, 0x2ef)));
        // Padding belongs to what stands before it.
        assert_eq!(name(&symbols, 0xffff_ffff_8100_0100), Some(("_stext".into(), None, 0x100)));
        assert_eq!(
            name(&symbols, 0xffff_ffff_c010_0004),
            Some(("bpf_prog_6deef7357e7b4530_x".into(), Some("bpf"), 4))
        );
        assert_eq!(
            name(&symbols, 0xffff_ffff_c020_0001),
            Some(("nft_do_chain".into(), Some("nf_tables"), 1))
        );
        assert_eq!(name(&symbols, 0xffff_ffff_8200_0000), None, "data, far from any function");
        assert_eq!(name(&symbols, 0x1000), None);
        assert_eq!(name(&symbols, u64::MAX), None);
    }

    #[test]
    fn base_name_and_display() {
        let symbols = Symbols::parse(SAMPLE.as_bytes()).unwrap();
        let symbol = symbols.resolve(0xffff_ffff_8100_0610).unwrap();
        assert_eq!(symbol.name, "split.part.0.isra.12");
        assert_eq!(symbol.base_name(), "split");
        assert_eq!(symbol.to_string(), "split.part.0.isra.12+0x10");
        let base = |name| Symbol { name, module: None, offset: 0 }.base_name();
        assert_eq!(base("a.constprop.0.cold"), "a");
        assert_eq!(base("a.cold.3"), "a");
        assert_eq!(base("a.llvm.1234567"), "a");
        assert_eq!(base("ip6_v4"), "ip6_v4");
        assert_eq!(base("a.b.1"), "a.b.1");
        assert_eq!(base(".cold"), ".cold");
        assert_eq!(base("a12"), "a12");
        assert_eq!(base("."), ".");
        assert_eq!(base("7"), "7");
    }

    #[test]
    fn code_ends_where_the_next_function_begins() {
        let text = "1000 t a\n1100 T wanted\n1100 t alias\n1180 t wanted.cold\n1200 t wanted_not\n";
        let symbols = Symbols::parse(text.as_bytes()).unwrap();
        assert_eq!(symbols.ranges(&["wanted", "absent"]), [[0x1100, 0x1180], [0x1180, 0x1200]]);
        assert_eq!(symbols.ranges(&["wanted_not"]), [[0x1200, 0x1200 + MAX_SYMBOL_SIZE]]);
    }

    #[test]
    fn hidden_addresses_and_empty_files_are_errors() {
        let hidden = "0000000000000000 T _stext\n0000000000000000 t a\t[m]\n";
        let error = Symbols::parse(hidden.as_bytes()).unwrap_err();
        assert!(matches!(error, SymbolsError::Hidden));
        assert!(error.to_string().contains("kptr_restrict") && error.to_string().contains("CAP_SYSLOG"));
        assert!(matches!(Symbols::parse(&b""[..]), Err(SymbolsError::Empty)));
        assert!(matches!(Symbols::parse(&b"\n \nffffffff81000000 D d"[..]), Err(SymbolsError::Empty)));
    }

    /// Hands out a few bytes a call, as a file in /proc may.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(7).min(buffer.len());
            let (now, later) = self.0.split_at(length);
            buffer[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    #[test]
    fn short_reads_and_a_missing_last_newline_change_nothing() {
        let symbols = Symbols::parse(Trickle(SAMPLE.trim_end().as_bytes())).unwrap();
        assert_eq!(symbols.entries.len(), 9);
        assert_eq!(name(&symbols, 0xffff_ffff_8100_0700), Some(("weak".into(), None, 0)));
        let endless = [b'f'; 100_000];
        assert!(matches!(Symbols::parse(&endless[..]), Err(SymbolsError::Io(_))));
    }

    #[test]
    fn this_kernel() {
        let symbols = match Symbols::load() {
            Ok(symbols) => symbols,
            // Tests may run unprivileged.
            Err(SymbolsError::Hidden) => return,
            Err(error) => panic!("{error}"),
        };
        let [start, _] = symbols.ranges(&["tcp_v4_rcv"])[0];
        let symbol = symbols.resolve(start + 1).unwrap();
        assert_eq!((symbol.name, symbol.module, symbol.offset), ("tcp_v4_rcv", None, 1));
    }
}
