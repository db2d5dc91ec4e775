//! `netdiag sockets [FILTER]`

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::bail;
use jiff::Timestamp;
use netdiag::agent::ask::Agent;
use netdiag::enrich::sockets::{Protocol, State, states};
use netdiag::output::{KeeperReport, SocketReport, keeper_text, socket_table};
use netdiag::whose::close_wait::keepers;
use netdiag::whose::time_wait::{Closer, WhoClosed};
use netdiag::whose::{Ask, Held, Inventory, pressure};

use super::args::{AskArgs, Format, Global, SocketsArgs};
use super::sink::{self, Stream};
use super::{ask, say};

pub fn sockets(args: SocketsArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let filter = super::filter(&args.filter)?;
    let wanted = wanted_states(&args)?;
    let mut out = sink::open(global, Stream::Stdout)?;
    let inventory = patiently(|| Inventory::read(Ask { tcp: states::ALL, udp: states::ALL, ports: None }));
    let closers = closers(&inventory, wanted, args.ask);
    let filtered = |(held, closer): &(&Held, Option<&Closer>)| {
        let owner = closer.map(|closer| (closer.pid, closer.comm.as_str()));
        filter.as_ref().is_none_or(|filter| match owner {
            Some(owner) => held.is_wanted_of(filter, Some(owner)),
            None => held.is_wanted(filter),
        })
    };
    let known = inventory.sockets.iter().zip(closers.iter().map(Option::as_deref));
    let all: Vec<(&Held, Option<&Closer>)> = known.filter(filtered).collect();
    let shown: Vec<(&Held, Option<&Closer>)> =
        all.iter().copied().filter(|(held, _)| is_in(wanted, held)).collect();

    let time = Timestamp::now();
    let pressure = pressure::measure(all.iter().map(|(held, _)| *held), Some(&inventory.sockets));
    let report = |(held, closer): &(&Held, Option<&Closer>)| {
        let listens = held.socket.state == State::Listen;
        let pressure = pressure.get(&(held.netns, held.socket.local.port())).filter(|_| listens);
        SocketReport::new(held, time).closed_by(*closer).with_pressure(held, pressure)
    };
    let mut reports: Vec<SocketReport> = shown.iter().map(report).collect();
    reports.sort_by_key(|report| (report.protocol as u8, report.state as u8, report.netns, sort_key(report)));
    let keepers = keepers(shown.iter().map(|(held, _)| *held));
    match global.format {
        Format::Json => {
            for report in &reports {
                writeln!(out, "{}", serde_json::to_string(report)?)?;
            }
            for keeper in &keepers {
                writeln!(out, "{}", serde_json::to_string(&KeeperReport::new(keeper, time))?)?;
            }
        }
        Format::Text => {
            let look = sink::look(global, Stream::Stdout);
            write!(out, "{}", socket_table(&reports, &look))?;
            let leaks: Vec<String> = keepers.iter().map(|keeper| keeper_text(keeper, &look)).collect();
            if leaks.iter().any(|leak| !leak.is_empty()) {
                write!(out, "\n{}", leaks.concat())?;
            }
        }
    }
    out.flush()?;
    closing(&inventory, &all, &reports, wanted);
    Ok(ExitCode::SUCCESS)
}

/// Who closed each socket that is shown and that no process holds any more, as far as an agent knows it.
fn closers(inventory: &Inventory, wanted: Wanted, args: AskArgs) -> Vec<Option<Rc<Closer>>> {
    let may_know = |held: &Held| is_in(wanted, held) && WhoClosed::may_know(held);
    let mut known = None;
    if inventory.sockets.iter().any(may_know)
        && let Some(agent) = ask::agent(args).filter(Agent::knows_owners)
    {
        match agent.owners() {
            Ok(owners) => known = Some(WhoClosed::from(owners)),
            Err(error) => ask::not_asked(&error),
        }
    }
    let closer = |held: &Held| {
        let known = known.as_mut().filter(|_| may_know(held))?;
        known.closer(held)
    };
    inventory.sockets.iter().map(closer).collect()
}

