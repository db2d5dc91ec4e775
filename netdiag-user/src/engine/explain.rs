//! A connection that is finished: its facts are gathered, and the catalogue is asked.

use std::rc::Rc;

use super::dropped_at::{self, Asks};
use super::{Engine, Explained, Prefilter, now_ns};
use crate::diagnoses::{self, Coverage, Evidence, leak};
use crate::enrich::facts::{NAT, NetnsFact};
use crate::enrich::owners::Holders;
use crate::enrich::{netns, owners, process, queues};
use crate::kernel::registry::{Probe, Weight};
use crate::probes::{Owner, Packet};
use crate::track::{Connection, Due, End, Finished, Hook, Side, What};

impl Engine {
    /// The next connection of these. What NAT made of it is looked up only where it failed, and somebody wants to know.
    pub(super) fn next_finished(&mut self, due: &mut Due) -> Option<Finished> {
        let Self { tracker, translations, filter, follows, .. } = self;
        tracker.finish(due, &mut |tracker, connection, sock| {
            let wanted = is_wanted(*follows, filter.as_ref(), connection);
            let asks = wanted && (connection.errno.is_some() || !is_orderly(connection));
            asks.then(|| translations.of_ended(tracker, sock, connection, *follows)).flatten()
        })
    }

    /// `None` for a connection that nobody asked about: the search for facts is for the others.
    pub(super) fn explain(&mut self, finished: Finished) -> Option<Explained> {
        let Finished { mut connection, sock, timeline, left_out, other_end } = finished;
        if connection.owner.is_none() {
            self.complete(Rc::make_mut(&mut connection));
        }
        if !is_wanted(self.follows, self.filter.as_ref(), &connection) {
            self.samples.remove(&sock);
            return None;
        }
        let connection = Rc::unwrap_or_clone(connection);
        let other_end = other_end.map(|other| Box::new(Rc::unwrap_or_clone(other)));
        let mut samples = self.samples.remove(&sock).unwrap_or_default();
        if !samples.is_empty() {
            samples.extend(queues::sample(connection.peer, connection.netns, now_ns()));
        }
        let since = self.wire_since.get(&u64::from(connection.netns)).copied();
        let wire = since.is_some_and(|since| since <= connection.start_ns);
        let coverage = Coverage {
            lost_events: self.lost_between(connection.start_ns, connection.end_ns) + left_out,
            missing: self.missing_for(wire),
            wire,
            wire_since_suspect: since.is_some(),
            shed: self.shed.names(),
        };
        let leaked = leak::time_in_close_wait(&timeline, &connection.end, connection.end_ns)
            .is_some_and(|time| time >= leak::OLD);
        let troubled = connection.errno.is_some() || !is_orderly(&connection) || leaked;
        let mut facts =
            if troubled { self.gatherer.gather(&connection, samples) } else { Default::default() };
        if let (true, None, Some(owner)) = (troubled, &facts.process, &connection.owner) {
            let path = self.cgroups.known(owner.cgroup);
            let path = path.or_else(|| self.searches.within(|| self.cgroups.path(owner.cgroup)).flatten());
            facts.process = path.map(|path| process::ended(owner, &path));
        }
        if let Some(holders) = &mut facts.holders {
            self.closed.name(&connection, holders, now_ns());
        }
        facts.other_netns = other_end.as_ref().map(|other| {
            let inode = other.netns.into();
            NetnsFact { inode, name: netns::name_of(inode) }
        });
        facts.peer_before = self.hosts.get(connection.netns, connection.peer.ip());
        let mut evidence = Evidence { connection, timeline, other_end, facts, coverage };
        if troubled {
            self.look_at_drops(&mut evidence);
        }
        self.look_at_rules(&mut evidence);
        if troubled {
            self.look_at_nat(&mut evidence);
        }
        self.name_interfaces(&mut evidence);
        let mut diagnosis = if troubled { diagnoses::diagnose(&evidence) } else { None };
        if let Some((_, finding)) = &diagnosis {
            self.add_changes(&mut evidence, finding);
        }
        if let Some((_, finding)) = &mut diagnosis
            && let (Some(inode), None) = (finding.place.netns, &finding.place.netns_name)
        {
            finding.place.container = self.containers.of(inode.into());
        }
        Some(Explained { evidence, diagnosis })
    }

    /// What could have told more; a probe that is only sooner than the wire is none where the wire was watched.
    fn missing_for(&self, wire: bool) -> Vec<String> {
        let told_more = |probe: &&Probe| !(wire && probe.weight == Weight::BeforeWire);
        self.missing.iter().filter(told_more).map(|probe| probe.signal.to_owned()).collect()
    }

