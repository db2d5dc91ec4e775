//! Times that are not as they should be: the clock is set, the agent does not run for a while.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdiag_tests::net::Family;
use netdiag_tests::netdiag::{Agent, Home, Watch};
use netdiag_tests::process::{patience, run};
use netdiag_tests::tools;
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use super::{FAILURES, Host, SOON};

/// More records than the ring takes.
const MANY: u16 = 3_000;
/// Longer than the main loop may take for /healthz, and than three heartbeats.
const STOPPED: Duration = Duration::from_secs(31);

/// It is stopped for half a minute, as on a machine that does not get its processors: it then goes on, and says what
/// it lost.
pub fn stopped_for_a_while() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[host.variable()])?;
    host.refused(18901..18902)?;
    home.wait_for_failures(1, SOON)?;
    agent.signal(Signal::SIGSTOP)?;
    let start = Instant::now();
    let refused = host.namespace.enter(|| {
        let ports = 20_000..20_000 + MANY;
        ports.filter(|port| TcpStream::connect(Family::V4.loopback(*port)).is_err()).count()
    })?;
    ensure!(refused == usize::from(MANY), "{refused} of {MANY} were refused");
    std::thread::sleep(STOPPED.saturating_sub(start.elapsed()));
    agent.signal(Signal::SIGCONT)?;
    agent.wait_for_page("/healthz", 200, "\"status\":\"ok\"", SOON)?;
    agent.wait_for_page("/readyz", 200, "\"status\":\"ok\"", SOON)?;
    agent.wait_for("netdiag_records_lost_total", &["cause=\"ring-full\""], 1.0, SOON)?;
    // What came before the ring was full is diagnosed, and what comes now.
    agent.wait_for(FAILURES, &["code=\"refused.no-listener\""], 100.0, SOON)?;
    let before = settled(&agent)?;
    let made = f64::from(MANY) + 1.0;
    let lost = agent.metric("netdiag_records_lost_total", &["cause=\"ring-full\""])?;
    ensure!(before < made && before + lost >= made, "{before} of {made} failures, {lost} records lost");
    host.refused(18902..18904)?;
    // In a burst like this one the facts of some were not looked up, and these are counted without a code.
    agent.wait_for(FAILURES, &[], before + 2.0, SOON)?;
    ensure!(agent.metric(FAILURES, &[])? == before + 2.0, "others were counted");
    for wrong in ["over its budget", "heartbeat: "] {
        ensure!(!agent.said().contains(wrong), "{}", agent.said());
    }
    agent.stop()?;
    // It was there all the time.
    let summary = home.objects(&["--since", "2m"])?.pop().context("no summary")?;
    let gaps = summary["gaps"].as_array().map_or(0, Vec::len);
    ensure!(gaps <= 1, "{summary}");
    Ok(())
}

/// The number of failures, once it does not grow any more.
fn settled(agent: &Agent) -> Result<f64> {
    let mut last = -1.0;
    loop {
        let now = agent.metric(FAILURES, &[])?;
        if now == last {
            return Ok(now);
        }
        last = now;
        std::thread::sleep(patience(Duration::from_secs(1)));
    }
}

/// Sets the machine's clock, and puts it right again.
struct WallClock {
    /// Of the wall clock, less that of the other.
    offset: Duration,
}

fn clock(id: ClockId) -> Result<Duration> {
    Ok(clock_gettime(id)?.into())
}

impl WallClock {
    fn new() -> Result<Self> {
        Ok(Self { offset: clock(ClockId::CLOCK_REALTIME)?.saturating_sub(clock(ClockId::CLOCK_BOOTTIME)?) })
    }

    /// So many seconds off.
    fn off_by(&self, seconds: i64) -> Result<()> {
        let right = (clock(ClockId::CLOCK_BOOTTIME)? + self.offset).as_secs();
        let time = TimeSpec::new(right.cast_signed() + seconds, 0);
        clock_settime(ClockId::CLOCK_REALTIME, time).context("cannot set the clock")
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        // Nobody else would be helped by an error here.
        let _ = self.off_by(0);
    }
}

