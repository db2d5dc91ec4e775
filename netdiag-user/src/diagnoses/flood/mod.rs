//! Symptom `flood`: more comes in than this machine can serve, and most of it is not meant to be served.

mod rates;
mod syn;

use super::Diagnosis;

pub use rates::Rates;
pub(crate) use syn::is_full;

pub const ALL: &[Diagnosis] = &[Diagnosis {
    code: "flood.syn-flood",
    title: "a flood of SYNs that nobody finishes fills the listener's queue",
    specificity: 76,
    needs: &["inet_sock_set_state", "tcp_retransmit_skb"],
    page: include_str!("../pages/flood/syn-flood.md"),
    check: syn::syn_flood,
}];
