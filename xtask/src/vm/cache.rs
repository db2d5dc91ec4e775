//! Kernels that were fetched and unpacked before.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::Apt;
use super::image;
use super::kernels::Kernel;
use super::modules::{self, Modules};
use crate::cmd;

/// Packages and kernels, in one directory that can be kept from run to run.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
}

/// A kernel that QEMU can start.
#[derive(Debug)]
pub struct Ready {
    pub series: String,
    pub release: String,
    /// The uncompressed ELF file.
    pub image: PathBuf,
    /// A root with the modules that are wanted, and their lists, below `lib/modules`.
    pub modules: PathBuf,
}

impl Cache {
    /// `NETDIAG_CACHE`, or `target/vm`.
    pub fn new() -> Self {
        let directory = std::env::var_os("NETDIAG_CACHE").map(|directory| crate::root().join(directory));
        Self { directory: directory.unwrap_or_else(|| crate::root().join("target/vm")) }
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// A kernel, fetched and unpacked if it is not here yet.
    ///
    /// # Errors
    /// When it cannot be fetched or is not packed as expected.
    pub fn kernel(&self, apt: &Apt, kernel: &Kernel) -> Result<Ready> {
        let directory = self.directory.join("kernels").join(&kernel.release);
        let ready = Ready {
            series: kernel.series.clone(),
            release: kernel.release.clone(),
            image: directory.join("vmlinux"),
            modules: directory.join("modules"),
        };
        // Written last, so that an interrupted run begins again. It holds what the modules were chosen by.
        let stamp = directory.join("ready");
        if std::fs::read_to_string(&stamp).is_ok_and(|text| text == modules::WISHES) {
            return Ok(ready);
        }
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        let unpacked = directory.join("unpacked");
        std::fs::create_dir_all(&unpacked)?;
        for package in apt.download(kernel)? {
            cmd::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
            std::fs::remove_file(package)?;
        }
        // From Linux 6.19 on the packages follow Debian's layout without /lib.
        if !unpacked.join("lib").exists() {
            std::os::unix::fs::symlink("usr/lib", unpacked.join("lib"))?;
        }
        let image = find_image(&unpacked, &kernel.release)?;
        std::fs::write(&ready.image, image::extract(&std::fs::read(image)?)?)?;
        copy_modules(&unpacked, &ready)?;
        std::fs::remove_dir_all(&unpacked)?;
        std::fs::write(stamp, modules::WISHES)?;
        Ok(ready)
    }
}

fn find_image(unpacked: &Path, release: &str) -> Result<PathBuf> {
    let places = [
        unpacked.join("boot").join(format!("vmlinuz-{release}")),
        unpacked.join("lib/modules").join(release).join("vmlinuz"),
    ];
    let found = places.into_iter().find(|path| path.is_file());
    found.with_context(|| format!("the packages of {release} have no kernel where it was expected"))
}

fn copy_modules(unpacked: &Path, ready: &Ready) -> Result<()> {
    let modules = Modules::read(unpacked, &ready.release)?;
    let directory = ready.modules.join("lib/modules").join(&ready.release);
    for (from, relative) in modules.wanted() {
        let to = directory.join(&relative);
        std::fs::create_dir_all(to.parent().unwrap_or(&directory))?;
        std::fs::copy(&from, &to).with_context(|| format!("cannot copy {relative}"))?;
        if relative.ends_with(".xz") {
            // Unpacked once here instead of at every load in an emulated machine.
            cmd::run(Command::new("xz").arg("-d").arg(&to))?;
        }
    }
    for list in modules.lists() {
        std::fs::copy(&list, directory.join(list.file_name().unwrap_or_default()))?;
    }
    modules::depmod(&ready.modules, &ready.release)
}
