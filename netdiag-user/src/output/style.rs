//! Terminal text: width, colour, and glyphs that the terminal may not have.

use anstyle::{AnsiColor, Style as Ansi};

/// Whether to paint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Color,
    Plain,
}

/// What the reader's terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Columns. Commands are never wrapped and may be longer.
    pub width: usize,
    pub style: Style,
    /// Without it only ASCII is written.
    pub utf8: bool,
    /// Also show the explanation.
    pub verbose: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { width: 100, style: Style::Plain, utf8: true, verbose: false }
    }
}

/// What a piece of text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// Broken.
    Bad,
    /// Perhaps broken.
    Doubt,
    Strong,
    Faint,
    /// A command or other code.
    Code,
}

/// Narrower terminals are treated as if they had this many columns.
const MIN_WIDTH: usize = 40;

impl Look {
    pub(super) fn columns(&self) -> usize {
        self.width.max(MIN_WIDTH)
    }

    /// Text that may come from a stranger (process names, host names, comments of rules), without characters
    /// that steer the terminal, and in ASCII if it must be.
    pub(super) fn safe(&self, text: &str) -> String {
        let mut safe = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                c if c.is_control() || is_invisible(c) => safe.push('?'),
                c if c.is_ascii() || self.utf8 => safe.push(c),
                c => safe.push_str(ascii(c)),
            }
        }
        safe
    }

    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        let ansi = match tone {
            _ if self.style == Style::Plain || text.is_empty() => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Bad => Ansi::new().fg_color(Some(AnsiColor::Red.into())).bold(),
            Tone::Doubt => Ansi::new().fg_color(Some(AnsiColor::Yellow.into())).bold(),
            Tone::Strong => Ansi::new().bold(),
            Tone::Faint => Ansi::new().dimmed(),
            Tone::Code => Ansi::new().fg_color(Some(AnsiColor::Cyan.into())),
        };
        format!("{ansi}{text}{ansi:#}")
    }
}

/// Zero-width and direction-changing characters: they make text read as something else.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn ascii(c: char) -> &'static str {
    match c {
        '✗' => "x",
        '→' => "->",
        '←' => "<-",
        '─' => "-",
        '┄' => ".",
        '·' | '–' | '—' => "-",
        '…' => "...",
        'µ' | 'μ' => "u",
        '×' => "x",
        '‘' | '’' => "'",
        '“' | '”' => "\"",
        _ => "?",
    }
}

/// Columns of a text (characters: names with wide ones are rare, and only the wrapping suffers).
pub(super) fn columns(text: &str) -> usize {
    text.chars().count()
}

/// Breaks at spaces so that the first line has at most `first` columns and the others `rest`. A longer word
/// stands alone and is not broken: it may be an address or a path to copy.
pub(super) fn wrap(text: &str, first: usize, rest: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let limit = if lines.len() == 1 { first } else { rest };
        let length = columns(word);
        if used > 0 && used + 1 + length > limit {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
    }
    lines
}

/// Whether a locale's character set is UTF-8, from LC_ALL, LC_CTYPE or LANG, as locale(7) orders them.
/// `variable` reads an environment variable.
pub fn utf8_locale(variable: impl Fn(&str) -> Option<String>) -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| variable(name).filter(|value| !value.is_empty()))
        .is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_steer_the_terminal() {
        let look = Look::default();
        assert_eq!(look.safe("a\x1b[31m\nb\u{202e}c\u{9b}é"), "a?[31m?b?c?é");
        assert_eq!(Look { utf8: false, ..look }.safe("✗ → é …"), "x -> ? ...");
    }

    #[test]
    fn words_wrap_and_long_ones_stay_whole() {
        assert_eq!(wrap("aa bb cc", 5, 2), ["aa bb", "cc"]);
        assert_eq!(wrap("a 2001:db8::1", 4, 4), ["a", "2001:db8::1"]);
        assert_eq!(wrap("", 4, 4), [""]);
    }

    #[test]
    fn the_locale_decides() {
        let locale = |pairs: &'static [(&str, &str)]| {
            utf8_locale(move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert!(locale(&[("LANG", "de_CH.UTF-8")]));
        assert!(locale(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]));
        assert!(!locale(&[("LC_ALL", "C"), ("LANG", "de_CH.UTF-8")]));
        assert!(!locale(&[]));
    }
}
