//! Where things are: member offsets and sizes of types.

use super::{Btf, BtfError, Kind, MAX_DEPTH, Type, unanimous};

/// Size of a pointer in bytes. BTF does not say; kernels that run BPF programs as netdiag's are 64-bit.
const POINTER_SIZE: u32 = 8;
/// Most members that one question may look at: 100 times what the largest struct of the kernel needs, and a
/// bound for data made to nest without end.
const MAX_MEMBERS: u32 = 1_000_000;

/// Where a member is, from the start of the outermost struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Field {
    /// Offset in bits. For a bit-field on a little-endian machine: bit `bit_offset % 8`, counted from the
    /// least significant one, of byte `bit_offset / 8`.
    pub bit_offset: u32,
    /// Size in bits; 0 for a flexible array.
    pub bit_size: u32,
}

impl Field {
    /// Offset in bytes; `None` for a bit-field that is not made of whole bytes.
    pub fn byte_offset(&self) -> Option<u32> {
        (self.bit_offset.is_multiple_of(8) && self.bit_size.is_multiple_of(8)).then_some(self.bit_offset / 8)
    }

    /// Size in bytes; `None` for a bit-field that is not made of whole bytes.
    pub fn byte_size(&self) -> Option<u32> {
        self.byte_offset().map(|_| self.bit_size / 8)
    }
}

/// A member found in a struct or union.
struct Member {
    bit_offset: u32,
    /// Size in bits of a bit-field.
    bits: Option<u32>,
    type_id: u32,
}

impl Btf {
    /// Finds a member by its path, as C would write it: `sock_common.skc_dport`, `net.ns.inum`.
    ///
    /// The first part is the name of a struct or union, or of a typedef of one. Members of anonymous structs
    /// and unions count as members of what encloses them. An array in the middle of the path stands for its
    /// first element. The path does not follow pointers.
    ///
    /// # Errors
    /// [`BtfError::NotFound`]; [`BtfError::Ambiguous`] if several structs have the name and not all of them
    /// give the same answer; [`BtfError::Malformed`].
    pub fn field(&self, path: &str) -> Result<Field, BtfError> {
        let (root, members) = path.split_once('.').ok_or_else(|| BtfError::not_found(path))?;
        let mut budget = MAX_MEMBERS;
        let mut answer = unanimous(
            path,
            self.named(root, Kind::is_composite).map(|ty| self.walk(ty, path, members, &mut budget)),
        );
        if matches!(answer, Err(BtfError::NotFound { .. })) && !self.has_composite(root) {
            let typedefs = self.named(root, |kind| kind == Kind::Typedef);
            answer = unanimous(path, typedefs.map(|ty| self.walk(ty, path, members, &mut budget)));
        }
        answer
    }

    fn has_composite(&self, name: &str) -> bool {
        self.named(name, Kind::is_composite).next().is_some()
    }

    fn walk(&self, root: Type<'_>, path: &str, members: &str, budget: &mut u32) -> Result<Field, BtfError> {
        let mut bit_offset = 0u32;
        let mut found: Option<Member> = None;
        for name in members.split('.') {
            let enclosing = match &found {
                None => self.resolve(root)?,
                Some(member) => self.element(self.type_by_id(member.type_id)?)?,
            };
            if !enclosing.kind.is_composite() {
                return Err(BtfError::not_found(format!(
                    "{path} ({name} would not be in a struct or union)"
                )));
            }
            let member = self
                .member(enclosing, name, MAX_DEPTH, budget)?
                .ok_or_else(|| BtfError::not_found(format!("{path} (no member {name})")))?;
            bit_offset = bit_offset
                .checked_add(member.bit_offset)
                .ok_or_else(|| enclosing.malformed("member offset exceeds 32 bits"))?;
            found = Some(member);
        }
        let member = found.ok_or_else(|| BtfError::not_found(path))?;
        let bit_size = match member.bits {
            Some(bits) => bits,
            None => {
                let ty = self.type_by_id(member.type_id)?;
                self.size(ty)?.checked_mul(8).ok_or_else(|| ty.malformed("size in bits exceeds 32 bits"))?
            }
        };
        Ok(Field { bit_offset, bit_size })
    }

