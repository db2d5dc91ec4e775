//! The agent among others: a second one, systemd, namespaces that come and go.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdiag_tests::bpf_objects::objects;
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Agent, Home, binary, options};
use netdiag_tests::process::{patience, run};
use netdiag_tests::tools;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{FAILURES, Host, SOON};

pub fn second_is_told() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[host.variable()])?;
    let by = format!("netdiag: another agent runs already (process {})", agent.pid());
    run(home.netdiag(&["agent"])?, SOON)?.exits(2)?.says(&by)?;
    // Nor may two write one store.
    let mut elsewhere = home.netdiag(&["agent"])?;
    elsewhere.env("NETDIAG_RUN_DIR", home.path().join("other"));
    run(elsewhere, SOON)?.exits(2)?.says(&by)?;
    // A command beside it is none of its business.
    host.refused(18841..18842)?;
    agent.wait_for(FAILURES, &[], 1.0, SOON)?;
    agent.kill()?;
    Agent::start(&home, &[host.variable()])?.stop()?;
    Ok(())
}

/// The words of the unit's lines with this key.
fn unit(key: &str) -> Result<Vec<String>> {
    const UNIT: &str = include_str!("../../../packaging/systemd/netdiag-agent.service");
    let values = UNIT.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let words: Vec<String> = values.flat_map(str::split_whitespace).map(str::to_owned).collect();
    ensure!(!words.is_empty(), "the unit has no {key}");
    Ok(words)
}

/// With the capabilities of the unit and no others, it still finds and stores.
pub fn needs_no_more_than_its_unit_gives() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let names = unit("CapabilityBoundingSet")?;
    let names = names.iter().map(|name| name.trim_start_matches("CAP_").to_lowercase());
    let set = names.fold("-all".to_owned(), |set, name| format!("{set},+{name}"));
    let mut command = Command::new(tools::path("setpriv"));
    command.args([&format!("--bounding-set={set}"), "--no-new-privs", "--"]);
    command.arg(binary().context("no netdiag binary")?).args(options()).arg("agent");
    home.settle(&mut command);
    let (name, value) = host.variable();
    command.env(name, value);
    let agent = Agent::launch(command)?;
    host.refused(18851..18853)?;
    agent.wait_for(FAILURES, &["code=\"refused.no-listener\""], 2.0, SOON)?;
    home.wait_for_failures(2, SOON)?;
    let stored = home.objects(&[])?;
    // /proc/PID/exe of others takes CAP_SYS_PTRACE.
    ensure!(stored[0]["process"]["comm"] == "nd-client", "{}", stored[0]);
    agent.wait_for_page("/readyz", 200, "\"status\":\"ok\"", SOON)?;
    agent.stop()?;
    Ok(())
}

/// It says when it is ready, feeds the watchdog, and tells of a reload and of its end.
pub fn tells_systemd() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let path = home.path().join("notify.sock");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(Duration::from_secs(20)))?;
    let socket = path.to_string_lossy().into_owned();
    let variables = [host.variable(), ("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "1000000")];
    let agent = Agent::start(&home, &variables)?;
    let wait_for = |wanted: &str| -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            let length = manager.recv(&mut buffer).with_context(|| format!("no {wanted}"))?;
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == wanted) {
                return Ok(());
            }
        }
        anyhow::bail!("no {wanted}")
    };
    wait_for("READY=1")?;
    wait_for("WATCHDOG=1")?;
    wait_for("WATCHDOG=1")?;
    agent.signal(Signal::SIGHUP)?;
    wait_for("RELOADING=1")?;
    wait_for("READY=1")?;
    agent.stop()?;
    wait_for("STOPPING=1")
}

