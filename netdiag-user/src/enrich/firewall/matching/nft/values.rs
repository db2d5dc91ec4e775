//! What a rule compares, and with what.

use std::net::IpAddr;

use serde_json::Value;

use super::super::subject::{flag, in_network, protocol_number};
use super::super::{Fits, Subject};
use crate::probes::protocol;

/// What the packet has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Number(u64),
    /// A TCP header's flags, as far as a mask lets through.
    Flags(u8),
    Address(IpAddr),
    /// The number of an IP protocol.
    Protocol(u8),
    /// `ipv4` and `ip`, or `ipv6` and `ip6`.
    Family,
    CameBy,
    LeavesBy,
    State,
    Several(Vec<Key>),
    /// The packet has no such thing.
    Absent,
    Unknown,
}

/// What stands left of a comparison.
pub(super) fn key(left: &Value, subject: &Subject<'_>) -> Key {
    if let Some(parts) = left["concat"].as_array() {
        return Key::Several(parts.iter().map(|part| key(part, subject)).collect());
    }
    if let Some(pair) = left["&"].as_array() {
        return match pair.as_slice() {
            [of, mask] => match (key(of, subject), bits(mask)) {
                (Key::Flags(flags), Some(mask)) => Key::Flags(flags & mask),
                (Key::Absent, _) => Key::Absent,
                _ => Key::Unknown,
            },
            _ => Key::Unknown,
        };
    }
    if left["ct"]["key"] == "state" && left["ct"]["dir"].is_null() {
        return Key::State;
    }
    if let Some(name) = left["meta"]["key"].as_str() {
        return meta(name, subject);
    }
    match (left["payload"]["protocol"].as_str(), left["payload"]["field"].as_str()) {
        (Some(header), Some(field)) => payload(header, field, subject),
        _ => Key::Unknown,
    }
}

fn meta(name: &str, subject: &Subject<'_>) -> Key {
    match name {
        "l4proto" => Key::Protocol(subject.protocol()),
        "nfproto" | "protocol" => Key::Family,
        "iifname" | "iif" => Key::CameBy,
        "oifname" | "oif" => Key::LeavesBy,
        _ => Key::Unknown,
    }
}

fn payload(header: &str, field: &str, subject: &Subject<'_>) -> Key {
    let there = match header {
        "ip" => subject.is_v4(),
        "ip6" => !subject.is_v4(),
        "tcp" => subject.protocol() == protocol::TCP,
        "udp" => subject.protocol() == protocol::UDP,
        "th" => subject.ports().is_some(),
        "icmp" => subject.protocol() == protocol::ICMP,
        "icmpv6" => subject.protocol() == protocol::ICMPV6,
        "udplite" | "sctp" | "dccp" | "ah" | "esp" | "comp" | "arp" | "igmp" => false,
        _ => return Key::Unknown,
    };
    if !there {
        return Key::Absent;
    }
    let port = |of: fn((u16, u16)) -> u16| {
        subject.ports().map_or(Key::Absent, |ports| Key::Number(of(ports).into()))
    };
    match (header, field) {
        ("ip" | "ip6", "saddr") => Key::Address(subject.source()),
        ("ip" | "ip6", "daddr") => Key::Address(subject.destination()),
        ("ip", "protocol") => Key::Protocol(subject.protocol()),
        // Extension headers may come first.
        ("ip6", "nexthdr") => Key::Unknown,
        ("tcp" | "udp" | "th", "sport") => port(|(source, _)| source),
        ("tcp" | "udp" | "th", "dport") => port(|(_, destination)| destination),
        ("tcp", "flags") => subject.tcp_flags().map_or(Key::Absent, Key::Flags),
        _ => Key::Unknown,
    }
}

/// Whether a `match` statement holds.
pub(super) fn compare<'a>(
    statement: &'a Value,
    sets: &dyn Fn(&str) -> Option<&'a Value>,
    subject: &Subject<'_>,
) -> Fits {
    let (left, right) = (key(&statement["left"], subject), &statement["right"]);
    match (statement["op"].as_str().unwrap_or("=="), &left) {
        (_, Key::Absent) => Fits::No,
        ("in", Key::Flags(flags)) => bits(right).map_or(Fits::Maybe, |bits| (flags & bits != 0).into()),
        ("==" | "in", _) => fits_key(&left, right, sets, subject),
        ("!=", _) => fits_key(&left, right, sets, subject).negated(true),
        (order, Key::Number(number)) => right.as_u64().map_or(Fits::Maybe, |right| match order {
            "<" => (*number < right).into(),
            ">" => (*number > right).into(),
            "<=" => (*number <= right).into(),
            ">=" => (*number >= right).into(),
            _ => Fits::Maybe,
        }),
        _ => Fits::Maybe,
    }
}

