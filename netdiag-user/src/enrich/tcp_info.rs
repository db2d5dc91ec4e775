//! The part of `struct tcp_info` (include/uapi/linux/tcp.h) that tells why a connection fails or stalls.

use serde::{Deserialize, Serialize};

use super::netlink::{u8_at, u32_at, u64_at};

/// What the kernel knows about a TCP connection. The struct grew over time: what this kernel does not report
/// is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpInfo {
    /// Retransmission timeout, microseconds.
    pub rto_us: u32,
    /// Bytes per segment sent.
    pub snd_mss: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Segments held to be lost.
    pub lost: u32,
    /// Since data was last sent, milliseconds.
    pub last_data_sent_ms: u32,
    /// Since data was last received, milliseconds.
    pub last_data_recv_ms: u32,
    /// Since an acknowledgement was last received, milliseconds.
    pub last_ack_recv_ms: u32,
    /// Path MTU, bytes.
    pub pmtu: u32,
    /// Smoothed round trip time, microseconds.
    pub rtt_us: u32,
    /// Its mean deviation, microseconds.
    pub rttvar_us: u32,
    /// Congestion window, segments.
    pub snd_cwnd: u32,
    /// Segments retransmitted in its whole life.
    pub total_retrans: u32,
    /// Bytes that the peer acknowledged; its SYN counts as one.
    pub bytes_acked: Option<u64>,
    /// Bytes received in order.
    pub bytes_received: Option<u64>,
    /// Bytes written and not sent yet.
    pub notsent_bytes: Option<u32>,
    /// Time limited by the peer's window, microseconds.
    pub rwnd_limited_us: Option<u64>,
    /// The peer's window, bytes, scaled.
    pub snd_wnd: Option<u32>,
    /// Our window, bytes, scaled.
    pub rcv_wnd: Option<u32>,
}

impl TcpInfo {
    /// `None` if it is shorter than the oldest layout.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        // The oldest layout ends with tcpi_total_retrans.
        u8_at(bytes, 103)?;
        let field = |offset| u32_at(bytes, offset);
        Some(Self {
            rto_us: field(8)?,
            snd_mss: field(16)?,
            unacked: field(24)?,
            lost: field(32)?,
            last_data_sent_ms: field(44)?,
            last_data_recv_ms: field(52)?,
            last_ack_recv_ms: field(56)?,
            pmtu: field(60)?,
            rtt_us: field(68)?,
            rttvar_us: field(72)?,
            snd_cwnd: field(80)?,
            total_retrans: field(100)?,
            bytes_acked: u64_at(bytes, 120),
            bytes_received: u64_at(bytes, 128),
            notsent_bytes: field(144),
            rwnd_limited_us: u64_at(bytes, 176),
            snd_wnd: field(228),
            rcv_wnd: field(232),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn offsets() {
        assert_eq!(offset_of!(libc::tcp_info, tcpi_rto), 8);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_snd_mss), 16);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_unacked), 24);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_lost), 32);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_last_data_sent), 44);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_last_data_recv), 52);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_last_ack_recv), 56);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_pmtu), 60);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_rtt), 68);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_rttvar), 72);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_snd_cwnd), 80);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_total_retrans), 100);
    }

    #[test]
    fn an_old_kernels_struct_is_shorter() {
        assert_eq!(TcpInfo::parse(&[1; 103]), None);
        let old = TcpInfo::parse(&[0; 104]).unwrap();
        assert_eq!((old.bytes_acked, old.snd_wnd), (None, None));
        assert_eq!(TcpInfo::parse(&[0; 240]).unwrap().rcv_wnd, Some(0));
    }
}