/// Of root's capabilities it keeps those of its unit, and the threads that answer strangers none.
pub fn gives_up_rights() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[host.variable()])?;
    let (mut threads, mut strangers) = (0, 0);
    for task in std::fs::read_dir(format!("/proc/{}/task", agent.pid()))? {
        // One that looks into a namespace ends at once.
        let Ok(text) = std::fs::read_to_string(task?.path().join("status")) else { continue };
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
            value.map(str::trim).with_context(|| format!("no {name}"))
        };
        let set = |name: &str| -> Result<u64> { Ok(u64::from_str_radix(field(name)?, 16)?) };
        let answers = ["netdiag-http", "netdiag-ask"].contains(&field("Name")?);
        let expected = if answers { 0 } else { unit("CapabilityBoundingSet")?.len() as u32 };
        let (effective, permitted) = (set("CapEff")?.count_ones(), set("CapPrm")?.count_ones());
        ensure!((effective, permitted) == (expected, expected), "{text}");
        ensure!(field("NoNewPrivs")? == "1", "{text}");
        // 2: a filter of system calls.
        ensure!(!answers || field("Seccomp")? == "2", "{text}");
        threads += 1;
        strangers += u32::from(answers);
    }
    ensure!(threads >= 5 && strangers >= 2, "{threads} threads, {strangers} for strangers");
    // It still can do what it is for.
    host.refused(18871..18873)?;
    home.wait_for_failures(2, SOON)?;
    agent.stop()?;
    Ok(())
}

/// With hardly any budget it does without what costs, says so everywhere, and still diagnoses.
pub fn keeps_within_its_budget() -> Result<()> {
    let home = Home::new()?;
    let net = Topology::new()?;
    let filter = format!("netns {}", net.client.inode());
    let agent = Agent::start(&home, &[("NETDIAG_FILTER", &filter), ("NETDIAG_BUDGET_CPU", "0.01%")])?;
    net.client
        .nft("table inet fw { chain out { type filter hook output priority 0; tcp dport 18881 drop; }; }")?;
    let dropped = || net.client.run(&clients::steps(&format!("connect={},1300", Family::V4.server(18881)))?);
    let deadline = Instant::now() + patience(Duration::from_secs(60));
    while !agent.said().contains("does without samples of queues and firewall rules") {
        ensure!(Instant::now() < deadline, "it gave up nothing: {}", agent.said());
        dropped()?;
    }
    agent.wait_for("netdiag_shed", &["what=\"samples\""], 1.0, SOON)?;
    agent.wait_for_page("/healthz", 200, "budget: does without", SOON)?;
    let named = agent.metric("netdiag_firewall_drops_total", &["rule=\"inet fw "])?;
    ensure!(named > 0.0, "no rule was named while there was a budget");
    dropped()?;
    let failures = agent.metric(FAILURES, &["code=\"timeout.firewall-drop\""])?;
    ensure!(failures > 1.0, "it does not diagnose any more");
    let shed = |object: &Value| object["coverage"]["shed"].as_array().is_some_and(|shed| !shed.is_empty());
    let deadline = Instant::now() + patience(Duration::from_secs(20));
    while !home.objects(&["--details"])?.iter().any(shed) {
        ensure!(Instant::now() < deadline, "no diagnosis says what was given up");
        std::thread::sleep(Duration::from_millis(200));
    }
    agent.stop()?;
    Ok(())
}

fn descriptors(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

pub fn namespaces_come_and_go() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[])?;
    // One in twenty has a connection that is suspect, for which tc comes, and which goes with its namespace.
    let cycle = |number: u32| -> Result<()> {
        let namespace = Namespace::new("short")?;
        namespace.ip_batch(
            "link add v0 type veth peer name v1\naddr add 192.0.2.1/24 dev v0\nlink set v0 up\nlink set v1 up",
        )?;
        namespace.run(&clients::connect(Family::V4.loopback(18861))?)?;
        if number.is_multiple_of(20) {
            namespace.run(&clients::steps("connect=192.0.2.2:18861,1300")?)?;
        }
        Ok(())
    };
    (0..5).try_for_each(cycle)?;
    agent.wait_for(FAILURES, &[], 6.0, SOON)?;
    let held = || Ok::<_, anyhow::Error>((descriptors(agent.pid())?, objects(agent.pid())?.len()));
    let before = held()?;
    (0..40).try_for_each(cycle)?;
    agent.wait_for(FAILURES, &[], 48.0, SOON)?;
    host.refused(18861..18862)?;
    let deadline = Instant::now() + patience(Duration::from_secs(25));
    loop {
        let now = held()?;
        if now.0 <= before.0 + 3 && now.1 <= before.1 {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "it has {now:?} descriptors, programs and maps, and had {before:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    agent.stop()?;
    Ok(())
}
