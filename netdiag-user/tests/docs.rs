//! What the documents say about the program is true of it: links, command lines, probes, counters.

// A test may panic; clippy takes only functions marked #[test] for one.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{documents, files, none, pages, read, root};
use netdiag::diagnoses;
use netdiag::filter::Filter;
use netdiag_ebpf::counters::COUNTERS;

/// The parts of a text inside fences, and those between backticks outside.
fn code(text: &str) -> (String, Vec<String>) {
    let (mut blocks, mut prose, mut fenced) = (String::new(), String::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else {
            let _ = writeln!(if fenced { &mut blocks } else { &mut prose }, "{line}");
        }
    }
    let inline = prose.split('`').skip(1).step_by(2).map(|part| part.replace('\n', " ")).collect();
    (blocks, inline)
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut complaints = Vec::new();
    for path in documents() {
        let text = read(&path);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let to = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            if !to.exists() {
                complaints.push(format!("{}: {target} does not exist", path.display()));
            } else if !heading.is_empty()
                && !read(&to).lines().any(|line| line.starts_with('#') && anchor(line) == heading)
            {
                complaints.push(format!("{}: no heading for {target}", path.display()));
            }
        }
    }
    none(&complaints);
}

#[test]
fn lines_are_short() {
    const MOST: usize = 120;
    let mut complaints = Vec::new();
    // Rows of a table and what programs say cannot be broken, and the benchmarks are written by a program.
    for path in documents().into_iter().filter(|path| !path.ends_with("benchmarks.md")) {
        let mut fenced = false;
        for (number, line) in read(&path).lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            if line.chars().count() > MOST && !fenced && !line.starts_with('|') {
                complaints.push(format!("{}:{}: longer than {MOST} characters", path.display(), number + 1));
            }
        }
    }
    none(&complaints);
}

/// Words as a shell makes them, as far as the documents need it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | '>' | ';' | '&') => break,
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The arguments of netdiag, if the line runs it: directly, as root, or by `./x run --`.
fn netdiag_arguments(line: &str) -> Option<Vec<String>> {
    let mut words = words(line.trim_start().trim_start_matches("$ "));
    if words.first().is_some_and(|word| word == "sudo") {
        words.remove(0);
    }
    let start: Vec<&str> = words.iter().take(3).map(String::as_str).collect();
    let skip = match start.as_slice() {
        ["netdiag", ..] => 1,
        ["./x", "run", "--"] => 3,
        _ => return None,
    };
    Some(words.split_off(skip))
}

/// `netdiag ARGS --help`.
fn help(arguments: &[&str]) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_netdiag")).args(arguments).arg("--help").output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is wrong with a command line, if anything.
fn complaint(arguments: &[String], helps: &mut HashMap<String, Option<String>>) -> Option<String> {
    let (subcommand, rest) = arguments.split_first()?;
    let is_placeholder = |word: &String| {
        let shouted = !word.contains(char::is_lowercase) && word.contains(char::is_uppercase);
        word.contains('[') || shouted
    };
    if is_placeholder(subcommand) {
        return None;
    }
    if subcommand.starts_with('-') {
        return (!["--help", "--version"].contains(&subcommand.as_str())).then(|| subcommand.clone());
    }
    let known = helps.entry(subcommand.clone()).or_insert_with(|| help(&[subcommand]));
    let Some(known) = known else { return Some(format!("no subcommand {subcommand}")) };
    let mut rest = rest.iter().peekable();
    while let Some(option) = rest.next_if(|word| word.starts_with('-') && *word != "--") {
        let name = option.split('=').next().unwrap_or(option);
        let line = known.lines().map(str::trim_start).find(|line| {
            let mut names = line.split([' ', ',', '=']).filter(|word| word.starts_with('-'));
            line.starts_with('-') && names.any(|word| word == name)
        });
        let Some(line) = line else { return Some(format!("{subcommand} has no option {name}")) };
        if line.contains('<') && !option.contains('=') {
            rest.next();
        }
    }
    let operands: Vec<String> = rest.cloned().collect();
    match subcommand.as_str() {
        "watch" | "drops" | "sockets" | "timewait" if !operands.iter().any(is_placeholder) => {
            Filter::from_args(&operands).err().map(|error| error.to_string())
        }
        "explain" if !operands.iter().any(is_placeholder) => {
            let known =
                |code: &String| diagnoses::catalogue().any(|one| one.code == code || one.symptom() == code);
            operands.iter().find(|code| !known(code)).map(|code| format!("there is no {code}"))
        }
        "completions" => operands
            .iter()
            .find(|shell| !known.contains(shell.as_str()))
            .map(|shell| format!("no completions for {shell}")),
        _ => None,
    }
}

