//! Control groups by the number that the kernel gives them.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The hierarchy is not walked again for a number that is not found sooner than this.
const AGAIN: Duration = Duration::from_secs(1);
/// More groups than this are not looked at.
const MAX_GROUPS: usize = 16384;

/// Paths of the unified hierarchy by id: the inode number of the group's directory (`kernfs_node.id`).
#[derive(Debug, Default)]
pub struct CgroupIds {
    paths: HashMap<u64, String>,
    /// The root's number, which tells nothing: with v1 hierarchies everybody is there.
    root: u64,
    walked: Option<Instant>,
}

impl CgroupIds {
    /// With those that are there.
    pub fn of_now() -> Self {
        let mut ids = Self::default();
        ids.walk_again();
        ids
    }

    /// The path of a group that is there, or was at an earlier look, as `/proc/PID/cgroup` writes it.
    pub fn path(&mut self, id: u64) -> Option<String> {
        if id == 0 || id == self.root {
            return None;
        }
        if !self.paths.contains_key(&id) && self.walked.is_none_or(|at| at.elapsed() >= AGAIN) {
            self.walk_again();
        }
        self.paths.get(&id).cloned()
    }

    /// The same without another look.
    pub fn known(&self, id: u64) -> Option<String> {
        self.paths.get(&id).cloned()
    }

    fn walk_again(&mut self) {
        self.walked = Some(Instant::now());
        let Some(root) = root() else { return };
        self.root = fs::metadata(&root).map(|root| root.ino()).unwrap_or_default();
        let found = walk(&root);
        // A number is not given twice (fs/kernfs/dir.c, `__kernfs_new_node`), so those that are gone may stay.
        if self.paths.len() + found.len() > 2 * MAX_GROUPS {
            self.paths.clear();
        }
        self.paths.extend(found);
    }
}

/// Where the unified hierarchy is mounted.
fn root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    line.split(' ').nth(1).map(PathBuf::from)
}

fn walk(root: &Path) -> HashMap<u64, String> {
    let mut paths = HashMap::new();
    let mut rest = vec![root.to_owned()];
    while let Some(directory) = rest.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if paths.len() >= MAX_GROUPS {
                return paths;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if let Ok(below) = path.strip_prefix(root) {
                    paths.insert(entry.ino(), format!("/{}", below.display()));
                }
                rest.push(path);
            }
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_inode_number() {
        let directory = tempfile::tempdir().unwrap();
        let group = directory.path().join("system.slice/nginx.service");
        fs::create_dir_all(&group).unwrap();
        let paths = walk(directory.path());
        let inode = fs::metadata(&group).unwrap().ino();
        assert_eq!(paths[&inode], "/system.slice/nginx.service");
        assert_eq!(CgroupIds::default().path(0), None);
    }
}
