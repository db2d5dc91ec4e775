//! A store on a bad disk: the agent goes on, counts what it could not store, and says so.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use netdiag_tests::netdiag::{Agent, Home};
use netdiag_tests::process::run;
use netdiag_tests::tools;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{FAILURES, Host, SOON};

const HEALTHY: &str = "netdiag_history_healthy";
const LOST: &str = "netdiag_history_lost_total";

/// A disk of its own for the store.
struct Disk(PathBuf);

impl Disk {
    fn new(home: &Home) -> Result<Self> {
        let path = home.history();
        std::fs::create_dir_all(&path)?;
        mount(Some("none"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=512k"))?;
        Ok(Self(path))
    }

    fn change(&self, flags: MsFlags, options: &str) -> Result<()> {
        Ok(mount(None::<&str>, &self.0, None::<&str>, flags | MsFlags::MS_REMOUNT, Some(options))?)
    }

    /// Fills what is left.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("somebody's");
        let full = std::fs::write(&path, vec![1; 600 << 10]);
        ensure!(full.is_err(), "there is too much room");
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What still has it open keeps it until it ends.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

pub fn full() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let disk = Disk::new(&home)?;
    let agent = Agent::start(&home, &[host.variable(), ("NETDIAG_HISTORY_QUEUE", "16")])?;
    host.refused(18801..18802)?;
    home.wait_for_failures(1, SOON)?;
    let filler = disk.fill()?;
    // More than the queue and the thread take.
    host.refused(18802..19102)?;
    agent.wait_for_page("/healthz", 200, "\"status\":\"degraded\",\"problems\":[\"history: ", SOON)?;
    agent.says("netdiag: history: cannot store in ", SOON)?;
    agent.wait_for(FAILURES, &["code=\"refused.no-listener\""], 301.0, SOON)?;
    agent.wait_for(LOST, &["cause=\"queue-full\""], 1.0, SOON)?;
    ensure!(agent.metric(HEALTHY, &[])? == 0.0, "the store is healthy");
    std::fs::remove_file(filler)?;
    disk.change(MsFlags::empty(), "size=64m")?;
    agent.says("netdiag: history: stores in ", SOON)?;
    agent.wait_for(HEALTHY, &[], 1.0, SOON)?;
    agent.wait_for_page("/healthz", 200, "\"status\":\"ok\"", SOON)?;
    let lost = agent.metric(LOST, &[])?;
    host.refused(19102..19103)?;
    agent.wait_for("netdiag_history_stored_total", &[], 302.0 - lost, SOON)?;
    ensure!(agent.metric(LOST, &[])? == lost, "something was lost on a disk with room");
    agent.stop()?;
    ensure!(home.failures()? as f64 == 302.0 - lost, "{} stored, {lost} lost", home.failures()?);
    home.history_of(&[])?.says("diagnoses could not be stored")?;
    Ok(())
}

pub fn read_only() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let disk = Disk::new(&home)?;
    disk.change(MsFlags::MS_RDONLY, "")?;
    let agent = Agent::start(&home, &[host.variable()])?;
    agent.wait_for_page("/healthz", 200, "\"status\":\"degraded\"", SOON)?;
    agent.wait_for_page("/readyz", 200, "\"status\":\"degraded\"", SOON)?;
    host.refused(18811..18814)?;
    agent.wait_for(FAILURES, &["code=\"refused.no-listener\""], 3.0, SOON)?;
    disk.change(MsFlags::empty(), "")?;
    // What waited is stored.
    agent.wait_for(HEALTHY, &[], 1.0, SOON)?;
    home.wait_for_failures(3, SOON)?;
    agent.stop()?;
    // The files can be read where nothing can be written.
    disk.change(MsFlags::MS_RDONLY, "")?;
    ensure!(home.failures()? == 3);
    Ok(())
}

pub fn damaged_file() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let today = run(date()?, SOON)?;
    let file = home.history().join(format!("{}.db", today.exits(0)?.stdout.trim()));
    std::fs::create_dir_all(home.history())?;
    std::fs::write(&file, "this is no database ".repeat(1000))?;
    let agent = Agent::start(&home, &[host.variable()])?;
    agent.says("set aside as", SOON)?;
    host.refused(18821..18822)?;
    home.wait_for_failures(1, SOON)?;
    agent.wait_for("netdiag_history_files_set_aside_total", &[], 1.0, SOON)?;
    ensure!(agent.metric(HEALTHY, &[])? == 1.0, "the store is not healthy: {}", agent.said());
    let aside = |path: &Path| path.to_string_lossy().contains(".db.damaged-");
    let kept = std::fs::read_dir(home.history())?.flatten().find(|entry| aside(&entry.path()));
    let kept = std::fs::read_to_string(kept.context("it is not kept")?.path())?;
    ensure!(kept.starts_with("this is no database"), "another file was set aside");
    home.history_of(&[])?.says("it was damaged and set aside")?;
    agent.stop()?;
    Ok(())
}

fn date() -> Result<Command> {
    let mut command = Command::new(tools::path("date"));
    command.args(["-u", "+%F"]);
    Ok(command)
}
