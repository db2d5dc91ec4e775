//! Probe `result`: system calls that failed at once.
//!
//! ENETUNREACH, EADDRNOTAVAIL, EPERM and their like never reach a state change: only the call's result tells.
//! Hooks, best first: fexit on the calls' entry functions (arch/x86/entry/syscalls, `__x64_sys_connect` and so on),
//! which costs other system calls nothing; the tracepoints `syscalls:sys_exit_connect` and so on, for whose sake the
//! kernel takes its slow path at every system call of every process; kretprobes on the same functions as fexit. Where
//! processes are followed and fexit is not allowed, tp_btf `sys_exit`: the classic tracepoints cost 75 ms each to
//! detach, it is gone at once but runs for every system call (a comparison for those that succeed). The arguments are
//! read from the task's saved registers, so nothing runs at entry.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_task_pt_regs};
use aya_ebpf::macros::{btf_tracepoint, fexit, kretprobe, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext, RetProbeContext, TracePointContext};
use netdiag_ebpf::config::FLAG_TRACK_PROCESSES;
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{Interest, ResultRecord, Tuple, call, kind, socket_flag};

use crate::kernel::{probe, sock, task};
use crate::limits::permit;
use crate::maps::{
    TRACKED, UDP_OWNERS, UdpOwner, config, count, errno_wanted, send, socket_call, take_interest,
};

/// `ret` in the record of a sys_exit tracepoint: after the common fields and the call's number.
const RET_OFFSET: usize = 16;
const IPPROTO_UDP: u16 = 17;

/// The programs of one system call, one for each way to attach.
macro_rules! exit_of {
    ($call:expr, $function:literal, $tracepoint:ident, $fexit:ident, $kretprobe:ident) => {
        #[tracepoint]
        pub fn $tracepoint(ctx: TracePointContext) -> u32 {
            // A plain load: each send() of the machine would pay for a helper.
            // SAFETY: every sys_exit record is 24 bytes long, and the verifier lets programs read it.
            returned($call, unsafe { ctx.as_ptr().byte_add(RET_OFFSET).cast::<i64>().read_volatile() });
            0
        }

        #[fexit(function = $function)]
        pub fn $fexit(ctx: FExitContext) -> i32 {
            returned($call, ctx.arg(1));
            0
        }

        #[kretprobe]
        pub fn $kretprobe(ctx: RetProbeContext) -> u32 {
            returned($call, ctx.ret());
            0
        }
    };
}

exit_of!(call::CONNECT, "__x64_sys_connect", sys_exit_connect, fexit_connect, kretprobe_connect);
exit_of!(call::BIND, "__x64_sys_bind", sys_exit_bind, fexit_bind, kretprobe_bind);
exit_of!(call::LISTEN, "__x64_sys_listen", sys_exit_listen, fexit_listen, kretprobe_listen);
exit_of!(call::SENDTO, "__x64_sys_sendto", sys_exit_sendto, fexit_sendto, kretprobe_sendto);
exit_of!(call::SENDMSG, "__x64_sys_sendmsg", sys_exit_sendmsg, fexit_sendmsg, kretprobe_sendmsg);

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let ret: i64 = ctx.arg(1);
    if ret > 0 || ret < 0 && !errno_wanted((-ret) as u32) {
        return 0;
    }
    let regs: *const c_void = ctx.arg(0);
    let Some(number) = probe::<u64>(regs, Field::RegsOrigAx) else { return 0 };
    if let Some(which) = socket_call(number as u32) {
        returned(which, ret);
    }
    0
}

#[inline(always)]
fn returned(which: u32, ret: i64) {
    if ret < 0 && errno_wanted((-ret) as u32) {
        failed(which, (-ret) as u32);
    } else if ret == 0 && which == call::CONNECT && config() & FLAG_TRACK_PROCESSES != 0 {
        note_udp_owner();
    }
}

/// The registers that the current task entered its system call with.
#[inline(always)]
fn user_registers() -> *const c_void {
    // SAFETY: the current task is never null; it has user registers, being in a system call.
    unsafe { bpf_task_pt_regs(task::current().cast_mut().cast()) as *const c_void }
}

