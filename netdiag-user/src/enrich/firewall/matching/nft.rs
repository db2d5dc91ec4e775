//! The output of `nft -j -a list ruleset` (libnftables-json(5)), for one packet.

mod values;

use std::collections::HashMap;

use serde_json::Value;

use self::values::{Sets, compare, fits_key, key};
use super::{Base, Chain, Chains, Fits, Outcome, Rule, Subject, Verdict};

/// Statements that let the packet go on, whatever they do.
const HARMLESS: [&str; 4] = ["log", "mangle", "notrack", "ct helper"];

/// Reads it, without the chains of other families.
pub(in super::super) fn chains(listing: &Value, subject: &Subject<'_>) -> Chains {
    let objects = listing["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let of_kind = |kind: &'static str| objects.iter().filter_map(move |object| object.get(kind));
    let mut tables: Vec<(&str, &str, HashMap<String, Chain>)> = Vec::new();
    let mut handles = HashMap::new();
    for table in of_kind("table") {
        let (Some(family), Some(name)) = (table["family"].as_str(), table["name"].as_str()) else { continue };
        if meets(family, subject) {
            tables.push((family, name, HashMap::new()));
            handles.insert((family, name), table["handle"].as_u64().unwrap_or(0));
        }
    }
    let sets: Sets<'_> = of_kind("set").chain(of_kind("map")).filter_map(named_set).collect();
    for chain in of_kind("chain") {
        let Some(place) = place(chain, &mut tables) else { continue };
        let Some(name) = chain["name"].as_str() else { continue };
        let table_handle = handles.get(&(place.0, place.1)).copied().unwrap_or(0);
        let base = chain["hook"].as_str().map(|hook| Base {
            at_hook: hook == subject.hook.as_str(),
            priority: chain["prio"].as_i64().unwrap_or(0),
            drops: chain["policy"] == "drop",
            packets: None,
        });
        let (family, table) = (place.0.to_owned(), place.1.to_owned());
        let chain = Chain { family, table, table_handle, name: name.to_owned(), base, rules: Vec::new() };
        place.2.insert(name.to_owned(), chain);
    }
    for object in of_kind("rule") {
        let Some((family, table, chains)) = place(object, &mut tables) else { continue };
        let Some(chain) = object["chain"].as_str().and_then(|name| chains.get_mut(name)) else { continue };
        let of_table = |name: &str| sets.get(&(*family, *table, name)).copied();
        let mut rule = rule(object, &of_table, subject);
        rule.number = chain.rules.len() as u64 + 1;
        chain.rules.push(rule);
    }
    Chains { tables: tables.into_iter().map(|(.., chains)| chains).collect() }
}

type Table<'a> = (&'a str, &'a str, HashMap<String, Chain>);

fn place<'t, 'a>(object: &Value, tables: &'t mut [Table<'a>]) -> Option<&'t mut Table<'a>> {
    let (family, name) = (object["family"].as_str()?, object["table"].as_str()?);
    tables.iter_mut().find(|table| (table.0, table.1) == (family, name))
}

fn named_set(set: &Value) -> Option<((&str, &str, &str), &Value)> {
    Some(((set["family"].as_str()?, set["table"].as_str()?, set["name"].as_str()?), set))
}

/// Whether packets like this meet tables of a family.
fn meets(family: &str, subject: &Subject<'_>) -> bool {
    use crate::track::Hook::{Egress, Ingress};
    let at_device = matches!(subject.hook, Ingress | Egress);
    match family {
        "inet" => true,
        "ip" => !at_device && subject.is_v4(),
        "ip6" => !at_device && !subject.is_v4(),
        "netdev" => at_device,
        _ => false,
    }
}

fn rule<'a>(object: &'a Value, sets: &dyn Fn(&str) -> Option<&'a Value>, subject: &Subject<'_>) -> Rule {
    let mut rule = Rule {
        handle: object["handle"].as_u64(),
        comment: object["comment"].as_str().map(str::to_owned),
        ..Rule::default()
    };
    let mut fits = Fits::Yes;
    for statement in object["expr"].as_array().map_or(&[][..], Vec::as_slice) {
        let Some((name, content)) = statement.as_object().and_then(|object| object.iter().next()) else {
            fits = fits.and(Fits::Maybe);
            continue;
        };
        if let Some(verdict) = verdict(name, content) {
            rule.outcomes.push(Outcome { fits, verdict });
            continue;
        }
        match name.as_str() {
            "match" => fits = fits.and(compare(content, sets, subject)),
            "vmap" => rule.outcomes.extend(verdict_map(content, fits, sets, subject)),
            "counter" => rule.packets = rule.packets.or(content["packets"].as_u64()),
            name if HARMLESS.contains(&name) => {}
            _ => fits = fits.and(Fits::Maybe),
        }
    }
    rule
}

fn verdict(name: &str, content: &Value) -> Option<Verdict> {
    let target = || content["target"].as_str().map(str::to_owned);
    Some(match name {
        "accept" => Verdict::Accept,
        "drop" => Verdict::Drop,
        "reject" => Verdict::Reject,
        "return" => Verdict::Return,
        "continue" => Verdict::Continue,
        "jump" => Verdict::Jump(target()?),
        "goto" => Verdict::Goto(target()?),
        // A target of iptables; what it does with its options is not listed.
        "xt" if content["type"] == "target" && content["name"] == "REJECT" => Verdict::Reject,
        "xt" if content["type"] == "target" => Verdict::Continue,
        _ => return None,
    })
}

/// The verdicts of a map whose keys the packet may have.
fn verdict_map<'a>(
    map: &'a Value,
    fits: Fits,
    sets: &dyn Fn(&str) -> Option<&'a Value>,
    subject: &Subject<'_>,
) -> Vec<Outcome> {
    let data = &map["data"];
    let elements = match data.as_str().and_then(|name| name.strip_prefix('@')) {
        Some(name) => sets(name).map(|set| &set["elem"]),
        None => Some(&data["set"]),
    };
    let wanted = key(&map["key"], subject);
    let elements = elements.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let outcomes = elements.iter().filter_map(|pair| {
        let (name, content) = pair[1].as_object()?.iter().next()?;
        let fits = fits.and(fits_key(&wanted, &pair[0], sets, subject));
        Some(Outcome { fits, verdict: verdict(name, content)? })
    });
    outcomes.filter(|outcome| outcome.fits != Fits::No).collect()
}
