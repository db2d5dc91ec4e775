//! What was read a moment ago of processes and of namespaces' names: in a burst one process fails many times.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use smol_str::SmolStr;

use super::netns_fact;
use crate::enrich::facts::{Facts, NetnsFact, QueueSample};
use crate::enrich::process::{self, Process};
use crate::probes::Owner;
use crate::track::Connection;

/// Shorter than a process number takes to come round to another process of the same name, user and control group.
const FRESH: Duration = Duration::from_millis(100);
const MAX_ENTRIES: usize = 256;

/// As the kernel side saw it; a program that is executed mostly has another name.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Who {
    pid: u32,
    uid: u32,
    cgroup: u64,
    comm: SmolStr,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Known {
    since: Option<Instant>,
    processes: HashMap<Who, Option<Process>>,
    names: HashMap<u64, NetnsFact>,
}

impl Known {
    /// As `about_connection`; of the process, what is known already unless `reads`.
    pub(super) fn about(
        &mut self,
        connection: &Connection,
        queue_samples: Vec<QueueSample>,
        reads: bool,
        now: Instant,
    ) -> Facts {
        self.forget_old(now);
        let inode = u64::from(connection.netns);
        let name = |names: &mut HashMap<u64, NetnsFact>| {
            names.entry(inode).or_insert_with(|| netns_fact(inode)).clone()
        };
        Facts {
            netns: (inode != 0).then(|| name(&mut self.names)),
            process: connection.owner.as_ref().and_then(|owner| self.process(owner, reads)),
            queue_samples,
            ..Facts::default()
        }
    }

    fn process(&mut self, owner: &Owner, reads: bool) -> Option<Process> {
        let Owner { pid, uid, cgroup, comm, .. } = owner.clone();
        let who = Who { pid, uid, cgroup, comm };
        match self.processes.get(&who) {
            Some(known) => known.clone(),
            None if reads => {
                let read = process::of_owner(owner);
                self.processes.insert(who, read.clone());
                read
            }
            None => None,
        }
    }

    fn forget_old(&mut self, now: Instant) {
        let is_old = self.since.is_none_or(|since| now.saturating_duration_since(since) >= FRESH);
        if is_old || self.processes.len() >= MAX_ENTRIES || self.names.len() >= MAX_ENTRIES {
            self.processes.clear();
            self.names.clear();
            self.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::connection;
    use super::*;

    #[test]
    fn a_process_is_read_once_in_a_moment() {
        let mut known = Known::default();
        let start = Instant::now();
        let mut failed = connection(7, "10.0.2.2:80");
        let pid = |facts: Facts| facts.process.map(|process| process.pid);
        assert_eq!(pid(known.about(&failed, Vec::new(), false, start)), None, "nobody has read it yet");
        let own = std::process::id();
        assert_eq!(pid(known.about(&failed, Vec::new(), true, start)), Some(own));
        assert_eq!(pid(known.about(&failed, Vec::new(), false, start)), Some(own));
        let later = start + FRESH;
        assert_eq!(pid(known.about(&failed, Vec::new(), false, later)), None);
        known.about(&failed, Vec::new(), true, later);
        failed.owner.as_mut().unwrap().comm = "another".into();
        assert_eq!(pid(known.about(&failed, Vec::new(), false, later)), None, "it may have executed another");
    }

    #[test]
    fn memory_is_bounded() {
        let mut known = Known::default();
        let now = Instant::now();
        for number in 1..1000 {
            let mut failed = connection(number, "10.0.2.2:80");
            failed.owner.as_mut().unwrap().comm = number.to_string().into();
            known.about(&failed, Vec::new(), true, now);
            assert!(known.processes.len() <= MAX_ENTRIES && known.names.len() <= MAX_ENTRIES);
        }
    }
}
