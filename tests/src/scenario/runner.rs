//! Runs the scenarios as tests: a time limit each, skips that must be expected, nothing left behind.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sys::signal::{SigHandler, Signal};

use super::needs::netdiag_missing;
use super::{ExpectedSkip, Scenario, Shows, Skip};
use crate::process::patience;
use crate::{hooks, net};

/// Scenarios wait most of the time, so more of them run than there are processors.
const THREADS: usize = 3;
/// How long a hanging scenario has to unwind after its processes were killed.
const UNWIND: Duration = Duration::from_secs(5);

/// More failures than this are no chance: the rest is not tried again.
const MAX_AGAIN: usize = 3;
/// Scenarios that passed at the second try only.
static UNSTEADY: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The sample that has every diagnosis.
const CORE: &str = "core";

/// Held for writing by a scenario that runs alone, for reading by any other.
static MACHINE: RwLock<()> = RwLock::new(());

/// Runs what the command line selects out of `scenarios`; `expected` lists the skips that are all right.
///
/// `NETDIAG_SCENARIOS` names one of `samples`; of `core`, the first scenario that hits each diagnosis is a part as well.
pub fn main(
    scenarios: &[&'static [Scenario]],
    expected: &'static [ExpectedSkip],
    samples: &[(&str, &[&str])],
) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let mut all: Vec<Scenario> = scenarios.iter().flat_map(|group| group.iter().copied()).collect();
    if let Some(name) = first_duplicate(&all) {
        eprintln!("two scenarios are called {name}");
        return ExitCode::FAILURE;
    }
    let named = samples.iter().flat_map(|(_, names)| *names);
    if let Some(name) =
        named.into_iter().find(|name| !all.iter().any(|scenario| scenario.full_name() == **name))
    {
        eprintln!("no scenario is called {name}, which a sample should have");
        return ExitCode::FAILURE;
    }
    let wanted = std::env::var("NETDIAG_SCENARIOS").ok().filter(|name| !name.is_empty());
    match &wanted {
        None => all.retain(|scenario| scenario.only_in.is_none()),
        Some(wanted) => match samples.iter().find(|(name, _)| name == wanted) {
            Some((name, named)) => keep(&mut all, name, named),
            None => {
                eprintln!("no sample of scenarios is called {wanted}");
                return ExitCode::FAILURE;
            }
        },
    }
    let trials = all.into_iter().map(|scenario| trial(scenario, expected)).collect();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("scenarios make network namespaces: run them as root");
        return ExitCode::FAILURE;
    }
    default_signals();
    net::remove_orphans();
    let before = hooks::present(None).unwrap_or_default();
    let conclusion = libtest_mimic::run(&arguments, trials);
    for line in UNSTEADY.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        // xtask looks for lines that begin so.
        println!("UNSTEADY {line}");
    }
    let leaks = leaks(&before);
    for leak in &leaks {
        eprintln!("LEAK {leak}");
    }
    if leaks.is_empty() { conclusion.exit_code() } else { ExitCode::from(101) }
}

/// A shell starts what it sends to the background with SIGINT ignored, and every child would inherit that.
fn default_signals() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
        // SAFETY: no handler is installed, and no other thread runs yet.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    }
}

fn first_duplicate(scenarios: &[Scenario]) -> Option<String> {
    let mut names = BTreeSet::new();
    scenarios.iter().map(Scenario::full_name).find(|name| !names.insert(name.clone()))
}

/// Drops all that are not in a sample.
fn keep(scenarios: &mut Vec<Scenario>, sample: &str, named: &[&str]) {
    let mut codes = BTreeSet::new();
    scenarios.retain(|scenario| {
        let is_first = sample == CORE && scenario.code().is_some_and(|code| codes.insert(code));
        match scenario.only_in {
            Some(only) => only == sample,
            None => is_first || named.contains(&scenario.full_name().as_str()),
        }
    });
}

