//! The numbers are those of what was made to fail.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Agent, Home};
use netdiag_tests::process::{Process, patience, run};
use netdiag_tests::{clients, servers, tools};

use super::{FAILURES, Host, SOON};

/// TIME_WAIT is looked at four times a minute.
const LOOKS: Duration = Duration::from_secs(40);
/// Who holds sockets is looked up once a minute.
const HELD_LOOKS: Duration = Duration::from_secs(75);

pub fn counts_what_is_injected() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[host.variable()])?;
    let listener = Family::V4.loopback(18741);
    let server = servers::echo(&host.namespace, listener)?;
    for _ in 0..10 {
        host.namespace.run(&clients::connect(listener)?)?.exits(0)?;
        host.refused(18742..18744)?;
    }
    let no_listener = ["code=\"refused.no-listener\"", "direction=\"outbound\""];
    agent.wait_for(FAILURES, &no_listener, 20.0, SOON)?;
    // What works, and the agent's own heartbeat, is not counted, and nothing is counted twice.
    std::thread::sleep(Duration::from_millis(1_500));
    let all = agent.metric(FAILURES, &[])?;
    ensure!(all == 20.0, "{all} failures: {}", agent.get("/metrics")?.body);
    let of = |name: &str, labels: &[&str]| agent.metric(name, labels);
    ensure!(of("netdiag_connection_failures_by_process_total", &["process=\"nd-client\""])? == 20.0);
    let to = ["destination=\"127.0.0.1:18742\"", "symptom=\"refused\""];
    ensure!(of("netdiag_connection_failures_by_destination_total", &to)? == 10.0);
    ensure!(of("netdiag_resets_total", &["direction=\"received\""])? >= 20.0);
    ensure!(of("netdiag_packet_drops_total", &["reason=\"NO_SOCKET\""])? >= 10.0);
    ensure!(of("netdiag_connections_opened_total", &[])? > 0.0);
    ensure!(of("netdiag_probe_attached", &["signal=\"kfree_skb\""])? == 1.0);
    agent.wait_for("netdiag_connections_established_total", &[], 10.0, SOON)?;
    agent.wait_for("netdiag_history_stored_total", &[], 2.0, SOON)?;
    for name in
        ["netdiag_records_sent_total", "netdiag_map_memory_bytes", "netdiag_process_cpu_seconds_total"]
    {
        agent.wait_for(name, &[], f64::MIN_POSITIVE, SOON)?;
    }
    let resident = of("netdiag_process_resident_memory_bytes", &[])?;
    ensure!((1e6..64e6).contains(&resident), "{resident} bytes");
    drop(server);
    agent.stop()?;
    Ok(())
}

/// The rule is named in the numbers and in the history, also after it was removed.
pub fn counts_the_firewall_s_rule() -> Result<()> {
    let home = Home::new()?;
    let net = Topology::new()?;
    let filter = format!("netns {}", net.client.inode());
    let agent = Agent::start(&home, &[("NETDIAG_FILTER", &filter)])?;
    net.client.nft(
        "table inet fw { chain out { type filter hook output priority 0; tcp dport 18751 drop comment \"why\"; }; }",
    )?;
    let client = clients::steps(&format!("connect={},1300", Family::V4.server(18751)))?;
    net.client.run(&client)?;
    agent.wait_for(FAILURES, &["code=\"timeout.firewall-drop\""], 1.0, SOON)?;
    agent.wait_for("netdiag_firewall_drops_total", &["rule=\"inet fw out handle "], 1.0, SOON)?;
    home.wait_for_failures(1, SOON)?;
    net.client.nft("delete table inet fw")?;
    let text = home.history_of(&["--code", "timeout.*"])?;
    text.says("rule   inet fw out handle ")?
        .says("tcp dport 18751 drop")?
        .says("timeout.firewall-drop · certain")?;
    agent.stop()?;
    Ok(())
}

pub fn labels_are_bounded() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[host.variable(), ("NETDIAG_METRICS_TOP", "3")])?;
    host.refused(18761..18771)?;
    const BY_DESTINATION: &str = "netdiag_connection_failures_by_destination_total";
    agent.wait_for(BY_DESTINATION, &["destination=\"other\""], 7.0, SOON)?;
    let text = agent.get("/metrics")?.body;
    let series =
        |text: &str, name: &str| text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
    ensure!(series(&text, BY_DESTINATION) == 4, "{text}");
    agent.wait_for("netdiag_label_values_folded_total", &[BY_DESTINATION], 7.0, SOON)?;

    const TIME_WAIT: &str = "netdiag_time_wait_sockets_by_destination";
    let _echo = servers::echo(&host.namespace, Family::V4.any(18774))?;
    for last in 1..8 {
        let end = std::net::SocketAddr::from(([127, 0, 0, last], 18774));
        host.namespace.run(&clients::connect(end)?)?.exits(0)?;
    }
    agent.wait_for(TIME_WAIT, &["destination=\"other\""], 4.0, LOOKS)?;
    let text = agent.get("/metrics")?.body;
    ensure!(series(&text, TIME_WAIT) == 4, "{text}");
    ensure!(series(&text, "netdiag_time_wait_sockets") <= 4, "{text}");
    // Two paths with 25 bounds and one more for the rest.
    for name in ["netdiag_connect_latency_seconds_bucket", "netdiag_rtt_seconds_bucket"] {
        ensure!(series(&text, name) == 2 * 26, "{text}");
    }
    agent.stop()?;
    Ok(())
}

