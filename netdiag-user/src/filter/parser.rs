//! The grammar, by recursive descent:
//!
//! ```text
//! expression = term { ("and" | "or") term }            both bind alike and group from the left, as in tcpdump
//! term       = { "not" } ( "(" expression ")" | primitive )
//! primitive  = protocol
//!            | [protocol] [direction] [kind] values    all three left out: those of the primitive before
//! direction  = "src" | "dst" | "src" ("or" | "and") "dst" | "dst" ("or" | "and") "src"
//! values     = { "not" } ( value | "(" values { ("and" | "or") values } ")" )
//! ```

use super::eval::{Direction, Glob, Network, Op, Ports, Protocol, Test};
use super::kind::{Kind, Qualifiers};
use super::lexer::{
    KEYWORDS, Problem, Token, TokenKind, abridged, hint, is_foreign, near, near_keyword, tokens,
};
use super::services;
use super::values::{
    as_endpoint, as_name, as_port, carries_ports_of, comm, is_digits, is_hostname, number, parse_network,
    parse_partial_network, partial_address, port_pair,
};

/// Parentheses within parentheses; bounds the recursion.
const MAX_DEPTH: usize = 64;

/// Makes a postfix program. `services` is asked for the text of services(5) when a port is given by name.
pub(super) fn parse(expression: &str, services: fn() -> String) -> Result<Vec<Op>, Problem> {
    let tokens = tokens(expression)?;
    let mut parser = Parser { tokens, at: 0, program: Vec::new(), depth: 0, before: None, services };
    parser.expression()?;
    let rest = parser.token();
    match rest.kind {
        TokenKind::End => Ok(parser.program),
        TokenKind::Close => Err(rest.problem("found `)` without a `(` before it")),
        _ => Err(rest.unexpected("`and` or `or`", hint(near(rest.keyword(), ["and", "or"])))),
    }
}

struct Parser {
    tokens: Vec<Token>,
    /// Never beyond the last token, `End`.
    at: usize,
    program: Vec<Op>,
    depth: usize,
    /// What a bare value inherits: `port 80 or 443`.
    before: Option<Qualifiers>,
    services: fn() -> String,
}

impl Parser {
    fn token(&self) -> Token {
        self.tokens[self.at].clone()
    }

    fn peek(&self) -> &TokenKind {
        &self.tokens[self.at].kind
    }

    fn peek_keyword(&self) -> Option<&str> {
        self.tokens[self.at].keyword()
    }

    fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    fn expression(&mut self) -> Result<(), Problem> {
        self.joined(Self::term)
    }

    /// Operands with `and` and `or` between them, from the left.
    fn joined(&mut self, operand: impl Fn(&mut Self) -> Result<(), Problem>) -> Result<(), Problem> {
        operand(self)?;
        loop {
            let op = match self.peek() {
                TokenKind::And => Op::And,
                TokenKind::Or => Op::Or,
                _ => return Ok(()),
            };
            self.advance();
            operand(self)?;
            self.program.push(op);
        }
    }

    /// `not`s, then an operand. A loop, because their number has no bound.
    fn negated(&mut self, operand: impl Fn(&mut Self) -> Result<(), Problem>) -> Result<(), Problem> {
        let mut negate = false;
        while *self.peek() == TokenKind::Not {
            self.advance();
            negate = !negate;
        }
        operand(self)?;
        if negate {
            self.program.push(Op::Not);
        }
        Ok(())
    }

