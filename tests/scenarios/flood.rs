//! Scenarios of the symptom `flood`.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netdiag_tests::clients::curl;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::process::{Process, patience};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::servers;

const SYN_FLOOD: &str = "flood.syn-flood";
const START: Duration = Duration::from_secs(10);

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit(SYN_FLOOD, "without_cookies", without_cookies).needs(&[
        Need::Python,
        Need::Tool("curl"),
        Need::Tool("ss"),
    ]),
    Scenario::near_miss(SYN_FLOOD, "queue_full_without_a_flood", queue_full_without_a_flood).needs(&[
        Need::Tool("curl"),
        Need::Nftables,
        Need::Tool("ss"),
    ]),
];

/// Sends some hundred SYNs a second from invented addresses to a server, whose answers are lost.
pub fn flood(net: &Topology, address: SocketAddr) -> Result<Process> {
    const SCRIPT: &str = "
import random, socket, struct, sys, time
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
target, port = socket.inet_aton(sys.argv[1]), int(sys.argv[2])
print('flooding', flush=True)
while True:
    source = bytes([203, 0, 113, random.randint(1, 254)])
    tcp = struct.pack('!HHIIBBHHH', random.randint(1024, 65535), port, random.getrandbits(32), 0, 5 << 4, 2, 64240, 0, 0)
    pseudo = source + target + struct.pack('!BBH', 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack('!H', checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, source, target)
    raw.sendto(ip + tcp, (sys.argv[1], 0))
    time.sleep(0.002)
";
    net.router.ip("route add blackhole 203.0.113.0/24")?;
    for setting in ["all", "default", "eth0"] {
        net.server.sysctl(&format!("net.ipv4.conf.{setting}.rp_filter"), "0")?;
    }
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let flood = net.router.spawn(&["python3", "-c", SCRIPT, &ip, &port])?;
    flood.wait_for_line("flooding", START)?;
    Ok(flood)
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
fn without_cookies() -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_syncookies", "0")?;
    let address = Family::V4.server(18811);
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

/// The queue is as full, and the client as helpless, but no more than that comes in.
fn queue_full_without_a_flood() -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_syncookies", "0")?;
    let address = Family::V4.server(18812);
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
    let report = net.netdiag_run(&curl(address, 2.5))?;
    report.exits(28)?.the_only("timeout.syn-queue-full")?.certain()?;
    report.never(SYN_FLOOD)?;
    Ok(())
}