/// A connection that the peer has closed and its process has not, and one in TIME_WAIT: nothing has failed.
pub fn counts_sockets() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let (echo, closing) = (Family::V4.loopback(18791), Family::V4.loopback(18792));
    let _echo = servers::echo(&host.namespace, echo)?;
    host.namespace.run(&clients::connect(echo)?)?.exits(0)?;
    let steps = format!("tcp reuseaddr bind={closing} listen=8 accept close accept close wait");
    let _closes = servers::steps(&host.namespace, &steps)?;
    let keeps = |name: &str| {
        host.namespace.spawn(&named(&home, name, &format!("connect={closing} recv sleep=200000"))?)
    };
    let first = keeps("keeps-first")?;
    std::thread::sleep(patience(Duration::from_millis(500)));
    let agent = Agent::start(&home, &[host.variable()])?;
    let kept = |name: &str, number: f64, limit: Duration| {
        agent.wait_for("netdiag_close_wait_sockets", &[&format!("process=\"{name}\"")], number, limit)
    };
    kept("keeps-first", 1.0, SOON)?;
    agent.wait_for(
        "netdiag_time_wait_sockets_by_destination",
        &["destination=\"127.0.0.1:18791\""],
        1.0,
        SOON,
    )?;
    drop(first);
    let _second = keeps("keeps-second")?;
    kept("keeps-second", 1.0, HELD_LOOKS)?;
    let gone = agent.metric("netdiag_close_wait_sockets", &["process=\"keeps-first\""])?;
    ensure!(gone == 0.0, "{gone} sockets of a process that is gone");
    ensure!(agent.metric(FAILURES, &[])? == 0.0, "{}", agent.get("/metrics")?.body);
    agent.stop()?;
    Ok(())
}

/// Under a name of its own: the metrics are those of the whole machine.
fn named(home: &Home, name: &str, steps: &str) -> Result<clients::Command> {
    let mut command = clients::steps(steps)?;
    let path = home.path().join(name);
    std::os::unix::fs::symlink(&command[0], &path)?;
    command[0] = path.to_string_lossy().into_owned();
    Ok(command)
}

/// What ss says of both sides, for who reads why a count was not reached.
fn ss(net: &Topology, arguments: &str) -> String {
    let words: Vec<&str> = ["ss", "-Htano"].into_iter().chain(arguments.split_whitespace()).collect();
    let of = |namespace: &Namespace| {
        namespace.run(&words).map_or_else(|error| error.to_string(), |out| out.stdout)
    };
    format!("client:\n{}server:\n{}", of(&net.client), of(&net.server))
}

/// Who closed first: a process that is gone, one that lives, a server, and one that resets, which leaves none. A
/// connection of before has no owner, only a destination.
pub fn tells_whose_time_wait() -> Result<()> {
    const BY_PROCESS: &str = "netdiag_time_wait_sockets";
    let (home, net) = (Home::new()?, Topology::new()?);
    let [echo, closing] = [18794, 18795].map(|port| Family::V4.server(port));
    let _echo = servers::echo(&net.server, echo)?;
    let before = format!("many=1,{echo} exit=0");
    net.client.run(&named(&home, "nd-before", &before)?)?.exits(0)?;
    let agent = Agent::start(&home, &[])?;
    net.client.run(&named(&home, "nd-gone", &format!("many=17,{echo} exit=0"))?)?.exits(0)?;
    let lives = net.client.spawn(&named(&home, "nd-lives", &format!("churn=30,{echo} wait"))?)?;
    lives.wait_for_line("connected 30", SOON)?;
    let accepts = "accept close ".repeat(12);
    let steps = format!("tcp reuseaddr bind={closing} listen=64 {accepts} wait");
    let server = net.server.spawn(&named(&home, "nd-closes", &steps)?)?;
    server.wait_for_line("listening", SOON)?;
    net.client.run(&clients::steps(&format!("many=12,{closing} sleep=300 exit=0"))?)?.exits(0)?;
    let resets = format!("connect={echo} linger0 close exit=0");
    net.client.run(&named(&home, "nd-resets", &resets)?)?.exits(0)?;
    let of = |name: &str| agent.metric(BY_PROCESS, &[&format!("process=\"{name}\"")]);
    for (name, count) in [("nd-gone", 17.0), ("nd-lives", 30.0), ("nd-closes", 12.0)] {
        agent
            .wait_for(BY_PROCESS, &[&format!("process=\"{name}\"")], count, LOOKS)
            .with_context(|| ss(&net, "state time-wait"))?;
        ensure!(of(name)? == count, "{name}: {}", agent.get("/metrics")?.body);
    }
    ensure!(of("nd-before")? == 0.0 && of("nd-resets")? == 0.0, "{}", agent.get("/metrics")?.body);
    let to = |end: std::net::SocketAddr| {
        agent.metric("netdiag_time_wait_sockets_by_destination", &[&format!("destination=\"{end}\"")])
    };
    ensure!(to(echo)? >= 47.0 && to(closing)? == 12.0, "{}", agent.get("/metrics")?.body);
    agent.wait_for("netdiag_time_wait_owners_missed_total", &[], 0.0, SOON)?;
    agent.stop()?;
    Ok(())
}

