//! Where results go.

use std::io::{self, Write};

/// Whether somebody still reads.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Open,
    /// The reader closed the pipe: time to end, and no error.
    Closed,
}

/// A writer that flushes each piece and takes a closed pipe for an end.
#[derive(Debug)]
pub struct Sink<W> {
    out: W,
    stream: Stream,
}

impl<W: Write> Sink<W> {
    pub fn new(out: W) -> Self {
        Self { out, stream: Stream::Open }
    }

    /// Writes and flushes; nothing once the pipe is closed.
    ///
    /// # Errors
    /// Those of the writer, but for a closed pipe.
    pub fn write(&mut self, text: &str) -> io::Result<Stream> {
        if self.stream == Stream::Open {
            match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.stream = Stream::Closed,
                other => other?,
            }
        }
        Ok(self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(io::ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_an_end_and_no_error() {
        let mut sink = Sink::new(Fails(io::ErrorKind::BrokenPipe));
        assert_eq!(sink.write("x").unwrap(), Stream::Closed);
        assert_eq!(sink.write("y").unwrap(), Stream::Closed);
        assert!(Sink::new(Fails(io::ErrorKind::StorageFull)).write("x").is_err());
    }

    #[test]
    fn a_real_pipe_that_is_closed() {
        let (read, write) = io::pipe().unwrap();
        drop(read);
        assert_eq!(Sink::new(write).write("x").unwrap(), Stream::Closed);
    }
}
