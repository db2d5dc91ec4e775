//! What the tests of texts share.

// Each test file compiles its own copy and uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file below a directory whose name ends so, sorted.
pub fn files(directory: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for entry in entries.map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files(&entry, end));
        } else if entry.to_string_lossy().ends_with(end) {
            found.push(entry);
        }
    }
    found.sort();
    found
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// README, docs and the pages of the catalogue.
pub fn documents() -> Vec<PathBuf> {
    let root = root();
    let mut all = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    all.extend(files(&root.join("docs"), ".md"));
    all.extend(pages());
    all
}

/// The pages of the catalogue.
pub fn pages() -> Vec<PathBuf> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/diagnoses/pages"), ".md")
}

/// Fails with all complaints at once.
pub fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}
