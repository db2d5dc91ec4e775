//! The local ports that the kernel chooses from when a connection is made.

/// `net.ipv4.ip_local_port_range`, which holds for IPv6 too, without `ip_local_reserved_ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRange {
    low: u16,
    high: u16,
    reserved: Vec<(u16, u16)>,
}

impl PortRange {
    pub const RANGE: &str = "net.ipv4.ip_local_port_range";
    pub const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";

    /// From the text of both settings.
    pub fn parse(range: &str, reserved: Option<&str>) -> Option<Self> {
        let mut bounds = range.split_whitespace().map(|bound| bound.parse::<u16>().ok());
        let (low, high) = (bounds.next()??, bounds.next()??);
        let parts = reserved.unwrap_or_default().trim().split(',').filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) =
                (from.trim().parse::<u16>().ok()?.max(low), to.trim().parse::<u16>().ok()?.min(high));
            (from <= to).then_some((from, to))
        });
        (low <= high).then(|| Self { low, high, reserved: parts.collect() })
    }

    /// How many ports there are.
    pub fn size(&self) -> u64 {
        let count = |(from, to): &(u16, u16)| u64::from(to - from) + 1;
        let reserved: u64 = self.reserved.iter().map(count).sum();
        count(&(self.low, self.high)).saturating_sub(reserved)
    }

    pub fn contains(&self, port: u16) -> bool {
        let within = |(from, to): &(u16, u16)| (*from..=*to).contains(&port);
        within(&(self.low, self.high)) && !self.reserved.iter().any(within)
    }
}

/// "32768 to 60999".
impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_not_chosen() {
        let range = PortRange::parse("32768\t60999\n", Some("8080,40000-40009,60999-65535\n")).unwrap();
        assert_eq!(range.size(), 28232 - 10 - 1);
        assert!(range.contains(32768) && !range.contains(40009) && !range.contains(60999));
        assert_eq!(PortRange::parse("32768 60999", Some("\n")).unwrap().size(), 28232);
        assert_eq!(PortRange::parse("32768 60999", None).unwrap().to_string(), "32768 to 60999");
        for odd in ["", "1", "x y", "9 1"] {
            assert_eq!(PortRange::parse(odd, None), None, "{odd}");
        }
    }
}
