//! Containers by network namespace, remembered for a moment: to find one, all processes are looked at.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::netns::{self, Container};

/// Answers younger than this are given again.
const FRESH: Duration = Duration::from_secs(1);
const MAX_ENTRIES: usize = 256;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Containers(HashMap<u64, (Instant, Option<Container>)>);

impl Containers {
    /// As [`netns::container_of`], or what that said less than a second ago.
    pub fn of(&mut self, inode: u64) -> Option<Container> {
        self.of_by(inode, Instant::now(), netns::container_of)
    }

    fn of_by(
        &mut self,
        inode: u64,
        now: Instant,
        look: impl FnOnce(u64) -> Option<Container>,
    ) -> Option<Container> {
        if let Some((at, known)) = self.0.get(&inode)
            && now.saturating_duration_since(*at) < FRESH
        {
            return known.clone();
        }
        if self.0.len() >= MAX_ENTRIES {
            self.0.clear();
        }
        let found = look(inode);
        self.0.insert(inode, (now, found.clone()));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_looked_for_once_a_second() {
        let start = Instant::now();
        let mut containers = Containers::default();
        let mut ask = |inode, after_ms, id: &str| {
            let now = start + Duration::from_millis(after_ms);
            let look = |_| Some(Container { id: id.to_owned(), pid: 1 });
            containers.of_by(inode, now, look).map(|container| container.id)
        };
        assert_eq!(ask(7, 0, "a").as_deref(), Some("a"));
        assert_eq!(ask(7, 999, "b").as_deref(), Some("a"));
        assert_eq!(ask(8, 999, "c").as_deref(), Some("c"));
        assert_eq!(ask(7, 1000, "d").as_deref(), Some("d"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut containers = Containers::default();
        for inode in 0..1000 {
            containers.of_by(inode, Instant::now(), |_| None);
            assert!(containers.0.len() <= MAX_ENTRIES);
        }
    }
}
