//! `cargo xtask test`: every check, one after the other, whatever the earlier ones said.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::count::{self, Count};
use crate::{build, cmd, setup, vm};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave out the release build, the scenarios, the virtual machines and the lint of the eBPF binary
    #[arg(long)]
    fast: bool,
    /// Run only the tests whose name contains this
    #[arg(last = true)]
    filter: Option<String>,
}

/// The integration test that needs root and the release binary.
const SCENARIOS: &str = "scenarios";

/// Lines about failures that the closing summary repeats: who sees only the end of a long log finds them there.
const MAX_NOTABLE: usize = 300;

/// What one step gave.
#[derive(Debug)]
struct Step {
    name: &'static str,
    count: Count,
    took: Duration,
    /// What the closing summary repeats: failures, and tests that passed at the second try only.
    notable: Vec<String>,
}

/// What a run of tests gave.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ran {
    count: Count,
    notable: Vec<String>,
}

impl From<Count> for Ran {
    fn from(count: Count) -> Self {
        Self { count, notable: Vec::new() }
    }
}

#[derive(Debug, Default)]
struct Steps(Vec<Step>);

impl Steps {
    /// A step that is one check.
    fn check(&mut self, name: &'static str, check: impl FnOnce() -> Result<()>) {
        self.tests(name, || check().map(|()| Ran::from(Count { passed: 1, ..Count::default() })));
    }

    /// A step that counts what it ran.
    fn tests(&mut self, name: &'static str, run: impl FnOnce() -> Result<Ran>) {
        println!("==> {name}");
        let start = Instant::now();
        let Ran { count, notable } = run().unwrap_or_else(|error| {
            eprintln!("xtask: {name}: {error:#}");
            Ran { count: Count { failed: 1, ..Count::default() }, notable: vec![format!("{error:#}")] }
        });
        let took = start.elapsed();
        let verdict = if count.failed == 0 { "ok" } else { "FAILED" };
        println!("<== {name}: {verdict}, {:.1} s\n", took.as_secs_f64());
        self.0.push(Step { name, count, took, notable });
    }

    fn skip(&mut self, name: &'static str, why: &str) {
        println!("==> {name}: skipped, {why}\n");
        let count = Count { skipped: 1, ..Count::default() };
        self.0.push(Step { name, count, took: Duration::ZERO, notable: Vec::new() });
    }

    /// Prints what is notable, the table and, as the last line, the sum.
    fn finish(&self) -> Count {
        for step in self.0.iter().filter(|step| !step.notable.is_empty()) {
            println!("--- {}\n{}\n", step.name, step.notable.join("\n"));
        }
        let mut sum = Count::default();
        for step in &self.0 {
            let verdict = match step.count {
                Count { failed: 1.., .. } => "FAILED",
                Count { passed: 0, skipped: 1.., .. } => "skipped",
                Count { passed: 0, .. } => "no tests",
                Count { .. } => "ok",
            };
            println!("{:<24} {verdict:<8} {:>7.1} s  {}", step.name, step.took.as_secs_f64(), step.count);
            sum += step.count;
        }
        println!("{sum}");
        sum
    }
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let mut steps = Steps::default();
    steps.check("set-up", || setup::ensure(setup::Level::Test));
    steps.check("format", || cmd::run(cargo().args(["fmt", "--all", "--check"])));
    steps.check("clippy", || {
        let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        cmd::run(cargo().args(clippy))
    });
    if !args.fast {
        match bpf_clippy() {
            Ok(mut clippy) => steps.check("clippy of the eBPF part", || cmd::run(&mut clippy)),
            Err(why) => steps.skip("clippy of the eBPF part", why),
        }
    }
    steps.tests("unit tests", || unit_tests(args));
    steps.tests("examples in the docs", || {
        let mut tests = cargo();
        count_tests(filtered(tests.args(["test", "--workspace", "--doc"]), args), &mut std::io::stdout())
    });
    if !args.fast {
        steps.check("release build", || build::netdiag(true));
        steps.tests("scenarios", || scenarios(args));
        match &args.filter {
            None => steps.tests("virtual machines", || vm::run(&vm::Args::default()).map(Ran::from)),
            Some(_) => steps.skip("virtual machines", "only some tests were asked for: ./x vm -- FILTER"),
        }
    }
    let sum = steps.finish();
    Ok(ExitCode::from(u8::from(sum.failed > 0)))
}

