//! The TCP and UDP sockets of a network namespace, by sock_diag (include/uapi/linux/inet_diag.h, sock_diag(7)).

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::error::EnrichError;
use super::netlink::{self, Attributes, Request, Socket, u8_at, u32_at};
use super::netns::NetnsHandle;
use super::tcp_info::TcpInfo;
/// A UDP socket is `Established` if it is connected, `Close` if not.
pub use crate::probes::TcpState as State;
use crate::probes::protocol;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_MARK: u16 = 15;
/// `struct inet_diag_msg`
const MESSAGE: usize = 72;

/// Transport protocol of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Address family of a socket. An IPv6 socket may carry IPv4 traffic, and then has IPv4 addresses here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    Inet,
    Inet6,
}

/// Sets of socket states, as [`tcp`] and [`udp`] take them: bit N is the state with number N.
pub mod states {
    pub const ESTABLISHED: u32 = 1 << 1;
    pub const SYN_SENT: u32 = 1 << 2;
    pub const SYN_RECV: u32 = 1 << 3;
    pub const FIN_WAIT1: u32 = 1 << 4;
    pub const FIN_WAIT2: u32 = 1 << 5;
    pub const TIME_WAIT: u32 = 1 << 6;
    pub const CLOSE: u32 = 1 << 7;
    pub const CLOSE_WAIT: u32 = 1 << 8;
    pub const LAST_ACK: u32 = 1 << 9;
    pub const LISTEN: u32 = 1 << 10;
    pub const CLOSING: u32 = 1 << 11;
    pub const BOUND_INACTIVE: u32 = 1 << 13;
    pub const ALL: u32 = u32::MAX;
}

/// Which ports to ask for; the kernel filters, so that the rest is not copied. Both must match if both are
/// given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ports {
    pub local: Option<u16>,
    pub peer: Option<u16>,
}

impl Ports {
    /// Sockets on this local port.
    pub fn local(port: u16) -> Self {
        Self { local: Some(port), peer: None }
    }

    /// Sockets whose peer is on this port.
    pub fn peer(port: u16) -> Self {
        Self { local: None, peer: Some(port) }
    }
}

/// The timer that runs on a TCP socket (`idiag_timer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timer {
    /// Retransmission, or loss probe.
    Retransmit,
    /// Keepalive; of a socket in SYN_RECV or FIN_WAIT2, its own timer.
    Keepalive,
    TimeWait,
    /// The peer's window is zero.
    ZeroWindowProbe,
    Other(u8),
}

/// A socket as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketInfo {
    pub family: Family,
    pub protocol: Protocol,
    pub state: State,
    /// Addresses that IPv6 maps from IPv4 are given as IPv4.
    pub local: SocketAddr,
    /// Unspecified address and port 0 if there is none.
    pub peer: SocketAddr,
    /// Index of the interface that it is bound to, 0 if to none.
    pub interface: u32,
    /// Bytes not yet read; of a listener, connections that wait for `accept`.
    pub rqueue: u32,
    /// Bytes not yet acknowledged (TCP) or sent (UDP); of a listener, how many may wait for `accept`.
    pub wqueue: u32,
    pub uid: u32,
    /// As in `/proc/PID/fd`; 0 if no file belongs to it (any more).
    pub inode: u64,
    pub cookie: u64,
    /// Whether it takes IPv6 traffic only. Known of unconnected IPv6 sockets.
    pub v6only: Option<bool>,
    /// Timeouts in a row: retransmissions, keepalive or window probes.
    pub retransmits: u8,
    pub timer: Option<Timer>,
    /// Until the timer fires, in milliseconds.
    pub timer_ms: u32,
    /// `SO_MARK`; `None` if it is not reported (it takes CAP_NET_ADMIN).
    pub mark: Option<u32>,
    /// Of TCP sockets that are neither in TIME_WAIT nor requests.
    pub tcp: Option<TcpInfo>,
}

