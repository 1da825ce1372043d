//! A reload: another plan for the same link. Devices that are as they were keep their phases, and what was found out about them.

use std::collections::HashMap;
use std::mem::{replace, take};
use std::sync::Arc;

use tokio::time::Instant;

use super::{DeviceState, ModbusDriver, entries};
use crate::drivers::modbus::transport::Open;
use crate::drivers::modbus::window::Window;
use crate::drivers::schedule::Schedule;
use crate::drivers::{Plan, Replan, Running, seed_of};
use crate::mapping::device::DevicePlan;
use crate::model::value::Cause;

impl<O: Open> ModbusDriver<O> {
    /// See [`Driver::replan`](crate::drivers::Driver::replan).
    pub(super) fn go_over(&mut self, running: &Running) -> Replan {
        let Plan::Modbus(plan) = &*running.plan else { return Replan::Anew };
        if plan.config != self.config {
            return Replan::Anew;
        }
        if self.window.as_ref().is_some_and(|window| !window.is_empty()) {
            self.is_held = true;
            return Replan::Later;
        }
        (self.is_held, self.waiting) = (false, None);
        let old_devices = take(&mut self.devices);
        let old_exchanges = take(&mut self.exchanges);
        let mut old_layouts = take(&mut self.layouts);
        let (old_paces, old_probings) = (take(&mut self.paces), take(&mut self.probings));
        let (mut old_paces, mut old_probings): (Vec<_>, Vec<_>) =
            (old_paces.into_iter().map(Some).collect(), old_probings.into_iter().map(Some).collect());
        let by_name: HashMap<&str, usize> =
            old_devices.iter().enumerate().map(|(index, old)| (&*old.device.name, index)).collect();
        // By new index: the old one of a device that is as it was.
        let mut stayed = Vec::with_capacity(plan.devices.len());
        for (planned, metrics) in plan.devices.iter().zip(&running.metrics) {
            let is_same = |index: &usize| {
                let old = &old_devices[*index];
                (old.device == planned.device && old.reads == planned.reads)
                    && (old_exchanges[*index] == planned.exchanges && Arc::ptr_eq(&old.metrics, metrics))
            };
            let same = by_name.get(&*planned.device.name).copied().filter(is_same);
            let device = match same {
                Some(index) => Arc::clone(&old_devices[index]),
                None => {
                    let (device, reads) = (planned.device.clone(), planned.reads.clone());
                    Arc::new(DevicePlan { device, reads, metrics: Arc::clone(metrics) })
                }
            };
            self.devices.push(device);
            self.exchanges.push(planned.exchanges.clone());
            stayed.push(same);
        }
        for (index, same) in stayed.iter().enumerate() {
            let (pace, probing) = match same {
                Some(old) => (old_paces[*old].take(), old_probings[*old].take()),
                None => (None, None),
            };
            self.paces.push(pace.unwrap_or_default());
            self.probings.push(probing.unwrap_or_default());
            let layouts = match same {
                Some(old) => take(&mut old_layouts[*old]),
                None => self.layouts_of(index),
            };
            self.layouts.push(layouts);
        }
        let now = Instant::now();
        let schedule = Schedule::new(entries(&self.devices), seed_of(&self.metrics.name), now);
        let old_schedule = replace(&mut self.schedule, schedule);
        let (firsts, entries) = (first_entries(&old_devices), entries(&self.devices));
        let same = |entry: usize| Some(firsts[stayed[entries[entry].device]?] + entries[entry].read);
        self.schedule.take_over(&old_schedule, same, now);
        self.tell_newcomers(&stayed);
        self.window = (self.config.max_in_flight > 1).then(|| Window::new(self.config.max_in_flight));
        Replan::Done
    }

    /// Of a unit that has only new devices nobody knows anything; one that is new beside others is what they are.
    fn tell_newcomers(&mut self, stayed: &[Option<usize>]) {
        let mut known = [false; 256];
        for (plan, _) in self.devices.iter().zip(stayed).filter(|(_, stayed)| stayed.is_some()) {
            known[usize::from(plan.device.unit)] = true;
        }
        self.online.iter_mut().zip(known).filter(|(_, known)| !known).for_each(|(online, _)| *online = None);
        for index in (0..stayed.len()).filter(|index| stayed[*index].is_none()) {
            let state = match self.online[usize::from(self.devices[index].device.unit)] {
                Some(true) => DeviceState::Online,
                Some(false) => DeviceState::Offline(Cause::Offline),
                None => continue,
            };
            self.changes.push_back((index, state));
        }
    }
}

/// The index of each device's first entry in its schedule.
fn first_entries(devices: &[Arc<DevicePlan>]) -> Vec<usize> {
    let before = |next: &mut usize, plan: &Arc<DevicePlan>| Some(replace(next, *next + plan.reads.len()));
    devices.iter().scan(0, before).collect()
}
