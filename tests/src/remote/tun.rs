//! A TUN device (Documentation/networking/tuntap.rst), gone when its descriptor is closed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, ensure};

/// An open device; reads and writes whole IP packets without any header before them.
#[derive(Debug)]
pub(super) struct Tun(File);

impl Tun {
    /// Makes a device in the calling thread's network namespace.
    ///
    /// # Errors
    /// Without /dev/net/tun or CAP_NET_ADMIN, or when the name is taken.
    pub fn open(name: &str) -> Result<Self> {
        let path = "/dev/net/tun";
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.with_context(|| format!("opening {path}"))?;
        // SAFETY: an all-zero ifreq is valid: it holds integers, byte arrays and a raw pointer only.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        ensure!(name.len() < request.ifr_name.len(), "{name} is too long for an interface");
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
        // SAFETY: `file` is an open descriptor and TUNSETIFF reads and writes one ifreq, which
        // `request` is and which outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        ensure!(result == 0, "TUNSETIFF {name}: {}", std::io::Error::last_os_error());
        Ok(Self(file))
    }

    /// The length of the next packet, or `None` while there is none.
    pub fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        (&self.0).read(buffer).ok()
    }

    /// Sends one packet; a full or downed device loses it, as a wire would.
    pub fn write(&self, packet: &[u8]) {
        let _ = (&self.0).write(packet);
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