impl SocketInfo {
    /// A socket with nothing to tell, for tests.
    #[cfg(test)]
    pub(crate) fn new(family: Family, protocol: Protocol, state: State) -> Self {
        let nowhere = match family {
            Family::Inet => SocketAddr::from(([0, 0, 0, 0], 0)),
            Family::Inet6 => SocketAddr::from(([0; 16], 0)),
        };
        Self {
            family,
            protocol,
            state,
            local: nowhere,
            peer: nowhere,
            interface: 0,
            rqueue: 0,
            wqueue: 0,
            uid: 0,
            inode: 0,
            cookie: 0,
            v6only: None,
            retransmits: 0,
            timer: None,
            timer_ms: 0,
            mark: None,
            tcp: None,
        }
    }

    /// Connections that wait for `accept`, and how many may; `None` if it is no TCP listener.
    pub fn accept_queue(&self) -> Option<(u32, u32)> {
        (self.state == State::Listen).then_some((self.rqueue, self.wqueue))
    }
}

/// Lists the TCP sockets, IPv4 and IPv6, of a network namespace that are in one of the states.
pub fn tcp(
    netns: Option<&NetnsHandle>,
    states: u32,
    ports: Option<Ports>,
) -> Result<Vec<SocketInfo>, EnrichError> {
    dump(netns, Protocol::Tcp, states, ports)
}

/// Lists the UDP sockets, IPv4 and IPv6, of a network namespace that are in one of the states.
///
/// Fails with ENOENT where the kernel lacks `CONFIG_INET_UDP_DIAG`.
pub fn udp(
    netns: Option<&NetnsHandle>,
    states: u32,
    ports: Option<Ports>,
) -> Result<Vec<SocketInfo>, EnrichError> {
    dump(netns, Protocol::Udp, states, ports)
}

/// [`udp`] for UDP's protocol number, [`tcp`] for any other.
pub fn of_protocol(
    protocol: u8,
    netns: Option<&NetnsHandle>,
    states: u32,
    ports: Option<Ports>,
) -> Result<Vec<SocketInfo>, EnrichError> {
    match protocol {
        protocol::UDP => udp(netns, states, ports),
        _ => tcp(netns, states, ports),
    }
}

fn dump(
    netns: Option<&NetnsHandle>,
    protocol: Protocol,
    states: u32,
    ports: Option<Ports>,
) -> Result<Vec<SocketInfo>, EnrichError> {
    dump_as(netns, protocol, states, ports, |socket| socket)
}

/// Keeps of each socket what `keep` makes of it.
pub(super) fn dump_as<T>(
    netns: Option<&NetnsHandle>,
    protocol: Protocol,
    states: u32,
    ports: Option<Ports>,
    keep: impl Fn(SocketInfo) -> T,
) -> Result<Vec<T>, EnrichError> {
    let mut socket = Socket::diag(netns)?;
    let ports = ports.unwrap_or_default();
    // The kernel does not ask a bound socket for its port (net/ipv4/inet_diag.c, from 6.8 on).
    let is = |wanted: Option<u16>, port: u16| wanted.is_none_or(|wanted| wanted == port);
    let is_asked =
        |socket: &SocketInfo| is(ports.local, socket.local.port()) && is(ports.peer, socket.peer.port());
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = request(family as u8, protocol, states, ports);
        found.extend(socket.dump(&request, |payload| parse(payload, protocol).filter(is_asked).map(&keep))?);
    }
    Ok(found)
}