/// All tests but the scenarios and the examples in the docs.
fn unit_tests(args: &Args) -> Result<Ran> {
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast", "--lib", "--bins"]);
    let metadata = cmd::output(cmd::cargo().args(["metadata", "--no-deps", "--format-version=1"]))
        .context("`cargo metadata` failed")?;
    for name in test_targets(&metadata)?.iter().filter(|name| *name != SCENARIOS) {
        tests.args(["--test", name]);
    }
    count_tests(filtered(&mut tests, args), &mut std::io::stdout())
}

/// The names of the workspace's integration tests.
fn test_targets(metadata: &str) -> Result<Vec<String>> {
    let metadata: serde_json::Value = serde_json::from_str(metadata)?;
    let array = |value: &serde_json::Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let targets = array(&metadata, "packages").into_iter().flat_map(|package| array(&package, "targets"));
    let tests = targets.filter(|target| array(target, "kind").iter().any(|kind| kind == "test"));
    Ok(tests.filter_map(|target| target["name"].as_str().map(str::to_owned)).collect())
}

/// The faults in network namespaces, with the release binary.
fn scenarios(args: &Args) -> Result<Ran> {
    let mut tests = cargo();
    // With --workspace, cargo reuses what the unit tests were built from; --package would choose other features.
    tests.args(["test", "--workspace", "--test", SCENARIOS]).env("NETDIAG_BIN", build::binary(true));
    if !cmd::is_root() {
        tests.env(runner_variable(), "sudo --preserve-env");
    }
    count_tests(filtered(&mut tests, args), &mut std::io::stdout())
}

/// cargo's variable for the program that starts tests on this machine's own target.
fn runner_variable() -> String {
    let host = cmd::output(Command::new("rustc").arg("-Vv"))
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("host: ").map(str::to_owned)))
        .unwrap_or_else(|| format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
    format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_"))
}

fn filtered<'a>(cargo: &'a mut Command, args: &Args) -> &'a mut Command {
    match &args.filter {
        Some(filter) => cargo.arg("--").arg(filter),
        None => cargo,
    }
}

/// Lints what only the BPF target compiles. Debian's toolchain has no clippy.
fn bpf_clippy() -> Result<Command, &'static str> {
    let pair = setup::recorded().ok_or("no toolchain for eBPF")?;
    let toolchain = pair.compiler.toolchain.as_deref().ok_or("its compiler is not rustup's")?;
    if cmd::output(Command::new("rustup").args(["run", toolchain, "cargo", "clippy", "--version"])).is_none()
    {
        return Err("its toolchain has no clippy");
    }
    let mut clippy = Command::new("rustup");
    clippy.args(["run", toolchain, "cargo", "clippy", "--package", "netdiag-ebpf", "--bin", "netdiag-ebpf"]);
    clippy.args(["--features", "bpf", "--release", "--target", "bpfel-unknown-none", "-Zbuild-std=core"]);
    // The build script's own directory: the same `core` and macros are there already.
    clippy.arg("--target-dir").arg(crate::root().join("target/bpf"));
    clippy.args(["--", "-D", "warnings"]);
    if !pair.compiler.nightly {
        clippy.env("RUSTC_BOOTSTRAP", "1");
    }
    let arch = std::env::consts::ARCH;
    clippy.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{arch}\"\x1f-Cdebuginfo=2"));
    for inherited in ["RUSTC", "RUSTFLAGS", "CARGO", "CARGO_BUILD_TARGET"] {
        clippy.env_remove(inherited);
    }
    clippy.current_dir(crate::root()).env("CARGO_TERM_COLOR", colour());
    Ok(clippy)
}

