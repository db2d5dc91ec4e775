//! Writes an initramfs: a cpio archive in the "newc" format, not compressed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

/// An archive that is being written. Each path is written once; directories appear by themselves.
#[derive(Debug)]
pub struct Initramfs {
    to: BufWriter<File>,
    written: BTreeSet<PathBuf>,
    inode: u32,
}

impl Initramfs {
    /// Begins an archive at `path`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { to: BufWriter::new(file), written: BTreeSet::new(), inode: 1 })
    }

    /// Copies a file, with the mode and the time that it has here.
    pub fn file(&mut self, from: &Path, to: &Path) -> Result<()> {
        if !self.is_new(to)? {
            return Ok(());
        }
        let meta = from.metadata().with_context(|| format!("cannot read {}", from.display()))?;
        let seconds = meta.modified()?.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let data = fs::read(from)?;
        self.entry(to, ModeFileType::Regular, meta.permissions().mode() & 0o7777, seconds, &data)
    }

    /// Writes a file.
    pub fn data(&mut self, to: &Path, mode: u32, data: &[u8]) -> Result<()> {
        if !self.is_new(to)? {
            return Ok(());
        }
        self.entry(to, ModeFileType::Regular, mode, 0, data)
    }

    /// Writes a symbolic link.
    pub fn symlink(&mut self, at: &Path, target: &str) -> Result<()> {
        if !self.is_new(at)? {
            return Ok(());
        }
        self.entry(at, ModeFileType::Symlink, 0o777, 0, target.as_bytes())
    }

    /// Writes a directory and those above it.
    pub fn directory(&mut self, path: &Path) -> Result<()> {
        if !self.is_new(path)? {
            return Ok(());
        }
        let mode = if path == Path::new("/tmp") { 0o1777 } else { 0o755 };
        self.entry(path, ModeFileType::Directory, mode, 0, &[])
    }

    /// Copies all files below a directory for which `wanted` holds; it is asked about directories too.
    pub fn tree(&mut self, from: &Path, to: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let path = entry?.path();
            let Some(name) = path.file_name().filter(|_| wanted(&path)) else { continue };
            let target = to.join(name);
            let Ok(meta) = path.metadata() else { continue };
            if meta.is_dir() {
                self.tree(&path, &target, wanted)?;
            } else if meta.is_file() {
                self.file(&path, &target)?;
            }
        }
        Ok(())
    }

    /// Ends the archive; its size in bytes.
    pub fn finish(self) -> Result<u64> {
        let mut file = trailer(self.to)?;
        file.flush()?;
        Ok(file.stream_position()?)
    }

    /// Whether nothing was written at `path` yet; then the directories above it are.
    fn is_new(&mut self, path: &Path) -> Result<bool> {
        if !self.written.insert(path.to_owned()) {
            return Ok(false);
        }
        if let Some(parent) = path.parent().filter(|parent| parent.components().count() > 1) {
            self.directory(parent)?;
        }
        Ok(true)
    }

    fn entry(&mut self, to: &Path, kind: ModeFileType, mode: u32, seconds: u64, data: &[u8]) -> Result<()> {
        let name: PathBuf = to.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        self.inode += 1;
        let builder = Builder::new(name.to_str().context("a path that is not UTF-8")?)
            .ino(self.inode)
            .mode(mode)
            .set_mode_file_type(kind)
            .nlink(1)
            .mtime(u32::try_from(seconds).unwrap_or(0));
        let mut writer = builder.write(&mut self.to, u32::try_from(data.len())?);
        writer.write_all(data)?;
        writer.finish()?;
        Ok(())
    }
}
