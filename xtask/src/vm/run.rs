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
use super::{Args, Row, kernels, modules, root, snapshot};
use crate::cmd;
use crate::count::Count;

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

/// One run of the scenarios' program.
#[derive(Debug, Clone)]
struct Section {
    name: String,
    /// `NETDIAG_SCENARIOS`; empty for all of them.
    sample: &'static str,
    /// `NETDIAG_TEST_ATTACH`; empty for netdiag's own choice.
    attach: String,
    filter: Option<String>,
    /// The scenarios that must report.
    expected: Vec<String>,
}

impl Section {
    /// Asks the test program which scenarios it would run.
    fn new(
        programs: &Programs,
        name: &str,
        sample: &'static str,
        attach: &str,
        filter: Option<&String>,
    ) -> Result<Self> {
        let mut list = Command::new(&programs.scenarios);
        list.arg("--list").args(filter).env("NETDIAG_SCENARIOS", sample);
        let text = cmd::output(&mut list).context("the scenarios cannot be listed")?;
        let expected =
            text.lines().filter_map(|line| Some(line.strip_suffix(": test")?.to_owned())).collect();
        Ok(Self {
            name: name.to_owned(),
            sample,
            attach: attach.to_owned(),
            filter: filter.cloned(),
            expected,
        })
    }
}

/// What every virtual machine of this run does.
#[derive(Debug)]
pub struct Plan {
    sections: Vec<Section>,
    /// Instead of them on a kernel that netdiag refuses.
    too_old: Vec<Section>,
    /// More environment of the scenarios: `NAME=VALUE`.
    environment: Vec<String>,
    doctor_only: bool,
    keep: bool,
    bless: bool,
}

impl Plan {
    /// What each machine has to run.
    ///
    /// # Errors
    /// When the test program cannot be run here.
    pub fn new(args: &Args, programs: &Programs) -> Result<Self> {
        let mut plan = Self {
            sections: Vec::new(),
            too_old: Vec::new(),
            environment: args.env.clone(),
            doctor_only: args.doctor,
            keep: args.keep,
            bless: args.bless,
        };
        if args.doctor {
            return Ok(plan);
        }
        if !qemu::has_kvm() {
            plan.environment.push(format!("NETDIAG_TEST_SLOWNESS={SLOWNESS}"));
        }
        let section = |name: &str, sample, attach: &str| {
            Section::new(programs, name, sample, attach, args.filter.as_ref())
        };
        let sample = if args.full || args.filter.is_some() { "" } else { "core" };
        if args.attach.is_empty() {
            plan.sections.push(section("scenarios", sample, "")?);
        }
        for kind in &args.attach {
            plan.sections.push(section(kind, sample, kind)?);
        }
        if args.filter.is_none() {
            if args.attach.is_empty() {
                // fentry is netdiag's own choice wherever it can be had.
                for kind in ["kprobe", "tracepoint"] {
                    plan.sections.push(section(kind, "hooks", kind)?);
                }
            }
            plan.sections.push(section("own-machine", "own-machine", "")?);
            // Last: nothing else can run there afterwards.
            plan.sections.push(section("locked-down", "locked-down", "")?);
            plan.too_old.push(section("too-old", "too-old", "")?);
        }
        Ok(plan)
    }

    fn sections(&self, kernel: &Ready) -> &[Section] {
        if kernels::is_too_old(&kernel.series) { &self.too_old } else { &self.sections }
    }

    /// Runs one virtual machine.
    ///
    /// # Errors
    /// When it cannot be put together or started; all else is in the row.
    pub fn on(&self, kernel: &Ready, programs: &Programs) -> Result<Row> {
        let directory = crate::root().join("target/vm").join(&kernel.series);
        std::fs::create_dir_all(&directory)?;
        let count: usize = self.sections(kernel).iter().map(|section| section.expected.len()).sum();
        let machine = Machine {
            kernel: kernel.image.clone(),
            initramfs: directory.join("initramfs.cpio"),
            console: directory.join("console.log"),
            results: directory.join("results.log"),
            deadline: OVERHEAD + EACH * u32::try_from(count)?,
        };
        self.write_initramfs(&machine.initramfs, kernel, programs)?;
        println!("==> Linux {}: {count} scenarios", kernel.release);
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
        let mut row = self.judge(kernel, &results, end);
        row.kernel.clone_from(&kernel.release);
        row.took = took;
        self.show(&results, &row, &machine.console);
        println!("<== Linux {}: {}, {:.1} s\n", kernel.release, row.count, took.as_secs_f64());
        Ok(row)
    }