    /// The type behind typedefs and qualifiers and, for an array, its element's.
    fn element<'a>(&'a self, ty: Type<'a>) -> Result<Type<'a>, BtfError> {
        let ty = self.resolve(ty)?;
        match ty.entries::<3>().next() {
            Some([element, _, _]) if ty.kind == Kind::Array => self.resolve(self.type_by_id(element)?),
            _ => Ok(ty),
        }
    }

    fn member(
        &self,
        enclosing: Type<'_>,
        name: &str,
        depth: u32,
        budget: &mut u32,
    ) -> Result<Option<Member>, BtfError> {
        if depth == 0 {
            return Err(enclosing.malformed("anonymous members nested too deeply"));
        }
        for [name_off, type_id, offset] in enclosing.entries::<3>() {
            *budget = budget.checked_sub(1).ok_or_else(|| enclosing.malformed("too many nested members"))?;
            // With kind_flag the upper eight bits are the size of a bit-field, 0 for an ordinary member.
            let (bit_offset, bits) =
                if enclosing.kind_flag { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
            if name_off != 0 {
                if self.string(name_off) == name.as_bytes() && !name.is_empty() {
                    let member = Member { bit_offset, bits: (bits != 0).then_some(bits), type_id };
                    return self.old_bit_field(enclosing, member).map(Some);
                }
                continue;
            }
            let ty = self.resolve(self.type_by_id(type_id)?)?;
            if !ty.kind.is_composite() {
                continue;
            }
            if let Some(mut inner) = self.member(ty, name, depth - 1, budget)? {
                inner.bit_offset = inner
                    .bit_offset
                    .checked_add(bit_offset)
                    .ok_or_else(|| enclosing.malformed("member offset exceeds 32 bits"))?;
                return Ok(Some(inner));
            }
        }
        Ok(None)
    }

    /// Without kind_flag the integer type itself says which of its bits the member has.
    fn old_bit_field(&self, enclosing: Type<'_>, mut member: Member) -> Result<Member, BtfError> {
        if enclosing.kind_flag {
            return Ok(member);
        }
        let ty = self.resolve(self.type_by_id(member.type_id)?)?;
        if ty.kind != Kind::Int {
            return Ok(member);
        }
        let Some([encoding]) = ty.entries::<1>().next() else { return Ok(member) };
        let (offset, bits) = ((encoding >> 16) & 0xff, encoding & 0xff);
        if offset != 0 || Some(bits) != ty.size_or_type.checked_mul(8) {
            member.bits = Some(bits);
            member.bit_offset = member
                .bit_offset
                .checked_add(offset)
                .ok_or_else(|| enclosing.malformed("member offset exceeds 32 bits"))?;
        }
        Ok(member)
    }

    /// Size in bytes.
    fn size(&self, ty: Type<'_>) -> Result<u32, BtfError> {
        let mut ty = self.resolve(ty)?;
        let mut elements = 1u32;
        // An array of arrays is a chain of types.
        for _ in 0..MAX_DEPTH {
            let one = match ty.kind {
                Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float => {
                    ty.size_or_type
                }
                Kind::Ptr => POINTER_SIZE,
                Kind::Array => {
                    let Some([element, _, count]) = ty.entries::<3>().next() else {
                        return Err(ty.malformed("array without element type"));
                    };
                    elements =
                        elements.checked_mul(count).ok_or_else(|| ty.malformed("array exceeds 4 GiB"))?;
                    ty = self.resolve(self.type_by_id(element)?)?;
                    continue;
                }
                _ => return Err(ty.malformed("a type without a size where one is needed")),
            };
            return one.checked_mul(elements).ok_or_else(|| ty.malformed("type exceeds 4 GiB"));
        }
        Err(ty.malformed("too long a chain of types"))
    }
}
