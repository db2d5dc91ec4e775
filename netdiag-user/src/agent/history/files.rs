//! The files of a store: `2026-11-26.db`, `2026-11-26-2.db` where a day needed a second one, and
//! `2026-11-26.db.damaged-1795680000` for one that was set aside. Each may have SQLite's `-wal` and `-shm` beside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// A file of the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreFile {
    /// UTC.
    pub date: Date,
    /// From 1.
    pub part: u32,
    /// It is kept for its owner to look at, and not read.
    pub damaged: bool,
    pub path: PathBuf,
}

impl StoreFile {
    pub fn new(directory: &Path, date: Date, part: u32) -> Self {
        let name = if part == 1 { format!("{date}.db") } else { format!("{date}-{part}.db") };
        Self { date, part, damaged: false, path: directory.join(name) }
    }

    /// `None` for a file that is not the store's.
    fn of(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (stem, rest) = name.split_once(".db")?;
        let damaged = match rest {
            "" => false,
            rest => {
                rest.strip_prefix(".damaged-")?.bytes().all(|byte| byte.is_ascii_digit()).then_some(true)?
            }
        };
        let date = stem.get(..10)?.parse().ok()?;
        let part = match stem.get(10..)? {
            "" => 1,
            rest => rest.strip_prefix('-')?.parse().ok()?,
        };
        Some(Self { date, part, damaged, path })
    }

    /// With what SQLite keeps beside it, in bytes.
    pub fn size(&self) -> u64 {
        self.all().iter().filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.len()).sum()
    }

    /// Itself last: what is beside it means nothing without it.
    fn all(&self) -> [PathBuf; 3] {
        let beside = |end: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(end);
            PathBuf::from(name)
        };
        [beside("-wal"), beside("-shm"), self.path.clone()]
    }

    /// # Errors
    /// That of the file itself.
    pub fn delete(&self) -> io::Result<()> {
        let [wal, shm, own] = self.all();
        for path in [wal, shm] {
            // Mostly there is none.
            let _ = fs::remove_file(path);
        }
        fs::remove_file(own)
    }

    /// Gives it a name under which it is not read any more. Returns that name.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn set_aside(&self, now: Timestamp) -> io::Result<PathBuf> {
        let end = format!(".damaged-{}", now.as_second());
        let renamed = |path: &Path, suffix: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(&end);
            name.push(suffix);
            fs::rename(path, &name).map(|()| PathBuf::from(name))
        };
        let [wal, shm, own] = self.all();
        let _ = renamed(&wal, "-wal");
        // Nobody needs it without the database.
        let _ = fs::remove_file(shm);
        renamed(&own, "")
    }
}

/// The files of a store, oldest first.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(directory: &Path) -> io::Result<Vec<StoreFile>> {
    let mut files: Vec<StoreFile> =
        fs::read_dir(directory)?.flatten().filter_map(|entry| StoreFile::of(entry.path())).collect();
    files.sort();
    Ok(files)
}

/// The day that a moment is in.
pub fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

/// Deletes files that are older than `keep`, and the oldest until all together are within `max_size`. The one that
/// is written stays. Returns the size of what is left.
///
/// # Errors
/// When the directory cannot be read or a file not be deleted.
pub fn expire(
    directory: &Path,
    keep: Duration,
    max_size: u64,
    current: Option<&Path>,
    now: Timestamp,
) -> io::Result<u64> {
    let oldest = now.checked_sub(keep).map_or(Date::MIN, day);
    let mut files = list(directory)?;
    let mut total: u64 = files.iter().map(StoreFile::size).sum();
    files.retain(|file| Some(file.path.as_path()) != current);
    for file in files {
        if file.date < oldest || total > max_size {
            let size = file.size();
            file.delete()?;
            total = total.saturating_sub(size);
        }
    }
    Ok(total)
}

/// Whether a file can hold what happened in this time. What is stored at midnight happened a moment before.
pub fn may_hold(file: &StoreFile, since: Timestamp, until: Timestamp) -> bool {
    let last = day(until).checked_add(1.day()).unwrap_or(Date::MAX);
    !file.damaged && file.date >= day(since) && file.date <= last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-26T04:00:00Z".parse().unwrap()
    }

    #[test]
    fn names() {
        let of = |name: &str| StoreFile::of(PathBuf::from(name)).map(|file| (file.part, file.damaged));
        assert_eq!(of("2026-11-26.db"), Some((1, false)));
        assert_eq!(of("2026-11-26-12.db"), Some((12, false)));
        assert_eq!(of("2026-11-26.db.damaged-1795680000"), Some((1, true)));
        for other in ["2026-11-26.db-wal", "2026-13-26.db", "notes.db", "2026-11-26.db.bak", "lock", "é.db"]
        {
            assert_eq!(of(other), None, "{other}");
        }
        let made = StoreFile::new(Path::new("/x"), day(now()), 2);
        assert_eq!(StoreFile::of(made.path.clone()), Some(made));
    }

    #[test]
    fn old_files_and_too_large_ones_go_and_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (name, bytes) in [
            ("2026-11-01.db", 10),
            ("2026-11-01.db-wal", 10),
            ("2026-11-20.db", 400),
            ("2026-11-21.db", 400),
            ("2026-11-26.db", 400),
            ("somebody's.db", 5_000),
        ] {
            fs::write(path(name), vec![0; bytes]).unwrap();
        }
        let keep = Duration::from_secs(14 * 86_400);
        let current = path("2026-11-26.db");
        let expire = |size| expire(directory.path(), keep, size, Some(&current), now()).unwrap();
        assert_eq!(expire(10_000), 1_200);
        assert!(!path("2026-11-01.db").exists() && !path("2026-11-01.db-wal").exists());
        assert_eq!(expire(900), 800);
        assert!(!path("2026-11-20.db").exists() && path("2026-11-21.db").exists());
        assert_eq!(expire(1), 400);
        assert!(current.exists() && path("somebody's.db").exists());
    }

    #[test]
    fn only_files_of_the_time_are_read() {
        let file = |date: &str| StoreFile::new(Path::new("/x"), date.parse().unwrap(), 1);
        let (since, until) = ("2026-11-25T23:00:00Z".parse().unwrap(), now());
        let dates = ["2026-11-24", "2026-11-25", "2026-11-26", "2026-11-27", "2026-11-28"];
        let held: Vec<&str> = dates.into_iter().filter(|date| may_hold(&file(date), since, until)).collect();
        assert_eq!(held, ["2026-11-25", "2026-11-26", "2026-11-27"]);
    }
}
