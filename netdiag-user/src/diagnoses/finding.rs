use serde::{Deserialize, Serialize};

use crate::enrich::droppers::BpfProgram;
use crate::enrich::listeners::Listener;
use crate::enrich::netns::Container;
use crate::probes::DropRule;
use crate::track::{Hook, Place};

/// How sure. The order is that of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// The kernel itself said so for this packet or socket.
    Certain,
    /// The evidence fits this cause alone.
    Likely,
    /// Other causes fit too.
    Possible,
}

impl Confidence {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Possible => "possible",
        }
    }
}

/// What a diagnosis says about the evidence.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is not this.
    Healthy,
    Found(Box<Finding>),
    /// It may be this, but something that decides is not known.
    NotEnough(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStep {
    pub text: String,
    /// Ready to paste.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhereSide {
    Local,
    Path,
    Peer,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Socket,
    Route,
    Neighbour,
    Netfilter,
    Tc,
    Xdp,
    CgroupBpf,
    Qdisc,
    Device,
    Tcp,
    Application,
    Remote,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Route => "route",
            Self::Neighbour => "neighbour",
            Self::Netfilter => "netfilter",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::CgroupBpf => "cgroup-bpf",
            Self::Qdisc => "qdisc",
            Self::Device => "device",
            Self::Tcp => "tcp",
            Self::Application => "application",
            Self::Remote => "remote",
        }
    }
}

/// Where it broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Where {
    pub side: WhereSide,
    pub stage: Stage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
    /// The container that lives in that namespace, where it has no name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// Kernel function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
}

impl Where {
    pub fn new(side: WhereSide, stage: Stage) -> Self {
        Self { side, stage, interface: None, netns: None, netns_name: None, container: None, symbol: None }
    }

    pub fn at(mut self, place: &Place) -> Self {
        self.interface = place.interface.clone().filter(|name| !name.is_empty());
        self.netns = (place.netns != 0).then_some(place.netns);
        self.netns_name = place.netns_name.clone();
        self
    }

    pub fn symbol(mut self, symbol: Option<&str>) -> Self {
        self.symbol = symbol.map(str::to_owned);
        self
    }
}

/// What is known of the firewall's verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallFact {
    /// `nftables`, `iptables`; `None` where the drop's evidence does not tell.
    pub engine: Option<String>,
    pub hook: Option<Hook>,
    /// The rule, or the chain whose policy decided, where the kernel named it.
    #[serde(default)]
    pub rule: Option<DropRule>,
}

/// A diagnosis that fits.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub confidence: Confidence,
    /// What happened and why, to follow "who -> whom": `timed out after 5.0 s: a local firewall drops the SYN`.
    pub headline: String,
    /// The cause alone, for the card's second line.
    pub cause: String,
    /// Two to five sentences for somebody who does not know the kernel.
    pub explanation: String,
    pub next_steps: Vec<NextStep>,
    pub place: Where,
    pub firewall: Option<FirewallFact>,
    /// The listener that matters (full, or bound elsewhere).
    pub listener: Option<Listener>,
    /// BPF programs of which one dropped the packet.
    pub programs: Vec<BpfProgram>,
    pub alternatives: Vec<&'static str>,
}

impl Finding {
    pub fn new(
        confidence: Confidence,
        place: Where,
        headline: impl Into<String>,
        cause: impl Into<String>,
    ) -> Self {
        Self {
            confidence,
            headline: headline.into(),
            cause: cause.into(),
            explanation: String::new(),
            next_steps: Vec::new(),
            place,
            firewall: None,
            listener: None,
            programs: Vec::new(),
            alternatives: Vec::new(),
        }
    }

    pub fn explain(mut self, text: impl Into<String>) -> Self {
        self.explanation = text.into();
        self
    }

    /// Something to check or change, with a command ready to paste.
    pub fn next(mut self, text: impl Into<String>, command: impl Into<String>) -> Self {
        self.next_steps.push(NextStep { text: text.into(), command: Some(command.into()) });
        self
    }

    /// Something to do that is no command.
    pub fn advise(mut self, text: impl Into<String>) -> Self {
        self.next_steps.push(NextStep { text: text.into(), command: None });
        self
    }

    pub fn or(mut self, alternatives: &[&'static str]) -> Self {
        self.alternatives.extend(alternatives);
        self
    }

    pub fn firewall(mut self, firewall: FirewallFact) -> Self {
        self.firewall = Some(firewall);
        self
    }

    pub fn listener(mut self, listener: Listener) -> Self {
        self.listener = Some(listener);
        self
    }

    pub fn programs(mut self, programs: &[BpfProgram]) -> Self {
        self.programs.extend_from_slice(programs);
        self
    }

    pub fn found(self) -> Verdict {
        Verdict::Found(Box::new(self))
    }
}
