//! Who counts what, before and after a reload.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::reload::Plans;
use crate::config::plan::Route;
use crate::drivers::Plan;
use crate::metrics::{ConnectionMetrics, DeviceMetrics, Metrics, RouteMetrics};

/// What counts a connection, and each of its devices.
pub type Counted = (Arc<ConnectionMetrics>, Vec<Arc<DeviceMetrics>>);

/// The metrics of a site: those of parts that were there before go on. And those of each connection and its devices.
pub fn counted(connections: &Plans, routes: &[Route], before: &Metrics) -> (Metrics, Vec<Counted>) {
    let known: HashMap<&str, &Arc<DeviceMetrics>> =
        before.devices.iter().map(|device| (&*device.name, device)).collect();
    let device = |name: &Arc<str>| {
        let new = || {
            let device = DeviceMetrics::new(name.clone());
            if !before.devices.is_empty() {
                device.added_at.set(Instant::now());
            }
            Arc::new(device)
        };
        known.get(&**name).map_or_else(new, |known| Arc::clone(known))
    };
    let of_connection = |(name, plan): &(String, Arc<Plan>)| {
        let known = before.connections.iter().find(|known| *known.name == **name).cloned();
        let new = || Arc::new(ConnectionMetrics { name: name.as_str().into(), ..Default::default() });
        let devices = plan.devices().iter().map(|(planned, _)| device(&planned.name)).collect();
        (known.unwrap_or_else(new), devices)
    };
    let counted: Vec<Counted> = connections.iter().map(of_connection).collect();
    let devices: Vec<_> = counted.iter().flat_map(|(_, devices)| devices.iter().cloned()).collect();
    let of_route = |(index, route): (usize, &Route)| {
        let known = before.routes.iter().find(|known| *known.name == *route.name).cloned();
        let new = || Arc::new(RouteMetrics { name: route.name.as_str().into(), ..Default::default() });
        let route = known.unwrap_or_else(new);
        let counting = route.devices.get();
        let counting: HashMap<&str, _> = counting.iter().map(|device| (&*device.name, device)).collect();
        let own = |device: &Arc<DeviceMetrics>| {
            let new = || Arc::new(DeviceMetrics::new(device.name.clone()));
            counting.get(&*device.name).map_or_else(new, |known| Arc::clone(known))
        };
        let devices = if index == 0 { devices.clone() } else { devices.iter().map(own).collect() };
        route.devices.set(devices);
        route
    };
    let metrics = Metrics {
        routes: routes.iter().enumerate().map(of_route).collect(),
        connections: counted.iter().map(|(connection, _)| connection.clone()).collect(),
        devices,
        beat: before.beat.clone(),
        stands_in: before.stands_in.clone(),
    };
    (metrics, counted)
}
