//! The output of `nft -j -a list ruleset` (libnftables-json(5)).

mod values;

use serde_json::Value;

use self::values::{compare, fits_key, key};
use super::{Base, Body, Chain, Chains, Fits, Named, Outcome, Rule, Subject, Table, Verdict};

/// Statements that let the packet go on, whatever they do.
const HARMLESS: [&str; 4] = ["log", "mangle", "notrack", "ct helper"];

/// Reads it.
pub(in super::super) fn parse(mut listing: Value) -> Chains {
    let Some(Value::Array(objects)) = listing.get_mut("nftables").map(Value::take) else {
        return Chains::default();
    };
    let mut chains = Chains::default();
    // What is declared stands before what refers to it.
    for mut object in objects {
        let Some((kind, content)) = object.as_object_mut().and_then(|object| object.iter_mut().next()) else {
            continue;
        };
        let (kind, content) = (kind.as_str(), content.take());
        if kind == "table" {
            chains.tables.extend(table(&content));
            continue;
        }
        let (Some(family), Some(name)) = (content["family"].as_str(), content["table"].as_str()) else {
            continue;
        };
        let of = |table: &&mut Table| (table.family.as_str(), table.name.as_str()) == (family, name);
        let Some(table) = chains.tables.iter_mut().find(of) else { continue };
        match kind {
            "set" | "map" => {
                if let Some(name) = content["name"].as_str() {
                    table.sets.insert(name.to_owned(), content);
                }
            }
            "chain" => {
                if let Some(chain) = chain(&content, table) {
                    table.chains.insert(chain.name.clone(), chain);
                }
            }
            "rule" => {
                let chain = content["chain"].as_str().and_then(|name| table.chains.get_mut(name));
                if let Some(chain) = chain {
                    let number = chain.rules.len() as u64 + 1;
                    chain.rules.push(rule(content, number));
                }
            }
            _ => {}
        }
    }
    chains
}

fn table(content: &Value) -> Option<Table> {
    let (family, name) = (content["family"].as_str()?.to_owned(), content["name"].as_str()?.to_owned());
    Some(Table { family, name, handle: content["handle"].as_u64().unwrap_or(0), ..Table::default() })
}

fn chain(content: &Value, table: &Table) -> Option<Chain> {
    let base = content["hook"].as_str().map(|hook| Base {
        hook: hook.to_owned(),
        priority: content["prio"].as_i64().unwrap_or(0),
        drops: content["policy"] == "drop",
        packets: None,
    });
    Some(Chain {
        family: table.family.clone(),
        table: table.name.clone(),
        table_handle: table.handle,
        name: content["name"].as_str()?.to_owned(),
        base,
        rules: Vec::new(),
    })
}

fn rule(mut content: Value, number: u64) -> Rule {
    let named = Named {
        handle: content["handle"].as_u64(),
        number,
        text: String::new(),
        comment: content["comment"].as_str().map(str::to_owned),
    };
    let statements = match content["expr"].take() {
        Value::Array(statements) => statements,
        _ => Vec::new(),
    };
    let packets = statements.iter().find_map(|statement| statement["counter"]["packets"].as_u64());
    Rule { named, body: Body::Statements(statements), packets }
}

/// What a rule does with a packet.
pub(super) fn outcomes(statements: &[Value], table: &Table, subject: &Subject<'_>) -> Vec<Outcome> {
    let sets = |name: &str| table.sets.get(name);
    let mut outcomes = Vec::new();
    let mut fits = Fits::Yes;
    for statement in statements {
        let Some((name, content)) = statement.as_object().and_then(|object| object.iter().next()) else {
            fits = fits.and(Fits::Maybe);
            continue;
        };
        if let Some(verdict) = verdict(name, content) {
            outcomes.push(Outcome { fits, verdict });
            continue;
        }
        match name.as_str() {
            "match" => fits = fits.and(compare(content, &sets, subject)),
            "vmap" => outcomes.extend(verdict_map(content, fits, &sets, subject)),
            "counter" => {}
            name if HARMLESS.contains(&name) => {}
            _ => fits = fits.and(Fits::Maybe),
        }
    }
    outcomes
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
        "dnat" => Verdict::Translate(destination(content)),
        "redirect" => Verdict::Translate(port(content)),
        // A target of iptables; what it does with its options is not listed.
        "xt" if content["type"] == "target" && content["name"] == "REJECT" => Verdict::Reject,
        "xt" if content["type"] == "target"
            && (content["name"] == "DNAT" || content["name"] == "REDIRECT") =>
        {
            Verdict::Translate(None)
        }
        "xt" if content["type"] == "target" => Verdict::Continue,
        _ => return None,
    })
}

/// Of `dnat`, where it names one.
fn destination(content: &Value) -> Option<String> {
    let Some(address) = content["addr"].as_str() else {
        return port(content).filter(|_| content["addr"].is_null());
    };
    let bare = match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    };
    match (&content["port"], port(content)) {
        (Value::Null, _) => Some(address.to_owned()),
        (_, Some(port)) => Some(bare + &port),
        (_, None) => None,
    }
}

/// `:8081`
fn port(content: &Value) -> Option<String> {
    content["port"].as_u64().map(|port| format!(":{port}"))
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
