//! Sockets of containers: the process is named by its number outside, with its own program and arguments, and with the
//! container.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netdiag_tests::clients::{self, curl, own};
use netdiag_tests::container::{By, Container};
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::process::{Process, patience};
use netdiag_tests::servers;
use serde_json::Value;

use super::open::sockets;
use super::time_wait::{answer, wait_for};
use super::{LIMIT, START, command, netdiag, objects, only};

/// What `/proc` says of the container's first process.
fn is_named(process: &Value, container: &Container, argument: &str) -> Result<()> {
    ensure!(process["pid"] == container.pid()? && process["comm"] == "nd-server", "{process:#}");
    ensure!(process["container"] == container.id(), "not {}: {process:#}", container.id());
    let contains = |field: &str, part: &str| process[field].as_str().is_some_and(|text| text.contains(part));
    ensure!(contains("cgroup", container.id()), "{process:#}");
    ensure!(contains("exe", "/nd-server") && contains("command_line", argument), "{process:#}");
    Ok(())
}

/// `sockets`, `port` and the card of a client whose server is in a container.
pub fn holds(by: By) -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(18761);
    let bind = format!("bind={address}");
    let server = own("nd-server", &format!("tcp reuseaddr {bind} listen=1 wait"))?;
    let container = Container::start(by, Some(&net.server), &server)?;
    container.wait_for_line("listening")?;

    let found = sockets(&net.server, &["--listening"])?;
    is_named(&only(&found, "there", |_| true)?["processes"][0], &container, &bind)?;
    let found = netdiag(&["port", "18761"])?;
    is_named(
        &only(&found, "there", |object| object["netns"] == net.server.inode())?["processes"][0],
        &container,
        &bind,
    )?;
    let mut text = command(&["port", "18761"])?;
    text.args(["--format", "text"]);
    let short = format!("container {}", &container.id()[..12]);
    netdiag_tests::process::run(text, LIMIT)?.exits(0)?.says(&short)?;

    let client = net.router.spawn(&clients::steps(&format!("many=2,{address} wait"))?)?;
    client.wait_for_line("connected 2", START)?;
    let report = net.netdiag_run(&curl(address, 2.5))?;
    let found = report.exits(28)?.the_only("timeout.accept-queue-full")?;
    is_named(found.at("/listener/processes/0"), &container, &bind)
}

/// TIME_WAIT by container: of one that runs, of one that is gone with its control group, and of no container.
pub fn time_wait(by: By) -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(18762);
    let _echo = servers::echo(&net.server, address)?;
    let arguments = ["timewait", "--duration", "100s", "--by", "container", "netns", net.client.name()];
    let watch = Process::spawn(command(&arguments)?)?;
    watch.wait_for_error_line("netdiag: watching", START)?;
    let start = |steps: &str| Container::start(by, Some(&net.client), &clients::steps(steps)?);
    let lives = start(&format!("churn=12,{address} wait"))?;
    let gone = start(&format!("churn=5,{address}"))?;
    let plain = net.client.spawn(&clients::steps(&format!("churn=3,{address} wait"))?)?;
    lives.wait_for_line("connected 12")?;
    gone.wait_for_line("connected 5")?;
    plain.wait_for_line("connected 3", START)?;
    wait_for(&net.client, 20)?;
    let (id, gone_id) = (lives.id().to_owned(), gone.id().to_owned());
    gone.end()?;

    let told = answer(watch)?;
    let rows: Vec<&Value> = told.iter().filter(|object| object["by"] == "container").collect();
    let count = |test: &dyn Fn(&Value) -> bool| -> u64 {
        rows.iter().filter(|row| test(row)).filter_map(|row| row["count"].as_u64()).sum()
    };
    ensure!(count(&|row| row["container"] == *id) == 12, "{rows:#?}");
    // It may have been gone before anybody looked: then it is not known, which is not the same as nowhere.
    let known = count(&|row| row["container"] == *gone_id);
    let unknown = count(&|row| row["known"] == false);
    ensure!(known + unknown == 5, "{rows:#?}");
    ensure!(count(&|row| row["container"].is_null() && row["known"] == true) == 3, "{rows:#?}");
    Ok(())
}

/// A client in a container that is refused, in a network namespace without a name.
pub fn on_a_card(by: By) -> Result<()> {
    let client = clients::steps(&format!("connect={}", Family::V4.loopback(9)))?.join(" ");
    let script = format!("echo ready; while :; do {client}; sleep 0.3; done");
    let container = Container::start(by, None, &["sh".to_owned(), "-c".to_owned(), script])?;
    container.wait_for_line("ready")?;
    let netns = std::fs::metadata(format!("/proc/{}/ns/net", container.pid()?))?.ino();
    let watch = Process::spawn(command(&["watch", "--duration", "100s", "netns", &netns.to_string()])?)?;
    let card = wait_for_card(&watch, container.id())?;
    let process = &card["process"];
    ensure!(process["comm"] == "nd-client", "{card:#}");
    ensure!(process["exe"].as_str().is_none_or(|exe| exe.ends_with("/nd-client")), "{card:#}");
    ensure!(card["connection"]["netns"] == netns && card["where"]["netns"] == netns, "{card:#}");
    Ok(())
}

/// The first that has the container of the process, and that of the network namespace; another one is wrong. On a busy
/// machine there may be no time to look for it.
fn wait_for_card(watch: &Process, id: &str) -> Result<Value> {
    let started = Instant::now();
    loop {
        let text = watch.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        for card in objects(whole)?.into_iter().filter(|object| object["kind"] == "diagnosis") {
            ensure!(card["code"] == "refused.no-listener", "{card:#}");
            let containers = [&card["process"]["container"], &card["where"]["container"]["id"]];
            ensure!(containers.iter().all(|known| known.is_null() || **known == *id), "not {id}: {card:#}");
            if containers.iter().all(|known| !known.is_null()) {
                return Ok(card);
            }
        }
        let limit = patience(Duration::from_secs(25));
        ensure!(started.elapsed() < limit, "no container in {text}\n{}", watch.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }
}
