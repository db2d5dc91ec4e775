//! The output of `iptables-legacy-save -c`.

use std::collections::HashMap;
use std::net::IpAddr;

use super::subject::{flag, in_network, protocol_number};
use super::{Base, Body, Chain, Chains, Fits, Named, Outcome, Rule, Subject, Table, Verdict};

/// Tables by the order in which a hook runs them (include/uapi/linux/netfilter_ipv4.h).
const PRIORITIES: [(&str, i64); 5] =
    [("raw", -300), ("mangle", -150), ("nat", -100), ("filter", 0), ("security", 50)];
/// Extensions whose options are all known here, or that say nothing of the packet.
const KNOWN: [&str; 9] =
    ["tcp", "udp", "multiport", "conntrack", "state", "comment", "iprange", "icmp", "icmp6"];

/// Reads it. `family`: `ip` or `ip6`.
pub(in super::super) fn parse(saved: &str, family: &str) -> Chains {
    let mut chains = Chains::default();
    // Where a chain is declared stands before all rules.
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let (family, name) = (family.to_owned(), name.trim().to_owned());
            chains.tables.push(Table { family, name, ..Table::default() });
        } else if let (Some(text), Some(table)) = (line.strip_prefix(':'), chains.tables.last_mut()) {
            if let Some(chain) = declared(text, table) {
                table.chains.insert(chain.name.clone(), chain);
            }
        } else if let Some(table) = chains.tables.last_mut() {
            let (packets, text) = counter(line);
            let Some(name) = text.strip_prefix("-A ").and_then(|rest| rest.split_whitespace().next()) else {
                continue;
            };
            if let Some(chain) = table.chains.get_mut(name) {
                let number = chain.rules.len() as u64 + 1;
                chain.rules.push(rule(text, number, packets));
            }
        }
    }
    chains
}

/// `INPUT DROP [12:3400]`; of a user's chain the policy is `-`.
fn declared(text: &str, table: &Table) -> Option<Chain> {
    let mut words = text.split_whitespace();
    let (name, policy) = (words.next()?, words.next()?);
    let packets = words.next().and_then(|counts| counter(counts).0);
    let known = PRIORITIES.iter().find(|(known, _)| *known == table.name);
    let priority = known.map_or(0, |(_, priority)| *priority);
    let hook = name.to_ascii_lowercase();
    let base = (policy != "-").then_some(Base { hook, priority, drops: policy == "DROP", packets });
    let (family, name, table) = (table.family.clone(), name.to_owned(), table.name.clone());
    Some(Chain { family, table, name, base, ..Chain::default() })
}

/// Splits `[12:3400] -A ...`.
fn counter(line: &str) -> (Option<u64>, &str) {
    let split = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let Some((counts, rest)) = split else { return (None, line) };
    (counts.split_once(':').and_then(|(packets, _)| packets.parse().ok()), rest.trim_start())
}

fn rule(text: &str, number: u64, packets: Option<u64>) -> Rule {
    let mut words = words(text);
    words.drain(..words.len().min(2));
    let mut comments = words.iter().skip_while(|word| *word != "--comment");
    let comment = comments.nth(1).cloned();
    let named = Named { handle: None, number, text: text.to_owned(), comment };
    Rule { named, body: Body::Words(words), packets }
}

/// What a rule does with a packet.
pub(super) fn outcomes(words: &[String], table: &Table, subject: &Subject<'_>) -> Vec<Outcome> {
    let mut at = Options { words, next: 0, negated: false };
    let mut fits = Fits::Yes;
    let mut verdict = Verdict::Continue;
    while let Some(option) = at.option() {
        match option {
            "-j" | "-g" => {
                let Some(target) = at.value() else { break };
                verdict = match target {
                    "DNAT" | "REDIRECT" => Verdict::Translate(destination(&mut at)),
                    _ => target_of(target, option == "-g", &table.chains),
                };
                break;
            }
            "--comment" => {
                at.value();
            }
            "-m" => {
                let name = at.value().unwrap_or_default();
                fits = fits.and(if KNOWN.contains(&name) { Fits::Yes } else { Fits::Maybe });
            }
            option => {
                let negated = std::mem::take(&mut at.negated);
                fits = fits.and(test(option, &mut at, subject).negated(negated));
            }
        }
        at.negated = false;
    }
    vec![Outcome { fits, verdict }]
}

fn target_of(target: &str, goto: bool, chains: &HashMap<String, Chain>) -> Verdict {
    match target {
        _ if chains.contains_key(target) && goto => Verdict::Goto(target.to_owned()),
        _ if chains.contains_key(target) => Verdict::Jump(target.to_owned()),
        "ACCEPT" => Verdict::Accept,
        "DROP" => Verdict::Drop,
        "REJECT" => Verdict::Reject,
        "RETURN" => Verdict::Return,
        // Most go on; those that end it do not drop it here.
        _ => Verdict::Continue,
    }
}

/// The option of DNAT or REDIRECT that says where to; `None` for a range.
fn destination(at: &mut Options<'_>) -> Option<String> {
    while let Some(option) = at.option() {
        let text = match option {
            "--to-destination" => at.value()?.to_owned(),
            "--to-ports" => format!(":{}", at.value()?),
            _ => continue,
        };
        return Some(text).filter(|text| !text.contains(['-', '/']));
    }
    None
}

