//! The memory of the kernel's stack at a drop: where `nft_do_chain` left what it was looking at.
//!
//! `nft_do_chain` calls a function that frees the packet. That pushes the address to come back to, which is the
//! drop's location, and then the registers that it must preserve, which hold the expression, the rule and the chain
//! at work. Lower down lies what the tracepoint's own functions hold, and what earlier packets left.

/// A function saves no more registers than this.
const SAVED: usize = 8;
/// Of the frames behind the location so many words are looked at: that of `nft_do_chain` has 500 to 700 bytes, and
/// the base chain may be in a register that the next one saved.
const BEHIND: usize = 128;

/// The words around the place where the drop's location is the return address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frames<'a> {
    /// Registers that were saved right below it, nearest first when reversed.
    below: &'a [u64],
    /// The frame of the function that dropped the packet.
    own: &'a [u64],
    behind: &'a [u64],
    location: u64,
}

/// Code and constants lie this near to each other; what is allocated lies elsewhere.
const IMAGE: u64 = 1 << 31;

impl<'a> Frames<'a> {
    /// `stack`: return addresses, innermost first. `None` if the location is nowhere: it was no call, or is too far up.
    pub(super) fn find(words: &'a [u64], location: u64, stack: &[u64]) -> Option<Self> {
        // It is there at least twice: lower down as an argument of the tracepoint.
        let at = words.iter().rposition(|word| *word == location)?;
        let behind = &words[at + 1..];
        let behind = &behind[..behind.len().min(BEHIND)];
        let inner = stack.iter().rposition(|address| *address == location);
        let caller = inner.and_then(|inner| stack.get(inner + 1));
        let end = caller.and_then(|caller| behind.iter().position(|word| word == caller));
        Some(Self {
            below: &words[at.saturating_sub(SAVED)..at],
            own: &behind[..end.unwrap_or(behind.len())],
            behind,
            location,
        })
    }

    /// What the registers held, nearest to the location first.
    pub(super) fn saved(&self) -> impl Iterator<Item = u64> + 'a {
        self.below.iter().rev().copied()
    }

    /// Whether a word can point to something that was allocated: most are addresses of code, and numbers.
    pub(super) fn is_object(&self, word: u64) -> bool {
        word >> 63 == 1 && word.is_multiple_of(8) && word.abs_diff(self.location) > IMAGE
    }

    /// The registers, and the frame of the function that dropped the packet.
    pub(super) fn own(&self) -> impl Iterator<Item = u64> + 'a {
        self.saved().chain(self.own.iter().copied())
    }

    /// All of it.
    pub(super) fn all(&self) -> impl Iterator<Item = u64> + 'a {
        self.saved().chain(self.behind.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_place_counts() {
        let words = [7, 1, 2, 7, 3, 4, 9, 5];
        let frames = Frames::find(&words, 7, &[6, 7, 9]).unwrap();
        assert_eq!(frames.saved().collect::<Vec<_>>(), [2, 1, 7]);
        assert_eq!(frames.own().collect::<Vec<_>>(), [2, 1, 7, 3, 4]);
        assert_eq!(frames.all().collect::<Vec<_>>(), [2, 1, 7, 3, 4, 9, 5]);
        assert!(Frames::find(&words, 8, &[]).is_none());
        assert!(Frames::find(&[], 9, &[]).is_none());
        let far: Vec<u64> = (0..400).collect();
        let frames = Frames::find(&far, 100, &[]).unwrap();
        assert_eq!((frames.saved().count(), frames.own().count(), frames.all().count()), (8, 136, 136));
    }
}
