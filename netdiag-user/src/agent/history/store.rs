//! Writes the files. What goes wrong with a disk is expected here.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, ErrorCode, params};

use super::files::{self, StoreFile};
use super::schema::{self, Opened};
use crate::output::{ConnectionPart, Report};

/// A day's file may be so much of the whole before another is begun.
const PARTS: u64 = 8;
/// The wall clock is looked at once a second: when it is so far from where it should be, it was set, or the machine was
/// suspended.
const STEP: SignedDuration = SignedDuration::from_secs(5);
/// A clock that was set forward is not believed at once where that would delete something: it may be set back again.
const DOUBT: Duration = Duration::from_hours(1);

/// How to store; all but the directory can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub dir: PathBuf,
    pub keep: Duration,
    /// Bytes of all files.
    pub max_size: u64,
    /// With the arguments of command lines.
    pub arguments: bool,
}

/// Why a batch was not stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may work later: the disk is full, read-only or locked.
    Later(String),
    /// It will not: these diagnoses cannot be stored.
    Never(String),
}

/// What happened beside storing, to be told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) set_aside: Vec<String>,
}

#[derive(Debug)]
struct Current {
    file: StoreFile,
    connection: Connection,
    /// Row of this run of the agent.
    run: i64,
    /// What could not be stored before this run began.
    not_stored: u64,
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
struct Seen {
    wall: Timestamp,
    steady: Instant,
}

impl Seen {
    /// Where the wall clock should be then.
    fn expected(&self, steady: Instant) -> Timestamp {
        let passed = steady.saturating_duration_since(self.steady);
        self.wall.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}

/// A store that is open for writing.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) settings: Settings,
    current: Option<Current>,
    pub(super) told: Told,
    /// What could not be stored in all, as last told.
    not_stored: u64,
    seen: Option<Seen>,
    /// The clock before it went forward, and when it did, as long as that is doubted.
    doubted: Option<(Seen, Instant)>,
    /// The clock was set or stood still: what comes is another run.
    stepped: bool,
}

impl Store {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            current: None,
            told: Told::default(),
            not_stored: 0,
            seen: None,
            doubted: None,
            stepped: false,
        }
    }

    /// Takes a look at both clocks; to be called once a second or so.
    pub(super) fn look_at_clocks(&mut self, wall: Timestamp, steady: Instant) {
        let now = Seen { wall, steady };
        if let Some(before) = self.seen.replace(now) {
            let step = wall.duration_since(before.expected(steady));
            self.stepped |= step.abs() > STEP;
            if step > STEP {
                let before = self.doubted.map_or(before, |(before, _)| before);
                self.doubted = Some((before, steady));
            }
        }
        self.doubted = self.doubted.filter(|(before, since)| {
            let is_ahead = wall.duration_since(before.expected(steady)) > STEP;
            is_ahead && steady.saturating_duration_since(*since) < DOUBT
        });
    }

    /// The time by which files are old.
    fn believed(&self, now: Timestamp) -> Timestamp {
        match (self.doubted, self.seen) {
            (Some((before, _)), Some(seen)) => now.min(before.expected(seen.steady)),
            _ => now,
        }
    }

    /// Stores all of them, or none.
    pub(super) fn write(&mut self, reports: &[Report], now: Timestamp) -> Result<(), Failure> {
        self.attempt(now, |current| insert(&mut current.connection, reports))
    }

    /// Marks that the agent is alive, and how many diagnoses it could not store in all.
    pub(super) fn alive(&mut self, not_stored: u64, now: Timestamp) -> Result<(), Failure> {
        let told = self.attempt(now, |current| {
            let of_this_run = not_stored.saturating_sub(current.not_stored);
            let values = params![now.as_microsecond(), of_this_run.cast_signed(), current.run];
            let sql = "UPDATE run SET until = ?1, not_stored = ?2 WHERE id = ?3";
            current.connection.execute(sql, values).map(drop)
        });
        if told.is_ok() {
            self.not_stored = not_stored;
        }
        told
    }

    /// Deletes what is too old or too much. Returns the size of what is left.
    pub(super) fn expire(&mut self, now: Timestamp) -> Result<u64, Failure> {
        let now = self.believed(now);
        let Settings { dir, keep, max_size, .. } = &self.settings;
        let current = self.current.as_ref().map(|current| current.file.path.as_path());
        files::expire(dir, *keep, *max_size, current, now).map_err(|error| Failure::Later(error.to_string()))
    }

    fn attempt(
        &mut self,
        now: Timestamp,
        work: impl Fn(&mut Current) -> rusqlite::Result<()>,
    ) -> Result<(), Failure> {
        // A damaged file is set aside once; a second one in its place means that the disk is bad.
        for last in [false, true] {
            let result = self.open(now).and_then(|()| match &mut self.current {
                Some(current) => work(current).map_err(Problem::from),
                None => Ok(()),
            });
            match result {
                Ok(()) => return Ok(()),
                Err(Problem::Damaged(file, why)) if !last => self.set_aside(file, &why, now)?,
                Err(problem) => {
                    self.current = None;
                    return Err(problem.into());
                }
            }
        }
        Ok(())
    }

    /// Makes the file of this day the current one.
    fn open(&mut self, now: Timestamp) -> Result<(), Problem> {
        let date = files::day(now);
        let limit = self.settings.max_size / PARTS;
        if let Some(current) = &mut self.current {
            if current.file.date == date && current.file.size() < limit && current.file.path.exists() {
                if std::mem::take(&mut self.stepped) {
                    current.run = begin_run(&current.connection, now)?;
                    current.not_stored = self.not_stored;
                }
                return Ok(());
            }
            // The last connection to a file takes what SQLite keeps beside it into it.
            self.current = None;
        }
        let dir = &self.settings.dir;
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        let parts = files::list(dir)?.into_iter().filter(|file| file.date == date && !file.damaged);
        let mut part = parts.map(|file| file.part).max().unwrap_or(1);
        loop {
            let file = StoreFile::new(dir, date, part);
            if file.size() >= limit {
                part += 1;
                continue;
            }
            match schema::open(&file.path) {
                Ok(Opened::Ready(connection)) => {
                    let run = begin_run(&connection, now)?;
                    self.stepped = false;
                    self.current = Some(Current { file, connection, run, not_stored: self.not_stored });
                    return Ok(());
                }
                Ok(Opened::Foreign) => part += 1,
                Ok(Opened::Damaged(why)) => return Err(Problem::Damaged(Some(file), why)),
                Err(error) => return Err(Problem::of(error, Some(&file))),
            }
        }
    }

    /// Of a damaged file, as far as it is known which one it is.
    fn set_aside(&mut self, file: Option<StoreFile>, why: &str, now: Timestamp) -> Result<(), Failure> {
        let current = self.current.take().map(|current| current.file);
        let Some(file) = file.or(current) else { return Ok(()) };
        let aside = file.set_aside(now).map_err(|error| {
            Failure::Later(format!(
                "{} is damaged ({why}) and cannot be set aside: {error}",
                file.path.display()
            ))
        })?;
        self.told.set_aside.push(format!(
            "{} is damaged ({why}): set aside as {}, and a new one begun",
            file.path.display(),
            aside.display()
        ));
        Ok(())
    }
}

