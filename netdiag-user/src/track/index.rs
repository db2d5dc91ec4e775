//! Finding by key: flows, sockets, asked routes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use ahash::RandomState;

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

/// Numbers that have one key, the oldest first. Most keys have one.
#[derive(Debug)]
pub(super) enum Numbers {
    One(u64),
    Many(VecDeque<u64>),
}

impl Numbers {
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = u64> {
        let (one, many) = match self {
            Self::One(number) => (Some(*number), None),
            Self::Many(numbers) => (None, Some(numbers)),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }
}

/// The numbers of all that has a key.
#[derive(Debug, Default)]
pub(super) struct Index(HashMap<Key, Numbers, BuildHasherDefault<Hashed>>);

impl Index {
    pub(super) fn add(&mut self, key: Key, number: u64) {
        match self.0.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Numbers::One(number));
            }
            Entry::Occupied(mut entry) => match entry.get_mut() {
                Numbers::Many(numbers) => numbers.push_back(number),
                Numbers::One(first) => {
                    let both = VecDeque::from([*first, number]);
                    entry.insert(Numbers::Many(both));
                }
            },
        }
    }

    /// What leaves is the oldest of its key, or nearly so, and is looked for from there.
    pub(super) fn remove(&mut self, key: Key, number: u64) {
        let Entry::Occupied(mut entry) = self.0.entry(key) else { return };
        let is_last = match entry.get_mut() {
            Numbers::One(one) => *one == number,
            Numbers::Many(numbers) => {
                if let Some(at) = numbers.iter().position(|other| *other == number) {
                    numbers.remove(at);
                }
                numbers.is_empty()
            }
        };
        if is_last {
            entry.remove();
        }
    }

    pub(super) fn get(&self, key: Key) -> Option<&Numbers> {
        self.0.get(&key)
    }

    /// The latest first.
    pub(super) fn latest(&self, key: Key) -> impl Iterator<Item = u64> {
        self.get(key).into_iter().flat_map(|numbers| numbers.iter().rev())
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
            index.add(keys.of("all"), number);
            index.add(keys.of(number), number);
        }
        assert_eq!(index.latest(keys.of("all")).collect::<Vec<_>>(), [2, 1, 0]);
        for number in [1, 0, 2] {
            index.remove(keys.of("all"), number);
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
        assert_eq!(index.latest(keys.of(1)).collect::<Vec<_>>(), [1]);
    }
}
