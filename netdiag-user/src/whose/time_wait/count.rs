//! How many sockets are in TIME_WAIT, by whose they were and by where they went.

use std::collections::HashMap;
use std::net::SocketAddr;

use netdiag_ebpf::records::{TimeWaitKey, TimeWaitOwner};
use smol_str::SmolStr;

use super::tracker::{Closer, Tracker};
use crate::enrich::listeners::everywhere;
use crate::enrich::sockets::{self, states};
use crate::enrich::time_wait;
use crate::kernel::clock::now_ns;
use crate::whose::Listeners;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Counted {
    /// By the name of the process; `None` where it is not known.
    pub processes: HashMap<Option<SmolStr>, u64>,
    /// By the end that was connected to.
    pub destinations: HashMap<SocketAddr, u64>,
}

impl Tracker {
    /// As [`Tracker::poll`], and counts them. What it keeps of each socket is little: there may be very many.
    pub fn count(&mut self, mut take: impl FnMut(&TimeWaitKey) -> Option<TimeWaitOwner>) -> Counted {
        self.begin(now_ns());
        let search = everywhere(|netns| {
            let listeners = sockets::tcp(Some(netns), states::LISTEN, None)?;
            let waiting = time_wait::list(Some(netns))?;
            // Their timers tell their ages: the time goes with them.
            Ok([(listeners, waiting, now_ns())])
        });
        let mut counted = Counted::default();
        for (netns, _, (listeners, waiting, now_ns)) in search.found {
            let listeners = Listeners::of(listeners.iter().map(|socket| (netns, socket)));
            for socket in waiting {
                let closer = self.see(netns, &socket, now_ns, &mut take);
                *counted.processes.entry(closer.as_deref().map(name)).or_default() += 1;
                let is_server = listeners.take(netns, socket.local);
                let destination = if is_server { socket.local } else { socket.peer };
                *counted.destinations.entry(destination).or_default() += 1;
            }
        }
        self.end();
        counted
    }
}

/// Threads of the kernel are many, and have numbers in their names.
fn name(closer: &Closer) -> SmolStr {
    if closer.by_kernel { SmolStr::new_static("kernel") } else { closer.comm.clone() }
}
