//! Command lines hold passwords, tokens and names of customers.

use crate::output::Report;

/// What stands for arguments that were left out.
const LEFT_OUT: &str = "…";

/// Leaves the program's name of each command line, and takes its arguments away.
pub fn without_arguments(report: &mut Report) {
    if let Some(process) = &mut report.process {
        redact(&mut process.command_line);
    }
    for process in report.listener.iter_mut().flat_map(|listener| &mut listener.processes) {
        redact(&mut process.command_line);
    }
}

/// Leaves the program's name. Arguments were joined by spaces: a program whose path has one is cut, too.
pub fn redact(line: &mut Option<String>) {
    if let Some(line) = line
        && let Some(end) = line.find(char::is_whitespace)
    {
        line.truncate(end);
        line.push(' ');
        line.push_str(LEFT_OUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_go_and_the_program_stays() {
        let redacted = |text: &str| {
            let mut line = Some(text.to_owned());
            redact(&mut line);
            line.unwrap()
        };
        assert_eq!(redacted("/usr/bin/curl -u me:secret http://x/"), "/usr/bin/curl …");
        assert_eq!(redacted("nginx"), "nginx");
        assert_eq!(redacted("curl\tsecret"), "curl …");
    }
}
