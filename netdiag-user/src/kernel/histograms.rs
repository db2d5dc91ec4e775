//! Histograms that the programs keep of all connections.

use std::ops::Range;

use aya::maps::{Map, MapData, PerCpuArray};
use netdiag_ebpf::histogram::{BOUNDS, Histogram, PLACES, upper_us};

use super::KernelError;
use super::in_map::InMap;

/// See the module's documentation.
pub struct Histograms(PerCpuArray<MapData, InMap<Histogram>>);

impl std::fmt::Debug for Histograms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Histograms")
    }
}

/// One of them, summed up over all CPUs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    /// Upper bound in seconds, infinite for the last, and how many values are in this bucket and in none before.
    pub buckets: Vec<(f64, u64)>,
    /// Seconds.
    pub sum: f64,
}

impl Histograms {
    pub(super) fn new(map: Map) -> Result<Self, KernelError> {
        Ok(Self(PerCpuArray::try_from(map)?))
    }

    /// One by its number in [`netdiag_ebpf::histogram`].
    pub fn read(&self, number: usize) -> Result<Distribution, KernelError> {
        let per_cpu = self.0.get(&(number as u32), 0)?;
        Ok(sum(per_cpu.iter().map(|InMap(one)| one)))
    }
}

fn sum<'a>(per_cpu: impl Iterator<Item = &'a Histogram> + Clone) -> Distribution {
    let sum_of = |places: Range<usize>| {
        per_cpu.clone().map(|one: &Histogram| one.counts[places.clone()].iter().sum::<u64>()).sum()
    };
    // What is above all bounds is counted by its own size.
    let count = |bucket| if bucket < BOUNDS { sum_of(bucket..bucket + 1) } else { sum_of(BOUNDS..PLACES) };
    let bound = |bucket| upper_us(bucket).map_or(f64::INFINITY, |us| f64::from(us) / 1e6);
    Distribution {
        buckets: (0..=BOUNDS).map(|bucket| (bound(bucket), count(bucket))).collect(),
        sum: per_cpu.clone().map(|one| one.sum_us).sum::<u64>() as f64 / 1e6,
    }
}

#[cfg(test)]
mod tests {
    use netdiag_ebpf::histogram::place;

    use super::*;

    #[test]
    fn processors_are_summed_up() {
        let mut all = [Histogram { sum_us: 0, counts: [0; PLACES] }; 2];
        for (cpu, us) in [(0, 20_000), (1, 20_000), (1, 20), (1, 200_000_000)] {
            all[cpu].sum_us += u64::from(us);
            all[cpu].counts[place(us)] += 1;
        }
        let Distribution { buckets, sum } = sum(all.iter());
        let filled: Vec<(f64, u64)> = buckets.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.000_032, 1), (0.032_768, 2), (f64::INFINITY, 1)]);
        assert!((sum - 200.040_02).abs() < 1e-9, "{sum}");
    }
}
