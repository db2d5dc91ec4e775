use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::store::{Failure, Store};
use super::*;
use crate::agent::Say;
use crate::enrich::listeners::Listener;
use crate::enrich::process::Process;
use crate::enrich::sockets::Protocol;
use crate::output::{ProcessPart, Report};

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.to_owned(),
        keep: Duration::from_secs(14 * 86_400),
        max_size: 100_000_000,
        arguments: false,
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-11-26T04:00:00Z")
}

/// A report of this time; the peer's last byte tells them apart.
fn report(time: Timestamp, peer: u8, pid: u32) -> Report {
    let mut report = crate::output::testing::firewall_drop();
    report.connection.peer.address = [10, 0, 3, peer].into();
    report.process = Some(ProcessPart {
        pid,
        comm: "payments".into(),
        command_line: Some("/usr/bin/payments --password secret".into()),
        ..ProcessPart::default()
    });
    Report { first: time, last: time, ..report }
}

fn query(dir: &Path) -> Query {
    let (since, until) = (at("2026-11-20T00:00:00Z"), at("2026-11-27T00:00:00Z"));
    Query { dir: dir.to_owned(), since, until, code: None, filter: None }
}

fn read(query: &Query) -> (Vec<Row>, Past) {
    let mut rows = Vec::new();
    let past = past(query, |row| rows.push(row.clone())).unwrap();
    (rows, past)
}

fn quiet() -> (Say, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&said);
    (Arc::new(move |text: &str| to.lock().unwrap().push(text.to_owned())), said)
}

#[test]
fn what_is_stored_is_read_while_it_is_written_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::new(settings(dir.path()));
    let first = report(at("2026-11-26T03:02:00Z"), 7, 1);
    store.write(&[first.clone(), report(at("2026-11-26T03:03:00Z"), 8, 1)], now()).unwrap();
    let (rows, past) = read(&query(dir.path()));
    assert_eq!(rows.len(), 2);
    assert_eq!(past.report(&rows[0]).unwrap(), first);
    assert_eq!(past.unreadable, Vec::<String>::new());
    // As after a kill -9: nobody closed it.
    std::mem::forget(store);
    assert_eq!(read(&query(dir.path())).0.len(), 2);
    let mut again = Store::new(settings(dir.path()));
    again.write(&[report(at("2026-11-26T03:04:00Z"), 9, 1)], now()).unwrap();
    assert_eq!(read(&query(dir.path())).0.len(), 3);
}

#[test]
fn time_code_and_filter_choose() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::new(settings(dir.path()));
    let mut other = report(at("2026-11-26T03:00:00Z"), 8, 2);
    other.code = "refused.no-listener".into();
    let mut repeats = report(at("2026-11-26T02:00:00Z"), 7, 1);
    repeats.last = at("2026-11-26T02:00:10Z");
    store.write(&[repeats, other], now()).unwrap();
    let number = |query: &Query| read(query).0.len();
    let all = query(dir.path());
    assert_eq!(number(&all), 2);
    assert_eq!(number(&Query { since: at("2026-11-26T02:00:05Z"), ..all.clone() }), 2);
    assert_eq!(number(&Query { since: at("2026-11-26T02:00:11Z"), ..all.clone() }), 1);
    assert_eq!(number(&Query { until: at("2026-11-26T02:00:05Z"), ..all.clone() }), 1);
    assert_eq!(number(&Query { code: Some("refused.*".into()), ..all.clone() }), 1);
    assert_eq!(number(&Query { code: Some("refused".into()), ..all.clone() }), 0);
    for (filter, expected) in [
        ("dst host 10.0.3.7", 1),
        ("comm payments and tcp", 2),
        ("udp", 0),
        ("pid 2", 1),
        ("code timeout.*", 1),
        ("src host 10.0.3.7", 0),
    ] {
        let filter = Some(filter.parse().unwrap());
        assert_eq!(number(&Query { filter, ..all.clone() }), expected);
    }
}

