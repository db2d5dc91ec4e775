//! Who holds the ports or the address that a call could not have.

use serde::{Deserialize, Serialize};

use super::report::ProcessPart;
use crate::enrich::facts::Holder;

/// Sockets in one state, of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPart {
    /// Of those in TIME_WAIT the one that was seen to make them; null where no process holds them, or none that may be
    /// seen.
    pub process: Option<ProcessPart>,
    pub state: String,
    pub count: u32,
}

impl From<&Holder> for HeldPart {
    fn from(holder: &Holder) -> Self {
        let named = ProcessPart::new(None, holder.process.as_ref());
        // What it runs is told of the connection's own process.
        let process = named.map(|process| ProcessPart { exe: None, command_line: None, ..process });
        Self { process, state: holder.state.clone(), count: holder.count }
    }
}

impl HeldPart {
    /// "28,000 TIME_WAIT   curl[7]"
    pub(super) fn text(&self) -> String {
        let who = match &self.process {
            Some(process) => match &process.container {
                Some(id) => {
                    format!("{}[{}], container {}", process.comm, process.pid, super::socket_text::short(id))
                }
                None => format!("{}[{}]", process.comm, process.pid),
            },
            None if self.state == "TIME_WAIT" => "no process any more".to_owned(),
            None => "not visible".to_owned(),
        };
        format!("{} {}   {who}", crate::diagnoses::words::thousands(self.count.into()), self.state)
    }
}
