//! One virtual machine: what is put in it, what it must do, and what it said.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::cache::Ready;
use super::initramfs::Initramfs;
use super::programs::Programs;
use super::qemu::{self, End, Machine};
use super::results::{Results, judge, outcome};
use super::{Args, Row, modules, root};
use crate::cmd;

/// Where the programs under test are in the virtual machine.
const DIRECTORY: &str = "/netdiag";
/// How many times slower than hardware an emulated processor may be: the scenarios' own time limits grow by it.
const SLOWNESS: &str = "4";
/// Time for the kernel to start and stop, and for `doctor`.
const OVERHEAD: Duration = Duration::from_secs(180);
/// Time that a scenario may take on average, with three of them at once.
const EACH: Duration = Duration::from_secs(15);
/// How much of the console is shown when something went wrong.
const CONSOLE_LINES: usize = 25;

/// What every virtual machine of this run does.
#[derive(Debug)]
pub struct Plan {
    /// The scenarios that must report.
    expected: Vec<String>,
    /// The environment of the scenarios.
    environment: Vec<(&'static str, &'static str)>,
    /// More of it, as asked for: `NAME=VALUE`.
    more_environment: Vec<String>,
    filter: Option<String>,
    doctor_only: bool,
    keep: bool,
}

impl Plan {
    /// Asks the test program which scenarios it would run.
    ///
    /// # Errors
    /// When it cannot be run here.
    pub fn new(args: &Args, programs: &Programs) -> Result<Self> {
        let mut plan = Self {
            expected: Vec::new(),
            environment: Vec::new(),
            more_environment: args.env.clone(),
            filter: args.filter.clone(),
            doctor_only: args.doctor,
            keep: args.keep,
        };
        if args.doctor {
            return Ok(plan);
        }
        if !args.full && args.filter.is_none() {
            plan.environment.push(("NETDIAG_SCENARIOS", "core"));
        }
        let mut list = Command::new(&programs.scenarios);
        list.arg("--list").args(&plan.filter).envs(plan.environment.iter().copied());
        let text = cmd::output(&mut list).context("the scenarios cannot be listed")?;
        plan.expected =
            text.lines().filter_map(|line| Some(line.strip_suffix(": test")?.to_owned())).collect();
        if !qemu::has_kvm() {
            plan.environment.push(("NETDIAG_TEST_SLOWNESS", SLOWNESS));
        }
        Ok(plan)
    }

    /// Runs one virtual machine.
    ///
    /// # Errors
    /// When it cannot be put together or started; all else is in the row.
    pub fn on(&self, kernel: &Ready, programs: &Programs) -> Result<Row> {
        let directory = crate::root().join("target/vm").join(&kernel.series);
        std::fs::create_dir_all(&directory)?;
        let machine = Machine {
            kernel: kernel.image.clone(),
            initramfs: directory.join("initramfs.cpio"),
            console: directory.join("console.log"),
            results: directory.join("results.log"),
            deadline: OVERHEAD + EACH * u32::try_from(self.expected.len())?,
        };
        self.write_initramfs(&machine.initramfs, kernel, programs)?;
        println!("==> Linux {}: {} scenarios", kernel.release, self.expected.len());
        let start = Instant::now();
        let show = |line: &str| {
            if outcome(line).is_some() {
                println!("{:<6} {line}", kernel.series);
            }
        };
        let end = machine.run(show)?;
        let took = start.elapsed();
        if self.keep {
            println!("vm: to start it again: {}", cmd::line(&machine.command()));
        } else {
            std::fs::remove_file(&machine.initramfs)?;
        }
        let results = Results::parse(&text_of(&machine.results));
        for (name, section) in &results.sections {
            std::fs::write(directory.join(format!("{name}.log")), &section.text)?;
        }
        let mut row = self.judge(&results, end);
        row.kernel.clone_from(&kernel.release);
        row.took = took;
        self.show(&results, &row, &machine.console);
        println!("<== Linux {}: {}, {:.1} s\n", kernel.release, row.count, took.as_secs_f64());
        Ok(row)
    }

