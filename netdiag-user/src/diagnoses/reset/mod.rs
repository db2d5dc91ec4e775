//! Symptom `reset`: an established connection ended with a RST.

mod by_peer;
mod cause;
mod known;

use super::Diagnosis;

pub const ALL: &[Diagnosis] = &[
    Diagnosis {
        code: "reset.by-peer",
        title: "the peer ended an established connection with a RST",
        specificity: 20,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/reset/by-peer.md"),
        check: by_peer::by_peer,
    },
    Diagnosis {
        code: "reset.unread-data",
        title: "the program closed with data left unread, so a RST was sent",
        specificity: 60,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/reset/unread-data.md"),
        check: known::unread_data,
    },
    Diagnosis {
        code: "reset.linger",
        title: "the program asked for a RST (SO_LINGER with zero seconds)",
        specificity: 60,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/reset/linger.md"),
        check: known::linger,
    },
    Diagnosis {
        code: "reset.process-exited",
        title: "the process ended with the connection open, and the peer got a RST",
        specificity: 65,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/reset/process-exited.md"),
        check: known::process_exited,
    },
];
