//! Symptom `local`: a system call failed on this machine, before any packet left it.

mod address;
mod permission;
mod ports;
#[cfg(test)]
mod tests;

use super::{Diagnosis, Evidence};
use crate::enrich::facts::Holder;
use crate::probes::{Call, TcpState};
use crate::track::{End, What};

pub const ALL: &[Diagnosis] = &[
    Diagnosis {
        code: "local.ports-exhausted",
        title: "no free local port is left for this destination",
        specificity: 80,
        needs: &["socket_calls"],
        page: include_str!("../pages/local/ports-exhausted.md"),
        check: ports::exhausted,
    },
    Diagnosis {
        code: "local.address-in-use",
        title: "another socket holds that local address and port",
        specificity: 80,
        needs: &["socket_calls"],
        page: include_str!("../pages/local/address-in-use.md"),
        check: address::in_use,
    },
    Diagnosis {
        code: "local.address-not-local",
        title: "bind() to an address that this host does not have",
        specificity: 80,
        needs: &["socket_calls"],
        page: include_str!("../pages/local/address-not-local.md"),
        check: address::not_local,
    },
    Diagnosis {
        code: "local.not-permitted",
        title: "a policy of this host forbids the call",
        specificity: 40,
        needs: &["socket_calls"],
        page: include_str!("../pages/local/not-permitted.md"),
        check: permission::not_permitted,
    },
];

/// The call that failed and its errno. connect() may have gone as far as SYN_SENT (the port search comes
/// after it); then the end is that state change, and the call's result is in the timeline.
fn failed_call(evidence: &Evidence) -> Option<(Call, i32)> {
    let in_timeline = || {
        let calls = evidence.find(|what| match what {
            What::CallFailed { call, errno } => Some((*call, *errno)),
            _ => None,
        });
        calls.map(|(_, call)| call).last()
    };
    match evidence.connection.end {
        End::CallFailed { call } => evidence
            .connection
            .errno
            .or_else(|| in_timeline().map(|(_, errno)| errno))
            .map(|errno| (call, errno)),
        End::State { from: TcpState::SynSent, to: TcpState::Close } => {
            in_timeline().filter(|(call, _)| *call == Call::Connect)
        }
        End::State { .. } | End::SocketError => None,
    }
}

/// Name of a holder's state without its spelling: `timewait` for `TIME_WAIT`, `TIME-WAIT` and `time-wait`.
fn state_key(holder: &Holder) -> String {
    holder.state.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_lowercase()).collect()
}

/// Its state as ss(8) and the kernel's own names spell it: `TIME_WAIT`.
fn state_name(holder: &Holder) -> String {
    holder.state.to_ascii_uppercase().replace('-', "_")
}

fn is_time_wait(holder: &Holder) -> bool {
    state_key(holder) == "timewait"
}

/// "nginx[77]", or why there is no process.
fn who(holder: &Holder) -> String {
    match &holder.process {
        Some(process) => format!("{}[{}]", process.comm, process.pid),
        None if is_time_wait(holder) => "TIME_WAIT (no process any more)".into(),
        None => format!("a socket in {} whose process is not visible", state_name(holder)),
    }
}

/// Name of the connection's namespace, if it has one.
fn own_netns(evidence: &Evidence) -> Option<&str> {
    evidence.facts.netns.as_ref()?.name.as_deref()
}
