//! `netdiag port N`

use std::ops::ControlFlow;
use std::process::ExitCode;

use jiff::Timestamp;
use netdiag::agent::ask::{Agent, Request};
use netdiag::enrich::netns::Names;
use netdiag::enrich::sockets::{Ports, State, states};
use netdiag::output::{Endpoint, LastHolderReport, SocketReport, port_text};
use netdiag::whose::last_holders::LastHolder;
use netdiag::whose::port::{Rest, rest, stands};
use netdiag::whose::{Ask, Inventory, pressure};

use super::args::{Format, Global, PortArgs};
use super::sink::{self, Stream};
use super::{ask, say};

pub fn port(args: &PortArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let mut out = sink::open(global, Stream::Stdout)?;
    let ports = Some(Ports::local(args.port));
    let inventory = Inventory::read(Ask { tcp: states::ALL, udp: states::ALL, ports });
    let time = Timestamp::now();
    let pressure = pressure::measure(inventory.sockets.iter(), None);
    let reports: Vec<SocketReport> = stands(&inventory.sockets)
        .into_iter()
        .map(|(held, connections)| {
            let listens = held.socket.state == State::Listen;
            let pressure = pressure.get(&(held.netns, args.port)).filter(|_| listens);
            let mut report = SocketReport::new(held, time).with_start().with_pressure(held, pressure);
            report.connections = connections;
            report
        })
        .collect();
    for report in &reports {
        match global.format {
            Format::Json => writeln!(out, "{}", serde_json::to_string(report)?)?,
            Format::Text => write!(out, "{}", port_text(report, &sink::look(global, Stream::Stdout)))?,
        }
    }
    for report in before(args, &reports, time) {
        match global.format {
            Format::Json => writeln!(out, "{}", serde_json::to_string(&report)?)?,
            Format::Text => write!(out, "{}", report.text(&sink::look(global, Stream::Stdout)))?,
        }
    }
    out.flush()?;
    let Rest { closed, time_wait } = rest(&inventory.sockets);
    if reports.is_empty() {
        let left = if time_wait + closed == 0 { "" } else { " open" };
        say(format_args!("nobody holds port {}{left}", args.port));
    }
    if time_wait > 0 {
        say(format_args!(
            "{time_wait} connections of that port are in TIME_WAIT and belong to no process (netdiag timewait port {})",
            args.port
        ));
    }
    if closed > 0 {
        say(format_args!(
            "{closed} connections of that port are closed or not accepted yet, and have no process"
        ));
    }
    if inventory.incomplete {
        say(format_args!("some network namespaces could not be looked into"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Who held the port last, as far as an agent knows it, where nobody holds it now.
fn before(args: &PortArgs, now: &[SocketReport], time: Timestamp) -> Vec<LastHolderReport> {
    let Some(agent) = ask::agent(args.ask).filter(Agent::knows_owners) else { return Vec::new() };
    let mut holders: Vec<LastHolder> = Vec::new();
    let asked = agent.ask(&Request::Port { port: args.port }, |holder| {
        holders.push(holder);
        ControlFlow::Continue(())
    });
    if let Err(error) = asked {
        ask::not_asked(&error);
    }
    let is_held = |holder: &LastHolder| {
        now.iter().any(|report| {
            (report.netns, report.protocol, report.local)
                == (holder.netns, holder.protocol, Endpoint::from(holder.local))
        })
    };
    holders.retain(|holder| !is_held(holder));
    let names = Names::default();
    let report = |holder: &LastHolder| LastHolderReport::new(holder, names.of(holder.netns), time);
    holders.iter().map(report).collect()
}
