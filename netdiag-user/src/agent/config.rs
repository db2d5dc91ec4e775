//! The agent's configuration: a file in TOML, and environment variables above it.

mod values;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use values::{Attach, Expression, Listen, Share, Size, Span, Within};

/// Where the file is unless `--config` says otherwise; it need not exist.
pub const PATH: &str = "/etc/netdiag/agent.toml";

/// The file that `--print-config` writes: every key with its meaning and default.
pub const DEFAULT: &str = include_str!("agent.toml");

/// Keys that a running agent takes over on SIGHUP.
pub const RELOADABLE: &[&str] = &[
    "filter",
    "heartbeat",
    "history.keep",
    "history.max_size",
    "history.arguments",
    "budget.cpu",
    "budget.memory",
];

/// All keys. `agent.toml` describes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub filter: Expression,
    pub attach: Attach,
    pub listen: Listen,
    /// Empty: no unix socket.
    pub socket: PathBuf,
    pub run_dir: PathBuf,
    /// In `run_dir` unless it begins with a slash. Empty: none.
    pub query_socket: PathBuf,
    pub query_group: String,
    pub heartbeat: Span,
    pub owners: bool,
    pub history: History,
    pub metrics: Metrics,
    pub budget: Budget,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    pub enabled: bool,
    pub dir: PathBuf,
    pub keep: Span,
    pub max_size: Size,
    pub queue: Within<16, 100_000>,
    pub arguments: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    pub top: Within<1, 1_000>,
    pub latency: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    pub cpu: Share,
    pub memory: Size,
}

impl Default for Budget {
    fn default() -> Self {
        Self { cpu: Share::percent(1), memory: Size::megabytes(64) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            filter: Expression::default(),
            attach: Attach::default(),
            listen: Listen::default(),
            socket: PathBuf::new(),
            run_dir: "/run/netdiag".into(),
            query_socket: "agent.sock".into(),
            query_group: "netdiag".into(),
            heartbeat: Span::from_secs(30),
            owners: true,
            history: History::default(),
            metrics: Metrics::default(),
            budget: Budget::default(),
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            enabled: true,
            dir: "/var/lib/netdiag/history".into(),
            keep: Span::from_secs(14 * 24 * 3600),
            max_size: Size::megabytes(512),
            queue: Within::new(1024),
            arguments: false,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { top: Within::new(50), latency: true }
    }
}

/// What is wrong with a configuration; one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {why}")]
    Unreadable { path: String, why: String },
    #[error("{path}:{line}: {why}")]
    Line { path: String, line: usize, why: String },
    #[error("{variable}: {why}")]
    Variable { variable: String, why: String },
}

impl Config {
    /// Reads the file, if there is one, and the environment. A file that was named must exist.
    ///
    /// # Errors
    /// With the line or the variable that is wrong.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(PATH));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let path = path.display().to_string();
                return Err(ConfigError::Unreadable { path, why: error.to_string() });
            }
        };
        Self::parse(&path.display().to_string(), &text, |name| std::env::var(name).ok())
    }

    /// `path` is for messages; `variable` gives the value of an environment variable.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        path: &str,
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text[..at].matches('\n').count() + 1;
            ConfigError::Line { path: path.to_owned(), line, why: one_line(error.message()) }
        })?;
        for key in keys() {
            let name = variable_of(&key);
            if let Some(value) = variable(&name) {
                config = config
                    .with(&key, &value)
                    .map_err(|why| ConfigError::Variable { variable: name, why: one_line(&why) })?;
            }
        }
        Ok(config)
    }

    /// Where commands ask the agent; `None`: nowhere.
    pub fn query_path(&self) -> Option<PathBuf> {
        (!self.query_socket.as_os_str().is_empty()).then(|| self.run_dir.join(&self.query_socket))
    }

    fn with(&self, key: &str, text: &str) -> Result<Self, String> {
        let mut table = self.table();
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let inside = match table.get_mut(section) {
            Some(Value::Table(inside)) => inside,
            _ => &mut table,
        };
        let value = match inside.get(name) {
            Some(Value::Boolean(_)) => {
                Value::Boolean(text.parse().map_err(|_| format!("`{text}` is neither true nor false"))?)
            }
            Some(Value::Integer(_)) => {
                Value::Integer(text.parse().map_err(|_| format!("`{text}` is no number"))?)
            }
            _ => Value::String(text.to_owned()),
        };
        inside.insert(name.to_owned(), value);
        table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
    }

    fn table(&self) -> Table {
        // A struct of strings, numbers and such structs is always a table.
        Table::try_from(self).unwrap_or_default()
    }

    /// What this and another configuration do not have in common.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (old, new) = (flat(&self.table()), flat(&other.table()));
        let differs = old.iter().zip(&new).filter(|(old, new)| old != new);
        differs.map(|((key, _), _)| key.clone()).collect()
    }

    /// Takes over what a running agent can, and names the changed keys that it cannot.
    pub fn reload(&mut self, new: Self) -> Vec<String> {
        let fixed: Vec<String> =
            self.differences(&new).into_iter().filter(|key| !RELOADABLE.contains(&key.as_str())).collect();
        self.filter = new.filter;
        self.heartbeat = new.heartbeat;
        self.history.keep = new.history.keep;
        self.history.max_size = new.history.max_size;
        self.history.arguments = new.history.arguments;
        self.budget = new.budget;
        fixed
    }
}

