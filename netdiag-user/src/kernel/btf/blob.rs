//! One BTF file: header, type table, strings, index by name.
//!
//! Every offset and length in the file is checked here; the rest of the reader only sees [`Type`]s.

use super::{BtfError, bytes::Bytes};

/// `BTF_MAGIC`, in the byte order of the machine that wrote the file.
pub(in crate::kernel) const MAGIC: u16 = 0xeb9f;
pub(in crate::kernel) const VERSION: u8 = 1;
/// `sizeof(struct btf_header)`; a longer header has fields after these.
pub(in crate::kernel) const HEADER_LEN: usize = 24;
/// `sizeof(struct btf_type)`.
const TYPE_LEN: usize = 12;

/// `BTF_KIND_*` of include/uapi/linux/btf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Void,
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    DataSec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    fn from_info(info: u32) -> Option<Self> {
        Some(match (info >> 24) & 0x1f {
            1 => Self::Int,
            2 => Self::Ptr,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            7 => Self::Fwd,
            8 => Self::Typedef,
            9 => Self::Volatile,
            10 => Self::Const,
            11 => Self::Restrict,
            12 => Self::Func,
            13 => Self::FuncProto,
            14 => Self::Var,
            15 => Self::DataSec,
            16 => Self::Float,
            17 => Self::DeclTag,
            18 => Self::TypeTag,
            19 => Self::Enum64,
            _ => return None,
        })
    }

    /// Bytes after the common `struct btf_type` of a type with `vlen` entries.
    fn tail_len(self, vlen: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Struct | Self::Union | Self::DataSec | Self::Enum64 => 12 * vlen,
            Self::Enum | Self::FuncProto => 8 * vlen,
            _ => 0,
        }
    }

    pub(super) fn is_composite(self) -> bool {
        matches!(self, Self::Struct | Self::Union)
    }

    /// Typedefs and qualifiers: same layout as the type that they refer to.
    pub(super) fn is_transparent(self) -> bool {
        matches!(self, Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag)
    }

    /// Kinds that are looked up by name. A forward declaration answers nothing, so it is not among them.
    fn is_indexed(self) -> bool {
        self == Self::Func || self.is_named_type()
    }

    pub(super) fn is_named_type(self) -> bool {
        matches!(
            self,
            Self::Int | Self::Struct | Self::Union | Self::Enum | Self::Enum64 | Self::Typedef | Self::Float
        )
    }
}

/// One type as it stands in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Type<'a> {
    pub(super) kind: Kind,
    /// `kind_flag`: bit-field sizes in struct members, signed enum values, union forward declaration.
    pub(super) kind_flag: bool,
    /// Offset in the strings; 0 for an anonymous type.
    pub(super) name: u32,
    /// Size in bytes or the id of the type referred to, depending on the kind.
    pub(super) size_or_type: u32,
    tail: &'a [u8],
    /// Position in the file, for error messages.
    pub(super) offset: usize,
}

impl<'a> Type<'a> {
    pub(super) const VOID: Self =
        Self { kind: Kind::Void, kind_flag: false, name: 0, size_or_type: 0, tail: &[], offset: 0 };

    /// What follows the type (members, enumerators, parameters...) as entries of `N` words.
    pub(super) fn entries<const N: usize>(&self) -> impl ExactSizeIterator<Item = [u32; N]> + use<'a, N> {
        self.tail.chunks_exact(4 * N).map(|chunk| {
            let mut words = [0; N];
            for (word, bytes) in words.iter_mut().zip(chunk.as_chunks::<4>().0) {
                *word = u32::from_ne_bytes(*bytes);
            }
            words
        })
    }

    pub(super) fn malformed(&self, what: &'static str) -> BtfError {
        BtfError::Malformed { offset: self.offset, what }
    }
}

