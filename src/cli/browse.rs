//! `taktbus browse`: what an OPC UA server has, as a tree for people or as YAML for a map.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Outcome;
use super::connection::ConnectionArgs;
use crate::config::plan::Protocol;
use crate::drivers::opcua::browse::{Found, browse as walk};
use crate::drivers::opcua::{Identity, config::OpcuaConfig};
use crate::interchange::{scalar, slug};
use crate::runtime::state;

#[derive(Debug, Args)]
pub struct BrowseArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Where to begin: a node id, or a path from the Objects folder such as /2:Line1 [default: the Objects folder]
    #[arg(value_name = "NODE")]
    node: Option<String>,
    /// Only variables whose name or id contains this text, whatever its case
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// How far down
    #[arg(long, value_name = "N", default_value_t = 6)]
    depth: usize,
    /// Print the points as YAML lines, to paste into a device
    #[arg(long, conflicts_with = "profile")]
    yaml: bool,
    /// Print a whole profile of this name; its types and namespaces are what the server must have from then on
    #[arg(long, value_name = "VENDOR/DEVICE")]
    profile: Option<String>,
    /// The Server object too, which describes the server itself
    #[arg(long)]
    server: bool,
    /// Where OPC UA certificates are [default: $STATE_DIRECTORY]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

pub async fn browse(args: BrowseArgs) -> Result<Outcome> {
    let config = match opcua(&args.connection) {
        Ok(config) => config,
        Err(outcome) => return Ok(outcome),
    };
    let state = args.state.clone().or_else(state::default_directory);
    let identity = Identity::of_this_machine(state.as_deref());
    let shows_progress = std::io::stderr().is_terminal();
    let progress = |count: usize| {
        if shows_progress && count.is_multiple_of(100) {
            eprint!("\r{count} nodes …");
        }
    };
    let browsed = walk(&config, &identity, args.node.as_deref(), args.depth, progress).await;
    if shows_progress {
        eprint!("\r\x1b[K");
    }
    let (mut found, is_all) = match browsed {
        Ok(browsed) => browsed,
        Err(error) => {
            errln!("error: {}: {error}", config.endpoint);
            return Ok(Outcome::Failed);
        }
    };
    if !args.server && args.node.is_none() {
        without_the_server(&mut found);
    }
    if let Some(text) = &args.filter {
        filter(&mut found, &text.to_lowercase());
    }
    let text = match (&args.profile, args.yaml) {
        (Some(name), _) => profile(name, &config, &found),
        (None, true) => points(&found, None, "      "),
        (None, false) => tree(&found),
    };
    out!("{text}");
    let variables = found.iter().filter(|found| found.variable.is_some()).count();
    errln!(
        "{variables} variables{}",
        if is_all { "" } else { "; there are more nodes than can be shown: begin at one of them" }
    );
    Ok(Outcome::Fine)
}

/// The OPC UA connection; what is wrong with it has been printed.
fn opcua(args: &ConnectionArgs) -> Result<OpcuaConfig, Outcome> {
    match args.protocol()? {
        Protocol::Opcua(config) => Ok(config),
        Protocol::Modbus(_) => {
            errln!(
                "error: connection '{}' is Modbus, where there is nothing to browse; `taktbus scan` finds its units",
                args.connection
            );
            Err(Outcome::WrongConfiguration)
        }
    }
}

/// The Server object (i=2253) has hundreds of nodes of its own.
fn without_the_server(found: &mut Vec<Found>) {
    let mut below = None;
    found.retain(|node| {
        if below.is_some_and(|depth| node.depth > depth) {
            return false;
        }
        below = (node.id == "i=2253").then_some(node.depth);
        below.is_none()
    });
}

/// Keeps the variables that fit, and what is above them.
fn filter(found: &mut Vec<Found>, text: &str) {
    let mut kept = vec![false; found.len()];
    let mut above: Vec<usize> = Vec::new();
    for (at, node) in found.iter().enumerate() {
        above.retain(|ix| found[*ix].depth < node.depth);
        if node.variable.is_some()
            && (node.name.to_lowercase().contains(text) || node.id.to_lowercase().contains(text))
        {
            kept[at] = true;
            above.iter().for_each(|ix| kept[*ix] = true);
        }
        above.push(at);
    }
    let mut kept = kept.into_iter();
    found.retain(|_| kept.next().unwrap_or(false));
}

fn tree(found: &[Found]) -> String {
    let mut out = String::new();
    let width =
        found.iter().map(|node| 2 * node.depth + node.name.chars().count()).max().unwrap_or(0).min(60);
    for node in found {
        let name = format!("{:indent$}{}", "", node.name, indent = 2 * (node.depth - 1));
        let what = match &node.variable {
            Some(variable) => {
                let array = if variable.is_array { "[]" } else { "" };
                let access = match (variable.readable, variable.writable) {
                    (true, true) => "rw",
                    (true, false) => "r",
                    (false, true) => "w",
                    (false, false) => "-",
                };
                format!("{}{array} {access}", variable.data_type)
            }
            None => String::new(),
        };
        let _ = writeln!(out, "{name:width$}  {what:22}  {}", node.id);
    }
    out
}