fn trial(scenario: Scenario, expected: &'static [ExpectedSkip]) -> Trial {
    let name = scenario.full_name();
    Trial::ignorable_test(name.clone(), move || match in_turn(&scenario) {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => judge_skip(&name, reason, expected),
            None => again(&scenario, &error),
        },
    })
}

/// A busy machine can spoil what a scenario measures in time, so one that failed runs once more with nothing beside it.
/// If it passes then, that is told, and the closing summary of `xtask test` repeats it: it is a fault to be found, of
/// the scenario or of netdiag.
fn again(scenario: &Scenario, first: &anyhow::Error) -> Result<Completion, Failed> {
    static AGAIN: AtomicUsize = AtomicUsize::new(0);
    if AGAIN.fetch_add(1, Ordering::Relaxed) >= MAX_AGAIN {
        return Err(Failed::from(format!("{first:#}")));
    }
    match in_turn(&scenario.alone()) {
        Ok(()) => {
            let name = scenario.full_name();
            let line = format!("{name}: passed only when it ran again alone; before: {}", one_line(first));
            UNSTEADY.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            Ok(Completion::Completed)
        }
        Err(second) => Err(Failed::from(format!("{first:#}\n\nand when it ran again alone: {second:#}"))),
    }
}

/// The beginning: a report may follow that is very long.
fn one_line(error: &anyhow::Error) -> String {
    const LONGEST: usize = 600;
    let text = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    text.char_indices().nth(LONGEST).map_or(text.clone(), |(end, _)| format!("{}…", &text[..end]))
}

fn judge_skip(name: &str, reason: &str, expected: &[ExpectedSkip]) -> Result<Completion, Failed> {
    let kernel = kernel_release();
    eprintln!("SKIP {name}: {reason}");
    if expected.iter().any(|skip| skip.covers(&kernel, name)) {
        return Ok(Completion::ignored_with(reason));
    }
    Err(Failed::from(format!("skipped on {kernel}, which scenarios/skips.rs does not expect: {reason}")))
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Its time begins when it may run.
fn in_turn(scenario: &Scenario) -> Result<()> {
    // The lock guards no data that a panic could have left half done.
    if scenario.alone {
        let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        run_within_limit(scenario)
    } else {
        let _beside_others = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        run_within_limit(scenario)
    }
}

/// What the scenario itself said, or that it panicked or took too long.
fn run_within_limit(scenario: &Scenario) -> Result<()> {
    let (report, result) = mpsc::channel();
    let body = *scenario;
    let thread = thread::Builder::new().name(scenario.full_name()).spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| attempt(&body)));
        let _ =
            report.send(outcome.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panic_text(&*panic)))));
    })?;
    let limit = patience(scenario.limit);
    match result.recv_timeout(limit) {
        Ok(outcome) => {
            let _ = thread.join();
            outcome
        }
        Err(_) => {
            net::kill_processes_of_thread(thread.thread().id());
            let late = result.recv_timeout(UNWIND);
            let said = match late {
                Ok(Err(error)) => format!("; after its processes were killed it said: {error:#}"),
                Ok(Ok(())) => "; it ended when its processes were killed".to_owned(),
                Err(_) => "; it hangs even now".to_owned(),
            };
            Err(anyhow!("took longer than {limit:?}{said}"))
        }
    }
}

