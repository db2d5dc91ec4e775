//! Reads the closing lines of cargo's test runners.

use std::ops::AddAssign;

/// How many tests a run had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// The numbers in `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; None for any other line.
pub fn parse(line: &str) -> Option<Count> {
    let line = without_colour(line);
    let (_verdict, numbers) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
    let mut count = Count::default();
    for part in numbers.split(';') {
        let mut words = part.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse::<u32>().ok()) else { continue };
        match words.next() {
            Some("passed") => count.passed = number,
            Some("failed") => count.failed = number,
            Some("ignored") => count.skipped = number,
            _ => {}
        }
    }
    Some(count)
}

/// The line without its terminal colour sequences.
fn without_colour(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_summaries() {
        let line =
            "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        assert_eq!(parse(line), Some(Count { passed: 12, failed: 0, skipped: 3 }));
        let line = "test result: \u{1b}[31mFAILED\u{1b}(B\u{1b}[m. 1 passed; 2 failed; 0 ignored; 0 measured";
        assert_eq!(parse(line), Some(Count { passed: 1, failed: 2, skipped: 0 }));
        assert_eq!(parse("test result of something"), None);
        assert_eq!(parse("running 3 tests"), None);
    }

    #[test]
    fn shows_what_it_counted() {
        let mut sum = Count { passed: 1, failed: 0, skipped: 0 };
        assert_eq!(sum.to_string(), "1 passed, 0 failed");
        sum += Count { passed: 1, failed: 2, skipped: 3 };
        assert_eq!(sum.to_string(), "2 passed, 2 failed, 3 skipped");
    }
}
