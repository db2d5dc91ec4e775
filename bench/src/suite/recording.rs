//! Records of the ring buffer, as bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netdiag::kernel::loader::{Options, Session};
use netdiag::kernel::reasons::Reasons;
use netdiag_ebpf::records::Header;
use netdiag_tests::process::Process;
use serde_json::Value;

use crate::bpf::{self, Usages};
use crate::context::pause;

/// What netdiag's programs sent while a load ran, loaded by this process.
#[derive(Debug)]
pub struct Recording {
    pub records: Vec<Vec<u8>>,
    pub reasons: Reasons,
    pub usages: Usages,
    kinds: BTreeMap<u16, u64>,
    counters: Value,
}

impl Recording {
    /// Takes records until `load` ends, and keeps at most `keep` of them.
    ///
    /// # Errors
    /// When the programs cannot be loaded, the load fails, or the user interrupts.
    pub fn take(mut load: Process, keep: usize) -> Result<Self> {
        let (session, mut ring) = Session::start(Options::default())?;
        let mut recording = Self {
            records: Vec::new(),
            reasons: session.reasons.clone(),
            usages: Usages::default(),
            kinds: BTreeMap::new(),
            counters: Value::Null,
        };
        loop {
            let running = load.is_running();
            while let Some(record) = ring.next() {
                let kind = u16::from_ne_bytes([record[0], record[1]]);
                *recording.kinds.entry(kind).or_default() += 1;
                if recording.records.len() < keep {
                    recording.records.push(record.to_vec());
                }
            }
            if !running {
                break;
            }
            pause(Duration::from_micros(500))?;
        }
        // The programs run on: first what was sent, then how often they ran, would not add up exactly. Nothing is
        // sent in the namespace any more.
        recording.usages = bpf::programs_of(std::process::id())?;
        recording.counters = serde_json::to_value(session.counters()?)?;
        let output = load.wait(Duration::from_secs(1))?;
        if !output.status.success() {
            bail!("a load generator failed: {output}");
        }
        Ok(recording)
    }

    /// How many records of a kind came.
    pub fn count(&self, kind: u16) -> u64 {
        self.kinds.get(&kind).copied().unwrap_or(0)
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.counters[name].as_u64().unwrap_or(0)
    }
}

/// When a record was written, `CLOCK_MONOTONIC` nanoseconds.
pub fn time_of(record: &[u8]) -> Result<u64> {
    const TIME: usize = std::mem::offset_of!(Header, time_ns);
    let bytes = record.get(TIME..TIME + 8).context("a record without a header")?;
    Ok(u64::from_ne_bytes(bytes.try_into()?))
}

/// Moves each time in a record, found by its value: a time lies within the recording, and nothing else does
/// (addresses of the kernel are far above it).
pub fn shift(record: &mut [u8], within: std::ops::RangeInclusive<u64>, by: u64) {
    for word in record.chunks_exact_mut(8) {
        let Ok(bytes) = <[u8; 8]>::try_from(&*word) else { continue };
        let value = u64::from_ne_bytes(bytes);
        if within.contains(&value) {
            word.copy_from_slice(&(value + by).to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_times_are_shifted() {
        let mut record: Vec<u8> =
            [7_u64, 1_000, 0xffff_8880_0000_0000, 1_500].iter().flat_map(|w| w.to_ne_bytes()).collect();
        shift(&mut record, 900..=1_500, 10_000);
        let words: Vec<u64> = record.chunks(8).map(|w| u64::from_ne_bytes(w.try_into().unwrap())).collect();
        assert_eq!(words, [7, 11_000, 0xffff_8880_0000_0000, 11_500]);
    }
}