/// Whether the packet's value is this one, or among these.
pub(super) fn fits_key<'a>(
    key: &Key,
    wanted: &'a Value,
    sets: &dyn Fn(&str) -> Option<&'a Value>,
    subject: &Subject<'_>,
) -> Fits {
    if let Some(name) = wanted.as_str().and_then(|text| text.strip_prefix('@')) {
        return sets(name).map_or(Fits::Maybe, |set| in_set(key, set, sets, subject));
    }
    if let Some(all) = wanted["set"].as_array() {
        return any(key, all, sets, subject);
    }
    if !wanted["elem"]["val"].is_null() {
        return fits_key(key, &wanted["elem"]["val"], sets, subject);
    }
    match key {
        Key::Absent => Fits::No,
        Key::Unknown => Fits::Maybe,
        Key::State => names(wanted).map_or(Fits::Maybe, |names| subject.state(names)),
        Key::Several(keys) => match wanted["concat"].as_array() {
            Some(values) if values.len() == keys.len() => keys
                .iter()
                .zip(values)
                .fold(Fits::Yes, |fits, (key, value)| fits.and(fits_key(key, value, sets, subject))),
            _ => Fits::Maybe,
        },
        Key::Number(number) => of_number(*number, wanted),
        Key::Address(address) => of_address(*address, wanted),
        Key::Flags(flags) => bits(wanted).map_or(Fits::Maybe, |bits| (*flags == bits).into()),
        Key::Protocol(number) => match (wanted.as_u64(), wanted.as_str().and_then(protocol_number)) {
            (Some(wanted), _) => (u64::from(*number) == wanted).into(),
            (_, Some(wanted)) => (*number == wanted).into(),
            _ => Fits::Maybe,
        },
        Key::Family => match wanted.as_str() {
            Some("ipv4" | "ip") => subject.is_v4().into(),
            Some("ipv6" | "ip6") => (!subject.is_v4()).into(),
            Some("arp") => Fits::No,
            _ => Fits::Maybe,
        },
        Key::CameBy => {
            wanted.as_str().map_or(Fits::Maybe, |name| subject.came_by(|device| is_device(name, device)))
        }
        Key::LeavesBy => {
            wanted.as_str().map_or(Fits::Maybe, |name| subject.leaves_by(|device| is_device(name, device)))
        }
    }
}

/// Elements that come and go by themselves may have been others.
fn in_set<'a>(
    key: &Key,
    set: &'a Value,
    sets: &dyn Fn(&str) -> Option<&'a Value>,
    subject: &Subject<'_>,
) -> Fits {
    let elements = set["elem"].as_array().map_or(&[][..], Vec::as_slice);
    let changes = |flag: &Value| flag == "timeout" || flag == "dynamic";
    let moving = set["flags"].as_array().is_some_and(|flags| flags.iter().any(changes));
    let fits = any(key, elements, sets, subject);
    if moving { fits.or(Fits::Maybe).min(Fits::Maybe) } else { fits }
}

fn any<'a>(
    key: &Key,
    elements: &'a [Value],
    sets: &dyn Fn(&str) -> Option<&'a Value>,
    subject: &Subject<'_>,
) -> Fits {
    elements.iter().fold(Fits::No, |fits, element| fits.or(fits_key(key, element, sets, subject)))
}

fn of_number(number: u64, wanted: &Value) -> Fits {
    if let Some([low, high]) = wanted["range"].as_array().map(Vec::as_slice) {
        return match (low.as_u64(), high.as_u64()) {
            (Some(low), Some(high)) => (low..=high).contains(&number).into(),
            _ => Fits::Maybe,
        };
    }
    wanted.as_u64().map_or(Fits::Maybe, |wanted| (wanted == number).into())
}

fn of_address(address: IpAddr, wanted: &Value) -> Fits {
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    if let Some([low, high]) = wanted["range"].as_array().map(Vec::as_slice) {
        return match (parse(low), parse(high)) {
            (Some(low), Some(high)) => (low..=high).contains(&address).into(),
            _ => Fits::Maybe,
        };
    }
    let prefix = &wanted["prefix"];
    if let (Some(network), Some(length)) = (parse(&prefix["addr"]), prefix["len"].as_u64()) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        return in_network(address, network, length).map_or(Fits::Maybe, Fits::from);
    }
    parse(wanted).map_or(Fits::Maybe, |wanted| (wanted == address).into())
}

/// TCP flags: a name, a list of names, a number.
fn bits(value: &Value) -> Option<u8> {
    if let Some(number) = value.as_u64() {
        return u8::try_from(number).ok();
    }
    if let Some(parts) = value["|"].as_array() {
        return parts.iter().try_fold(0, |all, part| Some(all | bits(part)?));
    }
    names(value)?.into_iter().try_fold(0, |all, name| Some(all | flag(name)?))
}

/// A word or a list of words.
fn names(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(name) => Some(vec![name.as_str()]),
        Value::Array(names) => names.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// `eth*` is each that begins so.
fn is_device(pattern: &str, device: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == device, |start| device.starts_with(start))
}
