//! `netdiag agent`: the tracking and diagnosing of `watch`, made to run for months. What is diagnosed goes to the
//! store ([`history`]) and into numbers ([`metrics`]), which HTTP shows ([`server`]).

pub mod ask;
mod census;
pub mod config;
mod desk;
mod governor;
mod health;
mod heartbeat;
pub mod history;
mod host;
mod lock;
pub mod metrics;
mod notify;
mod own;
mod pages;
pub mod preflight;
mod privileges;
mod server;
mod storage;
mod stream;
mod tally;

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::engine::{Engine, Spent, may_match};
use crate::filter::Filter;
use crate::kernel::loader::Options;
use crate::output::{Clock, Folder};
use crate::probes::Event;
use ask::{Answers, Door, DropBook, Sources};
use census::Census;
use config::Config;
use desk::{Desk, store};
use governor::{Budget, Change, Governor};
use health::Health;
use heartbeat::Heartbeat;
use history::Writer;
use lock::Lock;
use metrics::Board;
use notify::Manager;
use own::Own;
use server::Server;
use tally::Tally;

/// Where the agent's own messages go, one line each.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// The name of the lock, in the agent's run directory and in that of the store.
const LOCK: &str = "agent.lock";

/// What cannot be worked around at the start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Locked(#[from] lock::LockError),
    #[error(transparent)]
    Kernel(#[from] crate::kernel::KernelError),
    #[error("{0}")]
    Listen(String),
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
}