/// Points as YAML, with names that are unique. `namespace`: the one that ids need not give.
fn points(found: &[Found], namespace: Option<&str>, indent: &str) -> String {
    let mut out = String::new();
    let mut taken: HashSet<String> = HashSet::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    for node in found {
        path.retain(|(depth, _)| *depth < node.depth);
        let parents: Vec<&str> = path.iter().map(|(_, name)| name.as_str()).collect();
        if let Some(variable) = node.variable.as_ref().filter(|variable| variable.readable) {
            let name = unique(&node.name, &parents, &mut taken);
            let id = match namespace {
                Some(namespace) => node.id.strip_prefix(&format!("nsu={namespace};")).map_or_else(
                    || {
                        if node.id.contains('=') && !node.id.starts_with("nsu=") {
                            format!("ns=0;{}", node.id)
                        } else {
                            node.id.clone()
                        }
                    },
                    str::to_string,
                ),
                None => node.id.clone(),
            };
            let mut keys = format!("node: {}", scalar(&id));
            if let Some(kind) = variable.kind {
                let _ = write!(keys, ", type: {kind}");
            }
            let _ = writeln!(out, "{indent}{name}: {{{keys}}}");
        }
        path.push((node.depth, node.name.clone()));
    }
    out
}

/// A name of its own: with those of its parents in front, as far as needed.
fn unique(name: &str, parents: &[&str], taken: &mut HashSet<String>) -> String {
    let mut text = name.to_string();
    for parent in parents.iter().rev().map(Some).chain([None]) {
        let name = slug(&text);
        if !name.is_empty() && taken.insert(name.clone()) {
            return name;
        }
        if let Some(parent) = parent {
            text = format!("{parent} {text}");
        }
    }
    let base = slug(&text);
    let mut number = 2;
    loop {
        let name = format!("{base}_{number}");
        if taken.insert(name.clone()) {
            return name;
        }
        number += 1;
    }
}

fn profile(name: &str, config: &OpcuaConfig, found: &[Found]) -> String {
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    for node in found.iter().filter(|node| node.variable.is_some()) {
        *used.entry(&node.namespace).or_default() += 1;
    }
    let most = used.into_iter().max_by_key(|(_, count)| *count).map(|(uri, _)| uri);
    let mut out = format!(
        "profile: {name}\ntitle: {}\nsources: [{}]\n",
        scalar(name),
        scalar(&config.endpoint.to_string())
    );
    if let Some(uri) = most {
        let _ = writeln!(out, "namespace: {}", scalar(uri));
    }
    out.push_str("points:\n");
    out.push_str(&points(found, most, "  "));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::opcua::browse::Variable;

    fn node(depth: usize, name: &str, id: &str, kind: Option<&'static str>) -> Found {
        let variable = kind.map(|kind| Variable {
            data_type: "Double".into(),
            kind: Some(kind),
            is_array: false,
            readable: true,
            writable: false,
        });
        Found { depth, name: name.into(), id: id.into(), namespace: "urn:plant".into(), variable }
    }

    fn plant() -> Vec<Found> {
        vec![
            node(1, "Server", "i=2253", None),
            node(2, "ServerStatus", "i=2256", Some("datetime")),
            node(1, "Line 1", "nsu=urn:plant;s=L1", None),
            node(2, "Speed", "nsu=urn:plant;s=L1.Speed", Some("float64")),
            node(1, "Line 2", "nsu=urn:plant;s=L2", None),
            node(2, "Speed", "nsu=urn:plant;s=L2.Speed", Some("float64")),
            node(2, "Count", "nsu=urn:plant;s=L2.Count", Some("int32")),
        ]
    }

    #[test]
    fn points_get_names_of_their_own() {
        let mut found = plant();
        without_the_server(&mut found);
        let expected = "- speed: {node: 'nsu=urn:plant;s=L1.Speed', type: float64}\n- line_2_speed: {node: 'nsu=urn:plant;s=L2.Speed', type: float64}\n- count: {node: 'nsu=urn:plant;s=L2.Count', type: int32}\n";
        assert_eq!(points(&found, None, "- "), expected);
    }

    #[test]
    fn a_profile_is_accepted_as_it_is() {
        let mut found = plant();
        without_the_server(&mut found);
        let config = OpcuaConfig {
            endpoint: crate::drivers::opcua::config::Endpoint::of("opc.tcp://plc").unwrap(),
            security: crate::drivers::opcua::config::Security::None,
            user: crate::drivers::opcua::config::User::Anonymous,
            timeout: crate::drivers::opcua::config::TIMEOUT,
        };
        let text = profile("acme/line", &config, &found);
        let loaded = crate::config::load_profile_text("line.yaml", &text);
        assert!(loaded.map.is_some(), "{text}{:?}", loaded.diagnostics);
        assert!(text.contains("  speed: {node: s=L1.Speed, type: float64}\n"), "{text}");
    }

    #[test]
    fn a_filter_keeps_what_is_above() {
        let mut found = plant();
        filter(&mut found, "l2.sp");
        let names: Vec<_> = found.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["Line 2", "Speed"]);
    }
}
