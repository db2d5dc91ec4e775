//! Reads the store, while an agent writes it or not.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{files, schema};
use crate::filter::{Filter, Subject};
use crate::output::Report;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Query {
    pub dir: PathBuf,
    pub since: Timestamp,
    /// `Timestamp::MAX` for no end: a clock that was set back leaves diagnoses of times that are still to come.
    pub until: Timestamp,
    /// `timeout.*`
    pub code: Option<String>,
    pub filter: Option<Filter>,
}

/// One stored diagnosis, without its report.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where its report is: see [`Past::report`].
    pub(super) file: usize,
    pub(super) id: i64,
    pub first: Timestamp,
    pub last: Timestamp,
    pub count: u64,
    pub code: String,
    pub errno: Option<String>,
    pub protocol: u8,
    pub direction: String,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub hostname: Option<String>,
    pub netns: u32,
    pub netns_name: Option<String>,
    pub comm: Option<String>,
    pub pid: Option<u32>,
}

impl Row {
    pub fn is_inbound(&self) -> bool {
        self.direction == "inbound"
    }
}

impl Subject for Row {
    fn protocol(&self) -> u8 {
        self.protocol
    }

    fn source(&self) -> Option<SocketAddr> {
        Some(if self.is_inbound() { self.peer } else { self.local })
    }

    fn destination(&self) -> Option<SocketAddr> {
        Some(if self.is_inbound() { self.local } else { self.peer })
    }

    fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    fn pid(&self) -> Option<u32> {
        self.pid
    }

    fn comm(&self) -> Option<&str> {
        self.comm.as_deref()
    }

    fn netns(&self) -> Option<u32> {
        Some(self.netns)
    }

    fn netns_name(&self) -> Option<&str> {
        self.netns_name.as_deref()
    }

    fn code(&self) -> Option<&str> {
        Some(&self.code)
    }
}

/// What was found beside the diagnoses.
#[derive(Debug, Default)]
pub struct Past {
    connections: Vec<Connection>,
    /// When an agent ran, as its files tell, cut to the time that was asked for; oldest first.
    pub runs: Vec<(Timestamp, Timestamp)>,
    /// Diagnoses that could not be stored in these runs.
    pub not_stored: u64,
    /// Files that could not be read, and why.
    pub unreadable: Vec<String>,
}

/// The agent marks that it lives this often, and a restart takes a moment: shorter gaps are none.
const SHORTEST_GAP_US: i64 = 30_000_000;

impl Past {
    /// The report of a row.
    ///
    /// # Errors
    /// When it cannot be read, or not as a report.
    pub fn report(&self, row: &Row) -> Result<Report, String> {
        self.report_at(row.file, row.id)
    }

    pub(super) fn report_at(&self, file: usize, id: i64) -> Result<Report, String> {
        let connection = self.connections.get(file).ok_or("no such file")?;
        let sql = "SELECT report FROM diagnosis WHERE id = ?1";
        let text: String =
            connection.query_row(sql, [id], |row| row.get(0)).map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Times without an agent, between these two moments.
    pub fn gaps(&self, since: Timestamp, until: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let long = |from: Timestamp, to: Timestamp| {
            to.as_microsecond().saturating_sub(from.as_microsecond()) >= SHORTEST_GAP_US
        };
        let (mut gaps, mut covered) = (Vec::new(), since);
        for (start, end) in &self.runs {
            let start = until.min(*start);
            if long(covered, start) {
                gaps.push((covered, start));
            }
            covered = covered.max(*end);
        }
        if long(covered, until) {
            gaps.push((covered, until));
        }
        gaps
    }
}

/// Reads what is in the time and fits, file by file and oldest first.
///
/// # Errors
/// When the directory cannot be read. A file that cannot be is told of in the result.
pub fn past(query: &Query, mut each: impl FnMut(&Row)) -> std::io::Result<Past> {
    let mut past = Past::default();
    for file in files::list(&query.dir)? {
        if file.damaged && file.date >= files::day(query.since) {
            past.unreadable.push(format!("{}: it was damaged and set aside", file.path.display()));
        }
        if !files::may_hold(&file, query.since, query.until) {
            continue;
        }
        let number = past.connections.len();
        let read = schema::open_to_read(&file.path).and_then(|connection| {
            let result = rows(&connection, number, query, &mut each);
            runs(&connection, query, &mut past)?;
            past.connections.push(connection);
            result
        });
        if let Err(error) = read {
            past.unreadable.push(format!("{}: {error}", file.path.display()));
        }
    }
    past.runs.sort();
    Ok(past)
}

fn rows(
    connection: &Connection,
    file: usize,
    query: &Query,
    each: &mut impl FnMut(&Row),
) -> rusqlite::Result<()> {
    // A span of repeats is in the time if any of it is.
    const SQL: &str = "SELECT id, first, last, count, code, errno, protocol, direction, local_address, local_port, \
                       peer_address, peer_port, hostname, netns, netns_name, comm, pid FROM diagnosis WHERE last >= ?1 \
                       AND first <= ?2 AND (?3 IS NULL OR code GLOB ?3) ORDER BY last, id";
    let mut statement = connection.prepare(SQL)?;
    let values = params![query.since.as_microsecond(), query.until.as_microsecond(), query.code];
    let mut found = statement.query(values)?;
    while let Some(row) = found.next()? {
        let end = |address: usize, port: usize| -> rusqlite::Result<SocketAddr> {
            let text: String = row.get(address)?;
            let parsed: Result<IpAddr, _> = text.parse();
            let problem = |error: std::net::AddrParseError| {
                let kind = rusqlite::types::Type::Text;
                rusqlite::Error::FromSqlConversionFailure(address, kind, Box::new(error))
            };
            Ok(SocketAddr::new(parsed.map_err(problem)?, row.get(port)?))
        };
        let time = |column: usize| -> rusqlite::Result<Timestamp> { Ok(moment(row.get(column)?)) };
        let row = Row {
            file,
            id: row.get(0)?,
            first: time(1)?,
            last: time(2)?,
            count: row.get::<_, i64>(3)?.cast_unsigned(),
            code: row.get(4)?,
            errno: row.get(5)?,
            protocol: row.get(6)?,
            direction: row.get(7)?,
            local: end(8, 9)?,
            peer: end(10, 11)?,
            hostname: row.get(12)?,
            netns: row.get(13)?,
            netns_name: row.get(14)?,
            comm: row.get(15)?,
            pid: row.get(16)?,
        };
        if query.filter.as_ref().is_none_or(|filter| filter.matches(&row) == Some(true)) {
            each(&row);
        }
    }
    Ok(())
}

fn runs(connection: &Connection, query: &Query, past: &mut Past) -> rusqlite::Result<()> {
    let (since, until) = (query.since.as_microsecond(), query.until.as_microsecond());
    let sql = "SELECT start, until, not_stored FROM run WHERE until >= ?1 AND start <= ?2";
    let mut statement = connection.prepare(sql)?;
    let mut found = statement.query([since, until])?;
    while let Some(row) = found.next()? {
        let (start, end): (i64, i64) = (row.get(0)?, row.get(1)?);
        past.runs.push((moment(start.max(since)), moment(end.min(until))));
        past.not_stored += row.get::<_, i64>(2)?.cast_unsigned();
    }
    Ok(())
}

fn moment(us: i64) -> Timestamp {
    Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH)
}
