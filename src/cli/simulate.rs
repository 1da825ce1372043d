//! `taktbus simulate`: the devices of a site, served on this machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use super::run::stop_on_signals;
use super::table::Table;
use super::{Outcome, SiteArgs, duration, site};
use crate::config::plan::{Connection, Protocol, SinkConfig, Site};
use crate::config::readdress::readdress;
use crate::simulation::{Options, Ports, Simulation};

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Write the site file with the simulated addresses here, for `run`, `read` and `plan --live`; beside the original, so
    /// that its profiles are found
    #[arg(long = "site", value_name = "FILE")]
    write: Option<PathBuf>,
    /// Serve the first network connection at this port, the others at those that follow [default: the site's own port where
    /// the site says this machine, any free one elsewhere]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Serve network connections at this address; what is not loopback can be reached by everybody in the network
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::LOCALHOST.into())]
    listen: IpAddr,
    /// This device is wired and dead; may be repeated
    #[arg(long, value_name = "DEVICE")]
    mute: Vec<String>,
    /// Each answer comes so much later
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = delay)]
    delay: Duration,
    /// Values don't move: they stay what the examples say
    #[arg(long)]
    still: bool,
    /// End by itself after this time, for instance 10s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lasting: Option<Duration>,
}

/// `0ms` is a delay too.
fn delay(text: &str) -> Result<Duration, String> {
    if text == "0ms" || text == "0s" { Ok(Duration::ZERO) } else { duration(text) }
}

pub(super) async fn simulate(args: SimulateArgs) -> Result<Outcome> {
    let loaded = site::load(&args.site);
    let is_sound = loaded.is_sound();
    let Some(site) = loaded.site.filter(|_| is_sound) else { return Ok(Outcome::WrongConfiguration) };
    let known: Vec<&str> = site
        .connections
        .iter()
        .flat_map(|connection| &connection.devices)
        .map(|device| &*device.name)
        .collect();
    if let Some(unknown) = args.mute.iter().find(|name| !known.contains(&name.as_str())) {
        errln!("error: no device '{unknown}' in the site; it has: {}", known.join(", "));
        return Ok(Outcome::WrongConfiguration);
    }
    if args.write.as_ref().is_some_and(|path| is_same_file(path, &args.site.site)) {
        errln!("error: --site would overwrite the site file itself: give it another name");
        return Ok(Outcome::WrongConfiguration);
    }
    let stop = stop_on_signals(args.lasting)?;
    let options = Options {
        listen: args.listen,
        ports: args.port.map_or(Ports::Own, Ports::From),
        mute: args.mute.iter().cloned().collect(),
        delay: args.delay,
        still: args.still,
    };
    let simulation =
        Simulation::start(&site, &loaded.proven, &options).await.context("cannot simulate the site")?;
    if let Some(path) = &args.write {
        let text = std::fs::read_to_string(&args.site.site)
            .with_context(|| format!("cannot read {}", args.site.site.display()))?;
        let addresses: BTreeMap<String, String> =
            simulation.addresses.iter().map(|(name, at)| (name.clone(), at.to_string())).collect();
        let text = readdress(&text, &addresses).context("the site file has changed meanwhile")?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    show(&site, &simulation, &args);
    stop.cancelled().await;
    Ok(Outcome::Fine)
}

fn show(site: &Site, simulation: &Simulation, args: &SimulateArgs) {
    let mut table = Table::new(&["connection", "simulated at", "in the site", "devices"]);
    for connection in &site.connections {
        let at = simulation.addresses.get(&connection.name).map(ToString::to_string).unwrap_or_default();
        let link = match &connection.protocol {
            Protocol::Modbus(config) => config.link.to_string(),
            Protocol::Opcua(config) => config.endpoint.to_string(),
        };
        table.row([connection.name.clone(), at, link, devices(connection, args)]);
    }
    out!("{}", table.render());
    if let Some(path) = &args.write {
        outln!("\n{} has these addresses: taktbus read {0}", path.display());
        for route in &site.routes {
            let host = match &route.sink {
                SinkConfig::Mqtt(config) => &config.host,
                SinkConfig::Http(config) => &config.host,
            };
            if !is_here(host) {
                outln!("mind its routes: `taktbus run` would send simulated values to {host}");
            }
        }
    }
    outln!("\nserving until Ctrl-C");
}

/// `oven (unit 1), dryer (unit 3, mute)`
fn devices(connection: &Connection, args: &SimulateArgs) -> String {
    let named = connection.devices.iter().map(|device| {
        let mute = if args.mute.iter().any(|name| **name == *device.name) { ", mute" } else { "" };
        match &connection.protocol {
            Protocol::Modbus(_) => format!("{} (unit {}{mute})", device.name, device.unit),
            Protocol::Opcua(_) => format!("{}{mute}", device.name),
        }
    });
    named.collect::<Vec<_>>().join(", ")
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
