//! Who can answer.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::drops::DropBook;
use super::owners::parts;
use super::{Line, Request, frame};
use crate::agent::census::Asker;
use crate::agent::history::{Query, Told, redact, tell};
use crate::agent::metrics::{self, Board};
use crate::filter::Filter;
use crate::memory;

/// Diagnoses or problems of an answer at most: what was read is in memory until it is sent.
const MAX_TOLD: usize = 10_000;
/// Bytes that are sent together.
const PIECE: usize = 64 << 10;
/// Of a pattern of codes.
const MAX_CODE: usize = 100;
const MAX_STARS: usize = 3;
/// For the census, which may be at its own work.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the agent knows, as far as it can be asked.
#[derive(Debug)]
pub struct Sources {
    /// `None`: nothing is stored.
    pub history: Option<PathBuf>,
    pub drops: Arc<DropBook>,
    pub board: Arc<Board>,
    /// `None`: it is not noted who closes.
    pub owners: Option<Asker>,
}

/// Why an answer ends before its end.
enum Failure {
    /// Nobody listens any more.
    Gone,
    Cannot(String),
}

/// Collects lines to larger pieces.
struct Sending<S> {
    send: S,
    piece: Vec<u8>,
}

impl<S: FnMut(Vec<u8>) -> bool> Sending<S> {
    fn line(&mut self, line: &Line<impl Serialize>) -> Result<(), Failure> {
        self.piece.extend_from_slice(&frame::line(line));
        if self.piece.len() < PIECE { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if (self.send)(std::mem::take(&mut self.piece)) { Ok(()) } else { Err(Failure::Gone) }
    }
}

impl Sources {
    /// Sends the answer in pieces of whole lines; `send` says whether anybody still listens.
    pub(super) fn answer(&self, request: Request, send: impl FnMut(Vec<u8>) -> bool) {
        let mut sending = Sending { send, piece: Vec::new() };
        let last = match self.items(request, &mut sending) {
            Ok(()) => Line::<()>::End,
            Err(Failure::Cannot(why)) => Line::Error(why),
            Err(Failure::Gone) => return,
        };
        let _ = sending.line(&last).and_then(|()| sending.flush());
        memory::give_back();
    }

    fn items(
        &self,
        request: Request,
        sending: &mut Sending<impl FnMut(Vec<u8>) -> bool>,
    ) -> Result<(), Failure> {
        match request {
            Request::Drops => {
                let limited = self.board.get(&metrics::RECORDS_LIMITED, &["drop"]) as u64;
                self.drops.all(limited).into_iter().try_for_each(|part| sending.line(&Line::Item(part)))
            }
            Request::TimeWait => {
                let owners = self.census(|asker| asker.time_wait(PATIENCE))?;
                parts(owners).try_for_each(|part| sending.line(&Line::Item(part)))
            }
            Request::Port { port } => {
                let mut holders = self.census(|asker| asker.last_holders(port, PATIENCE))?;
                for process in holders.iter_mut().filter_map(|holder| holder.process.as_mut()) {
                    redact(&mut process.command_line);
                }
                holders.into_iter().try_for_each(|holder| sending.line(&Line::Item(holder)))
            }
            Request::History { since_us, until_us, code, filter, details } => {
                // What a pattern costs grows with a power of its stars.
                if code.as_ref().is_some_and(|code| code.len() > MAX_CODE || stars(code) > MAX_STARS) {
                    return Err(Failure::Cannot("the pattern of --code is too long".to_owned()));
                }
                let moment =
                    |us| Timestamp::from_microsecond(us).map_err(|error| Failure::Cannot(error.to_string()));
                let filter =
                    Filter::from_args(&filter).map_err(|error| Failure::Cannot(error.to_string()))?;
                let dir = self.history.clone();
                let dir = dir.ok_or_else(|| Failure::Cannot("the agent stores nothing".to_owned()))?;
                let since = moment(since_us)?;
                let until = until_us.map_or(Ok(Timestamp::MAX), moment)?;
                let query = Query { dir, since, until, code, filter };
                history(&query, details, sending)
            }
        }
    }

    fn census<T>(&self, ask: impl FnOnce(&Asker) -> Option<T>) -> Result<T, Failure> {
        let asker = self.owners.as_ref();
        let asker = asker.ok_or_else(|| Failure::Cannot("the agent does not note who closes".into()))?;
        ask(asker).ok_or_else(|| Failure::Cannot("the agent has no time".into()))
    }
}

fn stars(pattern: &str) -> usize {
    pattern.matches('*').count()
}

fn history(
    query: &Query,
    details: bool,
    sending: &mut Sending<impl FnMut(Vec<u8>) -> bool>,
) -> Result<(), Failure> {
    let mut outcome = Ok(());
    let told = tell(query, details, MAX_TOLD, Timestamp::now(), |told: Told| {
        outcome = sending.line(&Line::Item(told));
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    told.map_err(|error| Failure::Cannot(format!("the agent cannot read the history: {error}")))?;
    outcome
}
