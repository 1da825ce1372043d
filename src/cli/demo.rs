//! `taktbus demo`: a simulated plant, an embedded broker, the gateway between them, and a subscriber that shows
//! what arrives.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::run::stop_on_signals;
use super::{DemoArgs, Outcome, live, site, summary};
use crate::config::plan::{Protocol, SinkConfig, Site};
use crate::config::{LoadOptions, load_text};
use crate::demo::broker::Broker;
use crate::demo::plant::Plant;
use crate::drivers::modbus::config::{Line, Link, Parity};

/// The demo's site, as it's in the repository.
const SITE: &str = include_str!("../../examples/demo/gateway.yaml");
const SITE_NAME: &str = "examples/demo/gateway.yaml";

pub async fn demo(args: DemoArgs) -> Result<Outcome> {
    let loaded = load_text(SITE_NAME, SITE, &LoadOptions::default());
    let Some(mut site) = loaded.site else {
        site::print(&loaded.diagnostics);
        return Ok(Outcome::WrongConfiguration);
    };
    let stop = stop_on_signals(args.lasting)?;
    let plant = Plant::start(line_of(&site)).await.context("cannot start the simulated plant")?;
    let broker =
        Broker::bind(([127, 0, 0, 1], 0).into()).await.context("cannot start the embedded broker")?;
    let address = broker.local_addr();
    redirect(&mut site, &plant, address);
    let gateway = match site::planned(site) {
        Ok(gateway) => gateway,
        Err(outcome) => return Ok(outcome),
    };
    let metrics = gateway.metrics();
    let devices = live::Devices::of(&gateway);
    // The broker outlives the gateway: it takes what is drained.
    let broker_stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(broker.run(broker_stop.clone()));
    let table = std::io::stdout().is_terminal() && !args.json;
    let (showing, over) = (live::show(address, devices, metrics.clone(), table), stop.clone());
    // When nobody reads what it shows (`taktbus demo | head`), the demo is over.
    let viewer = tokio::spawn(async move {
        showing.await;
        over.cancel();
    });
    let started = Instant::now();
    let outcome = gateway.run(stop).await;
    viewer.abort();
    let _ = viewer.await;
    broker_stop.cancel();
    let _ = serving.await;
    drop(plant);
    err!("{}", summary::render(&metrics, started.elapsed()));
    outcome?;
    Ok(Outcome::Fine)
}

/// The settings of the demo's serial line.
fn line_of(site: &Site) -> Line {
    let serial = site.connections.iter().find_map(|connection| {
        let Protocol::Modbus(config) = &connection.protocol;
        if let Link::Serial { line, .. } = &config.link { Some(*line) } else { None }
    });
    serial.unwrap_or(Line { baud: 19200, data_bits: 8, parity: Parity::Even, stop_bits: 1 })
}

/// Puts the addresses of the simulated plant and the embedded broker into the site.
fn redirect(site: &mut Site, plant: &Plant, broker: std::net::SocketAddr) {
    for connection in &mut site.connections {
        let Protocol::Modbus(config) = &mut connection.protocol;
        match &mut config.link {
            Link::Tcp { host, port } | Link::RtuOverTcp { host, port, .. } => {
                (*host, *port) = (plant.meter.ip().to_string(), plant.meter.port());
            }
            Link::Serial { path, .. } => path.clone_from(&plant.port),
        }
    }
    for route in &mut site.routes {
        let SinkConfig::Mqtt(config) = &mut route.sink;
        (config.host, config.port) = (broker.ip().to_string(), broker.port());
    }
}