/// `struct inet_diag_req_v2`
fn request(family: u8, protocol: Protocol, states: u32, ports: Ports) -> Request {
    let (what, number, extensions) = match protocol {
        Protocol::Tcp => ("list TCP sockets", libc::IPPROTO_TCP as u8, 1 << (INET_DIAG_INFO - 1)),
        Protocol::Udp => ("list UDP sockets", libc::IPPROTO_UDP as u8, 0),
    };
    let mut header = [0; 56];
    header[..4].copy_from_slice(&[family, number, extensions, 0]);
    header[4..8].copy_from_slice(&states.to_ne_bytes());
    header[8..10].copy_from_slice(&ports.local.unwrap_or(0).to_be_bytes());
    header[10..12].copy_from_slice(&ports.peer.unwrap_or(0).to_be_bytes());
    Request::new(what, SOCK_DIAG_BY_FAMILY, &header)
}

/// `struct inet_diag_msg`: ports and addresses in network byte order, the rest in the host's.
fn parse(payload: &[u8], protocol: Protocol) -> Option<SocketInfo> {
    let message: &[u8; MESSAGE] = payload.first_chunk()?;
    let family = match i32::from(message[0]) {
        libc::AF_INET => Family::Inet,
        libc::AF_INET6 => Family::Inet6,
        _ => return None,
    };
    let field = |offset| u32_at(message, offset);
    let mut socket = SocketInfo {
        family,
        protocol,
        state: State::from_number(message[1])?,
        local: endpoint(family, &message[4..6], &message[8..24])?,
        peer: endpoint(family, &message[6..8], &message[24..40])?,
        interface: field(40)?,
        cookie: u64::from(field(44)?) | u64::from(field(48)?) << 32,
        timer: timer(message[2]),
        timer_ms: field(52)?,
        retransmits: message[3],
        rqueue: field(56)?,
        wqueue: field(60)?,
        uid: field(64)?,
        inode: field(68)?.into(),
        v6only: None,
        mark: None,
        tcp: None,
    };
    for (kind, value) in Attributes::at(payload, MESSAGE) {
        match kind {
            INET_DIAG_INFO if socket.state != State::Listen => socket.tcp = TcpInfo::parse(value),
            INET_DIAG_SKV6ONLY => socket.v6only = u8_at(value, 0).map(|flag| flag != 0),
            INET_DIAG_MARK => socket.mark = u32_at(value, 0),
            _ => {}
        }
    }
    Some(socket)
}

fn endpoint(family: Family, port: &[u8], address: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*port.first_chunk()?);
    let address: IpAddr = match family {
        Family::Inet => netlink::ip(address.get(..4)?)?,
        Family::Inet6 => netlink::ip(address)?.to_canonical(),
    };
    Some(SocketAddr::new(address, port))
}

