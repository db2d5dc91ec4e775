//! Words, parentheses and the signs for and, or, not; and what to say of a wrong word.

use strsim::osa_distance;

/// The words that mean something by themselves, `mask` aside, which does so only after an address.
pub(super) const KEYWORDS: [&str; 16] = [
    "host",
    "net",
    "port",
    "portrange",
    "src",
    "dst",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "ip",
    "ip6",
    "pid",
    "comm",
    "netns",
    "code",
];

/// Words of tcpdump that ask about packets or links.
const FOREIGN: [&str; 26] = [
    "ether",
    "link",
    "wlan",
    "vlan",
    "mpls",
    "pppoed",
    "pppoes",
    "geneve",
    "arp",
    "rarp",
    "gateway",
    "broadcast",
    "multicast",
    "greater",
    "less",
    "len",
    "proto",
    "protochain",
    "inbound",
    "outbound",
    "ifname",
    "on",
    "sctp",
    "ah",
    "esp",
    "igmp",
];

/// What people write who know other tools.
const OTHER_NAMES: [(&str, &str); 11] = [
    ("source", "src"),
    ("destination", "dst"),
    ("dest", "dst"),
    ("ipv4", "ip"),
    ("ipv6", "ip6"),
    ("icmpv6", "icmp6"),
    ("address", "host"),
    ("addr", "host"),
    ("process", "pid"),
    ("command", "comm"),
    ("namespace", "netns"),
];

/// Where an expression went wrong, and how.
#[derive(Debug)]
pub(super) struct Problem {
    /// Bytes from the start of the expression.
    pub offset: usize,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// `literal`: quoted or escaped with a backslash, so it is a value even if it looks like a keyword.
    Word {
        text: String,
        literal: bool,
    },
    And,
    Or,
    Not,
    Open,
    Close,
    End,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub kind: TokenKind,
    /// Bytes from the start of the expression.
    pub offset: usize,
}

impl Token {
    /// The word, if it can be a keyword.
    pub fn keyword(&self) -> Option<&str> {
        match &self.kind {
            TokenKind::Word { text, literal: false } => Some(text),
            _ => None,
        }
    }

    pub fn is_word(&self) -> bool {
        matches!(self.kind, TokenKind::Word { .. })
    }

    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { offset: self.offset, message: message.into() }
    }

    /// `hint` as made by [`hint`], or empty.
    pub fn unexpected(&self, expected: &str, hint: String) -> Problem {
        let found = match &self.kind {
            TokenKind::Word { text, .. } => abridged(text),
            TokenKind::And => "`and`".to_owned(),
            TokenKind::Or => "`or`".to_owned(),
            TokenKind::Not => "`not`".to_owned(),
            TokenKind::Open => "`(`".to_owned(),
            TokenKind::Close => "`)`".to_owned(),
            TokenKind::End => "the end".to_owned(),
        };
        self.problem(format!("expected {expected}, found {found}{hint}"))
    }
}

/// Splits the expression. The last token, and only that, is `End`.
pub(super) fn tokens(expression: &str) -> Result<Vec<Token>, Problem> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let offset = expression.len() - rest.len();
        let (kind, length) = match first {
            '(' => (TokenKind::Open, 1),
            ')' => (TokenKind::Close, 1),
            '!' => (TokenKind::Not, 1),
            '&' | '|' => {
                if !rest[1..].starts_with(first) {
                    let message = format!("expected `{first}{first}`, found a single `{first}`");
                    return Err(Problem { offset, message });
                }
                (if first == '&' { TokenKind::And } else { TokenKind::Or }, 2)
            }
            _ => word(rest).map_err(|message| Problem { offset, message })?,
        };
        tokens.push(Token { kind, offset });
        rest = rest[length..].trim_start();
    }
    tokens.push(Token { kind: TokenKind::End, offset: expression.len() });
    Ok(tokens)
}

/// The word at the start of `rest`, and how many bytes it takes there.
fn word(rest: &str) -> Result<(TokenKind, usize), String> {
    let mut text = String::new();
    let mut literal = false;
    let mut quote = None;
    let mut length = rest.len();
    let mut characters = rest.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            _ if quote == Some(c) => quote = None,
            _ if quote.is_some() => text.push(c),
            '\'' | '"' => (quote, literal) = (Some(c), true),
            '\\' => {
                let (_, escaped) = characters.next().ok_or("expected a character after the backslash")?;
                literal = true;
                text.push(escaped);
            }
            '(' | ')' | '!' | '&' | '|' => {
                length = at;
                break;
            }
            _ if c.is_whitespace() => {
                length = at;
                break;
            }
            _ => text.push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(format!("expected a closing {quote} for the quote that begins here"));
    }
    let kind = match text.as_str() {
        "and" if !literal => TokenKind::And,
        "or" if !literal => TokenKind::Or,
        "not" if !literal => TokenKind::Not,
        _ => TokenKind::Word { text, literal },
    };
    Ok((kind, length))
}

/// The text in backquotes, cut if long, without characters that would break a line or drive a terminal.
pub(super) fn abridged(text: &str) -> String {
    const MOST: usize = 40;
    let mut shown: String = text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// The end of a message; empty without a suggestion.
pub(super) fn hint(suggestion: Option<String>) -> String {
    suggestion.map_or_else(String::new, |word| format!("; did you mean {}?", abridged(&word)))
}

/// Whether it is tcpdump's word for something that a connection does not have, packet bytes among them.
pub(super) fn is_foreign(word: &str) -> bool {
    FOREIGN.contains(&word) || word.split_once('[').is_some_and(|(name, _)| KEYWORDS.contains(&name))
}

/// The candidate that the word was probably meant to be: in another case, under another tool's name, or one typing
/// mistake away (two in long words).
pub(super) fn near<'a>(word: Option<&str>, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // Nothing worth suggesting is longer, and the distance costs the product of the lengths.
    let word = word.filter(|word| word.len() <= 32)?.to_lowercase();
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == word).map(|(_, keyword)| *keyword);
    let most = if word.chars().count() > 6 { 2 } else { 1 };
    let best = candidates
        .into_iter()
        .filter(|candidate| candidate.chars().count() > most)
        .map(|candidate| {
            (if other == Some(candidate) { 0 } else { osa_distance(&word, candidate) }, candidate)
        })
        .min_by_key(|(distance, _)| *distance)?;
    (best.0 <= most).then(|| best.1.to_owned())
}

pub(super) fn near_keyword(word: &str) -> Option<String> {
    near(Some(word), KEYWORDS)
}