/// The wall clock's time, and so many seconds later, as netdiag writes it.
fn utc(later: i64) -> Result<String> {
    let seconds = clock(ClockId::CLOCK_REALTIME)?.as_secs().cast_signed() + later;
    let mut command = Command::new(tools::path("date"));
    command.args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%S"]);
    Ok(run(command, SOON)?.stdout.trim().to_owned())
}

/// The clock goes back by two hours, forward by three days, and right again: nothing is lost, nothing is told twice,
/// and each failure has the time that the clock showed when it happened.
pub fn set() -> Result<()> {
    const HOUR: i64 = 3_600;
    let (home, host) = (Home::new()?, Host::new()?);
    let wall = WallClock::new()?;
    let agent = Agent::start(&home, &[host.variable()])?;
    let stored = |number: f64| agent.wait_for("netdiag_history_stored_total", &[], number, SOON);
    host.refused(18911..18912)?;
    stored(1.0)?;

    wall.off_by(-2 * HOUR)?;
    // A repeat, which is stored after ten seconds and not after two hours.
    host.refused(18911..18913)?;
    stored(3.0)?;
    ensure!(home.failures()? == 3, "{:?}", home.objects(&[])?);
    home.history_of(&[])?.says("1 failure is later than now: the clock was set back")?;
    let of_port = |port: u16| -> Result<String> {
        let objects = home.objects(&["--since", "7d", &format!("dst port {port}")])?;
        let last = objects.first().and_then(|object| object["last"].as_str()).context("no such failure")?;
        Ok(last.to_owned())
    };
    let (now, time) = (utc(1)?, of_port(18912)?);
    ensure!(utc(-120)? <= time && time <= now, "{time} is not shortly before {now}");

    wall.off_by(72 * HOUR)?;
    host.refused(18913..18914)?;
    stored(4.0)?;
    let (now, time) = (utc(1)?, of_port(18913)?);
    ensure!(utc(-120)? <= time && time <= now, "{time} is not shortly before {now}");

    wall.off_by(0)?;
    host.refused(18914..18915)?;
    stored(5.0)?;
    let summary = home.objects(&["--since", "7d"])?.pop().context("no summary")?;
    ensure!(summary["failures"] == 5 && summary["ahead"] == 1, "{summary}");
    agent.wait_for_page("/healthz", 200, "\"status\":\"ok\"", SOON)?;
    agent.wait_for_page("/readyz", 200, "\"status\":\"ok\"", SOON)?;
    ensure!(agent.metric("netdiag_heartbeats_total", &["result=\"failed\""])? == 0.0);
    ensure!(!agent.said().contains("over its budget"), "{}", agent.said());
    agent.stop()?;
    ensure!(home.failures()? == 5, "{:?}", home.objects(&[])?);
    Ok(())
}

/// What `watch` tells has the time that the clock showed when it happened.
pub fn set_while_watching() -> Result<()> {
    const NO_LISTENER: &str = "refused.no-listener";
    let host = Host::new()?;
    let wall = WallClock::new()?;
    let watch = Watch::start(&[&host.namespace], &[&host.filter])?;
    host.refused(18921..18922)?;
    watch.wait_for_number(1, NO_LISTENER, SOON)?;
    wall.off_by(-7_200)?;
    let early = utc(-1)?;
    host.refused(18922..18924)?;
    watch.wait_for_number(3, NO_LISTENER, SOON)?;
    let late = utc(1)?;
    let report = watch.stop()?;
    for diagnosis in &report.diagnoses[1..] {
        let time = diagnosis["last"].as_str().context("no time")?;
        ensure!(
            early.as_str() <= time && time <= late.as_str(),
            "{time}: {early} to {late}\n{}",
            report.dump()
        );
    }
    Ok(())
}