    fn parenthesised(&mut self, inner: impl Fn(&mut Self) -> Result<(), Problem>) -> Result<(), Problem> {
        let open = self.token();
        if self.depth == MAX_DEPTH {
            return Err(open.problem(format!("parentheses are nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        self.advance();
        inner(self)?;
        self.depth -= 1;
        let close = self.token();
        if close.kind != TokenKind::Close {
            let suggestion = near(close.keyword(), ["and", "or"]);
            return Err(close.unexpected("`and`, `or` or `)`", hint(suggestion)));
        }
        self.advance();
        Ok(())
    }

    fn term(&mut self) -> Result<(), Problem> {
        self.negated(|parser| match parser.peek() {
            TokenKind::Open => {
                parser.parenthesised(Self::expression)?;
                parser.before = None;
                Ok(())
            }
            _ => parser.primitive(),
        })
    }

    fn primitive(&mut self) -> Result<(), Problem> {
        let start = self.token();
        let protocol = self.peek_keyword().and_then(Protocol::from_keyword);
        if protocol.is_some() {
            self.advance();
        }
        let direction = self.direction();
        let mut qualifiers =
            Qualifiers { protocol, direction: direction.unwrap_or(Direction::Either), kind: Kind::Bare };
        let kind_token = self.token();
        let kind = kind_token.keyword().and_then(Kind::from_keyword);
        if let Some(kind) = kind {
            qualifiers.kind = kind;
            qualifiers.check(&kind_token, direction.is_some())?;
            self.advance();
            return self.values(qualifiers);
        }

        let next = self.token();
        if direction.is_some() {
            return self.after_direction(&next, qualifiers);
        }
        match (qualifiers.protocol, &next.kind) {
            (Some(protocol), TokenKind::Word { .. }) => {
                if let Some(word) = next.keyword().filter(|word| parse_network(word).is_err()) {
                    let suggestion =
                        hint(near_keyword(word).or_else(|| as_port(word)).or_else(|| as_name(word)));
                    let expected =
                        format!("`and`, `or`, `host`, `net` or `port` after `{}`", protocol.keyword());
                    return Err(next.unexpected(&expected, suggestion));
                }
                self.value(qualifiers)
            }
            (Some(protocol), _) => {
                self.program.push(Op::Test(Test::Protocol(protocol)));
                self.before = None;
                Ok(())
            }
            (None, _) => self.bare(&start),
        }
    }

    /// `src`, `dst`, or both joined by `and` or `or`.
    fn direction(&mut self) -> Option<Direction> {
        let (first, other) = match self.peek_keyword() {
            Some("src") => (Direction::Source, "dst"),
            Some("dst") => (Direction::Destination, "src"),
            _ => return None,
        };
        self.advance();
        let joined = match self.peek() {
            TokenKind::Or => Direction::Either,
            TokenKind::And => Direction::Both,
            _ => return Some(first),
        };
        // `End` is the last token and this one is none, so there is a next.
        if self.tokens[self.at + 1].keyword() != Some(other) {
            return Some(first);
        }
        self.advance();
        self.advance();
        Some(joined)
    }

    /// `src 10.0.0.1`: a direction without a kind.
    fn after_direction(&mut self, next: &Token, qualifiers: Qualifiers) -> Result<(), Problem> {
        let Some(word) = next.keyword() else {
            return match next.kind {
                TokenKind::Open | TokenKind::Not => self.values(qualifiers),
                TokenKind::Word { .. } => self.value(qualifiers),
                _ => Err(next.unexpected("`host`, `net`, `port`, `portrange` or an address", String::new())),
            };
        };
        if Protocol::from_keyword(word).is_some() {
            return Err(next.problem(format!("expected `{word}` before `src` and `dst`, not after them")));
        }
        if matches!(word, "src" | "dst") {
            return Err(next.unexpected("`host`, `net`, `port` or an address", String::new()));
        }
        self.value(qualifiers)
    }

    /// A word where a primitive begins: a value that inherits its qualifiers, or a mistake.
    fn bare(&mut self, token: &Token) -> Result<(), Problem> {
        let TokenKind::Word { text, literal } = &token.kind else {
            return Err(token.unexpected("a test such as `port 80` or `host 10.0.0.1`", String::new()));
        };
        if !literal && is_foreign(text) {
            let word = abridged(text);
            return Err(token.problem(format!(
                "netdiag looks at connections, not at packets: it has no {word}; see `tcp`, `host`, `port`, `comm`"
            )));
        }
        match self.before {
            Some(before) => {
                // A value would not have a word behind it.
                let is_test = matches!(self.tokens.get(self.at + 1), Some(next) if next.is_word());
                if is_test && before.kind.takes_any_word() {
                    return Err(token.unexpected("a test or a further value", hint(near_keyword(text))));
                }
                self.value(before)
            }
            None if parse_network(text).is_ok() => self.value(Qualifiers::default()),
            None => {
                let suggestion = near_keyword(text).or_else(|| as_port(text)).or_else(|| as_endpoint(text));
                let expected = "a test such as `port 80`, `host 10.0.0.1` or `comm curl`";
                Err(token.unexpected(expected, hint(suggestion.or_else(|| as_name(text)))))
            }
        }
    }

    fn values(&mut self, qualifiers: Qualifiers) -> Result<(), Problem> {
        self.negated(|parser| match parser.peek() {
            TokenKind::Open => {
                parser.parenthesised(|parser| parser.joined(|parser| parser.values(qualifiers)))
            }
            _ => parser.value(qualifiers),
        })
    }

    fn value(&mut self, qualifiers: Qualifiers) -> Result<(), Problem> {
        let token = self.token();
        let TokenKind::Word { text, literal } = &token.kind else {
            return Err(token.unexpected(qualifiers.kind.expected(), String::new()));
        };
        if text.is_empty() {
            return Err(
                token.problem(format!("expected {}, found an empty word", qualifiers.kind.expected()))
            );
        }
        if !literal && !qualifiers.kind.is_own() && KEYWORDS.contains(&text.as_str()) {
            return Err(token.unexpected(qualifiers.kind.expected(), String::new()));
        }
        self.advance();
        let direction = qualifiers.direction;
        let test = match qualifiers.kind {
            Kind::Bare | Kind::Host | Kind::Net => self.address(&token, text, qualifiers)?,
            Kind::Port => Test::Ports(direction, self.port(&token, text, qualifiers.protocol)?),
            Kind::PortRange => Test::Ports(direction, self.port_range(&token, text, qualifiers.protocol)?),
            Kind::Pid => Test::Pid(number(text).ok_or_else(|| {
                let suggestion = hint(near_keyword(text).or_else(|| Some(format!("comm {text}"))));
                token.unexpected(Kind::Pid.expected(), suggestion)
            })?),
            Kind::Comm => Test::Comm(comm(&token, text)?),
            Kind::Netns => netns(&token, text, *literal)?,
            // A symptom alone stands for all its causes.
            Kind::Code if !text.contains(['.', '*', '?']) => Test::Code(Glob::new(&format!("{text}.*"))),
            Kind::Code => Test::Code(Glob::new(text)),
        };
        if let Some(protocol) = qualifiers.protocol {
            self.program.extend([Op::Test(Test::Protocol(protocol)), Op::Test(test), Op::And]);
        } else {
            self.program.push(Op::Test(test));
        }
        self.before = Some(qualifiers);
        Ok(())
    }

    fn address(&mut self, token: &Token, text: &str, qualifiers: Qualifiers) -> Result<Test, Problem> {
        let Qualifiers { protocol, direction, kind } = qualifiers;
        if kind == Kind::Host && is_hostname(text) {
            if matches!(direction, Direction::Source | Direction::Both) {
                let message = "expected an address: a name is known of the destination only, so write `host` or `dst host`";
                return Err(token.problem(message));
            }
            return Ok(Test::Hostname(text.trim_end_matches('.').to_owned()));
        }
        if kind == Kind::Host && text.contains('/') {
            let suggestion = parse_network(text).is_ok().then(|| format!("net {text}"));
            return Err(token.unexpected(kind.expected(), hint(suggestion)));
        }
        let fail = |message: String| {
            if message.is_empty() {
                let name = || as_name(text).filter(|_| kind == Kind::Bare);
                let suggestion =
                    as_endpoint(text).or_else(|| near_keyword(text)).or_else(|| as_port(text)).or_else(name);
                token.unexpected(kind.expected(), hint(suggestion))
            } else {
                token.problem(message)
            }
        };
        let network = if kind != Kind::Host && self.peek_keyword() == Some("mask") {
            self.advance();
            let mask = self.token();
            let TokenKind::Word { text: mask_text, .. } = &mask.kind else {
                return Err(mask.unexpected("a mask such as `255.255.255.0`", String::new()));
            };
            let address =
                partial_address(text).map(|(address, _)| address).ok_or_else(|| fail(String::new()))?;
            let parsed = mask_text.parse().ok().and_then(|mask| Network::masked(address, mask));
            let network =
                parsed.ok_or_else(|| mask.unexpected("a mask such as `255.255.255.0`", String::new()))?;
            self.advance();
            network
        } else if kind == Kind::Net {
            parse_partial_network(text).map_err(fail)?
        } else {
            parse_network(text).map_err(fail)?
        };
        if let Some(clean) = network.stray_bits() {
            let message = format!("`{text}` has bits set outside its mask: the network is {clean}");
            return Err(token.problem(message));
        }
        if let Some(protocol) = protocol.filter(|protocol| !protocol.carries(network.is_ipv4())) {
            let family = if network.is_ipv4() { "an IPv6" } else { "an IPv4" };
            return Err(
                token.unexpected(&format!("{family} address after `{}`", protocol.keyword()), String::new())
            );
        }
        Ok(Test::Network(direction, network))
    }

    fn port(&self, token: &Token, text: &str, protocol: Option<Protocol>) -> Result<Ports, Problem> {
        if is_digits(text) {
            let port =
                number(text).ok_or_else(|| token.unexpected("a port from 0 to 65535", String::new()))?;
            return Ok(Ports::Range(port, port));
        }
        let table = (self.services)();
        let all = services::ports(&table, text);
        if all.is_empty() {
            let range = port_pair(text, number).map(|_| format!("portrange {text}"));
            let known = || near(Some(text), services::names(&table));
            let suggestion = range.or_else(|| near_keyword(text)).or_else(known);
            return Err(token.unexpected(Kind::Port.expected(), hint(suggestion)));
        }
        let wanted: Vec<_> =
            all.into_iter().filter(|(number, _)| carries_ports_of(protocol, *number)).collect();
        if wanted.is_empty() {
            let name = protocol.map_or("", Protocol::keyword);
            return Err(token.problem(format!("expected a {name} service: {} is none", abridged(text))));
        }
        Ok(Ports::Service(wanted))
    }

    fn port_range(&self, token: &Token, text: &str, protocol: Option<Protocol>) -> Result<Ports, Problem> {
        let table = if text.contains(char::is_alphabetic) { (self.services)() } else { String::new() };
        let resolve = |name: &str| {
            let mut entries = services::ports(&table, name).into_iter();
            number(name)
                .or_else(|| entries.find(|(n, _)| carries_ports_of(protocol, *n)).map(|(_, port)| port))
        };
        let (first, last) = port_pair(text, resolve)
            .or_else(|| resolve(text).map(|port| (port, port)))
            .ok_or_else(|| token.unexpected(Kind::PortRange.expected(), hint(near_keyword(text))))?;
        if first > last {
            return Err(
                token.unexpected("the lower port first", hint(Some(format!("portrange {last}-{first}"))))
            );
        }
        Ok(Ports::Range(first, last))
    }
}

/// An inode number, also as /proc/PID/ns/net shows it (`net:[4026531840]`), or a name.
fn netns(token: &Token, text: &str, literal: bool) -> Result<Test, Problem> {
    let link = text.strip_prefix("net:[").and_then(|rest| rest.strip_suffix(']'));
    match link {
        None if literal || !is_digits(text) => Ok(Test::NetnsName(text.to_owned())),
        _ => number(link.unwrap_or(text))
            .map(Test::NetnsInode)
            .ok_or_else(|| token.unexpected(Kind::Netns.expected(), String::new())),
    }
}
