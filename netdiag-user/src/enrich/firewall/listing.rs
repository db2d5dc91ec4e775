//! The output of `nft -a list ruleset` and `iptables-nft-save`, as far as it names rules.

use std::collections::HashMap;

/// Tables that iptables-nft makes, and their chains.
const XTABLES: &[&str] = &["filter", "nat", "mangle", "raw", "security"];
const XTABLES_CHAINS: &[&str] = &["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];

/// A rule in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) chain: String,
    /// From 1.
    pub(super) number: u64,
    pub(super) text: String,
    pub(super) comment: Option<String>,
    /// iptables-nft made the table.
    pub(super) xtables: bool,
}

/// Rules by the handles of their table and of themselves.
pub(super) type Lines = HashMap<(u64, u64), Line>;

/// Where a line of the listing is.
#[derive(Default)]
struct Position {
    family: String,
    table: String,
    table_handle: u64,
    /// In a chain; sets and the like are passed over.
    chain: Option<String>,
    number: u64,
    /// A rule that goes on in the next line.
    begun: String,
    /// A base chain that iptables does not make.
    foreign: bool,
    base_chains: usize,
}

/// Reads `nft -a -s -t list ruleset`.
pub(super) fn rules(listing: &str) -> Lines {
    let mut lines = Lines::new();
    let mut at = Position::default();
    for line in listing.lines() {
        let (text, handle) = with_handle(line.trim());
        match line.len() - line.trim_start_matches('\t').len() {
            0 => {
                let mut words = text.split_whitespace();
                if words.next() == Some("table") {
                    let name = |word: Option<&str>| word.unwrap_or_default().to_owned();
                    let (family, table) = (name(words.next()), name(words.next()));
                    at = Position { family, table, table_handle: handle.unwrap_or(0), ..Position::default() };
                } else if text == "}" {
                    mark(&mut lines, &at);
                }
            }
            1 => {
                let name = text.strip_prefix("chain ").and_then(|rest| rest.strip_suffix('{'));
                at.chain = name.map(|name| name.trim().to_owned());
                (at.number, at.begun) = (0, String::new());
            }
            _ => at.rule(text, handle, &mut lines),
        }
    }
    lines
}

impl Position {
    fn rule(&mut self, text: &str, handle: Option<u64>, lines: &mut Lines) {
        let Some(chain) = &self.chain else { return };
        if self.begun.is_empty() && text.starts_with("type ") && text.contains(" hook ") {
            self.base_chains += 1;
            self.foreign |= !XTABLES_CHAINS.contains(&chain.as_str());
            return;
        }
        if !self.begun.is_empty() {
            self.begun.push(' ');
        }
        self.begun.push_str(text);
        let Some(handle) = handle else {
            // Of a chain itself: its comment, its policy.
            if self.number == 0 && (text.starts_with("comment ") || text.ends_with(';')) {
                self.begun.clear();
            }
            return;
        };
        self.number += 1;
        let (text, comment) = with_comment(&std::mem::take(&mut self.begun));
        let line = Line {
            family: self.family.clone(),
            table: self.table.clone(),
            chain: chain.clone(),
            number: self.number,
            text,
            comment,
            xtables: false,
        };
        lines.insert((self.table_handle, handle), line);
    }
}

/// Once a table is read to its end it is known whose it is.
fn mark(lines: &mut Lines, at: &Position) {
    let by_name = ["ip", "ip6"].contains(&at.family.as_str()) && XTABLES.contains(&at.table.as_str());
    if by_name && !at.foreign && at.base_chains > 0 {
        let own = lines.iter_mut().filter(|((table, _), _)| *table == at.table_handle);
        own.for_each(|(_, line)| line.xtables = true);
    }
}

/// Splits `... # handle 12`.
fn with_handle(text: &str) -> (&str, Option<u64>) {
    match text.rsplit_once("# handle ") {
        Some((text, number)) if number.parse::<u64>().is_ok() => (text.trim_end(), number.parse().ok()),
        _ => (text, None),
    }
}

/// Splits `... comment "words"`, and leaves single spaces.
fn with_comment(text: &str) -> (String, Option<String>) {
    let (rule, comment) = match text.strip_suffix('"').and_then(|text| text.rsplit_once("comment \"")) {
        // A quote inside: the text before is another string's.
        Some((rule, comment)) if !comment.contains('"') => (rule, Some(comment.to_owned())),
        _ => (text, None),
    };
    (rule.split_whitespace().collect::<Vec<_>>().join(" "), comment)
}