fn attempt(scenario: &Scenario) -> Result<()> {
    if scenario.shows != Shows::Harness
        && let Some(reason) = netdiag_missing()
    {
        return super::skip(reason);
    }
    if let Some(reason) = scenario.needs.iter().find_map(|need| need.missing()) {
        return super::skip(reason);
    }
    (scenario.run)()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// What the scenarios left behind; namespaces among it are removed.
fn leaks(hooks_before: &BTreeSet<String>) -> Vec<String> {
    let mut leaks = Vec::new();
    for name in net::leftovers() {
        net::remove(&name);
        leaks.push(format!("namespace {name}"));
    }
    match hooks::present(None) {
        Ok(now) => leaks.extend(now.difference(hooks_before).map(|hook| format!("tc hook {hook}"))),
        Err(error) => leaks.push(format!("tc hooks could not be read: {error:#}")),
    }
    leaks.extend(children().into_iter().map(|child| format!("process {child}")));
    leaks
}

/// Children of this process that nobody waited for.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let stats = entries.flatten().filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            // pid (comm) state ppid; the name may hold spaces and parentheses.
            let (head, tail) = stat.rsplit_once(')')?;
            (tail.split_whitespace().nth(1)? == own).then(|| format!("{head})"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::net::Namespace;

    fn hangs() -> Result<()> {
        Namespace::new("hangs")?.run(&["sleep", "30"]).map(drop)
    }

    #[test]
    fn a_hanging_scenario_is_ended() {
        let start = Instant::now();
        let scenario = Scenario::harness("hangs", hangs).limit(Duration::from_millis(200));
        let error = run_within_limit(&scenario).unwrap_err().to_string();
        assert!(error.contains("took longer than 200ms; it ended when"), "{error}");
        assert!(start.elapsed() < UNWIND);
    }

    #[test]
    fn a_panic_is_a_failure_and_a_skip_is_not() {
        let error = run_within_limit(&Scenario::harness("panics", || panic!("boom"))).unwrap_err();
        assert_eq!(error.to_string(), "panicked: boom");
        let skipped =
            run_within_limit(&Scenario::harness("skips", || crate::scenario::skip("no such thing")));
        assert!(skipped.unwrap_err().is::<Skip>());
    }

    #[test]
    fn the_core_hits_each_diagnosis_once() {
        let run = || Ok(());
        let mut scenarios = vec![
            Scenario::hit("reset.linger", "v4", run),
            Scenario::hit("reset.linger", "v6", run),
            Scenario::near_miss("reset.linger", "shutdown", run),
            Scenario::healthy("connect", run),
            Scenario::healthy("many", run),
        ];
        keep(&mut scenarios, CORE, &["healthy__connect"]);
        let names: Vec<String> = scenarios.iter().map(Scenario::full_name).collect();
        assert_eq!(names, ["reset_linger__hit_v4", "healthy__connect"]);
    }

    #[test]
    fn nothing_runs_beside_one_that_runs_alone() {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        fn beside() -> Result<()> {
            RUNNING.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
            RUNNING.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
        fn alone() -> Result<()> {
            let before = RUNNING.load(Ordering::SeqCst);
            thread::sleep(Duration::from_millis(20));
            anyhow::ensure!((before, RUNNING.load(Ordering::SeqCst)) == (0, 0));
            Ok(())
        }
        thread::scope(|scope| {
            let others = || (0..20).try_for_each(|_| in_turn(&Scenario::harness("beside", beside)));
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(others)).collect();
            for _ in 0..3 {
                in_turn(&Scenario::harness("alone", alone).alone()).unwrap();
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        });
    }

    #[test]
    fn one_that_failed_gets_a_second_try() {
        fn fails_once() -> Result<()> {
            static FAILED: AtomicUsize = AtomicUsize::new(0);
            anyhow::ensure!(FAILED.fetch_add(1, Ordering::SeqCst) > 0, "the first time");
            Ok(())
        }
        let scenario = Scenario::harness("fails_once", fails_once);
        let first = in_turn(&scenario).unwrap_err();
        assert!(again(&scenario, &first).is_ok());
        let always = Scenario::harness("fails", || anyhow::bail!("always"));
        let Err(failed) = again(&always, &first) else { panic!("it passed") };
        assert_eq!(failed.message(), Some("the first time\n\nand when it ran again alone: always"));
    }

    #[test]
    fn only_an_expected_skip_is_ignored() {
        const EXPECTED: &[ExpectedSkip] = &[ExpectedSkip { kernel: "*", scenario: "reset_*", reason: "" }];
        assert!(judge_skip("reset_linger__hit_v4", "why", EXPECTED).is_ok());
        assert!(judge_skip("timeout_no_reply__hit_v4", "why", EXPECTED).is_err());
    }
}
