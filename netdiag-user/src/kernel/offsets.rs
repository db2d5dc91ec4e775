//! Resolves the table of kernel fields against the running kernel's BTF.

use netdiag_ebpf::fields::{ABSENT, BIT, FIELD_COUNT, FIELDS};

use super::KernelError;
use super::btf::{Btf, BtfError};

/// Offsets for the programs, in bytes but for single bits, and the fields that this kernel does not have.
#[derive(Debug, Clone)]
pub struct Offsets {
    pub values: [u32; FIELD_COUNT],
    pub absent: Vec<&'static str>,
}

impl Offsets {
    /// Each field that the kernel has, and its offset.
    pub fn found(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let fields = FIELDS.iter().zip(self.values);
        fields.filter(|(_, offset)| *offset != ABSENT).map(|(spec, offset)| (spec.path, offset))
    }
}

/// Looks each field up. A required one that is missing, ambiguous or of another size is an error; an
/// optional one becomes [`ABSENT`], which switches its branch off in the kernel.
pub fn resolve(btf: &Btf) -> Result<Offsets, KernelError> {
    let mut offsets = Offsets { values: [ABSENT; FIELD_COUNT], absent: Vec::new() };
    for (value, spec) in offsets.values.iter_mut().zip(FIELDS) {
        match offset_of(btf, spec.path, spec.size) {
            Ok(offset) => *value = offset,
            Err(error) if spec.required => return Err(error),
            Err(_) => offsets.absent.push(spec.path),
        }
    }
    Ok(offsets)
}

fn offset_of(btf: &Btf, path: &'static str, size: u32) -> Result<u32, KernelError> {
    let missing = |source| KernelError::MissingField { path, source };
    let field = btf.field(path).map_err(missing)?;
    if size == BIT && field.bit_size == 1 {
        return Ok(field.bit_offset);
    }
    let bit_field = || missing(BtfError::NotFound { what: format!("{path} at a whole byte") });
    let offset = field.byte_offset().ok_or_else(bit_field)?;
    let found = field.byte_size().ok_or_else(bit_field)?;
    if size != 0 && found != size {
        return Err(KernelError::FieldSize { path, found, expected: size });
    }
    Ok(offset)
}
