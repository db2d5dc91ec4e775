//! Waiting for records, signals and time at once.

use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals as a descriptor: they are blocked while this lives.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    previous: SigSet,
}

/// A signal and whether a process sent it (else the terminal or the kernel did).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub signal: Signal,
    pub by_process: bool,
}

impl Signals {
    pub fn new(signals: &[Signal]) -> anyhow::Result<Self> {
        let mut set = SigSet::empty();
        for signal in signals {
            set.add(*signal);
        }
        let previous = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { fd, previous })
    }

    /// The mask of blocked signals as it was before: a child must not inherit this one.
    pub fn previous(&self) -> SigSet {
        self.previous
    }

    /// The next signal that is waiting.
    pub fn next(&mut self) -> anyhow::Result<Option<Received>> {
        let Some(info) = self.fd.read_signal()? else { return Ok(None) };
        let signal = Signal::try_from(info.ssi_signo as i32)?;
        Ok(Some(Received { signal, by_process: info.ssi_code <= 0 }))
    }

    /// Sleeps, less if a signal comes.
    pub fn sleep(&self, time: Duration) -> anyhow::Result<()> {
        if time.is_zero() { Ok(()) } else { wait_on(&mut [self.readable()], time) }
    }

    fn readable(&self) -> PollFd<'_> {
        PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)
    }
}

/// Waits until a record or a signal is there, at most for `timeout`.
pub fn wait(records: RawFd, signals: &Signals, timeout: Duration) -> anyhow::Result<()> {
    // SAFETY: the caller's engine keeps the descriptor open for the time of this call.
    let records = unsafe { BorrowedFd::borrow_raw(records) };
    wait_on(&mut [PollFd::new(records, PollFlags::POLLIN), signals.readable()], timeout)
}

fn wait_on(fds: &mut [PollFd], timeout: Duration) -> anyhow::Result<()> {
    // Rounded up, so that a deadline has passed when poll says it has.
    let milliseconds = timeout.as_micros().div_ceil(1000).min(60_000) as u16;
    match poll(fds, PollTimeout::from(milliseconds)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits for a signal, at most for `timeout`; whether one came.
pub fn wait_for_signal(signals: &mut Signals, timeout: Duration) -> anyhow::Result<bool> {
    wait_on(&mut [signals.readable()], timeout)?;
    Ok(signals.next()?.is_some())
}
