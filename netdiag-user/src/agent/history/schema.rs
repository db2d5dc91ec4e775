//! The tables of a file, and how it is opened.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// `PRAGMA user_version`. A file with a higher one was made by a newer netdiag.
pub(super) const VERSION: i64 = 1;

/// `report` is the object of kind `diagnosis`; it comes last so that reading the other columns passes it over.
/// Times are microseconds since 1970, UTC.
const TABLES: &str = "
CREATE TABLE diagnosis (
    id INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    count INTEGER NOT NULL,
    code TEXT NOT NULL,
    errno TEXT,
    protocol INTEGER NOT NULL,
    direction TEXT NOT NULL,
    local_address TEXT NOT NULL,
    local_port INTEGER NOT NULL,
    peer_address TEXT NOT NULL,
    peer_port INTEGER NOT NULL,
    hostname TEXT,
    netns INTEGER NOT NULL,
    netns_name TEXT,
    comm TEXT,
    pid INTEGER,
    report TEXT NOT NULL
);
CREATE INDEX diagnosis_last ON diagnosis (last);
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    start INTEGER NOT NULL,
    until INTEGER NOT NULL,
    not_stored INTEGER NOT NULL DEFAULT 0,
    version TEXT NOT NULL
);
";

/// How long to wait for another process that has the file locked.
const BUSY: Duration = Duration::from_secs(2);

/// What a file is.
pub(super) enum Opened {
    Ready(Connection),
    /// Of another version: it is left alone.
    Foreign,
    Damaged(String),
}

/// Opens a file for writing, and makes it if it is missing.
pub(super) fn open(path: &Path) -> rusqlite::Result<Opened> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > VERSION {
        return Ok(Opened::Foreign);
    }
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    // A commit survives the end of the process in whatever way; the last ones may be lost with the machine.
    connection.execute_batch("PRAGMA synchronous = NORMAL")?;
    if version == 0 {
        connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT"))?;
        return Ok(Opened::Ready(connection));
    }
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok(if check == "ok" { Opened::Ready(connection) } else { Opened::Damaged(check) })
}

/// Opens a file for reading. Where SQLite cannot make what it needs beside it (a read-only medium), nobody else can
/// write it either, and it is read as it is.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let readable = |connection: Connection| -> rusqlite::Result<(Connection, i64)> {
        connection.busy_timeout(BUSY)?;
        let version = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        Ok((connection, version))
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).and_then(readable);
    let (connection, version) = match opened {
        Err(error) if is_access(&error) => {
            let uri = format!("file:{}?immutable=1", escaped(path));
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(uri, flags).and_then(readable)?
        }
        other => other?,
    };
    if version == VERSION {
        return Ok(connection);
    }
    let text = match version {
        0 => "it is empty".to_owned(),
        other => format!("it has version {other}, and this netdiag reads {VERSION}"),
    };
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_SCHEMA), Some(text)))
}

fn is_access(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, ReadOnly};
    matches!(error.sqlite_error_code(), Some(CannotOpen | ReadOnly))
}

/// For a URI: everything that could mean something in one is written as %XX.
fn escaped(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    path.as_os_str()
        .as_bytes()
        .iter()
        .map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