/// An error that comes later, by ICMP, finds the socket in softirq: who it belongs to is known only now. The application
/// may take it from the socket before anybody else reads it, so the ICMP message itself matters from now on.
#[inline(always)]
fn note_udp_owner() -> Option<()> {
    TRACKED.get_ptr(task::tgid())?;
    let fd: u64 = probe(user_registers(), Field::RegsDi)?;
    let sk = task::socket_of_fd(fd as u32)?;
    if probe::<u16>(sk, Field::SkProtocol)? != IPPROTO_UDP {
        return None;
    }
    let tuple = sock::wire_tuple(sk, IPPROTO_UDP);
    take_interest(Interest {
        address: tuple.daddr,
        port: tuple.dport,
        family: tuple.family,
        local_port: tuple.sport,
        _pad: 0,
    });
    let owner = task::owner(sock::netns(sk));
    let value = UdpOwner { owner, local_port: tuple.sport as u32, peer_port: tuple.dport as u32 };
    UDP_OWNERS.insert(sk as u64, value, 0).ok()
}

#[inline(always)]
fn failed(which: u32, errno: u32) -> Option<()> {
    let regs = user_registers();
    let fd: u64 = probe(regs, Field::RegsDi)?;
    let second: u64 = probe(regs, Field::RegsSi)?;
    let sk = task::socket_of_fd(fd as u32)?;
    let family: u16 = probe(sk, Field::SkFamily)?;
    if family != sock::AF_INET && family != sock::AF_INET6 {
        return None;
    }
    let protocol: u16 = probe(sk, Field::SkProtocol)?;
    // getaddrinfo() sorts addresses by connecting UDP sockets: a failure there is no failure.
    if which == call::CONNECT && protocol == IPPROTO_UDP {
        return None;
    }
    let address = match which {
        call::SENDTO => probe::<u64>(regs, Field::RegsR8)?,
        // struct user_msghdr starts with the pointer to the name.
        call::SENDMSG => read_user::<u64>(second)?,
        call::LISTEN => 0,
        _ => second,
    };
    let mut tuple = sock::tuple(sk, protocol);
    if address != 0 {
        read_sockaddr(address, which == call::BIND, &mut tuple);
    }
    let owner = task::owner(sock::netns(sk));
    if permit(owner.tgid ^ errno << 20 ^ (tuple.dport as u32) << 8 ^ which).is_none() {
        count(Counter::OtherLimited);
        return None;
    }
    let asked = config() & FLAG_TRACK_PROCESSES != 0 && TRACKED.get_ptr(owner.tgid).is_some();
    send::<ResultRecord>(kind::RESULT, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.sock = sk as u64;
        record.owner = owner;
        record.tuple = tuple;
        record.call = which;
        record.errno = errno;
        record.netns = owner.netns;
        record.bound_dev_if = probe(sk, Field::SkBoundDevIf).unwrap_or(0);
        record.flags = if asked { socket_flag::ASKED } else { 0 };
        if family == sock::AF_INET6 && sock::is_ipv6_only(sk) {
            record.flags |= socket_flag::IPV6_ONLY;
        }
        record._pad = 0;
    });
    Some(())
}

/// Takes family, address and port of a user's `sockaddr_in` or `sockaddr_in6`.
#[inline(always)]
fn read_sockaddr(address: u64, is_local: bool, tuple: &mut Tuple) {
    let Some(family) = read_user::<u16>(address) else { return };
    let Some(port) = read_user::<u16>(address + 2) else { return };
    let mut bytes = [0u8; 16];
    match family {
        sock::AF_INET => {
            let Some(v4) = read_user::<[u8; 4]>(address + 4) else { return };
            bytes[..4].copy_from_slice(&v4);
        }
        sock::AF_INET6 => {
            let Some(v6) = read_user::<[u8; 16]>(address + 8) else { return };
            bytes = v6;
        }
        _ => return,
    }
    tuple.family = family;
    if is_local {
        tuple.saddr = bytes;
        tuple.sport = u16::from_be(port);
    } else {
        tuple.daddr = bytes;
        tuple.dport = u16::from_be(port);
    }
}

#[inline(always)]
fn read_user<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the destination is as large as the size given; the helper checks the source.
    let result = unsafe {
        bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const c_void)
    };
    // SAFETY: the helper filled it; all `T` used are integers and arrays of integers.
    (result == 0).then(|| unsafe { value.assume_init() })
}
