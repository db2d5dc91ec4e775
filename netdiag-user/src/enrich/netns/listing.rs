//! All namespaces, for many questions.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Namespaces, all};
use crate::kernel::clock::now_ns;

/// The list of all namespaces, read again only where it would be older than what it is asked for: to read it, each process
/// is looked at.
#[derive(Debug, Clone, Default)]
pub struct Listing(Rc<RefCell<Option<Listed>>>);

#[derive(Debug)]
struct Listed {
    /// When it was begun, `CLOCK_MONOTONIC`.
    taken_ns: u64,
    namespaces: Rc<Namespaces>,
}

impl Listing {
    /// As they were after this time (`CLOCK_MONOTONIC`).
    pub fn after(&self, time_ns: u64) -> Rc<Namespaces> {
        const OLD_NS: u64 = 1_000_000_000;
        let now = now_ns();
        let mut listed = self.0.borrow_mut();
        let is_fit =
            |listed: &&Listed| listed.taken_ns >= time_ns && now.saturating_sub(listed.taken_ns) < OLD_NS;
        if let Some(fit) = listed.as_ref().filter(is_fit) {
            return Rc::clone(&fit.namespaces);
        }
        let namespaces = Rc::new(all());
        *listed = Some(Listed { taken_ns: now, namespaces: Rc::clone(&namespaces) });
        namespaces
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::TestNetns;
    use super::*;

    #[test]
    fn a_list_is_read_again_for_what_came_after_it() {
        let listing = Listing::default();
        let first = listing.after(now_ns());
        assert!(Rc::ptr_eq(&first, &listing.after(0)));
        let netns = TestNetns::new();
        let inode = netns.handle().inode();
        assert!(!first.found.iter().any(|namespace| namespace.inode == inode));
        assert!(listing.after(now_ns()).found.iter().any(|namespace| namespace.inode == inode));
    }
}
