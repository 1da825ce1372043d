//! What the server is asked to watch, and to read faster.

use super::*;

impl OpcuaDriver {
    /// Polled nodes get ids that the server reads faster. A server that doesn't want to keeps the old ones.
    pub(super) async fn register(&self, session: &mut Session) -> Result<(), LinkLost> {
        let mut wanted = Vec::new();
        for (device, plan) in self.devices.iter().enumerate() {
            let polled = plan.reads.iter().filter(|read| matches!(read.every, Every::Interval(_)));
            for reading in polled.flat_map(|read| &read.readings) {
                let reading = reading.0 as usize;
                if let Ok(id) = session.nodes.of(device, reading) {
                    wanted.push((device, reading, id.clone()));
                }
            }
        }
        for part in wanted.chunks(session.limits.register) {
            let ids = part.iter().map(|(_, _, id)| id.clone()).collect();
            match session.link.channel().register(ids, session.link.timeout()).await {
                Ok(ids) => {
                    part.iter()
                        .zip(ids)
                        .for_each(|((device, reading, _), id)| session.nodes.replace(*device, *reading, id));
                }
                Err(Failure::Lost(code)) => return Err(unusable(Failure::Lost(code))),
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Creates a subscription with all its items.
    pub(super) async fn subscribe(&mut self, session: &Session, at: usize) -> Result<(), Failure> {
        let (channel, limit) = (session.link.channel(), session.link.timeout());
        let subscription = &mut self.subscriptions[at];
        subscription.create(channel, self.most_notified, limit).await?;
        let items = subscription.items.clone();
        let pulse = channel.monitor(subscription.id, vec![subscription.pulse_item()], limit).await?;
        if pulse.iter().any(|result| result.status_code.is_bad()) {
            tracing::warn!(
                "the server's clock can't be watched: a dead subscription is noticed by its keep-alives only"
            );
        }
        for item in &items {
            self.set_state(*item, ItemState::New);
            self.items[*item].id = None;
        }
        self.monitor(session, at, &items).await
    }

    /// Has the server watch these items of a subscription. What it can't watch is a bad value.
    pub(super) async fn monitor(
        &mut self,
        session: &Session,
        at: usize,
        items: &[usize],
    ) -> Result<(), Failure> {
        let mut found: Vec<(usize, Cause)> = Vec::new();
        let mut wanted = Vec::new();
        for ix in items {
            let item = &self.items[*ix];
            match session.nodes.of(item.device, item.reading) {
                Ok(_) => wanted.push((*ix, true)),
                Err(cause) => found.push((*ix, cause)),
            }
        }
        let most = |ix: usize| self.devices[self.items[ix].device].device.limits.max_nodes;
        let most = items.iter().filter_map(|ix| most(*ix)).min().map_or(usize::MAX, |most| most as usize);
        let mut size = session.limits.monitor.min(most).max(1);
        let mut unfiltered = Vec::new();
        let mut slowest: f64 = 0.0;
        while !wanted.is_empty() {
            let part: Vec<_> = wanted.drain(..wanted.len().min(size)).collect();
            match self.monitor_part(session, at, &part).await {
                Ok(results) => {
                    for ((ix, filtered), result) in part.into_iter().zip(results) {
                        let code = result.status_code;
                        slowest = slowest.max(result.revised_sampling_interval);
                        if filtered && is_about_the_filter(code) {
                            unfiltered.push((ix, false));
                        } else if code.is_bad() {
                            found.push((ix, Cause::Status(status(code))));
                        } else {
                            let by = self.subscriptions[at].awaits(Instant::now());
                            self.set_state(ix, ItemState::Awaited(by));
                            self.items[ix].id = Some(result.monitored_item_id);
                        }
                    }
                }
                Err(Failure::Refused(StatusCode::BadTooManyOperations)) if size > 1 => {
                    size = size.div_ceil(2);
                    wanted.splice(..0, part);
                }
                Err(Failure::Refused(code)) => {
                    found.extend(part.iter().map(|(ix, _)| (*ix, Cause::Status(status(code)))));
                }
                Err(failure) => return Err(failure),
            }
            if wanted.is_empty() {
                wanted.append(&mut unfiltered);
            }
        }
        self.subscriptions[at].note_sampling(slowest);
        for (ix, cause) in found {
            self.is_bad(ix, cause);
        }
        self.flush(Instant::now());
        Ok(())
    }

    pub(super) async fn monitor_part(
        &self,
        session: &Session,
        at: usize,
        part: &[(usize, bool)],
    ) -> Result<Vec<MonitoredItemCreateResult>, Failure> {
        let subscription = &self.subscriptions[at];
        let mut requests = Vec::with_capacity(part.len());
        for (ix, filtered) in part {
            let item = &self.items[*ix];
            let Ok(node) = session.nodes.of(item.device, item.reading) else { continue };
            let handle = u32::try_from(*ix).unwrap_or(PULSE_HANDLE);
            requests.push(subscription::item_request(item, node, handle, subscription.sampling, *filtered));
        }
        session.link.channel().monitor(subscription.id, requests, session.link.timeout()).await
    }

    /// Deletes a subscription and creates it anew: everything in it comes again.
    pub(super) async fn resubscribe(&mut self, at: usize) -> Result<(), LinkLost> {
        let Some(session) = self.session.take() else { return Err(gone()) };
        let _ = session.link.channel().unsubscribe(self.subscriptions[at].id, session.link.timeout()).await;
        let created = self.subscribe(&session, at).await;
        self.session = Some(session);
        created.map_err(unusable)
    }
}
