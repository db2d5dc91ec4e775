//! What the kernel tells about BPF programs and maps: how often they ran, for how long, and their memory.

pub mod empty;
mod sys;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData, MapInfo};
use aya::programs::loaded_programs;
use serde::Serialize;

/// Runs of one program since it was loaded, counted while statistics are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub runs: u64,
    pub nanoseconds: u64,
}

impl Usage {
    pub fn plus(self, other: Self) -> Self {
        Self { runs: self.runs + other.runs, nanoseconds: self.nanoseconds + other.nanoseconds }
    }

    fn minus(self, before: Self) -> Self {
        Self {
            runs: self.runs.saturating_sub(before.runs),
            nanoseconds: self.nanoseconds.saturating_sub(before.nanoseconds),
        }
    }
}

/// Usage by name of program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Usages(pub BTreeMap<String, Usage>);

impl Usages {
    pub fn total(&self) -> Usage {
        self.0.values().copied().fold(Usage::default(), Usage::plus)
    }

    /// Of the program `name`; the kernel keeps 15 bytes of a name.
    pub fn of(&self, name: &str) -> Usage {
        self.0.get(name.get(..15).unwrap_or(name)).copied().unwrap_or_default()
    }

    pub fn since(&self, before: &Self) -> Self {
        let difference =
            self.0.iter().map(|(name, usage)| (name.clone(), usage.minus(before.of(name)))).collect();
        Self(difference)
    }

    fn add(&mut self, name: String, usage: Usage) {
        let sum = self.0.entry(name).or_default();
        *sum = sum.plus(usage);
    }
}

/// A map that a process holds.
#[derive(Debug, Clone, Serialize)]
pub struct MapMemory {
    pub id: u32,
    pub bytes: u64,
}

/// Programs that a process has open.
///
/// # Errors
/// When the process is gone, or this is not root.
pub fn programs_of(pid: u32) -> Result<Usages> {
    let names: HashMap<u32, String> = loaded_programs()
        .flatten()
        .map(|program| (program.id(), program.name_as_str().unwrap_or("?").to_owned()))
        .collect();
    let mut usages = Usages::default();
    let mut seen = Vec::new();
    for fields in descriptors(pid)? {
        let (Some(id), Some(runs)) = (number(&fields, "prog_id"), number(&fields, "run_cnt")) else {
            continue;
        };
        if seen.contains(&id) {
            continue;
        }
        seen.push(id);
        let nanoseconds = number(&fields, "run_time_ns").unwrap_or(0);
        let name = names.get(&(id as u32)).cloned().unwrap_or_else(|| format!("program {id}"));
        usages.add(name, Usage { runs, nanoseconds });
    }
    Ok(usages)
}

/// Memory of the maps that a process has open, as the kernel counts it.
///
/// # Errors
/// As [`programs_of`].
pub fn maps_of(pid: u32) -> Result<Vec<MapMemory>> {
    let mut maps: Vec<MapMemory> = Vec::new();
    for fields in descriptors(pid)? {
        let Some(id) = number(&fields, "map_id") else { continue };
        let id = id as u32;
        if !maps.iter().any(|map| map.id == id) {
            maps.push(MapMemory { id, bytes: number(&fields, "memlock").unwrap_or(0) });
        }
    }
    Ok(maps)
}

/// Places in use in the table of open sockets that a process has: map `SOCKET_IDS`, of sets of eight ids, where 0
/// is a free place. `None` where it has no such map.
pub fn sockets(pid: u32) -> Option<u64> {
    type Set = [u64; 8];
    let held = maps_of(pid).ok()?;
    let of_name = |map: &&MapMemory| {
        MapInfo::from_id(map.id).is_ok_and(|info| info.name_as_str() == Some("SOCKET_IDS"))
    };
    let map = MapData::from_id(held.iter().find(of_name)?.id).ok()?;
    let sets: Array<MapData, Set> = Map::Array(map).try_into().ok()?;
    Some(sets.iter().flatten().flatten().filter(|id| *id != 0).count() as u64)
}

type Fields = HashMap<String, String>;

/// `/proc/PID/fdinfo/*` as key and value.
fn descriptors(pid: u32) -> Result<Vec<Fields>> {
    let directory = format!("/proc/{pid}/fdinfo");
    let entries = std::fs::read_dir(&directory).with_context(|| format!("reading {directory}"))?;
    Ok(entries.flatten().filter_map(|entry| read(&entry.path())).collect())
}

fn read(path: &Path) -> Option<Fields> {
    let text = std::fs::read_to_string(path).ok()?;
    let split =
        |line: &str| line.split_once(':').map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
    Some(text.lines().filter_map(split).collect())
}

fn number(fields: &Fields, key: &str) -> Option<u64> {
    fields.get(key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_by_name() {
        let mut before = Usages::default();
        before.add("kfree_skb".into(), Usage { runs: 2, nanoseconds: 100 });
        let mut after = before.clone();
        after.add("kfree_skb".into(), Usage { runs: 3, nanoseconds: 50 });
        after.add("inet_sock_set_s".into(), Usage { runs: 1, nanoseconds: 7 });
        let since = after.since(&before);
        assert_eq!(since.of("kfree_skb"), Usage { runs: 3, nanoseconds: 50 });
        assert_eq!(since.of("inet_sock_set_state"), Usage { runs: 1, nanoseconds: 7 });
        assert_eq!(since.total(), Usage { runs: 4, nanoseconds: 57 });
    }
}
