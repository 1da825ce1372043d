//! `taktbus plan`: the requests on each wire, the bus load, the worst age of every point.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::summary::short;
use super::table::Table;
use super::{Outcome, PlanArgs, site};
use crate::mapping::device::{Device, Every, Read};
use crate::northbound::forwarder::Durability;
use crate::runtime::forecast::Forecast;
use crate::runtime::gateway::Connection;

pub async fn plan(args: PlanArgs) -> Result<Outcome> {
    let loaded = site::load(&args.site);
    let sound = loaded.is_sound();
    // A site that can't fit is shown all the same: its table says what costs the time.
    let gateway = match loaded.site.ok_or(Outcome::WrongConfiguration).and_then(site::planned) {
        Ok(gateway) => gateway,
        Err(outcome) => return Ok(outcome),
    };
    if args.live {
        let answered = live::live(gateway.connections(), args.timeout, args.json).await;
        return Ok(if answered { Outcome::Fine } else { Outcome::Failed });
    }
    if args.json {
        let connections: Vec<_> = gateway.connections().iter().map(as_json).collect();
        let stores: Vec<_> = gateway.forecasts().iter().map(store_as_json).collect();
        outln!("{:#}", json!({ "connections": connections, "stores": stores }));
    } else {
        gateway.connections().iter().for_each(|connection| out!("{}", as_text(connection, args.points)));
        gateway.forecasts().iter().for_each(|forecast| outln!("{}", store_as_text(forecast)));
    }
    Ok(if sound { Outcome::Fine } else { Outcome::WrongConfiguration })
}

mod live;

fn published<'a>(device: &'a Device, read: &'a Read) -> impl Iterator<Item = &'a str> {
    read.publishes.iter().map(|ix| &*device.map.points[ix.0 as usize].name)
}

fn as_text(connection: &Connection, by_point: bool) -> String {
    let plan = &connection.plan;
    let fit = plan.fit();
    let what = if by_point { "point" } else { ">points" };
    let mut table =
        Table::new(&["device", what, "every", ">worst age", ">one dead", ">budget", ">takes", "request"]);
    let devices = plan.devices();
    for fitted in &fit.reads {
        let demand = &fitted.demand;
        let (device, reads) = devices[demand.device];
        let late = if fitted.within_budget() { "" } else { " !" };
        let mut row = |what: String| {
            table.row([
                device.name.to_string(),
                what,
                every(demand.every),
                fitted.worst_age.map_or("unbounded".into(), short) + late,
                fitted.worst_age_with_a_dead_unit.map_or("-".into(), short),
                short(demand.budget),
                short(demand.takes),
                plan.describe(demand.device, demand.read),
            ]);
        };
        let points = published(device, &reads[demand.read]);
        if by_point {
            points.for_each(|point| row(point.to_string()));
        } else {
            row(points.count().to_string());
        }
    }
    let (load, dead) = (percent(fit.load), percent(fit.load_with_a_dead_unit));
    let name = &connection.metrics.name;
    format!("{name}: {}, {load} busy, {dead} with its slowest unit dead\n{}\n", plan.link(), table.render())
}

fn as_json(connection: &Connection) -> serde_json::Value {
    let plan = &connection.plan;
    let fit = plan.fit();
    let devices = plan.devices();
    let reads: Vec<_> = fit
        .reads
        .iter()
        .map(|fitted| {
            let demand = &fitted.demand;
            let (device, reads) = devices[demand.device];
            json!({
                "device": &*device.name,
                "every_ms": match demand.every { Every::Interval(every) => Some(millis(every)), Every::Once | Every::Changes(_) => None },
                "sampled_every_ms": match demand.every { Every::Changes(every) => Some(millis(every)), Every::Interval(_) | Every::Once => None },
                "request": plan.describe(demand.device, demand.read),
                "points": published(device, &reads[demand.read]).collect::<Vec<_>>(),
                "takes_ms": millis(demand.takes),
                "worst_age_ms": fitted.worst_age.map(millis),
                "worst_age_with_a_dead_unit_ms": fitted.worst_age_with_a_dead_unit.map(millis),
                "budget_ms": millis(demand.budget),
                "within_budget": fitted.within_budget(),
            })
        })
        .collect();
    json!({
        "connection": &*connection.metrics.name,
        "link": plan.link(),
        "load": fit.load,
        "load_with_a_dead_unit": fit.load_with_a_dead_unit,
        "fits": fit.fits,
        "reads": reads,
    })
}

/// `store of 'cloud': an outage of 3.2 days fits, 55 MB/day are written (at most 2.4 messages/s)`.
fn store_as_text(forecast: &Forecast) -> String {
    let Forecast { route, durability, messages_per_second, .. } = forecast;
    if *durability == Durability::Off {
        return format!("store of '{route}': off");
    }
    let fits =
        forecast.fits.map_or("any outage fits".into(), |fits| format!("an outage of {} fits", long(fits)));
    let written = match forecast.bytes_per_day() {
        0.0 => "nothing is written without one".into(),
        bytes => format!("{} MB/day are written", significant(bytes / 1e6)),
    };
    let rate = significant(*messages_per_second);
    format!(
        "store of '{route}': {fits}, {written} (at most {rate} messages/s; where `run` has a --state directory)"
    )
}

fn store_as_json(forecast: &Forecast) -> serde_json::Value {
    json!({
        "route": forecast.route,
        "messages_per_second": forecast.messages_per_second,
        "bytes_per_second": forecast.bytes_per_second,
        "written_bytes_per_day": forecast.bytes_per_day(),
        "outage_that_fits_s": forecast.fits.map(|fits| fits.as_secs_f64()),
    })
}

/// Two digits that count.
fn significant(number: f64) -> String {
    if number < 10.0 { format!("{number:.1}") } else { format!("{number:.0}") }
}

fn long(duration: Duration) -> String {
    let (hours, days) = (duration.as_secs_f64() / 3600.0, duration.as_secs_f64() / 86_400.0);
    match () {
        () if hours < 48.0 => format!("{} h", significant(hours)),
        () if days < 730.0 => format!("{} days", significant(days)),
        () => format!("{} years", significant(days / 365.0)),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn percent(share: f64) -> String {
    if share >= 0.1 { format!("{:.0} %", share * 100.0) } else { format!("{:.1} %", share * 100.0) }
}

fn every(every: Every) -> String {
    match every {
        Every::Interval(interval) => format!("every {interval:?}"),
        Every::Once => "once".into(),
        Every::Changes(sampling) => format!("on change, sampled every {sampling:?}"),
    }
}