    fn judge(&self, results: &Results, end: End) -> Row {
        let tests = results.sections.get("scenarios").cloned().unwrap_or_default();
        let mut verdict = judge(&tests.text, &self.expected);
        match end {
            End::NoBoot => {
                verdict.problems.insert(0, "the kernel did not come as far as its first process".into())
            }
            End::Deadline => verdict.problems.insert(0, "it was still running at the deadline".into()),
            End::Off if !results.complete => {
                verdict.problems.insert(0, "it ended before its work was done: a panic?".into());
            }
            End::Off => {}
        }
        if results.sections.get("doctor").is_some_and(|doctor| !matches!(doctor.status, Some(0 | 1))) {
            verdict.problems.push("`netdiag doctor` cannot run there".into());
        }
        if tests.status.is_some_and(|status| status != 0) && verdict.count.failed == 0 {
            verdict.problems.push("the scenarios left something behind; the console says what".into());
        }
        verdict.count.failed += u32::try_from(verdict.problems.len()).unwrap_or(u32::MAX);
        Row { kernel: String::new(), count: verdict.count, problems: verdict.problems, took: Duration::ZERO }
    }

    /// What a person needs: why scenarios failed, and the end of the console when the machine did.
    fn show(&self, results: &Results, row: &Row, console: &Path) {
        if self.doctor_only {
            print!(
                "{}",
                results.sections.get("doctor").map(|section| section.text.as_str()).unwrap_or_default()
            );
        }
        let tests =
            results.sections.get("scenarios").map(|section| section.text.as_str()).unwrap_or_default();
        if let Some((_, failures)) = tests.split_once("\nfailures:\n") {
            println!("{}", failures.trim_end());
        }
        if row.problems.is_empty() {
            return;
        }
        let console_text = text_of(console);
        let lines: Vec<&str> = console_text.lines().collect();
        println!("---- the end of {} ----", console.display());
        lines.iter().skip(lines.len().saturating_sub(CONSOLE_LINES)).for_each(|line| println!("{line}"));
    }

    fn write_initramfs(&self, path: &Path, kernel: &Ready, programs: &Programs) -> Result<()> {
        let mut archive = Initramfs::create(path)?;
        root::add(&mut archive)?;
        archive.tree(&kernel.modules.join("lib"), Path::new("/usr/lib"), &|_| true)?;
        archive.file(&programs.init, Path::new("/init"))?;
        let own = [&programs.netdiag].into_iter().chain(&programs.helpers);
        for program in own {
            let name = program.file_name().context("a program without a name")?;
            archive.file(program, &Path::new(DIRECTORY).join(name))?;
        }
        archive.file(&programs.scenarios, &Path::new(DIRECTORY).join("scenarios"))?;
        archive.data(&PathBuf::from(DIRECTORY).join("plan"), 0o644, self.text().as_bytes())?;
        archive.finish()?;
        Ok(())
    }

    /// The lines that `nd-init` follows.
    fn text(&self) -> String {
        let mut text = format!("modules {}\n", modules::LOADED);
        text += &format!("env NETDIAG_BIN={DIRECTORY}/netdiag\nenv NETDIAG_TEST_BINARIES={DIRECTORY}\n");
        for (name, value) in &self.environment {
            text += &format!("env {name}={value}\n");
        }
        self.more_environment.iter().for_each(|pair| text += &format!("env {pair}\n"));
        text += &format!("run doctor {DIRECTORY}/netdiag doctor --no-color\n");
        text += &format!("run doctor-json {DIRECTORY}/netdiag doctor --format json\n");
        if !self.doctor_only {
            text += &format!(
                "run scenarios {DIRECTORY}/scenarios {}\n",
                self.filter.as_deref().unwrap_or_default()
            );
        }
        text
    }
}

/// What a serial port brought; it need not be UTF-8.
fn text_of(file: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned()
}