fn begin_run(connection: &Connection, now: Timestamp) -> rusqlite::Result<i64> {
    let values = params![now.as_microsecond(), env!("CARGO_PKG_VERSION")];
    connection.execute("INSERT INTO run (start, until, version) VALUES (?1, ?1, ?2)", values)?;
    Ok(connection.last_insert_rowid())
}

fn insert(connection: &mut Connection, reports: &[Report]) -> rusqlite::Result<()> {
    const SQL: &str = "INSERT INTO diagnosis (first, last, count, code, errno, protocol, direction, local_address, \
                       local_port, peer_address, peer_port, hostname, netns, netns_name, comm, pid, report) VALUES \
                       (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
    let transaction = connection.transaction()?;
    {
        let mut statement = transaction.prepare(SQL)?;
        for report in reports {
            let ConnectionPart { local, peer, hostname, netns, netns_name, direction, .. } =
                &report.connection;
            let json = serde_json::to_string(report)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            let process = report.process.as_ref();
            statement.execute(params![
                report.first.as_microsecond(),
                report.last.as_microsecond(),
                report.count.cast_signed(),
                report.code,
                report.errno,
                report.connection.protocol_number(),
                direction,
                local.address.to_string(),
                local.port,
                peer.address.to_string(),
                peer.port,
                hostname,
                netns,
                netns_name,
                process.map(|process| &process.comm),
                process.map(|process| process.pid),
                json,
            ])?;
        }
    }
    transaction.commit()
}

/// What went wrong, by what is to be done.
#[derive(Debug)]
enum Problem {
    /// With the file, if it is not the current one.
    Damaged(Option<StoreFile>, String),
    Later(String),
    Never(String),
}

impl Problem {
    fn of(error: rusqlite::Error, file: Option<&StoreFile>) -> Self {
        use ErrorCode::{
            CannotOpen, DatabaseBusy, DatabaseCorrupt, DatabaseLocked, DiskFull, FileLockingProtocolFailed,
            NoLargeFileSupport, NotADatabase, OutOfMemory, PermissionDenied, ReadOnly, SystemIoFailure,
        };
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => Self::Damaged(file.cloned(), text),
            Some(
                CannotOpen
                | DatabaseBusy
                | DatabaseLocked
                | DiskFull
                | FileLockingProtocolFailed
                | NoLargeFileSupport
                | OutOfMemory
                | PermissionDenied
                | ReadOnly
                | SystemIoFailure,
            ) => Self::Later(text),
            _ => Self::Never(text),
        }
    }
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::of(error, None)
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::Later(error.to_string())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Damaged(_, why) => Self::Later(format!("damaged again: {why}")),
            Problem::Later(why) => Self::Later(why),
            Problem::Never(why) => Self::Never(why),
        }
    }
}
