//! The latest of what was seen, found by key.

use std::collections::VecDeque;

use super::index::{Index, Key, Keys, Numbers};
use crate::probes::Event;

/// What can be found by keys.
pub(super) trait Keyed {
    fn keys(&self, keys: &Keys) -> [Option<Key>; 2];

    /// Whether there often is none of its kind, so that nobody has to look for it.
    fn is_rare(&self) -> bool {
        false
    }
}

/// A bounded number of things, of which the oldest goes first.
#[derive(Debug)]
pub(super) struct Window<T> {
    most: usize,
    things: VecDeque<T>,
    /// Those of each of `things`, so that what leaves need not be read again.
    keys_of: VecDeque<[Option<Key>; 2]>,
    /// Number of the first of `things`.
    first: u64,
    index: Index,
    /// How many of `things` are rare.
    rare: usize,
    pub(super) keys: Keys,
}

impl<T: Keyed> Window<T> {
    pub(super) fn new(most: usize, keys: Keys) -> Self {
        Self {
            most,
            things: VecDeque::new(),
            keys_of: VecDeque::new(),
            first: 0,
            index: Index::default(),
            rare: 0,
            keys,
        }
    }

    pub(super) fn has_rare(&self) -> bool {
        self.rare > 0
    }

    pub(super) fn push(&mut self, thing: T) {
        let keys = thing.keys(&self.keys);
        self.push_with(thing, keys);
    }

    /// For what has its keys already.
    pub(super) fn push_with(&mut self, thing: T, keys: [Option<Key>; 2]) {
        if self.things.len() >= self.most
            && let Some(oldest) = self.things.pop_front()
        {
            for key in self.keys_of.pop_front().into_iter().flatten().flatten() {
                self.index.remove(key, self.first);
            }
            self.first += 1;
            self.rare -= usize::from(oldest.is_rare());
        }
        self.rare += usize::from(thing.is_rare());
        let number = self.first + self.things.len() as u64;
        for key in keys.into_iter().flatten() {
            self.index.add(key, number);
        }
        self.things.push_back(thing);
        self.keys_of.push_back(keys);
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.things.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// What has this key, the latest first.
    pub(super) fn latest(&self, key: Key) -> impl Iterator<Item = &T> {
        self.index.latest(key).filter_map(|number| self.get(number))
    }
}

/// Of very many events with one key, so many of the oldest and of the latest are looked at.
const OLDEST: usize = 64;
const LATEST: usize = 192;
/// Records of different processors come out of order by no more than this.
const DISORDER_NS: u64 = 1_000_000_000;

impl Window<Event> {
    /// Adds the numbers of events with this key that are not older than `from_ns`, and perhaps of some that
    /// are. Tells how many were left out.
    pub(super) fn find(&self, key: Key, from_ns: u64, found: &mut Vec<u64>) -> u64 {
        let numbers = match self.index.get(key) {
            None => return 0,
            Some(Numbers::One(number)) => {
                found.push(*number);
                return 0;
            }
            Some(Numbers::Many(numbers)) => numbers,
        };
        if numbers.len() <= OLDEST + LATEST {
            found.extend(numbers);
            return 0;
        }
        let from_ns = from_ns.saturating_sub(DISORDER_NS);
        let is_older = |number: &u64| self.get(*number).is_some_and(|event| event.time_ns() < from_ns);
        let start = numbers.partition_point(is_older);
        let count = numbers.len() - start;
        if count <= OLDEST + LATEST {
            found.extend(numbers.range(start..));
            return 0;
        }
        found.extend(numbers.range(start..start + OLDEST));
        found.extend(numbers.range(numbers.len() - LATEST..));
        (count - OLDEST - LATEST) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `None` has no key.
    impl Keyed for Option<u32> {
        fn keys(&self, keys: &Keys) -> [Option<Key>; 2] {
            [self.map(|n| keys.of(n % 3)), self.filter(|n| n % 2 == 0).map(|_| keys.of("even"))]
        }
    }

    #[test]
    fn the_oldest_takes_its_index_entries_along() {
        let mut window = Window::new(3, Keys::default());
        for thing in 0..100 {
            window.push(Some(thing));
        }
        let latest = |key| window.latest(key).flatten().copied().collect::<Vec<u32>>();
        assert_eq!(latest(window.keys.of("even")), [98]);
        assert_eq!(latest(window.keys.of(0_u32)), [99]);
        assert_eq!((window.get(97), window.get(96)), (Some(&Some(97)), None));
    }

    #[test]
    fn the_index_has_nothing_that_the_window_has_not() {
        let mut window = Window::new(4, Keys::default());
        (0..10).for_each(|thing| window.push(Some(thing)));
        (0..4).for_each(|_| window.push(None));
        assert!(window.index.is_empty());
    }
}