fn timer(number: u8) -> Option<Timer> {
    match number {
        0 => None,
        1 => Some(Timer::Retransmit),
        2 => Some(Timer::Keepalive),
        3 => Some(Timer::TimeWait),
        4 => Some(Timer::ZeroWindowProbe),
        other => Some(Timer::Other(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;

    use super::super::netns;
    use super::super::testing::TestNetns;
    use super::*;

    /// `ss -H` has these columns: state, receive queue, send queue, local, peer.
    fn ss(netns: &TestNetns, arguments: &str) -> Vec<Vec<String>> {
        let text = netns.run(&format!("ss -Hn {arguments}"));
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    }

    #[test]
    fn listeners_and_their_queues() {
        let netns = TestNetns::new();
        let handle = netns.handle();
        let (listeners, _waiting) = netns::enter(&handle, || {
            let four = TcpListener::bind("127.0.0.1:4000").unwrap();
            let dual = TcpListener::bind("[::]:4001").unwrap();
            let waiting: Vec<_> = (0..3).map(|_| TcpStream::connect("127.0.0.1:4000").unwrap()).collect();
            (vec![four, dual], waiting)
        })
        .unwrap();

        let mut found = tcp(Some(&handle), states::LISTEN, None).unwrap();
        found.sort_by_key(|socket| socket.local.port());
        let mut expected = ss(&netns, "-tl");
        expected.sort_by_key(|line| line[3].rsplit(':').next().unwrap().to_owned());
        assert_eq!(found.len(), 2);
        for (socket, line) in found.iter().zip(&expected) {
            assert_eq!(socket.state, State::Listen);
            assert_eq!(socket.accept_queue(), Some((line[1].parse().unwrap(), line[2].parse().unwrap())));
            assert_eq!(socket.local.port().to_string(), line[3].rsplit(':').next().unwrap());
            assert_ne!(socket.inode, 0);
            assert_ne!(socket.cookie, 0);
            assert_eq!(socket.tcp, None);
        }
        assert_eq!(found[0].accept_queue().unwrap().0, 3);
        assert_eq!(found[0].local, "127.0.0.1:4000".parse().unwrap());
        assert_eq!((found[0].family, found[0].v6only), (Family::Inet, None));
        assert_eq!(found[1].local, "[::]:4001".parse().unwrap());
        assert_eq!((found[1].family, found[1].v6only), (Family::Inet6, Some(false)));

        let by_port = tcp(Some(&handle), states::LISTEN, Some(Ports::local(4001))).unwrap();
        assert_eq!(by_port, found[1..]);
        let bound = netns::enter(&handle, || {
            let bound = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::empty(),
                None,
            );
            let bound = bound.unwrap();
            let address = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, 4002);
            nix::sys::socket::bind(bound.as_raw_fd(), &address).unwrap();
            bound
        })
        .unwrap();
        let by_port = tcp(Some(&handle), states::ALL, Some(Ports::local(4001))).unwrap();
        assert_eq!(by_port, found[1..], "not the one that is bound to another port");
        assert!(tcp(Some(&handle), states::ALL, Some(Ports::peer(4009))).unwrap().is_empty());
        drop((listeners, bound));
    }

    #[test]
    fn a_connection_from_both_ends() {
        let netns = TestNetns::new();
        let handle = netns.handle();
        let (mut client, server) = netns::enter(&handle, || {
            let listener = TcpListener::bind("[::]:4100").unwrap();
            let client = TcpStream::connect("127.0.0.1:4100").unwrap();
            (client, listener.accept().unwrap().0)
        })
        .unwrap();
        client.write_all(b"hello").unwrap();

        let ends = |ports| tcp(Some(&handle), states::ESTABLISHED, Some(ports)).unwrap();
        let [accepted] = &ends(Ports::local(4100))[..] else { panic!() };
        let [connected] = &ends(Ports::peer(4100))[..] else { panic!() };
        assert_eq!(connected.local, client.local_addr().unwrap());
        assert_eq!(connected.peer, "127.0.0.1:4100".parse().unwrap());
        assert_eq!(connected.family, Family::Inet);
        assert_eq!((accepted.local, accepted.peer), (connected.peer, connected.local));
        assert_eq!((accepted.family, accepted.v6only), (Family::Inet6, None));
        assert_eq!(accepted.rqueue, 5);
        let info = connected.tcp.as_ref().unwrap();
        assert_eq!(info.bytes_acked.unwrap(), 6, "the SYN counts");
        assert!(info.rtt_us > 0 && info.snd_mss > 0);
        assert_eq!(accepted.tcp.as_ref().unwrap().bytes_received, Some(5));

        drop(server);
        drop(client);
    }

    #[test]
    fn time_wait_has_no_inode_but_the_cookie() {
        let netns = TestNetns::new();
        let handle = netns.handle();
        let (client, server) = netns::enter(&handle, || {
            let listener = TcpListener::bind("127.0.0.1:4200").unwrap();
            let client = TcpStream::connect("127.0.0.1:4200").unwrap();
            (client, listener.accept().unwrap().0)
        })
        .unwrap();
        let cookie = tcp(Some(&handle), states::ESTABLISHED, Some(Ports::peer(4200))).unwrap()[0].cookie;
        drop(client);
        drop(server);
        let waiting = super::super::testing::wait_for(|| {
            tcp(Some(&handle), states::TIME_WAIT, Some(Ports::peer(4200))).unwrap().pop()
        });
        assert_eq!((waiting.state, waiting.inode, waiting.cookie), (State::TimeWait, 0, cookie));
        assert_eq!(waiting.timer, Some(Timer::TimeWait));
        assert!((50_000..=60_000).contains(&waiting.timer_ms), "{}", waiting.timer_ms);
    }

    #[test]
    fn a_syn_without_answer_is_retransmitted() {
        let netns = TestNetns::new();
        netns.ip("link add d0 type veth peer name d1");
        netns.ip("link set d1 up");
        netns.ip("addr add 10.9.9.1/24 dev d0");
        netns.ip("link set d0 up");
        netns.ip("neigh add 10.9.9.2 lladdr 02:00:00:00:00:02 dev d0");
        let handle = netns.handle();
        let connecting = netns::enter(&handle, || {
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::SOCK_NONBLOCK | nix::sys::socket::SockFlag::SOCK_CLOEXEC,
                None,
            )
            .unwrap();
            let peer = nix::sys::socket::SockaddrIn::new(10, 9, 9, 2, 80);
            let _ = nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &peer);
            socket
        })
        .unwrap();
        let socket = super::super::testing::wait_for(|| {
            tcp(Some(&handle), states::SYN_SENT, None).unwrap().pop().filter(|socket| socket.retransmits > 0)
        });
        assert_eq!(socket.state, State::SynSent);
        assert_eq!(socket.peer, "10.9.9.2:80".parse().unwrap());
        assert_eq!(socket.timer, Some(Timer::Retransmit));
        drop(connecting);
    }

    #[test]
    fn udp_sockets() {
        let netns = TestNetns::new();
        let handle = netns.handle();
        let (bound, connected) = netns::enter(&handle, || {
            let bound = UdpSocket::bind("[::1]:5300").unwrap();
            let connected = UdpSocket::bind("127.0.0.1:5301").unwrap();
            connected.connect("127.0.0.1:53").unwrap();
            (bound, connected)
        })
        .unwrap();
        let mut found = udp(Some(&handle), states::ALL, None).unwrap();
        found.sort_by_key(|socket| socket.local.port());
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].local, bound.local_addr().unwrap());
        assert_eq!((found[0].state, found[0].v6only), (State::Close, Some(true)), "its address decides");
        assert_eq!(found[1].peer, connected.peer_addr().unwrap());
        assert_eq!((found[1].state, found[1].protocol), (State::Established, Protocol::Udp));
        assert_eq!(udp(Some(&handle), states::CLOSE, None).unwrap(), found[..1]);
    }

    #[test]
    fn more_sockets_than_one_datagram_holds() {
        let netns = TestNetns::new();
        let handle = netns.handle();
        let sockets: Vec<_> =
            netns::enter(&handle, || (0..700).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect())
                .unwrap();
        let found = udp(Some(&handle), states::ALL, None).unwrap();
        let mut ports: Vec<u16> = found.iter().map(|socket| socket.local.port()).collect();
        let mut expected: Vec<u16> =
            sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        ports.sort();
        expected.sort();
        assert_eq!(ports, expected);
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Vec<SocketInfo>>(&text).unwrap(), found);
    }

    #[test]
    fn a_short_message_is_none() {
        for length in 0..MESSAGE {
            let mut bytes = vec![0; length];
            if let Some(family) = bytes.first_mut() {
                *family = libc::AF_INET as u8;
            }
            assert_eq!(parse(&bytes, Protocol::Tcp), None);
        }
        let mut bytes = [0; MESSAGE];
        bytes[0] = libc::AF_INET6 as u8;
        assert_eq!(parse(&bytes, Protocol::Tcp), None, "there is no state 0");
        bytes[1] = 1;
        assert!(parse(&bytes, Protocol::Tcp).is_some());
    }
}