#[test]
fn command_lines_are_accepted() {
    let (mut complaints, mut seen, mut helps) = (Vec::new(), 0, HashMap::new());
    for path in documents() {
        let (blocks, inline) = code(&read(&path));
        let lines = blocks.lines().map(str::to_owned).chain(inline);
        for line in lines {
            let Some(arguments) = netdiag_arguments(&line) else { continue };
            seen += 1;
            if let Some(why) = complaint(&arguments, &mut helps) {
                complaints.push(format!("{}: {line}: {why}", path.display()));
            }
        }
    }
    none(&complaints);
    assert!(seen > 10, "only {seen} command lines found");
}

#[test]
fn every_subcommand_is_in_the_readme() {
    let readme = read(&root().join("README.md"));
    let help = help(&[]).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = commands.take_while(|line| !line.is_empty()).filter_map(|line| {
        // Deeper lines continue a description.
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then(|| name.to_owned())
    });
    let names: Vec<String> = names.collect();
    assert!(names.len() > 3, "{names:?}");
    let missing = names.iter().filter(|name| !readme.contains(&format!("netdiag {name}")));
    none(&missing.map(|name| format!("README.md does not name netdiag {name}")).collect::<Vec<_>>());
}

#[test]
fn steps_of_the_workspace_exist() {
    let source = read(&root().join("xtask/src/main.rs"));
    let mut complaints = Vec::new();
    for path in documents().into_iter().filter(|path| !pages().contains(path)) {
        let (blocks, inline) = code(&read(&path));
        for line in blocks.lines().map(str::to_owned).chain(inline) {
            let Some(rest) = line.trim_start().strip_prefix("./x ") else { continue };
            let Some(step) = rest.split_whitespace().next() else { continue };
            if !source.contains(&format!("{}::main(&args)", step)) {
                complaints.push(format!("{}: there is no ./x {step}", path.display()));
            }
        }
    }
    none(&complaints);
}

fn stems(directory: &Path) -> Vec<String> {
    let stem = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    // A directory below holds the parts of the probe that it is named after.
    let own = |path: &&PathBuf| path.parent() == Some(directory);
    files(directory, ".rs").iter().filter(own).map(stem).filter(|stem| stem != "mod").collect()
}

#[test]
fn every_probe_has_both_sides_and_a_line() {
    let architecture = read(&root().join("docs/architecture.md"));
    let user = stems(&root().join("netdiag-user/src/probes"));
    let mut complaints = Vec::new();
    for probe in stems(&root().join("netdiag-ebpf/src/probes")) {
        if !user.contains(&probe) {
            complaints.push(format!("netdiag-user/src/probes/{probe}.rs is missing"));
        }
        if !architecture.contains(&format!("| `{probe}` |")) {
            complaints.push(format!("docs/architecture.md has no row `{probe}`"));
        }
    }
    none(&complaints);
}

#[test]
fn every_map_has_a_line() {
    let architecture = read(&root().join("docs/architecture.md"));
    let mut names = Vec::new();
    for path in files(&root().join("netdiag-ebpf/src"), ".rs") {
        let source = read(&path);
        let maps =
            source.split("#[map]").skip(1).filter_map(|rest| rest.split_once("static ")?.1.split(':').next());
        names.extend(maps.map(str::to_owned));
    }
    assert!(names.len() > 10, "{names:?}");
    let rows = || architecture.lines().filter(|line| line.starts_with("| `"));
    let missing = names.iter().filter(|name| !rows().any(|row| row.contains(&format!("`{name}`"))));
    none(&missing.map(|name| format!("docs/architecture.md has no row `{name}`")).collect::<Vec<_>>());
}

#[test]
fn every_counter_is_described() {
    let output = read(&root().join("docs/output.md"));
    let missing = COUNTERS.iter().filter(|(_, name)| !output.contains(&format!("`{name}`")));
    none(&missing.map(|(_, name)| format!("docs/output.md does not describe {name}")).collect::<Vec<_>>());
}

#[test]
fn every_event_is_described() {
    let output = read(&root().join("docs/output.md"));
    let sources = ["event.rs", "event/what.rs"].map(|file| {
        let source = read(&root().join("netdiag-user/src/output").join(file));
        source.split("#[cfg(test)]").next().unwrap().to_owned()
    });
    let code = sources.concat();
    let names = code.split("Event::new(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    let names: Vec<&str> = names.filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() > 8, "{names:?}");
    let missing = names.iter().filter(|name| !output.contains(&format!("`{name}`")));
    none(&missing.map(|name| format!("docs/output.md does not describe {name}")).collect::<Vec<_>>());
}

#[test]
fn words_are_those_of_a_shell() {
    assert_eq!(
        words("watch 'comm \"Web Content\"' port 80  # all"),
        ["watch", "comm \"Web Content\"", "port", "80"]
    );
    assert_eq!(netdiag_arguments("  $ sudo netdiag doctor"), Some(vec!["doctor".to_owned()]));
    assert_eq!(netdiag_arguments("./x run -- doctor"), Some(vec!["doctor".to_owned()]));
    assert_eq!(netdiag_arguments("netdiag: 1 connection seen"), None);
}
