//! Finding by key: flows, sockets, asked routes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

/// Hash of what is looked for. Whoever finds something by it still compares: two things may have one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Makes keys. They differ from one run to the next, so that nobody can send what collides.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys(RandomState);

impl Keys {
    pub(super) fn of(&self, what: impl Hash) -> Key {
        Key(self.0.hash_one(what))
    }
}

/// A key is a hash already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

/// The numbers of all that has a key, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Index(HashMap<Key, VecDeque<u64>, BuildHasherDefault<Hashed>>);

impl Index {
    pub(super) fn add(&mut self, key: Key, number: u64) {
        self.0.entry(key).or_default().push_back(number);
    }

    /// What leaves is the oldest of its key, or nearly so, and is looked for from there.
    pub(super) fn remove(&mut self, key: Key, number: u64) {
        let Entry::Occupied(mut entry) = self.0.entry(key) else { return };
        let numbers = entry.get_mut();
        if let Some(at) = numbers.iter().position(|other| *other == number) {
            numbers.remove(at);
        }
        if numbers.is_empty() {
            entry.remove();
        }
    }

    pub(super) fn get(&self, key: Key) -> Option<&VecDeque<u64>> {
        self.0.get(&key)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_leaves_nothing_behind() {
        let keys = Keys::default();
        let mut index = Index::default();
        for number in 0..3 {
            index.add(keys.of("even or odd"), number);
            index.add(keys.of(number), number);
        }
        assert_eq!(index.get(keys.of("even or odd")).map(|numbers| numbers.len()), Some(3));
        for number in [1, 0, 2] {
            index.remove(keys.of("even or odd"), number);
            index.remove(keys.of(number), number);
        }
        assert!(index.is_empty());
    }

    #[test]
    fn what_is_not_there_is_not_removed() {
        let keys = Keys::default();
        let mut index = Index::default();
        index.add(keys.of(1), 1);
        index.remove(keys.of(1), 2);
        index.remove(keys.of(2), 1);
        assert_eq!(index.get(keys.of(1)).map(|numbers| numbers.len()), Some(1));
    }
}
