//! What publish requests are answered with: values for those who want them, and what is missing is asked for again.

use super::*;

impl OpcuaDriver {
    /// The answer of a publish request: its values, and the next request.
    pub(super) async fn published(&mut self, published: Published) -> Result<(), LinkLost> {
        let response = match published {
            Ok(response) => response,
            // One less waits at the server from now on.
            Err(Failure::Refused(StatusCode::BadTooManyPublishRequests)) => return Ok(()),
            Err(Failure::Refused(StatusCode::BadNoSubscription)) => {
                return Err(LinkLost("the server has lost our subscriptions".into()));
            }
            Err(Failure::Refused(StatusCode::BadResponseTooLarge)) if self.most_notified > 1 => {
                self.most_notified /= 2;
                return Err(LinkLost("notifications are longer than the server's messages may be".into()));
            }
            Err(Failure::Timeout) => {
                self.publish_again(Vec::new());
                return Ok(());
            }
            Err(failure) => return Err(LinkLost(format!("the session is over: {failure}"))),
        };
        let now = Instant::now();
        let PublishResponse { subscription_id, notification_message, .. } = *response;
        let Some(at) = self.subscriptions.iter().position(|known| known.id == subscription_id) else {
            // Of one that has been deleted.
            self.publish_again(Vec::new());
            return Ok(());
        };
        self.subscriptions[at].heard(now);
        let number = notification_message.sequence_number;
        let has_values = notification_message.notification_data.as_ref().is_some_and(|data| !data.is_empty());
        let mut acknowledged = Vec::new();
        if has_values {
            acknowledged.push(SubscriptionAcknowledgement { subscription_id, sequence_number: number });
        }
        self.publish_again(acknowledged);
        if !has_values {
            return Ok(());
        }
        let missing = number.wrapping_sub(self.subscriptions[at].next);
        if missing > u32::MAX / 2 {
            // It has been asked for again, and was taken then.
            return Ok(());
        }
        if missing > 0 && !self.republish(at, missing).await? {
            let lost = missing;
            tracing::warn!(lost, "notifications got lost: everything is read anew");
            let mut devices: Vec<_> =
                self.subscriptions[at].items.iter().map(|ix| self.items[*ix].device).collect();
            devices.dedup();
            devices.iter().for_each(|ix| self.devices[*ix].metrics.lost_values.add(lost.into()));
            return self.resubscribe(at).await;
        }
        self.subscriptions[at].next = number.wrapping_add(1).max(1);
        let is_over = self.notified(at, notification_message, now);
        self.flush(now);
        match is_over {
            Some(code) => {
                tracing::warn!(reason = %code, "the server has ended a subscription");
                self.resubscribe(at).await
            }
            None => Ok(()),
        }
    }

    pub(super) fn publish_again(&mut self, acknowledged: Vec<SubscriptionAcknowledgement>) {
        self.session.iter_mut().for_each(|session| session.publish(acknowledged.clone()));
    }

