//! What the tests of this directory share: a network namespace that goes away with its guard.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::netns::NetnsHandle;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace made by `ip netns add`, removed on drop.
#[derive(Debug)]
pub(super) struct TestNetns {
    pub(super) name: String,
}

impl TestNetns {
    pub(super) fn new() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ndenrich-{}-{count}", std::process::id());
        output("ip", &["netns", "add", &name]);
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    pub(super) fn handle(&self) -> NetnsHandle {
        NetnsHandle::named(&self.name).unwrap()
    }

    /// Runs `ip ARGUMENTS` inside.
    pub(super) fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        output("ip", &all)
    }

    /// Runs a command inside.
    pub(super) fn run(&self, command: &str) -> String {
        let mut all = vec!["netns", "exec", &self.name];
        all.extend(command.split_whitespace());
        output("ip", &all)
    }
}

impl Drop for TestNetns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Polls until there is a value; panics after two seconds.
pub(super) fn wait_for<T>(mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(2), "nothing came");
        thread::sleep(Duration::from_millis(5));
    }
}
