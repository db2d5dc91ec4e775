//! Who closed what is in TIME_WAIT, sent in parts: there may be tens of thousands.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::Request;
use super::client::{Agent, NotAsked};
use super::frame::PART;
use crate::agent::history::redact;
use crate::whose::time_wait::{Closer, Owned, Owners};

/// Some of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Part {
    /// Since when closes are seen, `CLOCK_MONOTONIC`.
    Since(u64),
    Closers(Vec<Closer>),
    Sockets(Vec<Owned>),
    OnTheWay(Vec<Owned>),
}

/// All of it, without arguments of command lines.
pub(super) fn parts(owners: Owners) -> impl Iterator<Item = Part> {
    let Owners { since_ns, mut closers, sockets, on_the_way } = owners;
    for process in closers.iter_mut().filter_map(|closer| closer.process.as_mut()) {
        redact(&mut process.command_line);
    }
    let closers: Vec<Part> = closers.chunks(PART).map(|some| Part::Closers(some.to_vec())).collect();
    let starts = (0..sockets.len()).step_by(PART);
    let sockets = starts.map(move |at| Part::Sockets(sockets.iter().skip(at).take(PART).cloned().collect()));
    let on_the_way: Vec<Part> = on_the_way.chunks(PART).map(|some| Part::OnTheWay(some.to_vec())).collect();
    std::iter::once(Part::Since(since_ns)).chain(closers).chain(on_the_way).chain(sockets)
}

impl Agent {
    /// Who closed what is in TIME_WAIT now.
    ///
    /// # Errors
    /// As [`Agent::ask`].
    pub fn owners(self) -> Result<Owners, NotAsked> {
        let mut owners = Owners::default();
        self.ask(&Request::TimeWait, |part| {
            match part {
                Part::Since(since_ns) => owners.since_ns = since_ns,
                Part::Closers(some) => owners.closers.extend(some),
                Part::Sockets(some) => owners.sockets.extend(some),
                Part::OnTheWay(some) => owners.on_the_way.extend(some),
            }
            ControlFlow::Continue(())
        })?;
        Ok(owners)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::process::Process;
    use crate::enrich::sockets::Family;
    use crate::enrich::time_wait::TimeWait;

    #[test]
    fn all_parts_together_are_the_whole_without_arguments() {
        let process =
            Process { pid: 7, command_line: Some("curl -u me:secret".into()), ..Process::default() };
        let closer = Closer::living(&process);
        let owned = |port| Owned {
            netns: 1,
            socket: TimeWait {
                family: Family::Inet,
                local: ([10, 0, 0, 1], port).into(),
                peer: ([10, 0, 0, 2], 80).into(),
                cookie: 5,
                timer_ms: 0,
            },
            closer: 0,
        };
        let sockets: Vec<Owned> = (0..2 * PART as u16 + 1).map(owned).collect();
        let on_the_way = vec![owned(9)];
        let owners = Owners { since_ns: 3, closers: vec![closer], sockets: sockets.clone(), on_the_way };
        let parts: Vec<Part> = parts(owners).collect();
        let json = serde_json::to_string(&parts).unwrap();
        assert!(json.contains("curl …") && !json.contains("secret"), "{json:.300}");
        assert_eq!(serde_json::from_str::<Vec<Part>>(&json).unwrap(), parts);
        assert_eq!((parts.len(), &parts[0]), (6, &Part::Since(3)));
        let sent = parts.into_iter().filter_map(|part| match part {
            Part::Sockets(some) => Some(some),
            _ => None,
        });
        assert_eq!(sent.flatten().collect::<Vec<_>>(), sockets);
    }
}