/// Puts iptables' own words in place of nft's, from the output of `iptables-nft-save` for one family. Only where both
/// list as many rules of a chain are they the same rules.
pub(super) fn use_xtables_words(lines: &mut Lines, family: &str, saved: &str) {
    let mut table = "";
    let mut rules: HashMap<(&str, &str), Vec<&str>> = HashMap::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some((chain, _)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
            rules.entry((table, chain)).or_default().push(line);
        }
    }
    let mut listed: HashMap<(String, String), usize> = HashMap::new();
    for line in lines.values().filter(|line| line.xtables && line.family == family) {
        *listed.entry((line.table.clone(), line.chain.clone())).or_default() += 1;
    }
    for line in lines.values_mut().filter(|line| line.xtables && line.family == family) {
        let Some(chain) = rules.get(&(line.table.as_str(), line.chain.as_str())) else { continue };
        if listed.get(&(line.table.clone(), line.chain.clone())) != Some(&chain.len()) {
            continue;
        }
        let Some(words) = usize::try_from(line.number - 1).ok().and_then(|index| chain.get(index)) else {
            continue;
        };
        line.text = (*words).to_owned();
        line.comment = xtables_comment(words).or(line.comment.take());
    }
}

/// The argument of `--comment`.
fn xtables_comment(words: &str) -> Option<String> {
    let (_, rest) = words.split_once(" --comment ")?;
    match rest.strip_prefix('"') {
        Some(quoted) => Some(quoted.split_once('"')?.0.to_owned()),
        None => rest.split_whitespace().next().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
table inet fw { # handle 1
\tset blocked { # handle 3
\t\ttype ipv4_addr
\t}

\tchain sub { # handle 1
\t\ttcp dport 99 counter drop comment \"why # handle 77 not\" # handle 4
\t}

\tchain c { # handle 2
\t\tcomment \"of the chain\"
\t\ttype filter hook output priority filter; policy drop;
\t\tip daddr @blocked drop # handle 5
\t\ttcp dport vmap { 1 : accept,
\t\t\t\t 2 : drop } # handle 7
\t}
}
# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter { # handle 2
\tchain OUTPUT { # handle 1
\t\ttype filter hook output priority filter; policy accept;
\t\ttcp dport 8080  counter drop # handle 2
\t\tcounter jump mine # handle 4
\t}

\tchain mine { # handle 3
\t\tcounter drop # handle 5
\t}
}
table ip nat { # handle 3
\tchain mine { # handle 1
\t\ttype nat hook output priority dstnat; policy accept;
\t\tdrop # handle 2
\t}
}
";

    const SAVED: &str = "\
*filter
:OUTPUT ACCEPT [0:0]
:mine - [0:0]
-A OUTPUT -p tcp -m tcp --dport 8080 -m comment --comment \"hello world\" -j DROP
-A OUTPUT -j mine
-A mine -j DROP
-A mine -j ACCEPT
COMMIT
";

    #[test]
    fn rules_are_found_by_handles() {
        let lines = rules(LISTING);
        assert_eq!(lines.len(), 7);
        let sub = &lines[&(1, 4)];
        assert_eq!((sub.family.as_str(), sub.table.as_str(), sub.chain.as_str()), ("inet", "fw", "sub"));
        assert_eq!(sub.text, "tcp dport 99 counter drop");
        assert_eq!(sub.comment.as_deref(), Some("why # handle 77 not"));
        assert_eq!((lines[&(1, 5)].number, lines[&(1, 5)].text.as_str()), (1, "ip daddr @blocked drop"));
        assert_eq!(
            (lines[&(1, 7)].number, lines[&(1, 7)].text.as_str()),
            (2, "tcp dport vmap { 1 : accept, 2 : drop }")
        );
        assert_eq!(lines[&(2, 2)].text, "tcp dport 8080 counter drop");
    }

    #[test]
    fn a_table_of_iptables_is_known_by_its_chains() {
        let lines = rules(LISTING);
        assert!(lines[&(2, 2)].xtables && lines[&(2, 5)].xtables);
        assert!(!lines[&(1, 5)].xtables && !lines[&(3, 2)].xtables);
    }

    #[test]
    fn iptables_words_are_used_where_both_list_the_same() {
        let mut lines = rules(LISTING);
        use_xtables_words(&mut lines, "ip", SAVED);
        let first = &lines[&(2, 2)];
        assert!(first.text.starts_with("-A OUTPUT -p tcp -m tcp --dport 8080"), "{}", first.text);
        assert_eq!(first.comment.as_deref(), Some("hello world"));
        assert_eq!(lines[&(2, 4)].text, "-A OUTPUT -j mine");
        assert_eq!(lines[&(2, 5)].text, "counter drop", "one more is saved than listed");
        use_xtables_words(&mut lines, "ip6", "*filter\n-A mine -j X\n");
        assert_eq!(lines[&(2, 5)].text, "counter drop");
    }

    #[test]
    fn anything_may_stand_there() {
        for text in [
            "",
            "}",
            "table",
            "\t\t# handle 1",
            "table inet a {\n\t\tx # handle 9",
            "\tchain {\n\t\tdrop # handle 3",
        ] {
            let mut lines = rules(text);
            use_xtables_words(&mut lines, "ip", text);
        }
    }
}