/// Every key, with its section before a dot.
pub fn keys() -> Vec<String> {
    flat(&Config::default().table()).into_iter().map(|(key, _)| key).collect()
}

/// The environment variable that overrides a key: `history.max_size`, `NETDIAG_HISTORY_MAX_SIZE`.
pub fn variable_of(key: &str) -> String {
    format!("NETDIAG_{}", key.replace('.', "_").to_uppercase())
}

fn flat(table: &Table) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(inside) => {
                all.extend(flat(inside).into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            other => all.push((name.clone(), other.clone())),
        }
    }
    all
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse("agent.toml", text, |_| None)
    }

    /// The default file with its keys no longer commented out.
    fn uncommented() -> String {
        let key = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.contains('=');
        DEFAULT.lines().map(|line| if key(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_printed_default_is_the_default() {
        assert_eq!(parse(DEFAULT), Ok(Config::default()));
        assert_eq!(parse(&uncommented()), Ok(Config::default()));
        assert_ne!(uncommented(), DEFAULT);
    }

    #[test]
    fn the_printed_default_has_every_key_and_its_variable() {
        let table: Table = uncommented().parse().unwrap();
        let mut written: Vec<String> = flat(&table).into_iter().map(|(key, _)| key).collect();
        let mut all = keys();
        written.sort();
        all.sort();
        assert_eq!(written, all);
        for key in all {
            let variable = variable_of(&key);
            let line = DEFAULT.lines().find(|line| line.starts_with(&format!("# {variable}")));
            let line = line.unwrap_or_else(|| panic!("{variable} is not in the default"));
            assert_eq!(line.ends_with(", reload"), RELOADABLE.contains(&key.as_str()), "{line}");
        }
    }

    #[test]
    fn an_error_names_its_line() {
        let cases = [
            ("listen = \"127.0.0.1:1\"\nlisten_on = 1\n", 2, "listen_on"),
            ("\n\n[history]\nkeep = \"soon\"\n", 4, "soon"),
            ("[history]\nmax_size = \"many\"\n", 2, "many"),
            ("[history]\nqueue = 3\n", 2, "between 16 and 100000"),
            ("filter = \"port eighty or\"\n", 1, "bad filter"),
            ("listen = \"localhost\"\n", 1, "localhost"),
            ("attach = \"magic\"\n", 1, "magic"),
            ("[histroy]\n", 1, "histroy"),
            ("heartbeat = \n", 1, ""),
        ];
        for (text, expected, part) in cases {
            match parse(text) {
                Err(ConfigError::Line { line, why, .. }) => {
                    assert_eq!(line, expected, "{text}: {why}");
                    assert!(why.contains(part) && !why.contains('\n'), "{text}: {why}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_environment_is_above_the_file() {
        let variable = |name: &str| match name {
            "NETDIAG_LISTEN" => Some(String::new()),
            "NETDIAG_HISTORY_DIR" => Some("/tmp/x".to_owned()),
            "NETDIAG_HISTORY_ENABLED" => Some("false".to_owned()),
            "NETDIAG_METRICS_TOP" => Some("7".to_owned()),
            _ => None,
        };
        let text = "listen = \"127.0.0.1:1\"\n[history]\nkeep = \"3d\"\n";
        let config = Config::parse("f", text, variable).unwrap();
        assert_eq!(config.listen, Listen(None));
        assert_eq!(config.history.dir, Path::new("/tmp/x"));
        assert!(!config.history.enabled);
        assert_eq!(config.metrics.top.get(), 7);
        assert_eq!(config.history.keep, Span::from_secs(3 * 86_400));
        let wrong = |name: &str| (name == "NETDIAG_HEARTBEAT").then(|| "often".to_owned());
        let error = Config::parse("f", "", wrong).unwrap_err().to_string();
        assert!(error.starts_with("NETDIAG_HEARTBEAT: `often`"), "{error}");
    }

    #[test]
    fn every_key_can_be_overridden_by_its_own_value() {
        for (key, value) in flat(&Config::default().table()) {
            let text = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            assert_eq!(Config::default().with(&key, &text), Ok(Config::default()), "{key}");
        }
    }

    #[test]
    fn the_socket_is_in_the_run_directory_unless_it_has_a_place() {
        let path = |text| parse(text).unwrap().query_path();
        assert_eq!(path("").as_deref(), Some(Path::new("/run/netdiag/agent.sock")));
        assert_eq!(path("run_dir = \"/x\"\nquery_socket = \"y\"").as_deref(), Some(Path::new("/x/y")));
        assert_eq!(path("query_socket = \"/z\"").as_deref(), Some(Path::new("/z")));
        assert_eq!(path("query_socket = \"\""), None);
    }

    #[test]
    fn reload_takes_what_it_can() {
        let mut config = Config::default();
        let text = "listen = \"\"\nfilter = \"port 1\"\n[history]\nkeep = \"1d\"\ndir = \"/x\"\n";
        assert_eq!(config.reload(parse(text).unwrap()), ["history.dir", "listen"]);
        assert_eq!(config.filter.text(), "port 1");
        assert_eq!(config.history.keep, Span::from_secs(86_400));
        assert_eq!(config.listen, Listen::default());
        let all: Vec<String> = keys();
        assert!(RELOADABLE.iter().all(|key| all.iter().any(|known| known == key)));
    }
}
