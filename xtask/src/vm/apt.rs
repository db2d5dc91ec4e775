//! Debian's archive, through an apt configuration of our own: nothing of the system's apt changes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::kernels::{self, Kernel};
use crate::cmd;

/// Where the kernels are: a suite, and whether it is in the archive of security updates.
const SUITES: &[(&str, bool)] = &[
    ("bullseye-security", true),
    ("bookworm-security", true),
    ("trixie-security", true),
    ("trixie-backports", false),
];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How old package lists may be: kernels change a few times a month.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// The private apt, in one directory.
#[derive(Debug)]
pub struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Writes its sources; package lists that are a day old are fetched anew.
    ///
    /// # Errors
    /// When there are no lists and none can be fetched.
    pub fn new(cache: &Path) -> Result<Self> {
        for tool in ["apt-get", "dpkg-deb"] {
            if cmd::find(tool).is_none() {
                bail!("no {tool} here: the kernels come as Debian packages; install apt and dpkg");
            }
        }
        let apt = Self { directory: cache.join("apt") };
        for directory in ["lists/partial", "archives/partial", "state", "none"] {
            std::fs::create_dir_all(apt.directory.join(directory))?;
        }
        std::fs::write(apt.directory.join("sources.list"), sources(&mirror()?))?;
        // No package is installed, as far as this apt knows.
        std::fs::write(apt.directory.join("status"), "")?;
        apt.refresh()?;
        Ok(apt)
    }

    fn refresh(&self) -> Result<()> {
        let stamp = self.directory.join("updated");
        let age = stamp.metadata().and_then(|meta| meta.modified()).ok();
        let is_fresh =
            age.is_some_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < FRESH));
        if is_fresh {
            return Ok(());
        }
        println!("vm: apt-get update, for {} suites", SUITES.len());
        let mut update = self.command("apt-get", 120);
        // Otherwise a mirror that cannot be reached is only a warning.
        update.args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]);
        let output = update.output().context("cannot run apt-get")?;
        if output.status.success() {
            return Ok(std::fs::write(stamp, "")?);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let why = text.lines().next().unwrap_or("apt-get update failed").trim();
        if age.is_none() {
            bail!(
                "no package lists of Debian: {why}; the kernels come over the network, so connect this machine"
            );
        }
        println!("vm: {why}; going on with the older package lists");
        Ok(())
    }

    /// The newest kernel of a series.
    ///
    /// # Errors
    /// When the archive has none.
    pub fn kernel(&self, wanted: &str) -> Result<Kernel> {
        let mut names = String::new();
        for prefix in ["linux-image-", "linux-binary-"] {
            names += &cmd::output(self.command("apt-cache", 60).args(["pkgnames", prefix]))
                .context("`apt-cache pkgnames` failed")?;
        }
        // A name may be known only because another package mentions it.
        let mut names: Vec<&str> = names.lines().collect();
        while let Some(kernel) = kernels::resolve(wanted, names.iter().copied()) {
            let show = cmd::output(self.command("apt-cache", 60).arg("show").args(&kernel.packages));
            if show.is_some_and(|text| text.contains("\nFilename: ")) {
                return Ok(kernel);
            }
            names.retain(|name| !kernel.packages.iter().any(|package| package == name));
        }
        bail!("Debian's suites have no kernel {wanted} for the cloud (tried: {})", suite_names())
    }

    /// Downloads a kernel's packages; their files.
    ///
    /// # Errors
    /// When the download fails.
    pub fn download(&self, kernel: &Kernel) -> Result<Vec<PathBuf>> {
        let directory = self.directory.join("archives").join(&kernel.release);
        std::fs::create_dir_all(&directory)?;
        println!("vm: downloading {}", kernel.packages.join(" "));
        let mut download = self.command("apt-get", 600);
        // As root, apt would drop to a user that cannot write here.
        download.args(["-qq", "-o", "APT::Sandbox::User=root", "download"]).args(&kernel.packages);
        cmd::run(download.current_dir(&directory)).context("the kernel packages could not be fetched")?;
        let files =
            std::fs::read_dir(&directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        Ok(files)
    }

    fn command(&self, program: &str, seconds: u32) -> Command {
        let mut command = cmd::limited(seconds, program);
        let path = |name: &str| self.directory.join(name).display().to_string();
        for (option, value) in [
            ("Dir::Etc::sourcelist", path("sources.list")),
            ("Dir::Etc::sourceparts", path("none")),
            ("Dir::State", path("state")),
            ("Dir::State::lists", path("lists")),
            ("Dir::State::status", path("status")),
            ("Dir::Cache", path("")),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::Retries", "3".to_owned()),
            ("Acquire::http::Timeout", "20".to_owned()),
            ("APT::Get::List-Cleanup", "true".to_owned()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command.env("LC_ALL", "C");
        command
    }
}

fn suite_names() -> String {
    SUITES.iter().map(|(suite, _)| *suite).collect::<Vec<_>>().join(", ")
}

/// The machine's own mirror of Debian; on another distribution, Debian's.
fn mirror() -> Result<String> {
    let format = "$(REPO_URI)";
    let targets = cmd::output(Command::new("apt-get").args(["indextargets", "--format", format]));
    let archive = targets.as_deref().unwrap_or_default().lines().map(|uri| uri.trim_end_matches('/'));
    let found = archive.into_iter().find(|uri| uri.ends_with("/debian")).map(str::to_owned);
    found.context(
        "apt has no Debian mirror here (a source that ends in /debian): add one, the kernels come from it",
    )
}

fn sources(mirror: &str) -> String {
    let line = |&(suite, security): &(&str, bool)| {
        let directory = if security { "-security" } else { "" };
        format!("deb [arch=amd64 signed-by={KEYRING}] {mirror}{directory} {suite} main\n")
    };
    SUITES.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_updates_are_in_their_own_archive() {
        let text = sources("http://mirror.test/debian");
        assert!(text.contains(" http://mirror.test/debian-security bookworm-security main\n"), "{text}");
        assert!(text.contains(" http://mirror.test/debian trixie-backports main\n"), "{text}");
    }
}