    /// Owner and side of a connection whose beginning was not seen, from its socket or its listener.
    fn complete(&mut self, connection: &mut Connection) {
        // `run` wants only what its own processes hold, and these it can look at one by one.
        let among = self.follows.then(|| self.session.followed_in(connection.netns));
        if among.as_ref().is_some_and(Vec::is_empty) {
            self.take_closer(connection);
            return;
        }
        // Who closes it by close() or exit holds it; the holder of a listener may be another.
        let holders = match &among {
            Some(pids) => Holders::Among(pids),
            None if connection.closer.is_some() => Holders::Known,
            None => Holders::All,
        };
        let look = || owners::find(&connection.tuple(), connection.netns, holders);
        let found = if self.shed.owners { None } else { self.searches.within(look) };
        let Some(found) = found.flatten() else {
            self.take_closer(connection);
            return;
        };
        if found.inbound {
            connection.side = Side::Inbound;
        } else {
            connection.side = Side::Outbound;
        }
        connection.asked |= found.owner.as_ref().is_some_and(|owner| self.session.is_followed(owner.pid));
        connection.owner = found.owner;
        self.take_closer(connection);
    }

    /// Who closes a socket by close() or exit holds it: the owner, if nobody else is found.
    fn take_closer(&self, connection: &mut Connection) {
        if connection.owner.is_some() {
            return;
        }
        connection.owner = connection.closer.as_ref().map(|closer| Owner {
            pid: closer.pid,
            tid: closer.pid,
            uid: closer.uid,
            cgroup: 0,
            comm: closer.comm.clone(),
        });
    }

    /// What was there where packets were dropped.
    fn look_at_drops(&mut self, evidence: &mut Evidence) {
        let mut facts = std::mem::take(&mut evidence.facts);
        let conntrack = evidence.drops().any(|(_, what)| dropped_at::is_about_invalid(what))
            && !self.tracker.code_of(&["ctnetlink_get_conntrack"]).is_empty();
        let asks = Asks { xdp: self.asks_about_xdp, conntrack };
        if self.follows {
            dropped_at::look(evidence, &mut facts, asks);
        } else {
            self.searches.within(|| dropped_at::look(evidence, &mut facts, asks));
        }
        evidence.facts = facts;
    }

    /// A rule may have been removed since it dropped the packet.
    fn look_at_rules(&mut self, evidence: &mut Evidence) {
        for moment in &mut evidence.timeline {
            if let What::Dropped { rule: Some(rule), place, .. } = &mut moment.what {
                self.firewall.look_again(place.netns, rule, now_ns());
            }
        }
    }

    /// A RST that answers the SYN takes the entry of connection tracking with it: where no packet was seen, only the rules
    /// tell whether NAT sent it elsewhere.
    fn look_at_nat(&mut self, evidence: &mut Evidence) {
        let connection = &evidence.connection;
        let refused = connection.errno == Some(libc::ECONNREFUSED) && connection.died_connecting();
        let is_known = connection.before_nat.is_some()
            || evidence.drops().next().is_some()
            || evidence.syns_on_wire().next().is_some();
        if !refused || is_known || connection.netns == 0 {
            return;
        }
        let packet = Packet::syn(connection.tuple(), connection.netns);
        let Self { firewall, comparisons, shed, .. } = self;
        let own = u64::from(packet.netns);
        let look = || {
            let mut rules = firewall.translations(own, Hook::Output, &packet, now_ns());
            // Containers leave the machine by way of the host.
            let host = netns::current_inode().filter(|host| *host != own);
            if let (true, Some(host)) = (rules.is_empty(), host)
                && firewall.joins(host, packet.netns)
            {
                rules = firewall.translations(host, Hook::Prerouting, &packet, now_ns());
            }
            rules
        };
        let facts = &mut evidence.facts;
        facts.nat_rules = if shed.samples { None } else { comparisons.within(look) };
        if facts.nat_rules.is_none() {
            facts.not_looked_up.push(NAT.to_owned());
        }
    }

    /// tc does not know names: they are filled in here, by index and namespace.
    fn name_interfaces(&self, evidence: &mut Evidence) {
        let own = evidence.connection.netns;
        for moment in &mut evidence.timeline {
            let (packet, place) = match &mut moment.what {
                What::Wire { packet, place, .. } | What::IcmpReceived { packet, place } => (packet, place),
                _ => continue,
            };
            if place.interface.is_some() {
                continue;
            }
            if let Some((inode, name)) = self.session.wire().interface(own.into(), packet.ifindex) {
                place.interface = Some(name.to_owned());
                place.netns = u32::try_from(inode).unwrap_or(0);
                place.netns_name = netns::name_of(inode);
            }
        }
    }
}

fn is_wanted(follows: bool, filter: Option<&Prefilter>, connection: &Connection) -> bool {
    if follows { connection.asked } else { filter.is_none_or(|may| may.0(connection)) }
}

/// Whether both sides said goodbye, or nobody was hurt: nothing to explain.
fn is_orderly(connection: &Connection) -> bool {
    use crate::probes::TcpState::{Closing, FinWait1, FinWait2, LastAck, TimeWait};
    match connection.end {
        End::State { from: FinWait1 | FinWait2 | Closing | LastAck | TimeWait, .. } => true,
        End::State { .. } | End::CallFailed { .. } | End::SocketError => false,
    }
}
