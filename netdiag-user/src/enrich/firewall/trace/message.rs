//! Messages of the trace: `NFT_MSG_TRACE` (include/uapi/linux/netfilter/nf_tables.h, net/netfilter/nf_tables_trace.c).
//! Their integers are in network byte order.

use std::net::{IpAddr, SocketAddr};

use crate::enrich::netlink::{Attributes, text, u8_at};
use crate::enrich::nf_tables::family;
use crate::probes::{Tuple, protocol};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_TRACE`
const TRACE: u16 = 10 << 8 | 17;
/// `struct nfgenmsg`: family, version, resource.
const HEADER: usize = 4;

/// `enum nft_trace_attributes`
mod attribute {
    pub(super) const TABLE: u16 = 1;
    pub(super) const CHAIN: u16 = 2;
    pub(super) const RULE_HANDLE: u16 = 3;
    pub(super) const TYPE: u16 = 4;
    pub(super) const VERDICT: u16 = 5;
    pub(super) const ID: u16 = 6;
    pub(super) const NETWORK_HEADER: u16 = 8;
    pub(super) const TRANSPORT_HEADER: u16 = 9;
    pub(super) const POLICY: u16 = 16;
    /// `NFTA_VERDICT_CODE`, within the verdict.
    pub(super) const VERDICT_CODE: u16 = 1;
}
/// `enum nft_trace_types`
const TYPE_POLICY: u32 = 1;
const TYPE_RULE: u32 = 3;
const NF_DROP: u32 = 0;

/// What became of the packet here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A rule dropped it.
    Rule {
        handle: u64,
    },
    /// The policy did.
    Policy,
    Other,
}

/// One step of a packet's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// The packet's, as long as it is on its way.
    pub(super) id: u32,
    pub(super) family: &'static str,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) verdict: Verdict,
    /// In the first message of a chain.
    pub(super) packet: Option<Tuple>,
}

impl Step {
    /// `None` for another message, or one that makes no sense.
    pub(super) fn read(kind: u16, payload: &[u8]) -> Option<Self> {
        if kind != TRACE {
            return None;
        }
        let family = family(u64::from(u8_at(payload, 0)?))?;
        let attributes = Attributes::at(payload, HEADER);
        let find = |wanted: u16| attributes.value(wanted);
        let number = |value: Option<&[u8]>| Some(u32::from_be_bytes(value?.try_into().ok()?));
        let code = || number(Attributes::at(find(attribute::VERDICT)?, 0).value(attribute::VERDICT_CODE));
        let handle = || Some(u64::from_be_bytes(find(attribute::RULE_HANDLE)?.try_into().ok()?));
        let verdict = match number(find(attribute::TYPE))? {
            TYPE_RULE if code() == Some(NF_DROP) => Verdict::Rule { handle: handle()? },
            TYPE_POLICY if number(find(attribute::POLICY)) == Some(NF_DROP) => Verdict::Policy,
            _ => Verdict::Other,
        };
        let headers = (find(attribute::NETWORK_HEADER), find(attribute::TRANSPORT_HEADER));
        let packet =
            if let (Some(network), Some(transport)) = headers { tuple(network, transport) } else { None };
        Some(Self {
            id: number(find(attribute::ID))?,
            family,
            table: text(find(attribute::TABLE)?),
            chain: text(find(attribute::CHAIN)?),
            verdict,
            packet,
        })
    }
}

/// Of TCP and UDP, without extension headers.
fn tuple(network: &[u8], transport: &[u8]) -> Option<Tuple> {
    let (protocol, source, destination): (u8, IpAddr, IpAddr) = match network.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(<[u8; 4]>::try_from(network.get(at..at + 4)?).ok()?.into());
            (*network.get(9)?, address(12)?, address(16)?)
        }
        6 => {
            let address = |at: usize| Some(<[u8; 16]>::try_from(network.get(at..at + 16)?).ok()?.into());
            (*network.get(6)?, address(8)?, address(24)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(transport.get(at..at + 2)?.try_into().ok()?));
    matches!(protocol, protocol::TCP | protocol::UDP).then_some(())?;
    Some(Tuple {
        protocol,
        source: SocketAddr::new(source, port(0)?),
        destination: SocketAddr::new(destination, port(2)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
        bytes.extend((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    fn message(of_type: u32, more: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![1, 0, 0, 0];
        put(&mut bytes, attribute::TABLE, b"fw\0");
        put(&mut bytes, attribute::CHAIN, b"c\0");
        put(&mut bytes, attribute::ID, &7u32.to_be_bytes());
        put(&mut bytes, attribute::TYPE, &of_type.to_be_bytes());
        for (kind, value) in more {
            put(&mut bytes, *kind, value);
        }
        bytes
    }

    #[test]
    fn drops_and_packets_are_read() {
        let mut verdict = Vec::new();
        put(&mut verdict, attribute::VERDICT_CODE, &NF_DROP.to_be_bytes());
        let handle = 12u64.to_be_bytes();
        let mut ip = [0u8; 20];
        (ip[0], ip[9]) = (0x45, protocol::TCP);
        ip[12..20].copy_from_slice(&[10, 0, 1, 2, 10, 0, 2, 2]);
        let tcp = [0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 0];
        let rule = message(
            TYPE_RULE,
            &[
                (attribute::RULE_HANDLE, &handle),
                (attribute::VERDICT, &verdict),
                (attribute::NETWORK_HEADER, &ip),
                (attribute::TRANSPORT_HEADER, &tcp),
            ],
        );
        let step = Step::read(TRACE, &rule).unwrap();
        assert_eq!((step.id, step.family, step.table.as_str(), step.chain.as_str()), (7, "inet", "fw", "c"));
        assert_eq!(step.verdict, Verdict::Rule { handle: 12 });
        let tuple = step.packet.unwrap();
        assert_eq!((tuple.source.to_string(), tuple.destination.port()), ("10.0.1.2:40000".to_owned(), 8080));

        let policy =
            |code: u32| Step::read(TRACE, &message(TYPE_POLICY, &[(attribute::POLICY, &code.to_be_bytes())]));
        assert_eq!(policy(0).unwrap().verdict, Verdict::Policy);
        assert_eq!(policy(1).unwrap().verdict, Verdict::Other);
        assert_eq!(Step::read(TRACE + 1, &rule), None);
        for cut in 0..rule.len() {
            let _ = Step::read(TRACE, &rule[..cut]);
        }
    }
}
