//! Conversations with strangers: a thread for each, no more at a time than were allowed, and none with any rights.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::privileges;
use super::stream::Stream;

/// Of a thread that only talks.
const STACK: usize = 256 << 10;

/// May be listening in several places: the bound is that of all together.
#[derive(Debug)]
pub(super) struct Host {
    /// Of its threads.
    name: &'static str,
    /// Connections at the same time; more are closed at once.
    most: usize,
    busy: Arc<AtomicUsize>,
}

impl Host {
    pub(super) fn new(name: &'static str, most: usize) -> Self {
        Self { name, most, busy: Arc::default() }
    }

    /// Talks to whoever comes until the process ends. The threads sleep unless somebody does.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn serve<S: Stream>(
        &self,
        accept: impl Fn() -> io::Result<S> + Send + 'static,
        talk: impl Fn(S) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<(), String> {
        let Self { name, most, ref busy } = *self;
        let (busy, talk) = (Arc::clone(busy), Arc::new(talk));
        spawn(name, STACK, move || {
            // On a kernel that refuses, what is said is the same.
            let _ = privileges::give_up_all();
            loop {
                let Ok(stream) = accept() else {
                    // No descriptors left, as like as not: they do not come back by asking at once.
                    thread::sleep(Duration::from_millis(100));
                    continue;
                };
                let Some(seat) = Seat::take(&busy, most) else { continue };
                let talk = Arc::clone(&talk);
                // Where no thread can be started, the connection is closed.
                let _ = spawn(name, STACK, move || {
                    let _seat = seat;
                    // What goes wrong with who asks is their affair.
                    let _ = talk(stream);
                });
            }
        })
    }
}

/// One of the connections at the same time, for as long as it is kept.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(busy: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let seat = Self(Arc::clone(busy));
        (busy.fetch_add(1, Ordering::AcqRel) < most).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// # Errors
/// When it cannot be started.
pub(super) fn spawn(name: &str, stack: usize, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().name(name.into()).stack_size(stack);
    thread.spawn(work).map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;

    const MOST: usize = 4;

    #[test]
    fn idle_connections_do_not_make_it_grow_and_leave_room_in_the_end() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let host = Host::new("netdiag-hosted", MOST);
        let echo = |mut stream: TcpStream| {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)
        };
        host.serve(move || listener.accept().map(|(stream, _)| stream), echo).unwrap();
        let idle: Vec<TcpStream> = (0..3 * MOST).map(|_| TcpStream::connect(address).unwrap()).collect();
        thread::sleep(Duration::from_millis(100));
        let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let named = threads.filter(|task| {
            let comm = std::fs::read_to_string(task.path().join("comm"));
            comm.is_ok_and(|comm| comm.trim() == "netdiag-hosted")
        });
        assert!(named.count() <= 1 + MOST);
        drop(idle);
        let deadline = Instant::now() + Duration::from_secs(10);
        let answers = || {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])
        };
        while let Err(error) = answers() {
            assert!(Instant::now() < deadline, "{error}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}