/// Nothing of it where the configuration says so; the failures are there as ever.
pub fn does_without_owners() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[host.variable(), ("NETDIAG_OWNERS", "false")])?;
    host.refused(18796..18797)?;
    agent.wait_for(FAILURES, &["code=\"refused.no-listener\""], 1.0, SOON)?;
    agent.wait_for("netdiag_map_memory_bytes", &[], 1.0, SOON)?;
    let body = agent.get("/metrics")?.body;
    ensure!(!body.contains("wait_sockets"), "{body}");
    agent.stop()?;
    Ok(())
}

/// Prometheus itself reads the page, and every alert's query can be asked.
pub fn prometheus_scrapes() -> Result<()> {
    const RULES: &str = include_str!("../../../packaging/prometheus/netdiag.rules.yml");
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[host.variable()])?;
    host.refused(18781..18784)?;
    agent.wait_for(FAILURES, &["code=\"refused.no-listener\""], 3.0, SOON)?;
    let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    std::fs::write(home.path().join("netdiag.rules.yml"), RULES)?;
    let configuration = format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\nrule_files: \
         [netdiag.rules.yml]\nscrape_configs: [{{job_name: netdiag, static_configs: [{{targets: ['{}']}}]}}]\n",
        agent.address()
    );
    std::fs::write(home.path().join("prometheus.yml"), configuration)?;
    let mut command = Command::new(tools::path("prometheus"));
    command.args(["--config.file", &path("prometheus.yml"), "--storage.tsdb.path", &path("data")]);
    // A port of its own: it says nothing about one that it chose.
    command.arg("--web.listen-address=127.0.0.1:18785");
    let _prometheus = Process::spawn(command)?;
    let ask = |page: &str| {
        let url = format!("http://127.0.0.1:18785/api/v1/{page}");
        let mut curl = Command::new(tools::path("curl"));
        curl.args(["-s", "-m", "5", &url]);
        run(curl, SOON)
    };
    let deadline = Instant::now() + patience(Duration::from_secs(30));
    let wait_for = |page: &str, fits: &dyn Fn(&str) -> bool| -> Result<()> {
        loop {
            let answer = ask(page)?;
            if fits(&answer.stdout) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{page}: {answer}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let three = "\"code\":\"refused.no-listener\"";
    let query = format!("query?query={FAILURES}");
    wait_for(&query, &|text| text.contains(three) && text.contains(",\"3\"]"))?;
    wait_for("targets", &|text| text.contains("\"health\":\"up\""))?;
    let alerts = RULES.matches("- alert: ").count();
    wait_for("rules", &|text| text.matches("\"health\":\"ok\"").count() == alerts)?;
    agent.stop()?;
    Ok(())
}

pub fn pages() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let socket = home.path().join("agent.sock");
    let path = socket.to_string_lossy().into_owned();
    let agent = Agent::start(&home, &[host.variable(), ("NETDIAG_SOCKET", &path)])?;
    let metrics = agent.get("/metrics")?;
    ensure!(metrics.status == 200 && metrics.body.ends_with("# EOF\n"), "{metrics:?}");
    ensure!(
        metrics.head.contains("Content-Type: application/openmetrics-text; version=1.0.0"),
        "{metrics:?}"
    );
    ensure!(agent.get("/healthz")?.status == 200);
    ensure!(agent.get("/")?.status == 404);
    agent.wait_for_page("/readyz", 200, "\"status\":\"ok\"", SOON)?;
    agent.wait_for("netdiag_heartbeats_total", &["result=\"seen\""], 2.0, SOON)?;
    ensure!(agent.metric("netdiag_heartbeats_total", &["result=\"failed\""])? == 0.0);
    let url = ["curl", "-s", "--unix-socket", &path, "http://agent/readyz"];
    host.namespace.run(&url)?.exits(0)?.says("\"status\":\"ok\"")?;
    agent.stop()?;
    ensure!(!socket.exists(), "its socket is left behind");
    Ok(())
}
