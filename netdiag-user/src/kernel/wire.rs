//! Lets the programs of probe `wire` see the packets of network namespaces, and takes them away again.
//!
//! By TCX links (6.6) to each interface; where the kernel has none, by tracepoints for the whole machine, with the
//! namespaces that matter in a map. Both are file descriptors and gone with the process, however that ends.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::{BtfTracePoint, ProgramError, SchedClassifier, TcAttachType};

use super::registry::{Attach, Way};
use crate::enrich::links::{self, Link};
use crate::enrich::netns;

const DIRECTIONS: [TcAttachType; 2] = [TcAttachType::Ingress, TcAttachType::Egress];

/// Where packets are watched.
#[derive(Debug)]
pub struct Wire {
    /// How; none until the loader knows.
    pub(super) way: Option<&'static Way>,
    attached: BTreeMap<u64, Attached>,
    /// The namespaces of `attached`, for the tracepoints.
    watched: BpfHashMap<MapData, u32, u8>,
    tracepoints: Vec<BtfTracePointLink>,
}

#[derive(Debug)]
struct Attached {
    interfaces: BTreeMap<u32, String>,
    /// Held: they end the programs' work with their own.
    links: Vec<SchedClassifierLink>,
}

/// What came of attaching to one namespace.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub interfaces: Vec<String>,
    pub failures: Vec<String>,
}

impl Wire {
    pub(super) fn new(watched: BpfHashMap<MapData, u32, u8>) -> Self {
        Self { way: None, attached: BTreeMap::new(), watched, tracepoints: Vec::new() }
    }

    /// Watches every interface of the namespace that is up, except loopback. Does nothing twice.
    pub fn attach(&mut self, ebpf: &mut Ebpf, inode: u64) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(way) = self.way else {
            outcome.failures.push("no program for it can be attached".to_owned());
            return outcome;
        };
        if self.attached.contains_key(&inode) {
            return outcome;
        }
        let handle = if netns::current_inode() == Some(inode) { None } else { netns::find(inode) };
        if handle.is_none() && netns::current_inode() != Some(inode) {
            outcome.failures.push(format!("network namespace {inode} is not reachable"));
            return outcome;
        }
        let found = match links::links(handle.as_ref()) {
            Ok(found) => found,
            Err(error) => {
                outcome.failures.push(error.to_string());
                return outcome;
            }
        };
        let wanted: Vec<Link> = found.into_iter().filter(|link| link.up && link.name != "lo").collect();
        let attached = if way.programs.iter().any(|(how, _)| matches!(how, Attach::Tcx)) {
            netns::within(handle.as_ref(), || attach_tcx(ebpf, way, &wanted, &mut outcome.failures))
                .map_err(|error| error.to_string())
        } else {
            self.attach_tracepoints(ebpf, way, inode).map(|()| {
                let interfaces = wanted.into_iter().map(|link| (link.ifindex, link.name)).collect();
                Attached { interfaces, links: Vec::new() }
            })
        };
        match attached {
            Ok(attached) => {
                outcome.interfaces = attached.interfaces.values().cloned().collect();
                self.attached.insert(inode, attached);
            }
            Err(why) => outcome.failures.push(why),
        }
        outcome
    }

    fn attach_tracepoints(&mut self, ebpf: &mut Ebpf, way: &Way, inode: u64) -> Result<(), String> {
        let inode = u32::try_from(inode).map_err(|error| error.to_string())?;
        self.watched.insert(inode, 1, 0).map_err(|error| error.to_string())?;
        if !self.tracepoints.is_empty() {
            return Ok(());
        }
        for (_, name) in way.programs {
            let program = ebpf.program_mut(name).ok_or_else(|| format!("no program {name}"))?;
            self.tracepoints.push(attach_tracepoint(program).map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    /// Leaves a namespace alone.
    pub fn detach(&mut self, inode: u64) {
        self.attached.remove(&inode);
        if let Ok(inode) = u32::try_from(inode) {
            // It need not be there.
            let _ = self.watched.remove(&inode);
        }
        if self.attached.is_empty() {
            self.tracepoints.clear();
        }
    }

    /// Name of an interface by its index, in the preferred namespace first; `None` where several namespaces
    /// have that index and none is preferred.
    pub fn interface(&self, preferred: u64, ifindex: u32) -> Option<(u64, &str)> {
        let named =
            |(inode, attached): (&u64, &'_ Attached)| attached.interfaces.get(&ifindex).map(|_| *inode);
        let inode =
            self.attached.get(&preferred).and_then(|attached| named((&preferred, attached))).or_else(
                || {
                    let mut candidates = self.attached.iter().filter_map(named);
                    match (candidates.next(), candidates.next()) {
                        (Some(only), None) => Some(only),
                        _ => None,
                    }
                },
            )?;
        self.attached.get(&inode)?.interfaces.get(&ifindex).map(|name| (inode, name.as_str()))
    }
}

/// Whether this kernel has TCX links, by a link to the loopback interface that is gone at once.
pub(super) fn try_tcx(program: &mut SchedClassifier) -> Result<(), ProgramError> {
    attach_link(program, "lo", TcAttachType::Ingress).map(drop)
}

fn attach_tcx(ebpf: &mut Ebpf, way: &Way, wanted: &[Link], failures: &mut Vec<String>) -> Attached {
    let mut attached = Attached { interfaces: BTreeMap::new(), links: Vec::new() };
    for link in wanted {
        match attach_interface(ebpf, way, &link.name) {
            Ok(links) => {
                attached.links.extend(links);
                attached.interfaces.insert(link.ifindex, link.name.clone());
            }
            Err(why) => failures.push(format!("{}: {why}", link.name)),
        }
    }
    attached
}

fn attach_interface(ebpf: &mut Ebpf, way: &Way, interface: &str) -> Result<Vec<SchedClassifierLink>, String> {
    let mut links = Vec::new();
    for ((_, name), direction) in way.programs.iter().zip(DIRECTIONS) {
        let program = ebpf.program_mut(name).ok_or_else(|| format!("no program {name}"))?;
        let program: &mut SchedClassifier =
            program.try_into().map_err(|error: ProgramError| error.to_string())?;
        links.push(attach_link(program, interface, direction).map_err(|error| error.to_string())?);
    }
    Ok(links)
}

fn attach_link(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
) -> Result<SchedClassifierLink, ProgramError> {
    let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, direction, tcx)?;
    program.take_link(id)
}

fn attach_tracepoint(program: &mut aya::programs::Program) -> Result<BtfTracePointLink, ProgramError> {
    let program: &mut BtfTracePoint = program.try_into()?;
    let id = program.attach()?;
    program.take_link(id)
}
