//! Names of ICMP errors.

/// RFC 792, RFC 1812 5.2.7 and, where `v6`, RFC 4443: "host unreachable".
pub(super) fn error_name(v6: bool, icmp_type: u8, code: u8) -> String {
    let known = if v6 { v6_name(icmp_type, code) } else { v4_name(icmp_type, code) };
    known.map_or_else(|| format!("type {icmp_type} code {code}"), str::to_owned)
}

fn v4_name(icmp_type: u8, code: u8) -> Option<&'static str> {
    Some(match (icmp_type, code) {
        (3, 0) => "network unreachable",
        (3, 1) => "host unreachable",
        (3, 2) => "protocol unreachable",
        (3, 3) => "port unreachable",
        (3, 4) => "fragmentation needed",
        (3, 5) => "source route failed",
        (3, 6) => "network unknown",
        (3, 7) => "host unknown",
        (3, 9) => "network prohibited",
        (3, 10) => "host prohibited",
        (3, 11) => "network unreachable for this type of service",
        (3, 12) => "host unreachable for this type of service",
        (3, 13) => "communication prohibited",
        (11, 0) => "time to live exceeded",
        (11, 1) => "reassembly time exceeded",
        (12, _) => "parameter problem",
        _ => return None,
    })
}

fn v6_name(icmp_type: u8, code: u8) -> Option<&'static str> {
    Some(match (icmp_type, code) {
        (1, 0) => "no route",
        (1, 1) => "communication prohibited",
        (1, 2) => "beyond scope of the source address",
        (1, 3) => "address unreachable",
        (1, 4) => "port unreachable",
        (1, 5) => "source address failed policy",
        (1, 6) => "reject route",
        (2, _) => "packet too big",
        (3, 0) => "hop limit exceeded",
        (3, 1) => "reassembly time exceeded",
        (4, _) => "parameter problem",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::error_name;

    #[test]
    fn families_differ() {
        assert_eq!(error_name(false, 3, 1), "host unreachable");
        assert_eq!(error_name(true, 3, 1), "reassembly time exceeded");
        assert_eq!(error_name(true, 200, 7), "type 200 code 7");
    }
}
