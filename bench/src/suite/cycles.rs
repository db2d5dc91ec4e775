//! Namespaces that come and go under an agent.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use netdiag_tests::net::Namespace;
use netdiag_tests::netdiag::Home;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use serde_json::json;

use crate::agent::{self, FAILURES, Held};
use crate::context::{Context, go_on, pause, tell};
use crate::report::Row;

const NAME: &str = "cycles";
/// Until what is kept for a while is kept.
const WARM_UP: u32 = 50;
/// One connection in so many is suspect: tc comes for it, and its namespace goes.
const SUSPECT: u32 = 20;
/// Longer than a SYN waits for its answer.
const SUSPICION: Duration = Duration::from_millis(1_300);
/// What a namespace leaves behind is let go within this time.
const LET_GO: Duration = Duration::from_secs(60);
/// What it remembers of failures has a bound, and a thousand do not reach it.
const TARGET_MB: f64 = 4.0;

fn count(context: &Context) -> u32 {
    context.pick(1_000, 100)
}

pub fn seconds(context: &Context) -> f64 {
    f64::from(count(context) + WARM_UP) * 0.2 + 30.0
}

/// A namespace with a pair of interfaces, a connection that fails, and its end.
fn cycle(number: u32) -> Result<()> {
    go_on()?;
    let namespace = Namespace::new("cycle")?;
    namespace.ip_batch(
        "link add v0 type veth peer name v1\naddr add 192.0.2.1/24 dev v0\nlink set v0 up\nlink set v1 up",
    )?;
    namespace.enter(|| -> Result<()> {
        // That it fails is the point.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, 9));
        if number.is_multiple_of(SUSPECT) {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
            // EINPROGRESS: nobody has that address.
            let to = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 9);
            let _ = connect(socket.as_raw_fd(), &SockaddrIn::from(to));
            std::thread::sleep(SUSPICION);
        }
        Ok(())
    })?
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    let (home, count) = (Home::new()?, count(context));
    let agent = agent::start(context, &home, &[])?;
    (0..WARM_UP).try_for_each(cycle)?;
    agent::settled(&agent, LET_GO)?;
    let before = Held::by(&agent)?;
    let failures = agent.metric(FAILURES, &[])?;
    let start = Instant::now();
    for number in 0..count {
        cycle(number)?;
        if number % 100 == 99 {
            tell(format_args!("{NAME}: {} of {count}: {:?}", number + 1, Held::by(&agent)?));
        }
    }
    let took = start.elapsed().as_secs_f64();
    agent::settled(&agent, LET_GO)?;
    let end = Instant::now() + LET_GO;
    let mut after = Held::by(&agent)?;
    while (after.descriptors > before.descriptors || after.objects > before.objects) && Instant::now() < end {
        pause(Duration::from_secs(1))?;
        after = Held::by(&agent)?;
    }
    let found = agent.metric(FAILURES, &[])? - failures;
    let made = f64::from(count + count.div_ceil(SUSPECT));
    agent.stop()?;
    let grown = |after: usize, before: usize| format!("{after}, {before} before");
    let growth = (after.memory as f64 - before.memory as f64) / 1e6;
    let values = || json!({ "before": before, "after": after, "cycles": count, "seconds": took });
    Ok(vec![
        Row::measured(
            NAME,
            format!("open descriptors after {count} namespaces"),
            "no more than before",
            grown(after.descriptors, before.descriptors),
            after.descriptors <= before.descriptors,
        )
        .with(values()),
        Row::measured(
            NAME,
            "programs, links and maps",
            "no more than before",
            grown(after.objects, before.objects),
            after.objects <= before.objects,
        ),
        Row::measured(
            NAME,
            "memory of the process, without its program",
            format!("≤ {TARGET_MB} MB more than before"),
            format!("{growth:+.1} MB, {:.1} MB in all", after.memory as f64 / 1e6),
            growth <= TARGET_MB,
        ),
        Row::measured(
            NAME,
            "failures in them that were told of",
            "all (others may fail)",
            format!("{found:.0} of {made:.0}"),
            found >= made,
        ),
        Row::shown(NAME, "namespaces per second", format!("{:.1}", f64::from(count) / took)),
    ])
}