#[test]
fn problems_are_folded_by_cause_and_pair() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::new(settings(dir.path()));
    let mut reports: Vec<Report> = (0..5)
        .map(|n| {
            let mut one = report(at("2026-11-26T03:00:00Z") + SignedDuration::from_mins(n), 7, 1 + n as u32);
            one.connection.local.port = 40_000 + n as u16;
            one.count = 10;
            one
        })
        .collect();
    reports.push(report(at("2026-11-26T03:30:00Z"), 8, 1));
    store.write(&reports, now()).unwrap();
    let mut folded = fold(usize::MAX);
    let past = past(&query(dir.path()), |row| folded.add(row)).unwrap();
    let groups = folded.groups();
    assert_eq!(groups.len(), 2);
    let report = groups[0].report(&past).unwrap();
    assert_eq!((report.count, groups[0].several), (50, true));
    assert_eq!((report.first, report.last), (at("2026-11-26T03:00:00Z"), at("2026-11-26T03:04:00Z")));
    assert_eq!(report.connection.local.port, 40_004);
    assert_eq!((groups[1].count, groups[1].several), (1, false));
}

#[test]
fn a_day_a_file_and_another_where_one_is_large() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::new(Settings { max_size: 1_000_000, ..settings(dir.path()) });
    store.write(&[report(at("2026-11-25T23:59:59Z"), 1, 1)], at("2026-11-25T23:59:59Z")).unwrap();
    let midnight = at("2026-11-26T00:00:01Z");
    for _ in 0..200 {
        store.write(&[report(midnight, 2, 1)], midnight).unwrap();
    }
    let names: Vec<String> = files::list(dir.path())
        .unwrap()
        .iter()
        .map(|file| file.path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names[..3], ["2026-11-25.db", "2026-11-26.db", "2026-11-26-2.db"], "{names:?}");
    assert_eq!(read(&query(dir.path())).0.len(), 201);
    let left = store.expire(midnight).unwrap();
    assert!(left <= 1_000_000, "{left}");
    let soon = midnight + SignedDuration::from_hours(20 * 24);
    store.write(&[report(soon, 3, 1)], soon).unwrap();
    store.expire(soon).unwrap();
    assert_eq!(files::list(dir.path()).unwrap().len(), 1);
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_begun() {
    for damage in ["no database at all", ""] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("2026-11-26.db");
        {
            let mut store = Store::new(settings(dir.path()));
            let many: Vec<Report> = (0..50).map(|n| report(now(), n, 1)).collect();
            store.write(&many, now()).unwrap();
        }
        let mut file = std::fs::File::options().write(true).open(&path).unwrap();
        let (from, length) = if damage.is_empty() { (8192, 100_000) } else { (0, 4096) };
        file.seek(SeekFrom::Start(from)).unwrap();
        file.write_all(&vec![0x5a; length]).unwrap();
        let mut store = Store::new(settings(dir.path()));
        store.write(&[report(now(), 99, 1)], now()).unwrap();
        assert_eq!(store.told.set_aside.len(), 1);
        assert!(store.told.set_aside[0].contains("set aside as"), "{:?}", store.told);
        let (rows, past) = read(&query(dir.path()));
        assert_eq!(rows.len(), 1);
        assert_eq!(past.unreadable.len(), 1, "the reader is told: {:?}", past.unreadable);
    }
}

#[test]
fn a_file_of_a_newer_netdiag_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("2026-11-26.db");
    let foreign = rusqlite::Connection::open(&path).unwrap();
    foreign.execute_batch("PRAGMA user_version = 99; CREATE TABLE theirs (x)").unwrap();
    drop(foreign);
    let before = std::fs::read(&path).unwrap();
    let mut store = Store::new(settings(dir.path()));
    store.write(&[report(now(), 1, 1)], now()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let (rows, past) = read(&query(dir.path()));
    assert_eq!(rows.len(), 1);
    assert!(past.unreadable[0].contains("version 99"), "{:?}", past.unreadable);
}

#[test]
fn a_disk_that_fails_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    // Not even root can make a directory below a file.
    let blocked = dir.path().join("blocked");
    std::fs::write(&blocked, "").unwrap();
    let (say, said) = quiet();
    let writer = Writer::start(settings(&blocked.join("history")), 16, say).unwrap();
    let wait = |what: &str, until: &dyn Fn(&Counts) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !until(&writer.counts()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", writer.counts());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    writer.store(report(now(), 1, 1));
    wait("a problem", &|counts| counts.problem.is_some());
    // Those in the queue and in the thread's own hands wait; the rest is counted.
    let extra = 1_000;
    for _ in 0..extra {
        writer.store(report(now(), 2, 1));
    }
    let lost = writer.counts().queue_full;
    assert!(lost > 0 && lost < extra, "{lost}");
    std::fs::remove_file(&blocked).unwrap();
    wait("all stored", &|counts| counts.problem.is_none() && counts.stored == 1 + extra - counts.queue_full);
    drop(writer);
    let (rows, _) = read(&query(&blocked.join("history")));
    assert_eq!(rows.len() as u64, 1 + extra - lost);
    let said = said.lock().unwrap();
    assert!(said[0].contains("cannot store in") && said[1].contains("again"), "{said:?}");
}

