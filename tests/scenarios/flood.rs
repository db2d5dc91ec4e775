//! Scenarios of the symptom `flood`.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netdiag_tests::clients::{self, curl};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Diagnosis, Report, Watch};
use netdiag_tests::process::{Process, patience};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::servers;

const SYN_FLOOD: &str = "flood.syn-flood";
const START: Duration = Duration::from_secs(10);
const FOUND: Duration = Duration::from_secs(25);

const FLOODS: &[Need] = &[Need::Python, Need::Tool("curl"), Need::Tool("ss")];
const NFT: &[Need] = &[Need::Tool("curl"), Need::Nftables, Need::Tool("ss")];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit(SYN_FLOOD, "without_cookies", || without_cookies(Family::V4)).needs(FLOODS),
    Scenario::hit(SYN_FLOOD, "without_cookies_v6", || without_cookies(Family::V6)).needs(FLOODS),
    Scenario::hit(SYN_FLOOD, "with_cookies_v4", || with_cookies(Family::V4)).needs(FLOODS),
    Scenario::hit(SYN_FLOOD, "with_cookies_v6", || with_cookies(Family::V6)).needs(FLOODS),
    Scenario::hit(SYN_FLOOD, "nobody_connects", nobody_connects).needs(FLOODS),
    Scenario::near_miss(SYN_FLOOD, "queue_full_without_a_flood", || queue_full_without_a_flood(Family::V4))
        .needs(NFT),
    Scenario::near_miss(SYN_FLOOD, "queue_full_without_a_flood_v6", || {
        queue_full_without_a_flood(Family::V6)
    })
    .needs(NFT),
    Scenario::near_miss(SYN_FLOOD, "cookies_for_every_syn", cookies_for_every_syn)
        .needs(&[Need::Tool("nstat")]),
    Scenario::near_miss(SYN_FLOOD, "short_accept_queue_under_load", short_accept_queue_under_load),
    Scenario::near_miss(SYN_FLOOD, "service_that_does_not_accept", service_that_does_not_accept),
];

/// Sends some hundred SYNs a second from invented addresses to a server, whose answers are lost.
pub fn flood(net: &Topology, address: SocketAddr) -> Result<Process> {
    const SCRIPT: &str = "
import random, socket, struct, sys, time
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
port = int(sys.argv[2])
v6 = ':' in sys.argv[1]
family = socket.AF_INET6 if v6 else socket.AF_INET
target = socket.inet_pton(family, sys.argv[1])
raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
print('flooding', flush=True)
while True:
    if v6: source = socket.inet_pton(family, 'fd77:bad::%x' % random.randint(1, 254))
    else: source = bytes([203, 0, 113, random.randint(1, 254)])
    tcp = struct.pack('!HHIIBBHHH', random.randint(1024, 65535), port, random.getrandbits(32), 0, 5 << 4, 2, 64240, 0, 0)
    pseudo = source + target + (struct.pack('!IHBB', len(tcp), 0, 0, 6) if v6 else struct.pack('!BBH', 0, 6, len(tcp)))
    tcp = tcp[:16] + struct.pack('!H', checksum(pseudo + tcp)) + tcp[18:]
    if v6: ip = struct.pack('!IHBB', 6 << 28, len(tcp), 6, 64) + source + target
    else: ip = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + source + target
    raw.sendto(ip + tcp, (sys.argv[1], 0))
    time.sleep(0.002)
";
    match address {
        SocketAddr::V4(_) => net.router.ip("route add blackhole 203.0.113.0/24")?,
        SocketAddr::V6(_) => net.router.ip("-6 route add blackhole fd77:bad::/64")?,
    }
    for setting in ["all", "default", "eth0"] {
        net.server.sysctl(&format!("net.ipv4.conf.{setting}.rp_filter"), "0")?;
    }
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let flood = net.router.spawn(&["python3", "-c", SCRIPT, &ip, &port])?;
    flood.wait_for_line("flooding", START)?;
    Ok(flood)
}

fn cookies(net: &Topology, policy: &str) -> Result<()> {
    net.server.sysctl("net.ipv4.tcp_syncookies", policy)
}