/// A parsed file. A split BTF (module) needs its base for ids and strings below its own.
pub(super) struct Blob {
    data: Bytes,
    types_end: usize,
    strings_start: usize,
    strings_end: usize,
    /// Id of this file's first type: 1, or the number after the base's last.
    first_id: u32,
    /// String offsets below this one are in the base.
    first_string: u32,
    /// Position of each type in `data`.
    starts: Vec<u32>,
    /// Heads of the hash chains: index into `starts` plus 1, 0 for none.
    buckets: Vec<u32>,
    /// Next type in the same hash chain, in the same form.
    next: Vec<u32>,
}

impl Blob {
    pub(super) fn parse(data: Bytes, base: Option<&Blob>) -> Result<Self, BtfError> {
        let malformed = |offset, what| BtfError::Malformed { offset, what };
        if data.len() < HEADER_LEN {
            return Err(malformed(0, "shorter than a BTF header"));
        }
        if u32::try_from(data.len()).is_err() {
            return Err(malformed(0, "larger than 4 GiB"));
        }
        let magic = u16::from_ne_bytes([data[0], data[1]]);
        if magic == MAGIC.swap_bytes() {
            return Err(malformed(0, "written in the other byte order"));
        }
        if magic != MAGIC {
            return Err(malformed(0, "no BTF magic number"));
        }
        if data[2] != VERSION {
            return Err(malformed(2, "unknown BTF version"));
        }
        let field = |at| word(&data, at).map(|value| value as usize);
        let [header_len, type_off, type_len, str_off, str_len] =
            [field(4)?, field(8)?, field(12)?, field(16)?, field(20)?];
        if header_len < HEADER_LEN {
            return Err(malformed(4, "header length too small"));
        }
        let section = |off: usize, len: usize| {
            let start = header_len.checked_add(off)?;
            let end = start.checked_add(len)?;
            (end <= data.len()).then_some((start, end))
        };
        let (types_start, types_end) =
            section(type_off, type_len).ok_or(malformed(8, "type section outside the file"))?;
        let (strings_start, strings_end) =
            section(str_off, str_len).ok_or(malformed(16, "string section outside the file"))?;
        let strings = &data[strings_start..strings_end];
        // A base starts with the empty string; only a split BTF may have no strings of its own.
        if strings.last().is_some_and(|&byte| byte != 0) {
            return Err(malformed(strings_end - 1, "last string is not terminated"));
        }
        if base.is_none() && strings.first() != Some(&0) {
            return Err(malformed(strings_start, "first string is not empty"));
        }

        let first_string = base.map_or(0, Blob::string_limit);
        let mut blob = Self {
            types_end,
            strings_start,
            strings_end,
            first_id: base.map_or(1, Blob::id_limit),
            first_string,
            starts: Vec::with_capacity(type_len / 24),
            buckets: Vec::new(),
            next: Vec::with_capacity(type_len / 24),
            data,
        };
        if first_string.checked_add(str_len as u32).is_none() {
            return Err(malformed(20, "string offsets exceed 32 bits"));
        }
        blob.build_index(types_start, base)?;
        Ok(blob)
    }

    fn build_index(&mut self, types_start: usize, base: Option<&Blob>) -> Result<(), BtfError> {
        // A type takes 26 bytes on average in a kernel, and about half of the types are indexed.
        let mut buckets = vec![0u32; ((self.types_end - types_start) / 32).next_power_of_two()];
        let mask = buckets.len() - 1;
        let mut at = types_start;
        while at < self.types_end {
            let (ty, end) = self.type_at(at)?;
            let (name, indexed) = (ty.name, ty.name != 0 && ty.kind.is_indexed());
            self.starts.push(at as u32);
            let mut following = 0;
            if indexed
                && let Some(name) =
                    self.strings_from(name).or_else(|| base.and_then(|base| base.strings_from(name)))
            {
                let bucket = &mut buckets[hash(name) as usize & mask];
                following = std::mem::replace(bucket, self.starts.len() as u32);
            }
            self.next.push(following);
            at = end;
        }
        if self.first_id.checked_add(self.starts.len() as u32).is_none() {
            return Err(BtfError::Malformed { offset: 12, what: "type ids exceed 32 bits" });
        }
        self.buckets = buckets;
        Ok(())
    }