fn test(option: &str, at: &mut Options<'_>, subject: &Subject<'_>) -> Fits {
    let Subject { packet, .. } = subject;
    let ports = subject.ports();
    match option {
        "-s" => at.value().map_or(Fits::Maybe, |text| network(text, subject.source())),
        "-d" => at.value().map_or(Fits::Maybe, |text| network(text, subject.destination())),
        "-p" => match at.value() {
            Some("all") => Fits::Yes,
            Some(name) => {
                protocol_number(name).map_or(Fits::Maybe, |known| (known == subject.protocol()).into())
            }
            None => Fits::Maybe,
        },
        "-i" => at.value().map_or(Fits::Maybe, |name| subject.came_by(|device| is_device(name, device))),
        "-o" => at.value().map_or(Fits::Maybe, |name| subject.leaves_by(|device| is_device(name, device))),
        "--sport" | "--sports" | "--source-port" => {
            of_ports(at.value(), ports.map(|(source, _)| [source, source]))
        }
        "--dport" | "--dports" | "--destination-port" => of_ports(at.value(), ports.map(|(_, to)| [to, to])),
        "--ports" => of_ports(at.value(), ports.map(|(source, to)| [source, to])),
        "--tcp-flags" => match (at.value().map(flags), at.value().map(flags), subject.tcp_flags()) {
            (Some(Some(mask)), Some(Some(set)), Some(flags)) => (flags & mask == set).into(),
            (_, _, None) => Fits::No,
            _ => Fits::Maybe,
        },
        "--syn" => subject.tcp_flags().is_some_and(|flags| flags & 0x17 == 0x02).into(),
        "--ctstate" | "--state" => at.value().map_or(Fits::Maybe, |states| subject.state(states.split(','))),
        "--src-range" => in_range(at.value(), packet.tuple.source.ip()),
        "--dst-range" => in_range(at.value(), packet.tuple.destination.ip()),
        _ => {
            at.skip();
            Fits::Maybe
        }
    }
}

/// `10.0.0.0/8`, `10.0.0.0/255.0.0.0`, `10.1.2.3`.
fn network(text: &str, address: IpAddr) -> Fits {
    let (network, mask) = text.split_once('/').map_or((text, None), |(network, mask)| (network, Some(mask)));
    let Ok(network) = network.parse::<IpAddr>() else { return Fits::Maybe };
    let length = match mask {
        None => Some(if network.is_ipv4() { 32 } else { 128 }),
        Some(mask) => mask.parse::<u32>().ok().or_else(|| prefix_length(mask)),
    };
    length.and_then(|length| in_network(address, network, length)).map_or(Fits::Maybe, Fits::from)
}

/// Of a mask without holes.
fn prefix_length(mask: &str) -> Option<u32> {
    let bits = match mask.parse::<IpAddr>().ok()? {
        IpAddr::V4(mask) => u128::from(mask.to_bits()) << 96,
        IpAddr::V6(mask) => mask.to_bits(),
    };
    (bits.leading_ones() + bits.trailing_zeros() >= 128 && bits != 0).then(|| bits.leading_ones())
}

/// `eth+` is each that begins so.
fn is_device(pattern: &str, device: &str) -> bool {
    pattern.strip_suffix('+').map_or(pattern == device, |start| device.starts_with(start))
}

/// `80`, `1:1023`, `:1023`, `22,80,8000:9000`; `has`: the packet's.
fn of_ports(list: Option<&str>, has: Option<[u16; 2]>) -> Fits {
    let (Some(list), Some(has)) = (list, has) else { return Fits::No };
    list.split(',').fold(Fits::No, |fits, text| {
        let (low, high) = text.split_once(':').unwrap_or((text, text));
        let low = if low.is_empty() { Ok(0) } else { low.parse::<u16>() };
        let high = if high.is_empty() { Ok(u16::MAX) } else { high.parse::<u16>() };
        fits.or(match (low, high) {
            (Ok(low), Ok(high)) => has.iter().any(|port| (low..=high).contains(port)).into(),
            _ => Fits::Maybe,
        })
    })
}

/// `FIN,SYN,RST,ACK`, `NONE`, `ALL`.
fn flags(list: &str) -> Option<u8> {
    match list {
        "NONE" => Some(0),
        "ALL" => Some(0x3f),
        _ => list.split(',').try_fold(0, |all, name| Some(all | flag(name)?)),
    }
}

fn in_range(range: Option<&str>, address: IpAddr) -> Fits {
    let ends = range.and_then(|range| range.split_once('-'));
    match ends.map(|(low, high)| (low.parse::<IpAddr>(), high.parse::<IpAddr>())) {
        Some((Ok(low), Ok(high))) => (low..=high).contains(&address).into(),
        _ => Fits::Maybe,
    }
}

/// The words of a rule, one after the other.
struct Options<'a> {
    words: &'a [String],
    next: usize,
    negated: bool,
}

impl<'a> Options<'a> {
    fn value(&mut self) -> Option<&'a str> {
        let mut word = self.words.get(self.next)?;
        // Some extensions have it behind the option.
        if word == "!" {
            self.negated = !self.negated;
            self.next += 1;
            word = self.words.get(self.next)?;
        }
        self.next += 1;
        Some(word)
    }

    fn option(&mut self) -> Option<&'a str> {
        self.value()
    }

    /// Passes over the values of an option that is not known.
    fn skip(&mut self) {
        let is_value = |word: &String| !word.starts_with('-') && word != "!";
        while self.words.get(self.next).is_some_and(is_value) {
            self.next += 1;
        }
    }
}

/// Words as iptables-save quotes them.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let (mut quoted, mut escaped) = (false, false);
    for letter in text.chars() {
        match letter {
            _ if escaped => {
                word.get_or_insert_default().push(letter);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}