fn cargo() -> Command {
    let mut cargo = cmd::cargo();
    cargo.env("CARGO_TERM_COLOR", colour());
    cargo
}

/// What was asked for; else colour for a terminal only.
fn colour() -> String {
    std::env::var("CARGO_TERM_COLOR").unwrap_or_else(|_| {
        let wanted = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        if wanted { "always" } else { "never" }.to_owned()
    })
}

/// Runs tests, passes on what they print, and adds up their closing lines.
fn count_tests(command: &mut Command, to: &mut impl Write) -> Result<Ran> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", cmd::line(command)))?;
    let mut ran = Ran::default();
    if let Some(stdout) = child.stdout.take() {
        ran = pass_on(BufReader::new(stdout), to)?;
    }
    let status = child.wait()?;
    if !status.success() && ran.count.failed == 0 {
        // It did not compile, or a test program died before its closing line.
        ran.count.failed = 1;
        ran.notable.push(format!("`{}` ended with {status}", cmd::line(command)));
    }
    Ok(ran)
}

fn pass_on(mut from: impl BufRead, to: &mut impl Write) -> Result<Ran> {
    let mut ran = Ran::default();
    let mut line = Vec::new();
    let mut in_failures = false;
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        to.flush()?;
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        let count = count::parse(text);
        in_failures = (in_failures || text == "failures:") && count.is_none();
        let wanted = in_failures && ran.notable.len() < MAX_NOTABLE;
        if !text.is_empty() && (wanted || text.starts_with("UNSTEADY ")) {
            ran.notable.push(text.to_owned());
        }
        ran.count += count.unwrap_or_default();
        line.clear();
    }
    Ok(ran)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Count {
        ran(script).count
    }

    fn ran(script: &str) -> Ran {
        count_tests(Command::new("sh").args(["-c", script]), &mut Vec::new()).expect("sh is there")
    }

    #[test]
    fn failures_are_kept_for_the_end() {
        let text = "test a ... ok\nUNSTEADY b: why\n\nfailures:\n\n---- c ----\nbroken\n\n\nfailures:\n    c\n\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored\nafterwards";
        let Ran { count, notable } = ran(&format!("printf '{text}'"));
        assert_eq!(count, Count { passed: 2, failed: 1, skipped: 0 });
        assert_eq!(notable, ["UNSTEADY b: why", "failures:", "---- c ----", "broken", "failures:", "    c"]);
    }

    #[test]
    fn adds_up_what_runners_say() {
        let ok = "echo 'test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured'; ";
        assert_eq!(shell(&format!("{ok}{ok}")), Count { passed: 4, failed: 0, skipped: 2 });
    }

    #[test]
    fn a_run_that_dies_is_a_failure() {
        assert_eq!(shell("exit 101"), Count { passed: 0, failed: 1, skipped: 0 });
        let bad = "echo 'test result: FAILED. 2 passed; 3 failed; 0 ignored'; exit 101";
        assert_eq!(shell(bad), Count { passed: 2, failed: 3, skipped: 0 });
    }

    #[test]
    fn finds_integration_tests() {
        let metadata = r#"{"packages": [{"targets": [
            {"kind": ["lib"], "name": "a"}, {"kind": ["test"], "name": "b"}]}, {"targets": []}]}"#;
        assert_eq!(test_targets(metadata).expect("valid JSON"), ["b"]);
    }

    #[test]
    fn later_steps_run_after_a_failure() {
        let mut steps = Steps::default();
        steps.check("one", || anyhow::bail!("broken"));
        steps.check("two", || Ok(()));
        steps.skip("three", "no need");
        assert_eq!(steps.finish(), Count { passed: 1, failed: 1, skipped: 1 });
    }
}