/// Waits until so many connections are half open.
fn half_open(namespace: &Namespace, count: usize) -> Result<()> {
    let start = Instant::now();
    while namespace.run(&["ss", "-Htan", "state", "syn-recv"])?.stdout.lines().count() < count {
        ensure!(start.elapsed() < patience(START), "no {count} half-open connections");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The queue is full of notes that nobody finishes, and hundreds more come every second.
fn without_cookies(family: Family) -> Result<()> {
    let net = Topology::new()?;
    cookies(&net, "0")?;
    let address = family.server(18811);
    let server = servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=16 http"))?;
    let _flood = flood(&net, address)?;
    half_open(&net.server, 16)?;
    let report = net.netdiag_run(&curl(address, 3.5))?;
    let found = report.exits(28)?.the_only(SYN_FLOOD)?.certain()?.errno(None)?;
    found
        .mentions("/summary", "a flood of SYNs to port 18811")?
        .has("/where/netns_name", net.server.name())?
        .has("/listener/processes/0/pid", server.pid())?;
    Ok(())
}

/// The same with cookies: clients get through, and `netdiag watch` tells of the listener.
fn with_cookies(family: Family) -> Result<()> {
    let net = Topology::new()?;
    cookies(&net, "1")?;
    let address = family.server(18813);
    let server = servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=16 http"))?;
    let watch = Watch::start(&net.namespaces(), &["netns", net.server.name()])?;
    let _flood = flood(&net, address)?;
    half_open(&net.server, 16)?;
    net.client.run(&curl(address, 10.0))?.exits(0)?;
    watch.wait_for(SYN_FLOOD, FOUND)?;
    net.client.run(&curl(address, 10.0))?.exits(0)?;
    let report = watch.stop()?;
    of_the_listener(&net, &report, &server)?
        .mentions("/summary", "goes on serving by SYN cookies")?
        .mentions("/explanation", "window scaling, SACK and ECN")?;
    Ok(())
}

/// Without cookies, and no client of this machine that could tell.
fn nobody_connects() -> Result<()> {
    let net = Topology::new()?;
    cookies(&net, "0")?;
    let address = Family::V4.server(18814);
    let server = servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=16 http"))?;
    let watch =
        Watch::start(&net.namespaces(), &["netns", net.server.name(), "and", "dst", "port", "18814"])?;
    let _flood = flood(&net, address)?;
    watch.wait_for(SYN_FLOOD, FOUND)?;
    let report = watch.stop()?;
    of_the_listener(&net, &report, &server)?
        .mentions("/summary", "new clients get no answer")?
        .has("/connection/local/port", 18814)?;
    Ok(())
}

/// One finding about the listener, for thousands of SYNs.
fn of_the_listener<'a>(net: &Topology, report: &'a Report, server: &Process) -> Result<Diagnosis<'a>> {
    let found = report.exits(0)?.the_only(SYN_FLOOD)?.has("/confidence", "likely")?.errno(None)?;
    found
        .mentions("/summary", "SYNs a second more than the queue of port")?
        .mentions("/summary", "half-open connections from")?
        .has("/where/netns_name", net.server.name())?
        .has("/connection/direction", "inbound")?
        .has("/process/pid", server.pid())?
        .has("/listener/processes/0/pid", server.pid())
}

/// The queue is as full, and the client as helpless, but no more than that comes in.
fn queue_full_without_a_flood(family: Family) -> Result<()> {
    let net = Topology::new()?;
    cookies(&net, "0")?;
    let address = family.server(18812);
    let _server = servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=8 http"))?;
    net.router.nft(
        "table inet fw { chain in { type filter hook input priority 0
            tcp sport 18812 drop
          }
        }",
    )?;
    let attempt = || TcpStream::connect_timeout(&address, Duration::from_millis(1)).is_ok();
    ensure!(!net.router.enter(|| (0..12).any(|_| attempt()))?, "the router got an answer");
    half_open(&net.server, 8)?;
    // It begins to empty after 3 s, which is soon on a busy machine: `timeout.syn-queue-full` has its own scenarios.
    net.netdiag_run(&curl(address, 2.5))?.never(SYN_FLOOD)?;
    Ok(())
}

/// What `netdiag watch` says of clients that come and go as fast as they can.
fn crowd(net: &Topology, address: SocketAddr) -> Result<Report> {
    let watch = Watch::start(&net.namespaces(), &[])?;
    let steps = clients::steps(&format!("churn=4000,{address}"))?;
    let from = [&net.client, &net.router, &net.client];
    let clients: Vec<Process> =
        from.iter().map(|namespace| namespace.spawn(&steps)).collect::<Result<_>>()?;
    // Longer than the first SYN-ACK takes to be sent again, and both looks at the counters.
    std::thread::sleep(Duration::from_secs(5));
    drop(clients);
    watch.stop()
}

/// With tcp_syncookies=2 every SYN gets a cookie, and a crowd answers them.
fn cookies_for_every_syn() -> Result<()> {
    let net = Topology::new()?;
    cookies(&net, "2")?;
    let address = Family::V4.server(18815);
    let _server = servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=256 echo"))?;
    crowd(&net, address)?.never(SYN_FLOOD)?;
    let sent = net.server.run(&["nstat", "-asz", "TcpExtSyncookiesSent"])?.stdout;
    let count =
        sent.lines().find_map(|line| line.strip_prefix("TcpExtSyncookiesSent")?.split_whitespace().next());
    ensure!(count.is_some_and(|count| count != "0"), "no cookie was sent: {sent}");
    Ok(())
}

/// Clients come faster than a queue of two takes them: it overflows, and that is no flood.
fn short_accept_queue_under_load() -> Result<()> {
    let net = Topology::new()?;
    cookies(&net, "1")?;
    let address = Family::V6.server(18816);
    let _server = servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=2 echo"))?;
    crowd(&net, address)?.never(SYN_FLOOD)?;
    Ok(())
}

/// Its queue is full of handshakes that the clients have finished, and SYN-ACKs are sent again.
fn service_that_does_not_accept() -> Result<()> {
    let net = Topology::new()?;
    cookies(&net, "1")?;
    let address = Family::V4.server(18817);
    let _server = servers::never_accepts(&net.server, address, 4)?;
    crowd(&net, address)?.never(SYN_FLOOD)?;
    Ok(())
}