/// Says so when it takes longer than a second.
fn patiently<T>(work: impl FnOnce() -> T) -> T {
    let (done, waits) = mpsc::channel::<()>();
    let note = thread::spawn(move || {
        if waits.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            say(format_args!(
                "looking through the open files of all processes for who holds the sockets ..."
            ));
        }
    });
    let result = work();
    drop(done);
    // It cannot panic, and what it says is a comfort only.
    let _ = note.join();
    result
}

fn sort_key(report: &SocketReport) -> (u16, std::net::IpAddr, Option<(std::net::IpAddr, u16)>) {
    (report.local.port, report.local.address, report.peer.map(|peer| (peer.address, peer.port)))
}

fn closing(
    inventory: &Inventory,
    all: &[(&Held, Option<&Closer>)],
    reports: &[SocketReport],
    wanted: Wanted,
) {
    let remarks: usize = reports.iter().map(|report| report.remarks.len()).sum();
    let mut text = format!("{} sockets, {remarks} remarks", reports.len());
    let time_wait = all.iter().filter(|(held, _)| held.socket.state == State::TimeWait).count();
    if time_wait > 0 && wanted == Wanted::Usual {
        text += &format!("; {time_wait} more are in TIME_WAIT (netdiag timewait tells whose they were)");
    }
    if inventory.incomplete {
        text += "; some network namespaces could not be looked into";
    }
    say(format_args!("{text}"));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// All but TIME_WAIT.
    Usual,
    Listening,
    /// Bits of `states`.
    States(u32),
}

fn is_in(wanted: Wanted, held: &Held) -> bool {
    let socket = &held.socket;
    match wanted {
        Wanted::Usual => socket.state != State::TimeWait,
        Wanted::Listening => match socket.protocol {
            Protocol::Tcp => socket.state == State::Listen,
            Protocol::Udp => socket.state == State::Close,
        },
        Wanted::States(set) => set & 1 << (socket.state as u32 + 1) != 0,
    }
}

fn wanted_states(args: &SocketsArgs) -> anyhow::Result<Wanted> {
    if args.listening {
        return Ok(Wanted::Listening);
    }
    if args.state.is_empty() {
        return Ok(Wanted::Usual);
    }
    let sets: Vec<u32> = args.state.iter().map(|name| state_set(name)).collect::<anyhow::Result<_>>()?;
    Ok(Wanted::States(sets.into_iter().fold(0, |set, one| set | one)))
}

/// By the kernel's name or that of ss(8): `CLOSE_WAIT`, `close-wait`, `fin-wait-1`.
fn state_set(name: &str) -> anyhow::Result<u32> {
    const NAMES: &[(&str, u32)] = &[
        ("all", states::ALL),
        ("established", states::ESTABLISHED),
        ("estab", states::ESTABLISHED),
        ("synsent", states::SYN_SENT),
        ("synrecv", states::SYN_RECV | 1 << 12),
        ("finwait1", states::FIN_WAIT1),
        ("finwait2", states::FIN_WAIT2),
        ("timewait", states::TIME_WAIT),
        ("close", states::CLOSE),
        ("closed", states::CLOSE),
        ("closewait", states::CLOSE_WAIT),
        ("lastack", states::LAST_ACK),
        ("listen", states::LISTEN),
        ("closing", states::CLOSING),
    ];
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    match NAMES.iter().find(|(known, _)| plain.eq_ignore_ascii_case(known)) {
        Some((_, set)) => Ok(*set),
        None => bail!("`{name}` is no state of a socket: see netdiag sockets --help"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_by_either_name() {
        assert_eq!(state_set("close-wait").unwrap(), states::CLOSE_WAIT);
        assert_eq!(state_set("CLOSE_WAIT").unwrap(), states::CLOSE_WAIT);
        assert_eq!(state_set("fin-wait-1").unwrap(), states::FIN_WAIT1);
        assert!(state_set("open").is_err());
        // The numbers of states are those of their bits.
        assert_eq!(1 << (State::CloseWait as u32 + 1), states::CLOSE_WAIT);
        assert_eq!(1 << (State::Listen as u32 + 1), states::LISTEN);
    }
}
