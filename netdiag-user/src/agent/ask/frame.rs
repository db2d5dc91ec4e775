//! Lines of JSON, bounded in length and time.

use std::io;
use std::time::Instant;

use serde::Serialize;

use super::Line;
use crate::agent::stream::{Stream, read_some};

/// Entries of a long list that go on one line.
pub(super) const PART: usize = 512;

/// Lines as they come.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// How far there is no end of a line.
    searched: usize,
}

impl Lines {
    /// The next line without its end; `None` if there is none any more.
    ///
    /// # Errors
    /// Those of reading; when it takes longer than `end`; when a line is longer than `most`, or its end is missing.
    pub(super) fn next(
        &mut self,
        stream: &mut impl Stream,
        most: usize,
        end: Instant,
    ) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.bytes.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.bytes, rest);
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.bytes.len();
            if self.bytes.len() > most {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
            }
            let mut buffer = [0; 16 << 10];
            match read_some(stream, &mut buffer, end)? {
                0 if self.bytes.is_empty() => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.bytes.extend_from_slice(&buffer[..read]),
            }
        }
    }
}

/// A value as a line, with its end.
pub(super) fn line(value: &impl Serialize) -> Vec<u8> {
    // None of the protocol's types has anything that JSON cannot say.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// What could not be done, as a line.
pub(super) fn error(text: impl Into<String>) -> Vec<u8> {
    line(&Line::<()>::Error(text.into()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn lines_come_whole_however_they_are_sent() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        let mut lines = Lines::default();
        one.write_all(b"first\nsec").unwrap();
        assert_eq!(lines.next(&mut other, 100, soon()).unwrap().unwrap(), b"first");
        one.write_all(b"ond\n\n").unwrap();
        assert_eq!(lines.next(&mut other, 100, soon()).unwrap().unwrap(), b"second");
        assert_eq!(lines.next(&mut other, 100, soon()).unwrap().unwrap(), b"");
        drop(one);
        assert_eq!(lines.next(&mut other, 100, soon()).unwrap(), None);
    }

    #[test]
    fn neither_length_nor_time_is_without_end() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        let mut lines = Lines::default();
        let end = Instant::now() + Duration::from_millis(50);
        assert!(lines.next(&mut other, 100, end).is_err(), "nothing came");
        one.write_all(&[b'x'; 200]).unwrap();
        assert!(lines.next(&mut other, 100, soon()).is_err(), "it was too long");
        let (mut one, mut other) = UnixStream::pair().unwrap();
        one.write_all(b"half").unwrap();
        drop(one);
        assert!(Lines::default().next(&mut other, 100, soon()).is_err(), "its end is missing");
    }
}
