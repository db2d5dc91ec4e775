//! Attaches the tc programs to the interfaces of network namespaces, and takes them away again.
//!
//! A TCX link (6.6) is a file descriptor: it is gone with the process, however that ends. Where the kernel has
//! none, a clsact filter is added by netlink and removed on drop, inside its namespace.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use crate::enrich::links::{self, Link};
use crate::enrich::netns;

const PROGRAMS: [(&str, TcAttachType); 2] =
    [("wire_ingress", TcAttachType::Ingress), ("wire_egress", TcAttachType::Egress)];

/// Where the tc programs are attached.
#[derive(Debug, Default)]
pub struct Wire {
    attached: BTreeMap<u64, Attached>,
}

#[derive(Debug)]
struct Attached {
    inode: u64,
    interfaces: BTreeMap<u32, String>,
    links: Vec<SchedClassifierLink>,
}

/// What came of attaching to one namespace.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub interfaces: Vec<String>,
    pub failures: Vec<String>,
}

impl Wire {
    /// Attaches to every interface of the namespace that is up, except loopback. Does nothing twice.
    pub fn attach(&mut self, ebpf: &mut Ebpf, inode: u64) -> Outcome {
        let mut outcome = Outcome::default();
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
        let attach_all = || {
            let mut links = Vec::new();
            let mut interfaces = BTreeMap::new();
            let mut failures = Vec::new();
            for link in &wanted {
                match attach_interface(ebpf, &link.name) {
                    Ok(attached) => {
                        links.extend(attached);
                        interfaces.insert(link.ifindex, link.name.clone());
                    }
                    Err(why) => failures.push(format!("{}: {why}", link.name)),
                }
            }
            (links, interfaces, failures)
        };
        match netns::within(handle.as_ref(), attach_all) {
            Ok((links, interfaces, failures)) => {
                outcome.interfaces = interfaces.values().cloned().collect();
                outcome.failures = failures;
                self.attached.insert(inode, Attached { inode, interfaces, links });
            }
            Err(error) => outcome.failures.push(error.to_string()),
        }
        outcome
    }

    /// Takes the programs away from a namespace.
    pub fn detach(&mut self, inode: u64) {
        if let Some(attached) = self.attached.remove(&inode) {
            attached.leave();
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

impl Drop for Wire {
    fn drop(&mut self) {
        for attached in std::mem::take(&mut self.attached).into_values() {
            attached.leave();
        }
    }
}

impl Attached {
    /// A clsact filter is removed through netlink, which must speak to its own namespace: it is looked up anew,
    /// since an open handle would keep a deleted namespace alive. If it is gone, so is the filter.
    fn leave(self) {
        let Self { inode, links, .. } = self;
        let handle = if netns::current_inode() == Some(inode) { None } else { netns::find(inode) };
        let _ = netns::within(handle.as_ref(), move || drop(links));
    }
}

fn attach_interface(ebpf: &mut Ebpf, interface: &str) -> Result<Vec<SchedClassifierLink>, String> {
    let mut links = Vec::new();
    for (name, direction) in PROGRAMS {
        let program = ebpf.program_mut(name).ok_or_else(|| format!("no program {name}"))?;
        let program: &mut SchedClassifier =
            program.try_into().map_err(|error: ProgramError| error.to_string())?;
        links.push(attach_program(program, interface, direction).map_err(|error| error.to_string())?);
    }
    Ok(links)
}

fn attach_program(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
) -> Result<SchedClassifierLink, ProgramError> {
    let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = match program.attach_with_options(interface, direction, tcx) {
        Ok(id) => id,
        Err(_) => {
            // Already there is fine; anything else shows in the attach.
            let _ = qdisc_add_clsact(interface);
            program.attach_with_options(
                interface,
                direction,
                TcAttachOptions::Netlink(NlOptions::default()),
            )?
        }
    };
    program.take_link(id)
}
