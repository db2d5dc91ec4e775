//! `cargo xtask vm`: the scenarios on Debian's kernels, in virtual machines.

mod apt;
mod cache;
mod image;
mod initramfs;
mod kernels;
mod modules;
pub mod programs;
mod qemu;
mod results;
mod root;
mod run;
mod snapshot;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::count::Count;
use crate::setup;
use apt::Apt;
use cache::Cache;

#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Kernels: `all`, `newest`, or series such as 6.1; without it, 6.1 and the newest
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<String>,
    /// Say which kernels and packages that would be, and run nothing
    #[arg(long)]
    list: bool,
    /// Keep the initramfs, and say how to start the virtual machine by hand
    #[arg(long)]
    keep: bool,
    /// Every scenario, instead of one for each diagnosis and the healthy ones
    #[arg(long)]
    full: bool,
    /// Run `netdiag doctor` only
    #[arg(long)]
    doctor: bool,
    /// Attach probes by this kind of hook in the scenarios: tracepoint, fentry, kprobe; without it netdiag's own choice, and
    /// a sample with each of the others
    #[arg(long, value_delimiter = ',', value_name = "KIND", value_parser = ["tracepoint", "fentry", "kprobe"])]
    attach: Vec<String>,
    /// Write what `netdiag doctor` says to tests/kernels instead of comparing it
    #[arg(long)]
    bless: bool,
    /// A variable for the programs in the virtual machine: NETDIAG_VERIFIER_LOG=1
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Run only the scenarios whose name contains this
    #[arg(last = true)]
    filter: Option<String>,
}

/// What one kernel gave.
#[derive(Debug)]
struct Row {
    kernel: String,
    count: Count,
    problems: Vec<String>,
    took: Duration,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let sum = run(args)?;
    if !args.list {
        println!("{sum}");
    }
    Ok(ExitCode::from(u8::from(sum.failed > 0)))
}

/// All that `args` ask for.
///
/// # Errors
/// When the virtual machines cannot be had.
pub fn run(args: &Args) -> Result<Count> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the virtual machines are x86_64 ones, and this machine is {}", std::env::consts::ARCH);
    }
    let asked: Vec<String> = match args.kernel.as_slice() {
        [] => kernels::DEFAULT.iter().map(|word| (*word).to_owned()).collect(),
        words => words.to_vec(),
    };
    let wanted = kernels::selected(&asked)?;
    setup::ensure(setup::Level::Vm)?;
    let cache = Cache::new();
    let apt = Apt::new(cache.path())?;
    let kernels = wanted.iter().map(|word| apt.kernel(word)).collect::<Result<Vec<_>>>()?;
    if args.list {
        for kernel in &kernels {
            println!("{:<6} {:<32} {}", kernel.series, kernel.release, kernel.packages.join(" "));
        }
        return Ok(Count::default());
    }
    let ready = kernels.iter().map(|kernel| cache.kernel(&apt, kernel)).collect::<Result<Vec<_>>>()?;
    let programs = programs::build(&crate::root().join("target/vm/build"))?;
    let plan = run::Plan::new(args, &programs)?;
    let rows = side_by_side(&ready, &|kernel| plan.on(kernel, &programs))?;
    Ok(summary(&rows))
}

/// Runs as many at a time as there are processors for; the results in the order of the kernels.
fn side_by_side<T: Sync, R: Send>(items: &[T], run: &(dyn Fn(&T) -> Result<R> + Sync)) -> Result<Vec<R>> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let at_once = (processors / qemu::processors()).clamp(1, items.len().max(1));
    let next = AtomicUsize::new(0);
    let mut results: Vec<(usize, Result<R>)> = std::thread::scope(|scope| {
        let work = || {
            let mut own = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(index) else { return own };
                own.push((index, run(item)));
            }
        };
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    });
    if results.len() != items.len() {
        bail!("a virtual machine's thread panicked");
    }
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Prints the table; the sum.
fn summary(rows: &[Row]) -> Count {
    println!();
    for row in rows {
        for problem in &row.problems {
            println!("{}: {problem}", row.kernel);
        }
    }
    let mut sum = Count::default();
    for row in rows {
        let verdict = if row.count.failed > 0 { "FAILED" } else { "ok" };
        println!("{:<32} {verdict:<8} {:>7.1} s  {}", row.kernel, row.took.as_secs_f64(), row.count);
        sum += row.count;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order() {
        let double = side_by_side(&[1, 2, 3, 4, 5], &|number| Ok(number * 2));
        assert_eq!(double.expect("none fails"), [2, 4, 6, 8, 10]);
        let failed = side_by_side(&[1, 2], &|number| if *number == 2 { bail!("no") } else { Ok(()) });
        assert!(failed.is_err());
    }
}
