//! Which kernels there are to run on, and which Debian packages have them.

use anyhow::{Result, bail};

/// What `--kernel all` means. Each is a series, `6.1`, or the newest that Debian has.
pub const MATRIX: &[&str] = &["5.10", "6.1", "6.12", NEWEST];
/// What a run without `--kernel` takes: the oldest that is supported in full, and the newest.
pub const DEFAULT: &[&str] = &["6.1", NEWEST];
pub const NEWEST: &str = "newest";
/// Series that netdiag refuses, in one line.
const TOO_OLD: &[&str] = &["5.10"];

/// The packages of one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// `6.1`
    pub series: String,
    /// As `uname -r` says it: `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// From Linux 6.19 on there are three.
    pub packages: Vec<String>,
}

/// The kernels that `--kernel` names.
///
/// # Errors
/// When a word is neither `all`, `newest` nor a series.
pub fn selected(words: &[String]) -> Result<Vec<String>> {
    let mut wanted: Vec<String> = Vec::new();
    for word in words {
        let is_series = word.split_once('.').is_some_and(|(major, minor)| {
            let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            number(major) && number(minor)
        });
        let more: Vec<&str> = match word.as_str() {
            "all" => MATRIX.to_vec(),
            NEWEST => vec![NEWEST],
            series if is_series => vec![series],
            other => bail!("--kernel takes `all`, `newest` or a series such as 6.1, not {other:?}"),
        };
        for series in more {
            if !wanted.iter().any(|other| other == series) {
                wanted.push(series.to_owned());
            }
        }
    }
    Ok(wanted)
}

/// The newest kernel of a series among package names, or the newest of all for `newest`.
pub fn resolve<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<Kernel> {
    let fitting =
        names.filter_map(Kernel::of_package).filter(|kernel| wanted == NEWEST || kernel.series == wanted);
    // For one version linux-binary is the kernel; linux-image then only depends on it.
    fitting.max_by_key(|kernel| (numbers(&kernel.release), kernel.packages.len()))
}

/// Whether netdiag refuses this series.
pub fn is_too_old(series: &str) -> bool {
    TOO_OLD.contains(&series)
}

impl Kernel {
    /// The kernel that a package holds; None for flavours that are not meant for virtual machines, and for
    /// kernels that were rebuilt for an older Debian.
    fn of_package(name: &str) -> Option<Self> {
        let (release, split) = match name.strip_prefix("linux-binary-") {
            Some(release) => (release, true),
            None => (name.strip_prefix("linux-image-")?, false),
        };
        let version = release.strip_suffix("-cloud-amd64")?;
        if ["deb11", "deb12"].iter().any(|older| version.contains(older)) {
            return None;
        }
        let mut parts = version.split('.');
        let (major, minor) = (parts.next()?, parts.next()?);
        // linux-image-6.1-cloud-amd64 names whatever is current.
        parts.next()?;
        if major.parse::<u32>().is_err() {
            return None;
        }
        let packages = if split {
            ["binary", "modules", "base"].map(|part| format!("linux-{part}-{release}")).to_vec()
        } else {
            vec![name.to_owned()]
        };
        Some(Self { series: format!("{major}.{minor}"), release: release.to_owned(), packages })
    }
}

/// The numbers in a text, in order: what versions are compared by.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &[
        "linux-image-6.1-cloud-amd64",
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64-unsigned",
        "linux-image-6.1.0-57-amd64",
        "linux-image-6.1.0-0.deb11.52-cloud-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64",
        "linux-image-6.12.115+deb13.1-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
        "linux-binary-7.3.4+deb13-cloud-amd64",
        "linux-binary-unsigned-7.3.4+deb13-cloud-amd64",
        "linux-binary-7.3.4+deb13-rt-amd64",
        "linux-image-cloud-amd64",
    ];

    fn resolved(wanted: &str) -> Kernel {
        resolve(wanted, NAMES.iter().copied()).expect("it is in the list")
    }

    #[test]
    fn takes_the_newest_of_a_series() {
        assert_eq!(resolved("6.1").release, "6.1.0-56-cloud-amd64");
        assert_eq!(resolved("6.12").release, "6.12.115+deb13.1-cloud-amd64");
        assert!(resolve("5.10", NAMES.iter().copied()).is_none());
    }

    #[test]
    fn the_newest_is_split_in_three() {
        let newest = resolved(NEWEST);
        assert_eq!(newest.series, "7.3");
        let names = ["binary", "modules", "base"].map(|part| format!("linux-{part}-7.3.4+deb13-cloud-amd64"));
        assert_eq!(newest.packages, names);
    }

    #[test]
    fn selects_each_kernel_once() {
        let words = ["6.1", "all"].map(str::to_owned);
        assert_eq!(selected(&words).expect("known words"), ["6.1", "5.10", "6.12", "newest"]);
        assert!(selected(&["six".to_owned()]).is_err());
    }
}
