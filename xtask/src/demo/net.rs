//! Two network namespaces joined by a veth pair, removed when dropped.

use std::process::Command;

use anyhow::Result;

use crate::cmd;

const PREFIX: &str = "netdiag-demo-";

#[derive(Debug)]
pub struct Network {
    client: String,
    server: String,
}

impl Network {
    /// 10.77.0.1 (client) and 10.77.0.2 (server), both with the route 10.77.0.0/24 only.
    pub fn new() -> Result<Self> {
        remove_stale();
        let pid = std::process::id();
        // Exists before the first command, so that a failure half-way is cleaned up too.
        let network =
            Self { client: format!("{PREFIX}{pid}-client"), server: format!("{PREFIX}{pid}-server") };
        let Self { client, server } = &network;
        ip(&["netns", "add", client])?;
        ip(&["netns", "add", server])?;
        ip(&["-n", client, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", server])?;
        for (name, address) in [(client, "10.77.0.1/24"), (server, "10.77.0.2/24")] {
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "address", "add", address, "dev", "eth0"])?;
            ip(&["-n", name, "link", "set", "eth0", "up"])?;
        }
        Ok(network)
    }

    /// The file that stands for the client's namespace.
    pub fn client_path(&self) -> String {
        format!("/run/netns/{}", self.client)
    }

    /// Runs one nft command in the client's namespace.
    pub fn nft(&self, command: &str) -> Result<()> {
        cmd::run(Command::new("ip").args(["netns", "exec", &self.client, "nft", command]))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in [&self.client, &self.server] {
            // The first may fail where the network was never complete.
            cmd::output(Command::new("ip").args(["netns", "delete", name]));
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    cmd::run(Command::new("ip").args(args))
}

/// Removes what a demo left that was killed.
fn remove_stale() {
    let list = cmd::output(Command::new("ip").args(["netns", "list"])).unwrap_or_default();
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        if owner(name).is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            cmd::output(Command::new("ip").args(["netns", "delete", name]));
        }
    }
}

/// The process that made a namespace of the demo's.
fn owner(name: &str) -> Option<&str> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn owner_is_in_the_name() {
        assert_eq!(owner("netdiag-demo-17-client"), Some("17"));
        assert_eq!(owner("netdiag-demo-x-client"), None);
        assert_eq!(owner("my-own"), None);
    }
}