    /// The type at a position, and the position after it.
    fn type_at(&self, at: usize) -> Result<(Type<'_>, usize), BtfError> {
        let malformed = |what| BtfError::Malformed { offset: at, what };
        let section = &self.data[..self.types_end];
        let (common, rest) = section
            .get(at..)
            .and_then(|s| s.split_at_checked(TYPE_LEN))
            .ok_or(malformed("truncated type"))?;
        let [name, info, size_or_type] = [word(common, 0)?, word(common, 4)?, word(common, 8)?];
        let kind = Kind::from_info(info).ok_or(malformed("unknown kind of type"))?;
        let len = kind.tail_len((info & 0xffff) as usize);
        let tail = rest.get(..len).ok_or(malformed("truncated type"))?;
        let ty = Type { kind, kind_flag: info >> 31 != 0, name, size_or_type, tail, offset: at };
        Ok((ty, at + TYPE_LEN + len))
    }

    /// The type with this id; `None` if the id is not of this file.
    pub(super) fn type_by_id(&self, id: u32) -> Option<Result<Type<'_>, BtfError>> {
        let index = id.checked_sub(self.first_id)? as usize;
        let at = *self.starts.get(index)? as usize;
        Some(self.type_at(at).map(|(ty, _)| ty))
    }

    /// Ids of this file's types that may have this name: all that do, and some whose hash collides.
    pub(super) fn candidates(&self, name: &str) -> impl Iterator<Item = u32> {
        let head = self.buckets[hash(name.as_bytes()) as usize & (self.buckets.len() - 1)];
        let link = |link: u32| link.checked_sub(1);
        // Each chain runs to ever lower indices, so it ends.
        std::iter::successors(link(head), move |&index| link(self.next[index as usize]))
            .map(|index| self.first_id + index)
    }

    /// The string at an offset, without its NUL; `None` if the offset is not of this file.
    pub(super) fn string(&self, offset: u32) -> Option<&[u8]> {
        self.strings_from(offset)?.split(|&byte| byte == 0).next()
    }

    /// The string section from an offset on.
    fn strings_from(&self, offset: u32) -> Option<&[u8]> {
        let offset = offset.checked_sub(self.first_string)? as usize;
        let rest = self.data[self.strings_start..self.strings_end].get(offset..)?;
        (!rest.is_empty()).then_some(rest)
    }

    pub(super) fn type_count(&self) -> usize {
        self.starts.len()
    }

    fn id_limit(&self) -> u32 {
        self.first_id + self.starts.len() as u32
    }

    fn string_limit(&self) -> u32 {
        self.first_string + (self.strings_end - self.strings_start) as u32
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => Ok(u32::from_ne_bytes(*bytes)),
        None => Err(BtfError::Malformed { offset: at, what: "truncated" }),
    }
}

/// Hash of the string that starts here and ends at a NUL or at the end of the slice, eight bytes a step.
fn hash(bytes: &[u8]) -> u32 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut state = 0u64;
    let mut rest = bytes;
    loop {
        let word = match rest.split_first_chunk::<8>() {
            Some((chunk, after)) => {
                rest = after;
                u64::from_le_bytes(*chunk)
            }
            None => {
                let mut chunk = [0; 8];
                chunk[..rest.len()].copy_from_slice(rest);
                u64::from_le_bytes(chunk)
            }
        };
        // The lowest bit set marks the first zero byte.
        let zero = word.wrapping_sub(LOW) & !word & HIGH;
        let kept = if zero == 0 { word } else { word & ((1 << (zero.trailing_zeros() & !7)) - 1) };
        state = (state.rotate_left(5) ^ kept).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if zero != 0 {
            return (state >> 32) as u32;
        }
    }
}
