//! Names of drop reasons, reset reasons and socket flags, from the running kernel's enums: the numbers differ
//! between kernels.

use std::collections::HashMap;

use netdiag_ebpf::config::{
    DROP_BY_PLACE, DROP_IGNORE, DROP_REASONS, DROP_SEND, DROP_SEND_FRAMES, DROP_SEND_STACK,
};

use super::btf::Btf;

/// Reasons that free a packet without loss, or that are told better elsewhere. One that this kernel does not
/// have is simply not there.
pub(crate) const NO_LOSS: &[&str] = &[
    "SKB_CONSUMED",
    // Data of a socket that was closed, and the queues of a device that goes down.
    "QUEUE_PURGE",
    // Old duplicates and the like: TCP at work on a connection that lives.
    "TCP_OLD_DATA",
    "TCP_OVERWINDOW",
    "TCP_OFOMERGE",
    "TCP_OFO_QUEUE_PRUNE",
    "TCP_OLD_SEQUENCE",
    "TCP_OLD_ACK",
    "TCP_TOO_OLD_ACK",
    "TCP_ACK_UNSENT_DATA",
    "TCP_RESET",
    "TCP_FIN",
    // Packets for somebody else, seen by promiscuous or multicast devices.
    "OTHERHOST",
    "UNHANDLED_PROTO",
    "IPV6DISABLED_PORT",
    "PACKET_SOCK_ERROR",
];
/// Ordinary end of ICMP and raw packets; but XDP programs drop so too.
const NO_REASON: &str = "NOT_SPECIFIED";

/// Reasons whose kernel stack says more.
const WITH_STACK: &[&str] = &["TC_INGRESS", "TC_EGRESS", "XDP", "BPF_CGROUP_EGRESS"];
/// The kernel stack says the netfilter hook, and the frames on it the rule.
const WITH_FRAMES: &str = "NETFILTER_DROP";

/// Name tables of this kernel.
#[derive(Debug, Clone, Default)]
pub struct Reasons {
    drops: HashMap<u32, String>,
    resets: HashMap<u32, String>,
    linger_bit: Option<u32>,
    keepopen_bit: Option<u32>,
    dead_bit: Option<u32>,
}

impl Reasons {
    /// Reads the enums. A kernel without one of them gets an empty table for it.
    pub fn read(btf: &Btf) -> Self {
        let flag = |wanted: &str| {
            let values = btf.enum_values("sock_flags").ok()?;
            values.into_iter().find(|(name, _)| name == wanted).and_then(|(_, n)| u32::try_from(n).ok())
        };
        Self {
            drops: drop_names(btf),
            resets: names(btf, "sk_rst_reason", &["SK_RST_REASON_"]),
            linger_bit: flag("SOCK_LINGER"),
            keepopen_bit: flag("SOCK_KEEPOPEN"),
            dead_bit: flag("SOCK_DEAD"),
        }
    }

    /// Of a kernel with these drop reasons.
    #[cfg(test)]
    pub(crate) fn of_drops<const N: usize>(drops: [(u32, &str); N]) -> Self {
        let drops = drops.into_iter().map(|(number, name)| (number, name.to_owned())).collect();
        Self { drops, ..Self::default() }
    }

    /// `NETFILTER_DROP` and so on; `reason N` for a number that the kernel's BTF does not name.
    pub fn drop_name(&self, reason: u32) -> String {
        self.drops.get(&reason).cloned().unwrap_or_else(|| format!("reason {reason}"))
    }

    /// Whether a drop reason has this name.
    pub fn is_drop(&self, reason: u32, name: &str) -> bool {
        self.drops.get(&reason).is_some_and(|known| known == name)
    }

    /// All drop reasons, by number.
    pub fn drops(&self) -> Vec<(u32, &str)> {
        let mut all: Vec<(u32, &str)> =
            self.drops.iter().map(|(number, name)| (*number, name.as_str())).collect();
        all.sort_unstable();
        all
    }

    /// Name of a reset reason, `None` for none.
    pub fn reset_name(&self, reason: u32) -> Option<&str> {
        self.resets.get(&reason).map(String::as_str)
    }

    /// Whether `SOCK_LINGER` is set in `sk_flags`; `None` where the kernel's BTF does not name the bit.
    pub fn has_linger(&self, sk_flags: u64) -> Option<bool> {
        self.linger_bit.map(|bit| sk_flags >> bit & 1 == 1)
    }

    /// Whether keepalive is on.
    pub fn has_keepalive(&self, sk_flags: u64) -> Option<bool> {
        self.keepopen_bit.map(|bit| sk_flags >> bit & 1 == 1)
    }

    /// Whether no application holds the socket any more (SOCK_DEAD).
    pub fn is_orphaned(&self, sk_flags: u64) -> Option<bool> {
        self.dead_bit.map(|bit| sk_flags >> bit & 1 == 1)
    }

    /// What the programs do with each reason, where all drops are to be told: one without a reason too, since its place
    /// may say what it was.
    pub fn all_drop_actions(&self) -> [u8; DROP_REASONS] {
        let mut actions = self.drop_actions();
        let unspecified = self.drops.iter().filter(|(_, name)| *name == "NOT_SPECIFIED");
        for (number, _) in unspecified {
            if let Some(action) = actions.get_mut(*number as usize) {
                *action = DROP_SEND;
            }
        }
        actions
    }

    /// What the programs do with each reason.
    pub fn drop_actions(&self) -> [u8; DROP_REASONS] {
        let mut actions = [DROP_SEND; DROP_REASONS];
        for (number, name) in &self.drops {
            let Some(action) = actions.get_mut(*number as usize) else { continue };
            if NO_LOSS.contains(&name.as_str()) {
                *action = DROP_IGNORE;
            } else if name == NO_REASON {
                *action = DROP_BY_PLACE;
            } else if WITH_STACK.contains(&name.as_str()) {
                *action = DROP_SEND_STACK;
            } else if name == WITH_FRAMES {
                *action = DROP_SEND_FRAMES;
            }
        }
        // 0 is "not dropped yet".
        actions[0] = DROP_IGNORE;
        actions
    }
}

/// Those of the core, and of queueing disciplines, which have an enum of their own since Linux 7.
fn drop_names(btf: &Btf) -> HashMap<u32, String> {
    let of_queues = names(btf, "qdisc_drop_reason", &["QDISC_DROP_"]);
    let of_queues = of_queues.into_iter().map(|(number, name)| (number, format!("QDISC_{name}")));
    let mut all: HashMap<u32, String> = of_queues.collect();
    // Where both name a number, it is the core's.
    all.extend(names(btf, "skb_drop_reason", &["SKB_DROP_REASON_", "SKB_"]));
    all
}

fn names(btf: &Btf, name: &str, prefixes: &[&str]) -> HashMap<u32, String> {
    let Ok(values) = btf.enum_values(name) else { return HashMap::new() };
    values
        .into_iter()
        .filter_map(|(name, number)| {
            let short = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
            // SKB_CONSUMED keeps its name: it is no SKB_DROP_REASON.
            let short = if name == "SKB_CONSUMED" { "SKB_CONSUMED" } else { short };
            Some((u32::try_from(number).ok()?, short.to_owned()))
        })
        .collect()
}
