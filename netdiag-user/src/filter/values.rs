//! The words after `host`, `net`, `port` and the like, as values.

use std::net::{IpAddr, SocketAddr};

use super::eval::{Glob, Network, Protocol};
use super::lexer::{Problem, Token, abridged};

/// `TASK_COMM_LEN` (include/linux/sched.h) less the NUL, in bytes.
const COMM_BYTES: usize = 15;
/// RFC 1035 section 2.3.4, as text without the final dot.
const HOSTNAME_BYTES: usize = 253;

/// What `80` was meant to be.
pub(super) fn as_port(text: &str) -> Option<String> {
    number::<u16>(text).map(|port| format!("port {port}"))
}

/// What `www.example.org` was meant to be.
pub(super) fn as_name(text: &str) -> Option<String> {
    (text.contains('.') && is_hostname(text)).then(|| format!("host {text}"))
}

/// What `10.0.0.1:80` was meant to be.
pub(super) fn as_endpoint(text: &str) -> Option<String> {
    let endpoint: SocketAddr = text.parse().ok()?;
    Some(format!("host {} and port {}", endpoint.ip(), endpoint.port()))
}

pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Digits only: the standard parser takes a plus sign too.
pub(super) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    if is_digits(text) { text.parse().ok() } else { None }
}

/// Splits at the first `-` that gives two ports: service names may have a `-` too.
pub(super) fn port_pair(text: &str, resolve: impl Fn(&str) -> Option<u16>) -> Option<(u16, u16)> {
    text.match_indices('-').find_map(|(at, _)| Some((resolve(&text[..at])?, resolve(&text[at + 1..])?)))
}

pub(super) fn carries_ports_of(protocol: Option<Protocol>, number: u8) -> bool {
    protocol.and_then(Protocol::transport).is_none_or(|wanted| wanted == number)
}

/// Not numeric, and of the characters that occur in names: RFC 1123 section 2.1, and `_`, which DNS has too.
pub(super) fn is_hostname(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= HOSTNAME_BYTES
        && name.split('.').all(|label| !label.is_empty() && label.len() <= 63)
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
        && !name.rsplit('.').next().is_none_or(is_digits)
}

/// An address, or an address and a prefix length. The error is empty or a message of its own.
pub(super) fn parse_network(text: &str) -> Result<Network, String> {
    if text.contains('/') {
        return parse_partial_network(text);
    }
    text.parse().map(Network::host).map_err(|_| without_zone(text))
}

/// As `parse_network`, and `10.1` is 10.1.0.0/16.
pub(super) fn parse_partial_network(text: &str) -> Result<Network, String> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, length)| (a, Some(length)));
    let (address, given_bits) = partial_address(address).ok_or_else(|| without_zone(address))?;
    let Some(length) = length else { return Network::prefix(address, given_bits).ok_or_else(String::new) };
    let most = if address.is_ipv4() { 32 } else { 128 };
    number(length).and_then(|length| Network::prefix(address, length)).ok_or_else(|| {
        format!("expected a prefix length from 0 to {most} after the `/`, found {}", abridged(length))
    })
}

pub(super) fn without_zone(text: &str) -> String {
    match text.split_once('%') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
            format!("expected an address without a zone: write {address}")
        }
        _ => String::new(),
    }
}

/// An address, of which IPv4 may leave out the last bytes, and how many bits were given.
pub(super) fn partial_address(text: &str) -> Option<(IpAddr, u32)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, if address.is_ipv4() { 32 } else { 128 }));
    }
    let mut bytes = [0_u8; 4];
    let mut given = 0;
    for part in text.split('.') {
        *bytes.get_mut(given)? = number(part)?;
        given += 1;
    }
    Some((IpAddr::from(bytes), 8 * u32::try_from(given).ok()?))
}

pub(super) fn comm(token: &Token, text: &str) -> Result<Glob, Problem> {
    let needed: usize = text.chars().filter(|c| *c != '*').map(char::len_utf8).sum();
    if needed <= COMM_BYTES {
        return Ok(Glob::new(text));
    }
    if text.contains(['*', '?']) {
        let message =
            format!("expected a command name of at most {COMM_BYTES} bytes: the kernel keeps no more");
        return Err(token.problem(message));
    }
    // The kernel cuts the name, so the same is done to what it is compared with.
    let end = (0..=COMM_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Ok(Glob::new(&text[..end]))
}
