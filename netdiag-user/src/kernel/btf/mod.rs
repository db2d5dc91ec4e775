//! The running kernel's own type information (BTF): field offsets, enum values, function and tracepoint
//! arguments.
//!
//! The file format is Documentation/bpf/btf.rst and include/uapi/linux/btf.h of the kernel. The data is in
//! the machine's own byte order. Malformed data gives an error, never a panic. Where a name stands for
//! several types that differ in the answer, there is no answer: [`BtfError::Ambiguous`].

mod blob;
mod bytes;
mod error;
mod layout;
mod signature;
#[cfg(test)]
mod tests;

use std::{fmt, path::Path, sync::Arc};

pub use error::BtfError;
pub use layout::Field;
pub use signature::Param;

pub(super) use blob::{HEADER_LEN, MAGIC, VERSION};

use blob::{Blob, Kind, Type};
use bytes::Bytes;

const SYS_KERNEL_BTF: &str = "/sys/kernel/btf";
/// Longest chain of typedefs and qualifiers, and deepest nesting of anonymous members, that is followed. The
/// kernel's own limit (`MAX_RESOLVE_DEPTH`) is 32.
const MAX_DEPTH: u32 = 32;

/// BTF of the kernel, or of a module on top of the kernel's. A clone shares the data.
#[derive(Clone)]
pub struct Btf {
    base: Option<Arc<Blob>>,
    own: Arc<Blob>,
}

impl Btf {
    /// Reads /sys/kernel/btf/vmlinux.
    ///
    /// # Errors
    /// [`BtfError::Io`] (not found: a kernel without `CONFIG_DEBUG_INFO_BTF`) or [`BtfError::Malformed`].
    pub fn vmlinux() -> Result<Self, BtfError> {
        let path = Path::new(SYS_KERNEL_BTF).join("vmlinux");
        match Bytes::map_or_read(&path) {
            Ok(data) => Self::standalone(data),
            Err(source) => Err(BtfError::Io { path, source }),
        }
    }

    /// Takes BTF that stands on its own (not a module's).
    ///
    /// # Errors
    /// [`BtfError::Malformed`], also for data in the other byte order.
    #[cfg(test)]
    pub(crate) fn from_bytes(data: Vec<u8>) -> Result<Self, BtfError> {
        Self::standalone(Bytes::Owned(data))
    }

    /// Reads a loaded module's BTF, /sys/kernel/btf/`name`. The answers of the result cover the kernel's types
    /// too.
    ///
    /// # Errors
    /// [`BtfError::Io`] (not found: not loaded, or built into the kernel, whose BTF then has its types),
    /// [`BtfError::NotFound`] for a name that no module can have, [`BtfError::Malformed`].
    pub fn module(&self, name: &str) -> Result<Self, BtfError> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) || name == "vmlinux" {
            return Err(BtfError::not_found(format!("module {name:?}")));
        }
        let path = Path::new(SYS_KERNEL_BTF).join(name);
        match Bytes::read(&path) {
            Ok(data) => self.continued(data),
            Err(source) => Err(BtfError::Io { path, source }),
        }
    }

    /// Takes a module's (split) BTF that continues the kernel's.
    ///
    /// # Errors
    /// [`BtfError::Malformed`].
    #[cfg(test)]
    pub(crate) fn split(&self, data: Vec<u8>) -> Result<Self, BtfError> {
        self.continued(Bytes::Owned(data))
    }

    fn standalone(data: Bytes) -> Result<Self, BtfError> {
        Ok(Self { base: None, own: Arc::new(Blob::parse(data, None)?) })
    }

    fn continued(&self, data: Bytes) -> Result<Self, BtfError> {
        let base = self.base.as_ref().unwrap_or(&self.own);
        Ok(Self { own: Arc::new(Blob::parse(data, Some(base))?), base: Some(Arc::clone(base)) })
    }

    /// Whether a type of this name is defined: struct, union, enum, typedef or basic type. A forward
    /// declaration is no definition.
    pub fn has_type(&self, name: &str) -> bool {
        self.named(name, Kind::is_named_type).next().is_some()
    }

    fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&*self.own).chain(self.base.as_deref())
    }

    /// The type with this id; id 0 is `void`.
    fn type_by_id(&self, id: u32) -> Result<Type<'_>, BtfError> {
        if id == 0 {
            return Ok(Type::VOID);
        }
        let unknown = BtfError::Malformed { offset: 0, what: "reference to a type that does not exist" };
        self.blobs().find_map(|blob| blob.type_by_id(id)).unwrap_or(Err(unknown))
    }

    /// The string at an offset; empty if there is none, which no name that is looked up equals.
    fn string(&self, offset: u32) -> &[u8] {
        self.blobs().find_map(|blob| blob.string(offset)).unwrap_or_default()
    }

    /// All types of this name and of the wanted kinds.
    fn named(&self, name: &str, wanted: impl Fn(Kind) -> bool) -> impl Iterator<Item = Type<'_>> {
        self.blobs()
            .flat_map(move |blob| blob.candidates(name))
            .filter_map(|id| self.type_by_id(id).ok())
            .filter(move |ty| wanted(ty.kind) && self.string(ty.name) == name.as_bytes())
    }

    /// Follows typedefs and qualifiers.
    fn resolve<'a>(&'a self, mut ty: Type<'a>) -> Result<Type<'a>, BtfError> {
        for _ in 0..MAX_DEPTH {
            if !ty.kind.is_transparent() {
                return Ok(ty);
            }
            ty = self.type_by_id(ty.size_or_type)?;
        }
        Err(ty.malformed("too long a chain of types"))
    }
}

impl fmt::Debug for Btf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Btf")
            .field("types", &self.own.type_count())
            .field("base_types", &self.base.as_ref().map(|base| base.type_count()))
            .finish()
    }
}

/// The one answer that all types of a name agree on. One without the member asked for disagrees with one that
/// has it: nothing says which of the two was meant.
fn unanimous<T: PartialEq>(
    what: &str,
    answers: impl Iterator<Item = Result<T, BtfError>>,
) -> Result<T, BtfError> {
    let mut agreed: Option<Result<T, BtfError>> = None;
    for answer in answers {
        if let Err(error @ (BtfError::Malformed { .. } | BtfError::Ambiguous { .. })) = answer {
            return Err(error);
        }
        match (&agreed, &answer) {
            (None, _) => agreed = Some(answer),
            (Some(Ok(first)), Ok(this)) if first == this => {}
            (Some(Err(_)), Err(_)) => {}
            _ => return Err(BtfError::Ambiguous { what: what.to_owned() }),
        }
    }
    agreed.unwrap_or_else(|| Err(BtfError::not_found(what)))
}