#[test]
fn arguments_are_stored_only_if_that_is_wanted() {
    for arguments in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (say, _) = quiet();
        let writer = Writer::start(Settings { arguments, ..settings(dir.path()) }, 16, say).unwrap();
        let mut secret = report(Timestamp::now(), 1, 1);
        let holder = Process { pid: 9, command_line: Some("db --key secret".into()), ..Process::default() };
        secret.listener = Some(Listener {
            protocol: Protocol::Tcp,
            netns: 1,
            netns_name: None,
            local: "0.0.0.0:80".parse().unwrap(),
            v6only: None,
            accept_queue: 0,
            backlog: 1,
            interface: 0,
            inode: 1,
            cookie: 1,
            processes: vec![holder],
        });
        writer.store(secret);
        drop(writer);
        let mut everything = Vec::new();
        for file in files::list(dir.path()).unwrap() {
            everything.extend(std::fs::read(file.path).unwrap());
        }
        let found = everything.windows(6).any(|bytes| bytes == b"secret");
        assert_eq!(found, arguments);
        assert!(everything.windows(17).any(|bytes| bytes == b"/usr/bin/payments"));
    }
}

#[test]
fn gaps_are_told_where_no_agent_ran() {
    let dir = tempfile::tempdir().unwrap();
    for (start, end) in [("03:00:00", "03:10:00"), ("03:10:05", "03:20:00"), ("03:40:00", "04:00:00")] {
        let mut store = Store::new(settings(dir.path()));
        store.alive(0, at(&format!("2026-11-26T{start}Z"))).unwrap();
        store.alive(2, at(&format!("2026-11-26T{end}Z"))).unwrap();
    }
    let (since, until) = (at("2026-11-26T03:05:00Z"), at("2026-11-26T04:10:00Z"));
    let (_, past) = read(&Query { since, until, ..query(dir.path()) });
    let gaps = past.gaps(since, until);
    assert_eq!(
        gaps,
        [(at("2026-11-26T03:20:00Z"), at("2026-11-26T03:40:00Z")), (at("2026-11-26T04:00:00Z"), until)]
    );
    assert_eq!(past.not_stored, 6);
}

/// A store whose clocks are looked at: the wall clock shows `wall` when the machine was awake for `awake` seconds.
struct Clocked(Store, Instant);

impl Clocked {
    fn new(dir: &Path) -> Self {
        Self(Store::new(settings(dir)), Instant::now())
    }

    fn look(&mut self, awake: u64, wall: &str) -> Timestamp {
        self.0.look_at_clocks(at(wall), self.1 + Duration::from_secs(awake));
        at(wall)
    }

    fn alive(&mut self, awake: u64, wall: &str) {
        let now = self.look(awake, wall);
        self.0.alive(0, now).unwrap();
    }

    fn failure(&mut self, awake: u64, wall: &str, peer: u8) {
        let now = self.look(awake, wall);
        self.0.write(&[report(now, peer, 1)], now).unwrap();
    }
}

#[test]
fn a_clock_that_is_set_back_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Clocked::new(dir.path());
    store.alive(0, "2026-11-27T00:20:00Z");
    store.failure(60, "2026-11-27T00:21:00Z", 1);
    store.alive(60, "2026-11-27T00:21:00Z");
    // By an hour, to the day before.
    store.failure(61, "2026-11-26T23:21:01Z", 2);
    store.failure(62, "2026-11-26T23:21:02Z", 3);
    store.alive(120, "2026-11-26T23:22:00Z");
    let (since, now) = (at("2026-11-26T23:00:00Z"), at("2026-11-26T23:22:00Z"));
    let (rows, past) = read(&Query { since, until: Timestamp::MAX, ..query(dir.path()) });
    let mut peers: Vec<String> = rows.iter().map(|row| row.peer.ip().to_string()).collect();
    peers.sort();
    assert_eq!(peers, ["10.0.3.1", "10.0.3.2", "10.0.3.3"]);
    assert_eq!(past.gaps(since, now), [(since, at("2026-11-26T23:21:01Z"))]);
    // Back where it belongs, and over midnight for the second time.
    store.alive(121, "2026-11-27T00:22:01Z");
    store.failure(122, "2026-11-27T00:22:02Z", 4);
    let (rows, past) = read(&Query { since, ..query(dir.path()) });
    assert_eq!((rows.len(), past.unreadable.len()), (2, 0));
    let (rows, _) = read(&Query { since, until: Timestamp::MAX, ..query(dir.path()) });
    assert_eq!(rows.len(), 4);
}

