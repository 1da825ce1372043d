//! `taktbus demo`: simulated devices, an embedded broker, the gateway between them, and a subscriber that shows what
//! arrives.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::run::stop_on_signals;
use super::{DemoArgs, Outcome, SiteArgs, live, site, summary};
use crate::config::plan::{SinkConfig, Site};
use crate::config::{LoadOptions, load_text};
use crate::demo::broker::Broker;
use crate::northbound::mqtt::config::MqttConfig;
use crate::runtime::control;
use crate::runtime::events::Events;
use crate::simulation::{self, Simulation};

/// The demo's site, as it's in the repository.
const SITE: &str = include_str!("../../examples/demo/gateway.yaml");
const SITE_NAME: &str = "examples/demo/gateway.yaml";

/// Its device that is wired and dead.
const DEAD: &str = "dryer";

pub async fn demo(args: DemoArgs, events: Events) -> Result<Outcome> {
    let loaded = match &args.site {
        Some(site) => site::read(&SiteArgs { site: site.clone(), mappings: args.mappings }),
        None => load_text(SITE_NAME, SITE, &LoadOptions::default()),
    };
    site::print(&loaded.diagnostics);
    let is_sound = loaded.is_sound();
    let Some(mut site) = loaded.site.filter(|_| is_sound) else { return Ok(Outcome::WrongConfiguration) };
    let stop = stop_on_signals(args.lasting)?;
    let mut options = simulation::Options::default();
    if args.site.is_none() {
        options.mute.insert(DEAD.into());
    }
    let plant = Simulation::start(&site, &loaded.proven, &options);
    let plant = plant.await.context("cannot start the simulated devices")?;
    let broker =
        Broker::bind(([127, 0, 0, 1], 0).into()).await.context("cannot start the embedded broker")?;
    let address = broker.local_addr();
    plant.redirect(&mut site);
    publish_to(&mut site, address);
    let gateway = match site::planned(site) {
        Ok(gateway) => gateway,
        Err(outcome) => return Ok(outcome),
    };
    let gateway = gateway.with_events(events).with_control(args.control.or_else(control::default_path));
    let metrics = gateway.metrics();
    let devices = live::Devices::of(&gateway);
    // The broker outlives the gateway: it takes what is drained.
    let broker_stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(broker.run(broker_stop.clone()));
    let table = std::io::stdout().is_terminal() && !args.json;
    let (showing, over) = (live::show(address, devices, metrics.get(), table), stop.clone());
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
    err!("{}", summary::render(&metrics.get(), started.elapsed()));
    outcome?;
    Ok(Outcome::Fine)
}

/// Puts the address of the embedded broker into the site: no simulated value goes to a real one, and no telemetry anywhere.
fn publish_to(site: &mut Site, broker: std::net::SocketAddr) {
    // Nor is the demo's account that of the site.
    site.telemetry = None;
    for (at, route) in site.routes.iter_mut().enumerate() {
        match &mut route.sink {
            SinkConfig::Mqtt(config) => {
                (config.host, config.port) = (broker.ip().to_string(), broker.port());
                (config.tls, config.user, config.password) = (None, None, None);
            }
            // The demo has a broker and no HTTP server: what would be POSTed is published there too.
            SinkConfig::Http(_) => {
                route.sink = SinkConfig::Mqtt(MqttConfig::plain(broker, format!("demo-{at}")))
            }
        }
    }
}
