//! Where results go, and in which language.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use netdiag::diagnoses::{self, Evidence};
use netdiag::engine::{Explained, matches};
use netdiag::filter::Filter;
use netdiag::output::{
    Clock, ConnectionReport, Folder, JsonLines, Look, Report, Sink as Pipe, Stream as Reader, Style, card,
    repeat_line, utf8_locale,
};

use super::args::{Format, Global, Reporting};

/// Where results go unless --output says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

const NOT_WRITTEN: &str = "cannot write the results";

/// Opens the place for results.
pub fn open(global: &Global, stream: Stream) -> anyhow::Result<Box<dyn Write>> {
    match &global.output {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(Box::new(file))
        }
        None if stream == Stream::Stdout => Ok(Box::new(io::stdout())),
        None => Ok(Box::new(io::stderr())),
    }
}

/// Colour, width and characters of the place that results go to.
pub fn look(global: &Global, stream: Stream) -> Look {
    let terminal = global.output.is_none()
        && match stream {
            Stream::Stdout => io::stdout().is_terminal(),
            Stream::Stderr => io::stderr().is_terminal(),
        };
    let no_color = global.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    Look {
        width: width(terminal),
        style: if terminal && !no_color && !dumb { Style::Color } else { Style::Plain },
        // A file or a pipe is read by something that knows UTF-8; a terminal says what it can show.
        utf8: !terminal || utf8_locale(|name| std::env::var(name).ok()),
        verbose: global.verbose,
    }
}

fn width(terminal: bool) -> usize {
    const DEFAULT: usize = 100;
    if !terminal {
        return DEFAULT;
    }
    let size = terminal_size();
    size.filter(|columns| *columns >= 40).map_or(DEFAULT, |columns| columns.min(120))
}

fn terminal_size() -> Option<usize> {
    nix::ioctl_read_bad!(get_window_size, libc::TIOCGWINSZ, libc::winsize);
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize to the pointer, which is valid for the call.
    unsafe { get_window_size(libc::STDERR_FILENO, &mut size) }.ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// Takes explained connections, filters and reports them.
pub struct Sink {
    language: Language,
    look: Look,
    clock: Clock,
    folder: Folder,
    filter: Option<Filter>,
    evidence: Option<File>,
    show_all: bool,
    /// Nobody reads any more.
    closed: bool,
    pub seen: u64,
    pub failed: u64,
}

/// Text for people, or JSON Lines.
pub enum Language {
    Text(Pipe<Box<dyn Write>>),
    Json(JsonLines<Box<dyn Write>>),
}

impl Language {
    pub fn open(global: &Global, stream: Stream) -> anyhow::Result<Self> {
        let out = open(global, stream)?;
        Ok(match global.format {
            Format::Text => Self::Text(Pipe::new(out)),
            Format::Json => Self::Json(JsonLines::new(out)),
        })
    }

    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// An object, where programs read.
    pub fn object(&mut self, object: &impl serde::Serialize) -> anyhow::Result<Reader> {
        match self {
            Self::Json(lines) => lines.write(object).context(NOT_WRITTEN),
            Self::Text(_) => Ok(Reader::Open),
        }
    }

    /// A text, where people read.
    pub fn text(&mut self, text: &str) -> anyhow::Result<Reader> {
        match self {
            Self::Text(pipe) => pipe.write(text).context(NOT_WRITTEN),
            Self::Json(_) => Ok(Reader::Open),
        }
    }
}

impl Sink {
    pub fn new(
        global: &Global,
        stream: Stream,
        filter: Option<Filter>,
        reporting: &Reporting,
    ) -> anyhow::Result<Self> {
        let language = Language::open(global, stream)?;
        let append = |path: &Path| {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| format!("cannot write {}", path.display()))
        };
        Ok(Self {
            language,
            look: look(global, stream),
            clock: Clock::read()?,
            folder: Folder::new(),
            filter,
            evidence: reporting.save_evidence.as_deref().map(append).transpose()?,
            show_all: reporting.all,
            closed: false,
            seen: 0,
            failed: 0,
        })
    }

    /// Whether the reader has gone, and with it the reason to go on.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn take(&mut self, explained: &Explained) -> anyhow::Result<()> {
        if !self.wants(explained) {
            return Ok(());
        }
        self.seen += 1;
        self.clock.renew()?;
        let Explained { evidence, diagnosis } = explained;
        if explained.failed() {
            self.failed += 1;
            self.save(evidence)?;
        }
        match diagnosis {
            Some((diagnosis, finding)) => {
                let report = Report::new(evidence, diagnosis, finding, &self.clock);
                if let Some(report) = self.folder.add(report, Instant::now()) {
                    self.report(&report)?;
                }
            }
            None if explained.failed() => self.unexplained(evidence)?,
            None if self.show_all => self.connection(evidence, "")?,
            None => {}
        }
        Ok(())
    }

    /// Shows repeats that are due.
    pub fn tick(&mut self) -> anyhow::Result<()> {
        for report in self.folder.tick(Instant::now()) {
            self.repeats(&report)?;
        }
        Ok(())
    }

    /// Shows the repeats that were not told yet.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        for report in self.folder.finish() {
            self.repeats(&report)?;
        }
        Ok(())
    }

    pub fn is_text(&self) -> bool {
        self.language.is_text()
    }

    /// An object for programs only.
    pub fn object(&mut self, object: &impl serde::Serialize) -> anyhow::Result<()> {
        self.closed |= self.language.object(object)? == Reader::Closed;
        Ok(())
    }

    fn text(&mut self, text: &str) -> anyhow::Result<()> {
        self.closed |= self.language.text(text)? == Reader::Closed;
        Ok(())
    }

    fn report(&mut self, report: &Report) -> anyhow::Result<()> {
        self.object(report)?;
        let card = card(report, &self.look);
        self.text(&format!("{card}\n"))
    }

    fn repeats(&mut self, report: &Report) -> anyhow::Result<()> {
        self.object(report)?;
        let line = repeat_line(report, &self.look);
        self.text(&format!("{line}\n"))
    }

    /// A failure that no diagnosis fits is told, with what was missing.
    fn unexplained(&mut self, evidence: &Evidence) -> anyhow::Result<()> {
        let missing: Vec<String> =
            diagnoses::undecided(evidence).into_iter().map(|(code, why)| format!("{code}: {why}")).collect();
        let why = match missing.as_slice() {
            [] => "netdiag knows no cause that fits".to_owned(),
            some => format!("netdiag cannot tell why ({})", some.join("; ")),
        };
        self.connection(evidence, &format!("  {why}"))
    }

    fn connection(&mut self, evidence: &Evidence, note: &str) -> anyhow::Result<()> {
        let report =
            ConnectionReport::new(&evidence.connection, evidence.facts.process.as_ref(), &self.clock);
        self.object(&report)?;
        let line = report.text(&self.look);
        self.text(&format!("{line}{note}\n"))
    }

    fn wants(&self, explained: &Explained) -> bool {
        self.filter.as_ref().is_none_or(|filter| matches(filter, explained))
    }

    fn save(&mut self, evidence: &Evidence) -> anyhow::Result<()> {
        if let Some(file) = &mut self.evidence {
            let line = serde_json::to_string(evidence)? + "\n";
            file.write_all(line.as_bytes()).context("cannot write the evidence")?;
        }
        Ok(())
    }
}
