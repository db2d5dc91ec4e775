//! What was changed while netdiag watched is told with what failed after it.

use anyhow::{Result, ensure};
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::netdiag::Diagnosis;
use serde_json::Value;

use super::run_shell;

/// The events of these names, oldest first.
pub fn changes<'a>(diagnosis: Diagnosis<'a>, names: &[&str]) -> Vec<&'a Value> {
    let events = diagnosis.value["evidence"].as_array().into_iter().flatten();
    events.filter(|event| event["event"].as_str().is_some_and(|name| names.contains(&name))).collect()
}

/// Requires that the connection failed after these changes, and that they are told.
pub fn before<'a>(diagnosis: Diagnosis<'a>, name: &str, texts: &[&str]) -> Result<Vec<&'a Value>> {
    let found = changes(diagnosis, &[name]);
    let texts_found: Vec<&str> = found.iter().filter_map(|event| event["text"].as_str()).collect();
    ensure!(
        texts.len() == found.len() && texts.iter().zip(&texts_found).all(|(part, text)| text.contains(part)),
        "expected {name} {texts:?}, got {texts_found:?}: {:#}",
        diagnosis.value
    );
    let early = found.iter().all(|event| event["offset_us"].as_i64().is_some_and(|offset| offset < 0));
    ensure!(early, "changed before connect(), and told as later: {found:#?}");
    Ok(found)
}

const TABLE: &str =
    "nft add table inet fw; nft 'add chain inet fw c { type filter hook output priority 0; }';";

pub fn rule_added() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(8080);
    let script = format!(
        "{TABLE} sleep 0.3; nft add rule inet fw c tcp dport 8080 counter drop; sleep 0.3; \"$1\" tcp connect={address},1400"
    );
    let report = run_shell(&net, &script)?;
    let diagnosis = report.exits(3)?.the_only("timeout.firewall-drop")?.certain()?;
    let added =
        before(diagnosis, "rule-added", &["inet fw c handle 2: tcp dport 8080 counter drop (by nft["])?;
    ensure!(added[0]["by"]["comm"] == "nft" && added[0]["rule"]["handle"] == 2, "{added:#?}");
    before(diagnosis, "ruleset-changed", &["table inet fw", "chain inet fw c"])?;
    Ok(())
}

/// Routes, another table and another namespace have nothing to do with what a rule dropped.
pub fn other_changes() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&super::chain("inet", "output", "tcp dport 8080 drop"))?;
    let address = Family::V4.server(8080);
    let script = format!(
        "nft add table inet other; nft add chain inet other c; nft add rule inet other c accept;
         ip route add 10.99.0.0/16 dev eth0; sleep 0.3; \"$1\" tcp connect={address},1400"
    );
    let report = run_shell(&net, &script)?;
    let diagnosis = report.exits(3)?.the_only("timeout.firewall-drop")?.certain()?;
    let told = changes(diagnosis, &["rule-added", "ruleset-changed", "route-added", "link-changed"]);
    ensure!(told.is_empty(), "told, and none of its business: {told:#?}");
    Ok(())
}
