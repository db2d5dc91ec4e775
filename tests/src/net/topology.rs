//! client, router and server: the network of most scenarios.
//!
//! ```text
//! client eth0 10.77.1.2 ── 10.77.1.1 to-client [router] to-server 10.77.2.1 ── 10.77.2.2 eth0 server
//!        fd77:1::2         fd77:1::1             │                fd77:2::1     fd77:2::2
//!                                                └ nd-remote 192.0.2.0/24, fd77:9::/64 (crate::remote)
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::Namespace;
use crate::tools;

/// The client's address.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
/// The client's address.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 2);
/// The router's address on the client's side.
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// The router's address on the client's side.
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 1);
/// The server's address.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);
/// The server's address.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 2);
/// A host behind [`crate::remote::Remote`]; the whole of 192.0.2.0/24 but .1 behaves alike.
pub const REMOTE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// A host behind [`crate::remote::Remote`]; the whole of fd77:9::/64 but ::1 behaves alike.
pub const REMOTE_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 9, 0, 0, 0, 0, 0, 0x10);
/// A router between here and the remote host, that only ever sends ICMP errors.
pub const REMOTE_ROUTER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// A router between here and the remote host, that only ever sends ICMP errors.
pub const REMOTE_ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 8, 0, 0, 0, 0, 0, 1);

const READY_LIMIT: Duration = Duration::from_secs(5);

/// The same address for an IPv6 socket (`::ffff:10.77.2.2`): the packets are IPv4.
pub fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Which of the two protocols a scenario speaks; gives the addresses, so that one story serves both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, to loop over.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn pick(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
        }
    }

    /// The client's address.
    pub fn client(self) -> IpAddr {
        self.pick(CLIENT_V4, CLIENT_V6)
    }

    /// The server's address with a port.
    pub fn server(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pick(SERVER_V4, SERVER_V6), port)
    }

    /// The remote host's address with a port.
    pub fn remote(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pick(REMOTE_V4, REMOTE_V6), port)
    }

    /// The loopback address with a port.
    pub fn loopback(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pick(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST), port)
    }

    /// The wildcard address with a port.
    pub fn any(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pick(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED), port)
    }

    /// The nearest router, on the client's own link.
    pub fn router(self) -> IpAddr {
        self.pick(ROUTER_V4, ROUTER_V6)
    }

    /// The router near the remote host.
    pub fn remote_router(self) -> IpAddr {
        self.pick(REMOTE_ROUTER_V4, REMOTE_ROUTER_V6)
    }

    /// An address in the server's network that no host has.
    pub fn nobody(self, port: u16) -> SocketAddr {
        SocketAddr::new(
            self.pick(Ipv4Addr::new(10, 77, 2, 99), Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 0x99)),
            port,
        )
    }

    /// An address in the client's own network that no host has.
    pub fn absent_neighbour(self, port: u16) -> SocketAddr {
        SocketAddr::new(
            self.pick(Ipv4Addr::new(10, 77, 1, 99), Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 0x99)),
            port,
        )
    }

    /// How nftables calls the family's address matches: `ip` or `ip6`.
    pub fn nft(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

/// The three namespaces, joined, addressed, routed and ready for traffic.
#[derive(Debug)]
pub struct Topology {
    /// Where the failing client runs; its interface is `eth0`.
    pub client: Namespace,
    /// Forwards; its interfaces are `to-client` and `to-server`.
    pub router: Namespace,
    /// Where a well-behaved host's server runs; its interface is `eth0`.
    pub server: Namespace,
}

impl Topology {
    /// Builds the network and waits until IPv4 and IPv6 work.
    ///
    /// # Errors
    /// When a tool fails, or the links do not come up.
    pub fn new() -> Result<Self> {
        let [client, router, server] = Namespace::several(["client", "router", "server"])?;
        // The two ends' indexes must differ: only then does the kernel treat a new carrier as urgent
        // (net/core/link_watch.c, linkwatch_urgent_event); otherwise it comes up to 1 s late.
        let links = format!(
            "link add eth0 index 11 netns {client} type veth peer name to-client index 21 netns {router}\n\
             link add eth0 index 12 netns {server} type veth peer name to-server index 22 netns {router}\n",
            client = client.name(),
            router = router.name(),
            server = server.name(),
        );
        tools::feed("ip", &["-batch", "-"], &links)?;
        router.ip_batch(
            "addr add 10.77.1.1/24 dev to-client
             addr add 10.77.2.1/24 dev to-server
             addr add fd77:1::1/64 dev to-client nodad
             addr add fd77:2::1/64 dev to-server nodad
             link set to-client up
             link set to-server up",
        )?;
        host(&client, 1)?;
        host(&server, 2)?;
        router.enter(|| -> Result<()> {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            Ok(())
        })??;
        let topology = Self { client, router, server };
        for namespace in topology.namespaces() {
            wait_until_ready(namespace)?;
        }
        Ok(topology)
    }

    /// All three.
    pub fn namespaces(&self) -> [&Namespace; 3] {
        [&self.client, &self.router, &self.server]
    }
}

fn host(namespace: &Namespace, network: u8) -> Result<()> {
    namespace.ip_batch(&format!(
        "addr add 10.77.{network}.2/24 dev eth0
         addr add fd77:{network}::2/64 dev eth0 nodad
         link set eth0 up
         route add default via 10.77.{network}.1
         route add default via fd77:{network}::1"
    ))?;
    // A FIN that overtakes the ACK before it, on another processor, makes TIME_WAIT answer that ACK (RFC 9293 §3.10.7.4);
    // nobody has the connection at the other end any more, and the RST from there would end it (RFC 1337).
    namespace.sysctl("net.ipv4.tcp_rfc1337", "1")
}

/// Every interface is operational (a carrier alone is not: until then the queue drops packets) and
/// no IPv6 address is tentative.
pub(crate) fn wait_until_ready(namespace: &Namespace) -> Result<()> {
    let deadline = Instant::now() + crate::process::patience(READY_LIMIT);
    while !namespace.enter(is_ready)?? {
        ensure!(
            Instant::now() < deadline,
            "{} did not become ready:\n{}",
            namespace.name(),
            namespace.state()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn is_ready() -> Result<bool> {
    const TENTATIVE: u32 = 0x40; // IFA_F_TENTATIVE, linux/if_addr.h
    let up = getifaddrs()?.all(|interface| {
        !interface.flags.contains(InterfaceFlags::IFF_UP)
            || interface.flags.contains(InterfaceFlags::IFF_RUNNING)
    });
    // address, ifindex, prefix length, scope, flags, name (net/ipv6/addrconf.c, if6_seq_show)
    let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    let tentative = addresses.lines().any(|line| {
        let flags = line.split_whitespace().nth(4).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        flags.is_some_and(|flags| flags & TENTATIVE != 0)
    });
    Ok(up && !tentative)
}
