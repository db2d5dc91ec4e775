//! Histograms that the programs keep per CPU: buckets by powers of two, in microseconds.

/// How many there are in the map `HISTOGRAMS`: [`CONNECT`] and [`ROUND_TRIP`], each for [`NETWORK`] and [`LOCAL`].
pub const HISTOGRAMS: usize = 4;
/// From SYN_SENT to ESTABLISHED.
pub const CONNECT: usize = 0;
/// Smoothed round-trip time when the connection leaves ESTABLISHED.
pub const ROUND_TRIP: usize = 2;
/// To be added: the connection goes to another address...
pub const NETWORK: usize = 0;
/// ... or to this machine's own, or one of 127.0.0.0/8.
pub const LOCAL: usize = 1;

/// Buckets with an upper bound; one more follows for what is above all.
pub const BOUNDS: usize = 25;
/// What the first bucket holds at most; each following one twice as much, the last 134 s.
const FIRST_US: u32 = 1 << FIRST_BITS;
const FIRST_BITS: u32 = 3;
/// Places, a power of two: the verifier sees a mask.
pub const PLACES: usize = 32;

/// One histogram, of one CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    /// Sum of all values, microseconds.
    pub sum_us: u64,
    /// By [`place`]: the last bucket is all from [`BOUNDS`] on.
    pub counts: [u64; PLACES],
}

const _: () = assert!(size_of::<Histogram>() == 8 + 8 * PLACES);
const _: () = assert!(BOUNDS < PLACES);

/// Where a value is counted. Not limited to the buckets: before Linux 6.8 the verifier follows a comparison that cannot
/// be true, and then trusts the number no more.
#[inline(always)]
pub const fn place(us: u32) -> usize {
    // As many bits as what is above the first bound has: halved as often, which BPF has an instruction for.
    let mut rest = us.saturating_sub(1) >> FIRST_BITS;
    let mut bits = 0;
    if rest >= 1 << 16 {
        rest >>= 16;
        bits += 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        bits += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        bits += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        bits += 2;
    }
    if rest >= 2 {
        bits += 2;
    } else {
        bits += rest as usize;
    }
    bits
}

/// The highest value of a bucket, microseconds; `None` for the last.
pub const fn upper_us(bucket: usize) -> Option<u32> {
    if bucket < BOUNDS { Some(FIRST_US << bucket) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(us: u32) -> usize {
        place(us).min(BOUNDS)
    }

    #[test]
    fn bounds_belong_to_their_bucket() {
        for index in 0..BOUNDS {
            let bound = upper_us(index).unwrap_or(0);
            assert_eq!(bucket(bound), index);
            assert_eq!(bucket(bound + 1), index + 1);
        }
        assert_eq!((bucket(0), bucket(1), bucket(8), bucket(9)), (0, 0, 0, 1));
        assert_eq!((bucket(1_000), bucket(1_024), bucket(1_025)), (7, 7, 8));
        assert_eq!((bucket(u32::MAX), upper_us(BOUNDS)), (BOUNDS, None));
        assert!(place(u32::MAX) < PLACES);
        assert_eq!(upper_us(BOUNDS - 1), Some(134_217_728));
    }
}
