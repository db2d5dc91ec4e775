//! The filter language: tcpdump's words for addresses, ports and protocols, and netdiag's own for processes,
//! network namespaces and diagnosis codes. `docs/filter.md` describes it for users.
//!
//! `lexer` makes words of an expression, `parser` makes a postfix program of the words, `eval` runs the
//! program against a [`Subject`].

mod eval;
mod kind;
mod lexer;
mod parser;
mod services;
#[cfg(test)]
mod tests;
mod values;

use std::net::SocketAddr;
use std::str::FromStr;

use eval::{Op, Test};

/// What a filter looks at: a connection, a drop, a socket. `None` means that the fact is not known, or not known
/// yet; it never means that the fact is absent.
pub trait Subject {
    /// The IP protocol number (IANA): 6 is TCP, 17 UDP, 1 ICMP, 58 ICMPv6.
    fn protocol(&self) -> u8;
    /// The side that opened the connection: the local end if it is outbound, the peer if it is inbound.
    fn source(&self) -> Option<SocketAddr>;
    /// The side that was connected to.
    fn destination(&self) -> Option<SocketAddr>;
    /// The name whose DNS answer gave the destination's address.
    fn hostname(&self) -> Option<&str>;
    /// The thread group id of the owner.
    fn pid(&self) -> Option<u32>;
    /// The owner's command name, at most 15 bytes (`TASK_COMM_LEN` in include/linux/sched.h counts the NUL).
    fn comm(&self) -> Option<&str>;
    /// The inode number of the network namespace.
    fn netns(&self) -> Option<u32>;
    /// The name of the network namespace, as `ip netns` shows it.
    fn netns_name(&self) -> Option<&str>;
    /// The code of the diagnosis, such as `timeout.firewall-drop`.
    fn code(&self) -> Option<&str>;
}

/// A parsed filter expression.
#[derive(Debug, Clone)]
pub struct Filter {
    /// In postfix order and never empty. Flat, so that a long expression cannot exhaust the stack.
    program: Vec<Op>,
}

impl Filter {
    /// Whether the filter takes the subject, in Kleene's three-valued logic. `None` means that it depends on a
    /// fact that is not known (yet): ask again when more is known, and count it as no match at the end.
    pub fn matches(&self, subject: &impl Subject) -> Option<bool> {
        eval::run(&self.program, subject)
    }

    /// Joins the words of a command line with spaces and parses them, as tcpdump does. No words, or only blank
    /// ones, are no filter.
    ///
    /// # Errors
    /// When the words are not an expression. Offsets count in the joined string.
    pub fn from_args(args: &[String]) -> Result<Option<Filter>, FilterError> {
        let expression = args.join(" ");
        if expression.trim().is_empty() { Ok(None) } else { expression.parse().map(Some) }
    }

    /// Whether the answer can depend on the process.
    pub fn mentions_process(&self) -> bool {
        self.program.iter().any(|op| matches!(op, Op::Test(Test::Pid(_) | Test::Comm(_))))
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(expression: &str) -> Result<Self, Self::Err> {
        parser::parse(expression, services::system).map(|program| Filter { program }).map_err(|problem| {
            FilterError {
                expression: expression.to_owned(),
                offset: problem.offset,
                message: problem.message,
            }
        })
    }
}

/// Why an expression is not a filter. Its text is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad filter at character {}: {message}", self.character() + 1)]
pub struct FilterError {
    /// The expression as it was given.
    pub expression: String,
    /// Where the trouble begins, in bytes from the start of the expression. Always at a character's start, or at
    /// the expression's end.
    pub offset: usize,
    /// What was expected and what was found instead.
    pub message: String,
}

impl FilterError {
    /// The expression, and below it a caret under the place of the trouble. Two lines without a newline at the end.
    pub fn pointer(&self) -> String {
        let shown = printable(&self.expression);
        format!("{shown}\n{:width$}^", "", width = self.character())
    }

    fn character(&self) -> usize {
        self.expression.char_indices().take_while(|(at, _)| *at < self.offset).count()
    }
}

/// The same number of characters, but none that would break a line or drive a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