    /// Asks for lost notifications again. `false`: the server does not have them any more, or ended the subscription with one of them.
    pub(super) async fn republish(&mut self, at: usize, missing: u32) -> Result<bool, LinkLost> {
        let (id, first) = (self.subscriptions[at].id, self.subscriptions[at].next);
        if missing > MOST_REPUBLISHED {
            return Ok(false);
        }
        for number in 0..missing {
            let number = first.wrapping_add(number);
            let Some(session) = &self.session else { return Err(gone()) };
            match session.link.channel().republish(id, number, session.link.timeout()).await {
                Ok(response) => {
                    let now = Instant::now();
                    let is_over = self.notified(at, response.notification_message.clone(), now).is_some();
                    self.flush(now);
                    if is_over {
                        return Ok(false);
                    }
                }
                Err(Failure::Lost(code)) => return Err(LinkLost(format!("the session is over: {code}"))),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Takes what a notification says; the status with which the server ends the subscription, if it does.
    pub(super) fn notified(
        &mut self,
        at: usize,
        message: NotificationMessage,
        now: Instant,
    ) -> Option<StatusCode> {
        let mut is_over = None;
        for data in message.notification_data.unwrap_or_default() {
            if let Some(change) = data.inner_as::<StatusChangeNotification>() {
                is_over = change.status.is_bad().then_some(change.status);
                continue;
            }
            let Some(changes) = data.into_inner_as::<DataChangeNotification>() else { continue };
            for change in changes.monitored_items.unwrap_or_default() {
                if change.client_handle == PULSE_HANDLE {
                    self.subscriptions[at].pulsed(now);
                    self.note_clock(&change.value);
                } else if !self.goes_straight(change.client_handle as usize, &change.value, now) {
                    self.changed(change.client_handle as usize, &change.value, now);
                }
            }
        }
        is_over
    }

    /// How far the server's clock is from ours: what its time stamps are worth.
    pub(super) fn note_clock(&self, value: &DataValue) {
        let Some(Variant::DateTime(time)) = &value.value else { return };
        let offset = time.as_chrono().timestamp_millis().saturating_sub(Stamp::now().unix_millis());
        self.devices.iter().for_each(|plan| plan.metrics.clock_offset_ms.set(offset));
    }

    /// Takes a good value of a plain type, as nearly all are. `false`: it wants [`Self::changed`].
    fn goes_straight(&mut self, ix: usize, value: &DataValue, now: Instant) -> bool {
        let Some(Straight { kind: Some(kind), gather, slot, is_open: true }) = self.straight.get(ix).copied()
        else {
            return false;
        };
        if value.status.is_some_and(|status| status != StatusCode::Good) {
            return false;
        }
        let quality = quality(value, kind, None, None);
        if quality.raw.is_err() {
            return false;
        }
        let (device, read, gather) = &mut self.gathers[gather as usize];
        if let Some(gathered) = gather.take(slot as usize, quality.raw, quality.note) {
            self.ready.push_back(batch(&self.devices[*device], *read, gathered, now));
        }
        true
    }

    pub(super) fn changed(&mut self, ix: usize, value: &DataValue, now: Instant) {
        let Some(item) = self.items.get(ix) else { return };
        let (device, reading) = (item.device, item.reading);
        let Some(session) = &self.session else { return };
        if value.status.is_some_and(|status| status.overflow()) {
            // Its queue on the server was full (OPC UA Part 4, 7.39.1).
            self.devices[device].metrics.lost_values.inc();
        }
        let quality = match item.plain {
            Some(kind) => quality(value, kind, None, None),
            None => session.nodes.quality(&self.devices[device], device, reading, value),
        };
        match quality.raw {
            // There are servers that watch what does not exist, and say so by a value; it may exist some day.
            Err(cause @ Cause::Status(status)) if is_absence(status) => self.is_bad(ix, cause),
            raw => {
                self.set_state(ix, ItemState::Watched);
                self.items[ix].told = None;
                self.take(ix, raw, quality.note, now);
            }
        }
    }

    /// The server can't watch an item.
    pub(super) fn is_bad(&mut self, ix: usize, cause: Cause) {
        self.set_state(ix, ItemState::Bad(cause));
        self.tell_bad(ix, cause);
    }

    /// A bad item is told when it is news.
    pub(super) fn tell_bad(&mut self, ix: usize, cause: Cause) {
        if self.items[ix].told.replace(cause) != Some(cause) {
            self.take(ix, Err(cause), Note::default(), Instant::now());
        }
    }

    /// Gives a value to all who want it.
    pub(super) fn take(
        &mut self,
        ix: usize,
        raw: Result<crate::model::value::Raw, Cause>,
        note: Note,
        now: Instant,
    ) {
        let Self { items, gathers, devices, ready, .. } = self;
        let Some((last, others)) = items[ix].targets.split_last() else { return };
        let mut give = |target: &Target, raw| {
            let (device, read, gather) = &mut gathers[target.gather];
            if let Some(gathered) = gather.take(target.slot, raw, note) {
                ready.push_back(batch(&devices[*device], *read, gathered, now));
            }
        };
        others.iter().for_each(|target| give(target, raw.clone()));
        give(last, raw);
    }

    /// Makes batches of all that was taken.
    pub(super) fn flush(&mut self, now: Instant) {
        for (device, read, gather) in &mut self.gathers {
            if let Some(gathered) = gather.flush() {
                self.ready.push_back(batch(&self.devices[*device], *read, gathered, now));
            }
        }
    }
}
