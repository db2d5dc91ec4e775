//! Values that a configuration holds as text.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::filter::Filter;
use crate::kernel::registry::Family;
use crate::when::parse_duration;

/// A duration of at least a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(Duration);

impl Span {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let duration = parse_duration(&text)?;
        if duration < Duration::from_secs(1) {
            return Err(format!("`{text}` is shorter than a second"));
        }
        Ok(Self(duration))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        format!("{}ms", span.0.as_millis())
    }
}

/// A number of bytes, at least one megabyte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

impl Size {
    const LEAST: u64 = 1_000_000;
    const UNITS: &[(&str, u64)] = &[
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
        ("", 1),
    ];

    pub const fn megabytes(number: u64) -> Self {
        Self(number * 1_000_000)
    }

    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = Self::UNITS.iter().find_map(|(unit, factor)| {
            let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(*factor)
        });
        match parsed {
            Some(bytes) if bytes >= Self::LEAST => Ok(Self(bytes)),
            Some(_) => Err(format!("`{text}` is less than a megabyte")),
            None => Err(format!("`{text}` is no size: write 512MB or 2GB")),
        }
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        format!("{}B", size.0)
    }
}

/// A share of one processor, in percent: "1%", "0.5%", "200%".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Share {
    /// Thousandths of a percent.
    parts: u32,
}

impl Share {
    pub const fn percent(number: u32) -> Self {
        Self { parts: number * 1_000 }
    }

    /// 0.01 is a percent.
    pub fn get(self) -> f64 {
        f64::from(self.parts) / 100_000.0
    }
}

impl TryFrom<String> for Share {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match number {
            Some(percent) if (0.01..=100_000.0).contains(&percent) => {
                Ok(Self { parts: (percent * 1_000.0).round() as u32 })
            }
            _ => Err(format!("`{text}` is no share of a processor: write 1% or 0.5%")),
        }
    }
}

impl From<Share> for String {
    fn from(share: Share) -> Self {
        format!("{}%", f64::from(share.parts) / 1_000.0)
    }
}

/// An address to listen on; `None` (empty text): nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen(pub Option<SocketAddr>);

impl Default for Listen {
    fn default() -> Self {
        Self(Some(SocketAddr::from(([127, 0, 0, 1], 9817))))
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let problem = || format!("`{text}` is no address with a port: write 127.0.0.1:9817 or [::1]:9817");
        text.parse().map(|address| Self(Some(address))).map_err(|_| problem())
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.0.map(|address| address.to_string()).unwrap_or_default()
    }
}

/// A filter expression that is known to be one; empty: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expression(String);

impl Expression {
    pub fn text(&self) -> &str {
        &self.0
    }

    pub fn filter(&self) -> Option<Filter> {
        self.0.parse().ok()
    }
}

impl TryFrom<String> for Expression {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Filter::from_args(std::slice::from_ref(&text)).map_err(|error| error.to_string())?;
        Ok(Self(text.trim().to_owned()))
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.0
    }
}

/// The kind of hook to attach by where there is a choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    #[default]
    Auto,
    Tracepoint,
    Fentry,
    Kprobe,
}

impl Attach {
    pub fn family(self) -> Option<Family> {
        match self {
            Self::Auto => None,
            Self::Tracepoint => Some(Family::Tracepoint),
            Self::Fentry => Some(Family::Fentry),
            Self::Kprobe => Some(Family::Kprobe),
        }
    }
}

/// A number within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Within<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Within<MIN, MAX> {
    /// A number that is within the bounds: it is cut to them.
    pub const fn new(number: i64) -> Self {
        if number < MIN {
            Self(MIN)
        } else if number > MAX {
            Self(MAX)
        } else {
            Self(number)
        }
    }

    pub fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: i64, const MAX: i64> TryFrom<i64> for Within<MIN, MAX> {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        if (MIN..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("{number} is not between {MIN} and {MAX}"))
        }
    }
}

impl<const MIN: i64, const MAX: i64> From<Within<MIN, MAX>> for i64 {
    fn from(within: Within<MIN, MAX>) -> Self {
        within.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let share = |text: &str| Share::try_from(text.to_owned());
        assert_eq!(share("1%"), Ok(Share::percent(1)));
        assert_eq!(share("0.5%").unwrap().get(), 0.005);
        assert_eq!(share(&String::from(share("12.5%").unwrap())), share("12.5%"));
        for wrong in ["1", "%", "-1%", "0%", "NaN%", "1e9%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        let bytes = |text: &str| Size::try_from(text.to_owned()).map(Size::bytes);
        assert_eq!(bytes("512MB"), Ok(512_000_000));
        assert_eq!(bytes("2 GiB"), Ok(2 << 30));
        assert_eq!(bytes("1000000"), Ok(1_000_000));
        for wrong in ["1kB", "MB", "-3MB", "1e9", "99999999999GB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
