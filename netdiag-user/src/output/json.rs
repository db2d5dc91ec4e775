//! JSON Lines: one object a line, flushed, UTF-8.

use std::io::{self, Write};

use serde::Serialize;

use super::sink::{Sink, Stream};

/// Writes objects of the output contract.
#[derive(Debug)]
pub struct JsonLines<W>(Sink<W>);

impl<W: Write> JsonLines<W> {
    pub fn new(out: W) -> Self {
        Self(Sink::new(out))
    }

    /// Writes one object on a line of its own.
    ///
    /// # Errors
    /// Those of the writer, but for a closed pipe.
    pub fn write<T: Serialize>(&mut self, object: &T) -> io::Result<Stream> {
        let mut line = serde_json::to_string(object)?;
        line.push('\n');
        self.0.write(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    #[test]
    fn one_object_a_line() {
        let mut out = Vec::new();
        let mut lines = JsonLines::new(&mut out);
        let mut report = testing::firewall_drop();
        report.explanation = "two\nlines".into();
        assert_eq!(lines.write(&report).unwrap(), Stream::Open);
        assert_eq!(lines.write(&report).unwrap(), Stream::Open);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("}\n"));
    }
}
