//! `netdiag agent`

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netdiag::agent::Agent;
use netdiag::agent::config::{Config, DEFAULT};
use netdiag::engine::now_ns;
use nix::sys::signal::Signal;

use super::args::{AgentArgs, Global};
use super::events::{Signals, wait};
use super::{say, sink};

/// The agent looks after itself this often.
const IDLE: Duration = Duration::from_secs(1);
/// Where much happens, records are taken together: each failure brings several, microseconds apart.
const TOGETHER: Duration = Duration::from_millis(5);

pub fn agent(args: AgentArgs, global: &Global) -> anyhow::Result<ExitCode> {
    if args.print_config {
        sink::open(global, sink::Stream::Stdout)?.write_all(DEFAULT.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(args.config.as_deref())?;
    if args.check {
        say(format_args!("the configuration is fine"));
        return Ok(ExitCode::SUCCESS);
    }
    // Before any thread is started, which would else get them.
    let mut signals = Signals::new(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    let mut agent =
        Agent::start(config, global.options(), Arc::new(|text: &str| say(format_args!("{text}"))))?;
    agent.ready();
    say(format_args!("agent watching; metrics at {}", agent.place()));
    let mut turned = Instant::now();
    loop {
        match signals.next()?.map(|received| received.signal) {
            Some(Signal::SIGHUP) => reload(&mut agent, &args),
            Some(_) => break,
            None => {}
        }
        let due = agent.next_due_ns().map_or(IDLE, |due| Duration::from_nanos(due.saturating_sub(now_ns())));
        wait(agent.fd(), &signals, due.min(IDLE))?;
        signals.sleep(TOGETHER.saturating_sub(turned.elapsed()))?;
        turned = Instant::now();
        agent.turn();
    }
    agent.stop();
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with the new configuration is no reason to end: the old one stays.
fn reload(agent: &mut Agent, args: &AgentArgs) {
    match Config::load(args.config.as_deref()) {
        Ok(config) => {
            let fixed = agent.reload(config);
            say(format_args!("configuration reloaded"));
            if !fixed.is_empty() {
                say(format_args!("changed, and needs a restart: {}", fixed.join(", ")));
            }
        }
        Err(error) => say(format_args!("configuration not reloaded: {error}")),
    }
}
