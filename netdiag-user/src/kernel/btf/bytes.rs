//! The bytes of a BTF file: read, or mapped where the kernel can.

use std::{
    fs::File,
    io::{self, Read},
    ops::Deref,
    os::fd::AsRawFd,
    path::Path,
    ptr::NonNull,
};

pub(super) enum Bytes {
    Owned(Vec<u8>),
    Mapped(Mapping),
}

/// The kernel's own copy of its BTF, mapped read-only.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is read-only, never changes, and belongs to this value alone; nothing ties it to a thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Mapping {}

impl Bytes {
    /// Maps the kernel's BTF (possible from 6.16; spares a copy and half of the time) or else reads it.
    pub(super) fn map_or_read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        match Mapping::new(&file)? {
            Some(mapping) => Ok(Self::Mapped(mapping)),
            None => read(file).map(Self::Owned),
        }
    }

    /// Reads a module's BTF: it goes away with the module, so it is not mapped.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        read(File::open(path)?).map(Self::Owned)
    }
}

fn read(mut file: File) -> io::Result<Vec<u8>> {
    let mut data = Vec::with_capacity(usize::try_from(file.metadata()?.len()).unwrap_or(0));
    file.read_to_end(&mut data)?;
    Ok(data)
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(data) => data,
            // SAFETY: `start` and `len` are those of a live, readable mapping of kernel memory that is constant
            // from boot on, so no byte changes and no access faults while `self` lives.
            Self::Mapped(mapping) => unsafe {
                std::slice::from_raw_parts(mapping.start.as_ptr(), mapping.len)
            },
        }
    }
}

impl Mapping {
    /// Maps the kernel's BTF; `None` where that cannot be done. A file elsewhere than in sysfs (something
    /// mounted over it) could change or shrink while mapped, so it is not mapped.
    fn new(file: &File) -> io::Result<Option<Self>> {
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        if len == 0 || !on_sysfs(file) {
            return Ok(None);
        }
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory of this process;
        // the descriptor is open.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Ok(None);
        }
        Ok(NonNull::new(start.cast()).map(|start| Self { start, len }))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that mmap returned; `self` was its only owner, and no slice of it outlives
        // `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

fn on_sysfs(file: &File) -> bool {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open, and the buffer is as large as the kernel writes.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: fstatfs succeeded and has filled the buffer.
    unsafe { stat.assume_init() }.f_type == libc::SYSFS_MAGIC
}