    fn judge(&self, kernel: &Ready, results: &Results, end: End) -> Row {
        let mut row = Row {
            kernel: String::new(),
            count: Count::default(),
            problems: Vec::new(),
            took: Duration::ZERO,
        };
        match end {
            End::NoBoot => row.problems.push("the kernel did not come as far as its first process".into()),
            End::Deadline => row.problems.push("it was still running at the deadline".into()),
            End::Off if !results.complete => {
                row.problems.push("it ended before its work was done: a panic?".into());
            }
            End::Off => {}
        }
        for section in self.sections(kernel) {
            let tests = results.sections.get(&section.name).cloned().unwrap_or_default();
            let verdict = judge(&tests.text, &section.expected);
            let failed = verdict.count.failed > 0;
            row.count += verdict.count;
            row.problems.extend(verdict.problems.into_iter().map(|why| format!("{}: {why}", section.name)));
            if tests.status.is_some_and(|status| status != 0) && !failed {
                let why = "the scenarios left something behind; the console says what";
                row.problems.push(format!("{}: {why}", section.name));
            }
        }
        if results.complete {
            match snapshot::check(kernel, results, self.bless) {
                Ok(problems) => row.problems.extend(problems),
                Err(error) => row.problems.push(format!("{error:#}")),
            }
        }
        row.count.failed += u32::try_from(row.problems.len()).unwrap_or(u32::MAX);
        row
    }

    /// What a person needs: why scenarios failed, and the end of the console when the machine did.
    fn show(&self, results: &Results, row: &Row, console: &Path) {
        if self.doctor_only {
            print!(
                "{}",
                results.sections.get("doctor").map(|section| section.text.as_str()).unwrap_or_default()
            );
        }
        for section in results.sections.values() {
            if let Some((_, failures)) = section.text.split_once("\nfailures:\n") {
                println!("{}", failures.trim_end());
            }
            section
                .text
                .lines()
                .filter(|line| line.starts_with("UNSTEADY "))
                .for_each(|line| println!("{line}"));
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
        archive.data(&PathBuf::from(DIRECTORY).join("plan"), 0o644, self.text(kernel).as_bytes())?;
        archive.finish()?;
        Ok(())
    }

    /// The lines that `nd-init` follows.
    fn text(&self, kernel: &Ready) -> String {
        let mut text = format!("modules {}\n", modules::LOADED);
        text += &format!("env NETDIAG_BIN={DIRECTORY}/netdiag\nenv NETDIAG_TEST_BINARIES={DIRECTORY}\n");
        self.environment.iter().for_each(|pair| text += &format!("env {pair}\n"));
        text += &format!("run {} {DIRECTORY}/netdiag doctor --no-color\n", snapshot::DOCTOR);
        text += &format!("run {} {DIRECTORY}/netdiag doctor --verbose --no-color\n", snapshot::FIELDS);
        for section in self.sections(kernel) {
            text += &format!("env NETDIAG_SCENARIOS={}\n", section.sample);
            text += &format!("env NETDIAG_TEST_ATTACH={}\n", section.attach);
            let filter = section.filter.as_deref().unwrap_or_default();
            // More at a time than there are processors only wait for each other.
            let threads = qemu::processors();
            text +=
                &format!("run {} {DIRECTORY}/scenarios --test-threads={threads} {filter}\n", section.name);
        }
        text
    }
}

/// What a serial port brought; it need not be UTF-8.
fn text_of(file: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned()
}
