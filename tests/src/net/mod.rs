//! Network namespaces and the small networks made of them.

mod namespace;
mod topology;

pub use namespace::Namespace;
pub(crate) use namespace::{kill_processes_of_thread, leftovers, remove, remove_orphans};
pub(crate) use topology::wait_until_ready;
pub use topology::{
    CLIENT_V4, CLIENT_V6, Family, REMOTE_ROUTER_V4, REMOTE_ROUTER_V6, REMOTE_V4, REMOTE_V6, ROUTER_V4,
    ROUTER_V6, SERVER_V4, SERVER_V6, Topology, mapped,
};