/// See the module's documentation.
pub struct Agent {
    config: Config,
    filter: Option<Filter>,
    engine: Engine,
    folder: Folder,
    clock: Clock,
    board: Arc<Board>,
    tally: Tally,
    heartbeat: Rc<RefCell<Heartbeat>>,
    health: Health,
    own: Own,
    governor: Governor,
    /// None where it is not wanted.
    census: Option<Census>,
    manager: Manager,
    say: Say,
    // In the order in which they must go: the store is closed while its lock is held.
    server: Server,
    _answers: Option<Answers>,
    writer: Option<Writer>,
    _locks: Vec<Lock>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Agent {
    /// Takes the locks, loads, attaches, and begins to serve. `options.attach` goes before the configuration's.
    ///
    /// # Errors
    /// When another agent runs, the kernel does not allow it, or an address cannot be listened on. That the store
    /// cannot be written is none: it may be mended while the agent runs, and /healthz says it.
    pub fn start(config: Config, options: Options, say: Say) -> Result<Self, AgentError> {
        let mut locks = vec![Lock::take(&config.run_dir, LOCK)?];
        let system = |what| move |source| AgentError::System { what, source };
        if config.history.enabled {
            locks.extend(storage::lock(&config.history.dir)?);
        }
        let door = door(&config, &say);
        privileges::keep().map_err(system("cannot give up capabilities"))?;
        let heartbeat = Heartbeat::new()
            .map_err(|errno| system("no port of 127.0.0.1 for the heartbeat")(errno.into()))?;
        let heartbeat = Rc::new(RefCell::new(heartbeat));
        let board = Board::new(config.metrics.top.get());
        let health = Health::new(config.heartbeat.get());
        let tally = Tally::new(Arc::clone(&board), Rc::clone(&heartbeat));
        let attach = options.attach.or(config.attach.family());
        let mut engine = Engine::start(Options {
            attach,
            owners: config.owners,
            latency: config.metrics.latency,
            ..options
        })?;
        let observer = tally.clone();
        let book = Arc::new(DropBook::default());
        let drops = Arc::clone(&book);
        engine.observe(move |event, reasons, tracker| {
            observer.record(event, reasons);
            if let Event::Drop(drop) = event
                && !observer.is_own(&drop.packet)
            {
                drops.add(drop, reasons, |address| tracker.symbol(address));
            }
        });
        own::probes(&mut engine, &board);
        let own = Own::new(config.metrics.latency);
        let writer = storage::start(&config, &say).map_err(system("no thread for the history"))?;
        let socket = Some(config.socket.as_path()).filter(|path| !path.as_os_str().is_empty());
        let server =
            Server::start(config.listen.0, socket, pages::of(&board, &health)).map_err(AgentError::Listen)?;
        board.set(&metrics::BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
        board.set(&metrics::STARTED, &[], seconds(Timestamp::now()));
        let noted = engine.session().take_owners();
        let census = noted.map(|noted| Census::start(Arc::clone(&board), noted));
        let census = census.transpose().map_err(system("no thread to count sockets"))?;
        let sources = Sources {
            history: config.history.enabled.then(|| config.history.dir.clone()),
            drops: book,
            board: Arc::clone(&board),
            owners: census.as_ref().map(Census::asker),
        };
        let since_us = Timestamp::now().as_microsecond();
        let answers = door.map(|door| Answers::start(door, since_us, sources)).transpose();
        let answers = answers.map_err(AgentError::Listen)?;
        let governor = Governor::new(budget(&config));
        let mut agent = Self {
            filter: None,
            config,
            engine,
            folder: Folder::new(),
            clock: Clock::read().map_err(|errno| system("no clock")(errno.into()))?,
            board,
            tally,
            heartbeat,
            health,
            own,
            governor,
            census,
            manager: Manager::new(),
            say,
            server,
            _answers: answers,
            writer,
            _locks: locks,
        };
        agent.set_filter();
        agent.tidy();
        Ok(agent)
    }

    /// Where it tells about itself, for people.
    pub fn place(&self) -> String {
        let mut places: Vec<String> =
            self.server.address.iter().map(|address| format!("http://{address}/metrics")).collect();
        if !self.config.socket.as_os_str().is_empty() {
            places.push(self.config.socket.display().to_string());
        }
        if places.is_empty() { "nowhere".to_owned() } else { places.join(" and ") }
    }

    /// Tells the service manager that it has started.
    pub fn ready(&self) {
        self.manager.ready();
    }

    /// Readable when there are records.
    pub fn fd(&self) -> RawFd {
        self.engine.fd()
    }

    /// When [`Agent::turn`] should be called at the latest, `CLOCK_MONOTONIC` nanoseconds.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.engine.next_due_ns()
    }

    /// Takes what is there, and does what is due. To be called once a second at least.
    pub fn turn(&mut self) {
        // First: the clock may have been set, or the machine suspended, while nothing happened.
        self.read_clock();
        let (engine, mut desk) = self.at_desk();
        let Ok(()) = engine.poll(|explained| desk.take(&explained));
        self.tidy();
    }

    fn at_desk(&mut self) -> (&mut Engine, Desk<'_>) {
        let Self { engine, filter, folder, clock, tally, heartbeat, writer, board, health, .. } = self;
        let (filter, writer) = (filter.as_ref(), writer.as_ref());
        (engine, Desk { filter, folder, clock, tally, heartbeat, writer, board, health })
    }

    fn read_clock(&mut self) {
        // The one that it had is the best that there is then.
        let _ = self.clock.renew();
    }

    fn tidy(&mut self) {
        for report in self.folder.tick(Instant::now()) {
            store(self.writer.as_ref(), report);
        }
        self.beat();
        self.own.measure(&mut self.engine, &self.board);
        self.govern();
        if let Some(counts) = self.writer.as_ref().map(Writer::counts) {
            storage::show(counts, &self.board, &self.health);
        }
        self.health.turned();
        let Self { manager, health, .. } = self;
        manager.alive(|| status(health));
    }

    fn beat(&mut self) {
        let every = self.config.heartbeat.get();
        let mut heartbeat = self.heartbeat.borrow_mut();
        if !heartbeat.is_due(every) {
            return;
        }
        let problem = match heartbeat.beat() {
            Ok(()) => {
                self.board.inc(&metrics::HEARTBEATS, &["sent"]);
                None
            }
            Err(errno) => {
                self.board.inc(&metrics::HEARTBEATS, &["failed"]);
                Some(format!("cannot be sent: {}", errno.desc()))
            }
        };
        if self.health.part("heartbeat", problem.clone())
            && let Some(problem) = problem
        {
            (self.say)(&format!("heartbeat: {problem}"));
        }
    }

    /// Keeps within the budget.
    fn govern(&mut self) {
        let spent = self.engine.spent();
        let counting = self.census.as_ref().map_or(0, Census::spent_ns);
        let spent = Spent { owners_ns: spent.owners_ns + counting, ..spent };
        let Some(usage) = self.own.usage(spent, &self.board) else { return };
        if let Some(change) = self.governor.judge(&usage) {
            let cost = format!("{:.2} % of a processor, {} MB", usage.cpu * 100.0, usage.memory / 1_000_000);
            (self.say)(&match change {
                Change::Shed(step) => format!("over its budget ({cost}): does without {}", step.name()),
                Change::Resumed(step) => {
                    format!("within its budget ({cost}): takes up {} again", step.name())
                }
                Change::Exhausted => {
                    format!("over its budget ({cost}), and nothing it could do without would help")
                }
            });
        }
        let shed = self.governor.shed();
        self.engine.shed(shed);
        if let Some(census) = &self.census {
            census.shed(shed.owners);
        }
        let flag = |on: bool| f64::from(u8::from(on));
        for (name, on) in [("wire", shed.wire), ("samples", shed.samples), ("owners", shed.owners)] {
            self.board.set(&metrics::SHED, &[name], flag(on));
        }
        self.board.set(&metrics::OVER_BUDGET, &[], flag(self.governor.is_exhausted()));
        let names = shed.names();
        let problem = (!names.is_empty()).then(|| format!("does without {}", names.join(", ")));
        self.health.part("budget", problem);
    }

    /// Lets what the configuration asks for through, and the heartbeat.
    fn set_filter(&mut self) {
        self.filter = self.config.filter.filter();
        let (heartbeat, early) = (Rc::clone(&self.heartbeat), self.filter.clone());
        self.engine.only(move |connection| {
            early.as_ref().is_none_or(|filter| may_match(filter, connection))
                || heartbeat.borrow().is_own(connection)
        });
    }

    /// Takes over what it can of another configuration. The keys that need a restart are named.
    pub fn reload(&mut self, new: Config) -> Vec<String> {
        self.manager.reloading();
        let fixed = self.config.reload(new);
        self.set_filter();
        self.health.heartbeat_every(self.config.heartbeat.get());
        self.governor.budget = budget(&self.config);
        if let Some(writer) = &self.writer {
            writer.set(storage::settings(&self.config));
        }
        self.manager.ready();
        fixed
    }

    /// Tells of what is left, and stores it.
    pub fn stop(mut self) {
        self.manager.stopping();
        self.health.stopping();
        let (engine, mut desk) = self.at_desk();
        let Ok(()) = engine.flush(|explained| desk.take(&explained));
        for report in self.folder.finish() {
            store(self.writer.as_ref(), report);
        }
    }
}

/// That nobody can ask is no reason not to watch.
fn door(config: &Config, say: &Say) -> Option<Door> {
    let door = Door::open(&config.query_path()?, &config.query_group).inspect_err(|why| say(why)).ok()?;
    if let Some(why) = &door.root_alone {
        say(&format!("root alone may ask: {why}"));
    }
    Some(door)
}

fn budget(config: &Config) -> Budget {
    Budget { cpu: config.budget.cpu.get(), memory: config.budget.memory.bytes() }
}

fn status(health: &Health) -> String {
    let state = health.ready();
    match state.problems.as_slice() {
        [] => "watching; nothing wrong with the agent itself".to_owned(),
        some => format!("{}: {}", <&str>::from(state.status), some.join("; ")),
    }
}

fn seconds(time: Timestamp) -> f64 {
    Duration::try_from(time.as_duration()).map_or(0.0, |since| since.as_secs_f64())
}