#[test]
fn a_clock_that_is_set_back_within_a_day_is_no_time_without_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Clocked::new(dir.path());
    store.alive(0, "2026-11-26T12:00:00Z");
    store.alive(3_600, "2026-11-26T13:00:00Z");
    store.alive(3_601, "2026-11-26T11:00:00Z");
    store.alive(4_201, "2026-11-26T11:10:00Z");
    let (since, now) = (at("2026-11-26T11:00:00Z"), at("2026-11-26T11:10:00Z"));
    let (_, past) = read(&Query { since, until: Timestamp::MAX, ..query(dir.path()) });
    assert_eq!(past.gaps(since, now), []);
}

#[test]
fn a_suspended_machine_had_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Clocked::new(dir.path());
    store.alive(0, "2026-11-26T01:00:00Z");
    store.alive(10, "2026-11-26T01:00:10Z");
    store.alive(11, "2026-11-26T07:00:00Z");
    // A disk that hangs for a minute, or a process that is stopped, is not that.
    store.alive(71, "2026-11-26T07:01:00Z");
    let (since, until) = (at("2026-11-26T01:00:00Z"), at("2026-11-26T07:01:00Z"));
    let (_, past) = read(&Query { since, until, ..query(dir.path()) });
    assert_eq!(past.gaps(since, until), [(at("2026-11-26T01:00:10Z"), at("2026-11-26T07:00:00Z"))]);
}

#[test]
fn a_clock_that_is_set_forward_deletes_nothing_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Clocked::new(dir.path());
    store.failure(0, "2026-11-20T00:00:00Z", 1);
    store.failure(1, "2026-11-26T04:00:00Z", 2);
    let mut left = |awake: u64, wall: &str| {
        let now = store.look(awake, wall);
        store.0.alive(0, now).unwrap();
        store.0.expire(now).unwrap();
        std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|entry| {
                let path = entry.as_ref().unwrap().path();
                path.extension().is_some_and(|extension| extension == "db")
            })
            .count()
    };
    assert_eq!(left(2_000, "2026-11-26T04:33:20Z"), 2);
    // By two months, and back after ten minutes.
    assert_eq!(left(2_001, "2027-01-26T04:33:21Z"), 3);
    assert_eq!(left(2_601, "2027-01-26T04:43:21Z"), 3);
    assert_eq!(left(2_602, "2026-11-26T04:43:22Z"), 3);
    assert_eq!(left(9_000, "2026-11-26T06:30:00Z"), 3);
    // For good.
    assert_eq!(left(9_001, "2027-01-26T06:30:01Z"), 3);
    assert_eq!(left(12_600, "2027-01-26T07:30:00Z"), 3);
    assert_eq!(left(12_602, "2027-01-26T07:30:02Z"), 1);
}

#[test]
fn what_could_not_be_stored_counts_once_on_two_days() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::new(settings(dir.path()));
    store.alive(0, at("2026-11-25T23:59:00Z")).unwrap();
    store.alive(5, at("2026-11-25T23:59:50Z")).unwrap();
    store.alive(7, at("2026-11-26T00:00:00Z")).unwrap();
    let (_, past) = read(&query(dir.path()));
    assert_eq!(past.not_stored, 7);
}

#[test]
fn what_no_disk_will_take_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::new(settings(dir.path()));
    store.alive(0, now()).unwrap();
    let other = rusqlite::Connection::open(dir.path().join("2026-11-26.db")).unwrap();
    other.execute_batch("DROP TABLE diagnosis").unwrap();
    assert!(matches!(store.write(&[report(now(), 1, 1)], now()), Err(Failure::Never(_))));
}
