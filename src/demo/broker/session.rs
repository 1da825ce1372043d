//! One client's connection: packets in, packets out, and when it's over.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::{
    ConnAck, Connect, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, Subscribe,
    SubscribeReasonCode, UnsubAck, valid_filter,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::Faults;
use super::router::{Command, SUBSCRIBER_QUEUE};

/// The largest packet taken; a larger one ends the connection.
const MAX_PACKET: usize = 1 << 20;
/// A client that says nothing at first, or doesn't read what it's sent, is left after this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Room for what the next read brings.
const READ_ROOM: usize = 16 << 10;
/// Messages for a subscriber that are written at once.
const WRITE_BATCH: usize = 64;
/// How long held PUBACKs wait for more of them.
const REVERSE_PAUSE: Duration = Duration::from_millis(5);

/// The connection is over.
struct Over {
    /// Did the client say DISCONNECT?
    farewell: bool,
}

const LOST: Over = Over { farewell: false };

/// Serves one client to its end.
pub(super) async fn serve(
    mut socket: TcpStream,
    id: u64,
    router: mpsc::Sender<Command>,
    faults: Arc<Faults>,
) {
    let mut received = BytesMut::with_capacity(8 << 10);
    let greeting = timeout(PATIENCE, greet(&mut socket, &mut received, &faults)).await;
    let Ok(Some(connect)) = greeting else { return };
    let (queue, messages) = mpsc::channel(SUBSCRIBER_QUEUE);
    // The client may stay silent for one and a half times its keep-alive (MQTT 3.1.1, 3.1.2.10).
    let silence = match connect.keep_alive {
        0 => None,
        seconds => Some(Duration::from_secs(u64::from(seconds)) * 3 / 2),
    };
    let hello = Command::Connect { id, name: connect.client_id, will: connect.last_will, queue };
    if router.send(hello).await.is_err() {
        return;
    }
    let session =
        Session { id, router, faults, received, send: BytesMut::new(), packet_id: 0, held: Vec::new() };
    session.run(socket, messages, silence).await;
}

/// Reads CONNECT and answers it. `None`: it's no MQTT 3.1.1 client, or it's refused.
async fn greet(socket: &mut TcpStream, received: &mut BytesMut, faults: &Faults) -> Option<Connect> {
    let connect = loop {
        match Packet::read(received, MAX_PACKET) {
            Ok(Packet::Connect(connect)) => break connect,
            Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {}
            _ => return None,
        }
        if socket.read_buf(received).await.ok()? == 0 {
            return None;
        }
    };
    let refuse = faults.refuse.load(Relaxed);
    let code = if refuse { ConnectReturnCode::ServiceUnavailable } else { ConnectReturnCode::Success };
    let mut send = BytesMut::new();
    Packet::ConnAck(ConnAck::new(code, false)).write(&mut send, MAX_PACKET).ok()?;
    socket.write_all(&send).await.ok()?;
    (!refuse).then_some(connect)
}

struct Session {
    id: u64,
    router: mpsc::Sender<Command>,
    faults: Arc<Faults>,
    received: BytesMut,
    send: BytesMut,
    packet_id: u16,
    /// PUBACKs that wait to be sent in reverse.
    held: Vec<u16>,
}

impl Session {
    async fn run(
        mut self,
        mut socket: TcpStream,
        mut messages: mpsc::Receiver<Publish>,
        silence: Option<Duration>,
    ) {
        let over = loop {
            if let Err(over) = self.turn(&mut socket, &mut messages, silence).await {
                break over;
            }
        };
        let _ = self.router.send(Command::Gone { id: self.id, farewell: over.farewell }).await;
    }

    /// Waits for something to do, and does it.
    async fn turn(
        &mut self,
        socket: &mut TcpStream,
        messages: &mut mpsc::Receiver<Publish>,
        silence: Option<Duration>,
    ) -> Result<(), Over> {
        let heard = Instant::now();
        let mut batch = Vec::new();
        loop {
            let pause = (!self.held.is_empty()).then_some(REVERSE_PAUSE);
            let wake = [silence, pause].into_iter().flatten().min().map(|wait| heard + wait);
            self.received.reserve(READ_ROOM);
            tokio::select! {
                read = socket.read_buf(&mut self.received) => {
                    if !read.is_ok_and(|count| count > 0) {
                        return Err(LOST);
                    }
                    self.take_packets().await?;
                    return self.flush(socket).await;
                }
                count = messages.recv_many(&mut batch, WRITE_BATCH) => {
                    // The router has dropped us: replaced, or too slow.
                    if count == 0 {
                        return Err(LOST);
                    }
                    for publish in batch.drain(..) {
                        self.give(publish)?;
                    }
                    self.flush(socket).await?;
                }
                () = sleep_until(wake.unwrap_or(heard)), if wake.is_some() => {
                    if self.held.is_empty() {
                        return Err(LOST);
                    }
                    self.release()?;
                    self.flush(socket).await?;
                }
            }
        }
    }

    async fn take_packets(&mut self) -> Result<(), Over> {
        loop {
            match Packet::read(&mut self.received, MAX_PACKET) {
                Ok(packet) => self.take(packet).await?,
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => return Ok(()),
                Err(_) => return Err(LOST),
            }
        }
    }

    async fn take(&mut self, packet: Packet) -> Result<(), Over> {
        match packet {
            Packet::Publish(publish) => self.publish(publish).await,
            Packet::Subscribe(subscribe) => self.subscribe(subscribe).await,
            Packet::Unsubscribe(unsubscribe) => {
                for filter in unsubscribe.topics {
                    self.tell(Command::Unsubscribe { id: self.id, filter }).await?;
                }
                self.answer(Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid)))
            }
            Packet::PingReq => self.answer(Packet::PingResp),
            Packet::PubAck(_) => Ok(()),
            Packet::Disconnect => Err(Over { farewell: true }),
            _ => Err(LOST),
        }
    }

    async fn publish(&mut self, publish: Publish) -> Result<(), Over> {
        let (packet_id, qos) = (publish.pkid, publish.qos);
        let count = self.faults.publishes.fetch_add(1, Relaxed) + 1;
        let every = self.faults.cut_every.load(Relaxed);
        if every > 0 && count.is_multiple_of(every) {
            let cuts = self.faults.cuts.fetch_add(1, Relaxed);
            if cuts.is_multiple_of(2) {
                self.tell(Command::Publish(publish)).await?;
            }
            return Err(LOST);
        }
        self.tell(Command::Publish(publish)).await?;
        match qos {
            QoS::AtMostOnce => Ok(()),
            QoS::AtLeastOnce if self.faults.mute.load(Relaxed) => Ok(()),
            QoS::AtLeastOnce => {
                self.held.push(packet_id);
                if self.held.len() >= self.faults.reverse.load(Relaxed) { self.release() } else { Ok(()) }
            }
            QoS::ExactlyOnce => Err(LOST),
        }
    }

    async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), Over> {
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for filter in subscribe.filters {
            if !valid_filter(&filter.path) {
                codes.push(SubscribeReasonCode::Failure);
                continue;
            }
            let qos = if filter.qos == QoS::AtMostOnce { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            codes.push(SubscribeReasonCode::Success(qos));
            self.tell(Command::Subscribe { id: self.id, filter: filter.path, qos }).await?;
        }
        self.answer(Packet::SubAck(SubAck::new(subscribe.pkid, codes)))
    }

    /// Gives a message to the subscriber.
    fn give(&mut self, mut publish: Publish) -> Result<(), Over> {
        if publish.qos == QoS::AtLeastOnce {
            self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
            publish.pkid = self.packet_id;
        }
        self.answer(Packet::Publish(publish))
    }

    /// Sends the held PUBACKs, the last first.
    fn release(&mut self) -> Result<(), Over> {
        while let Some(packet_id) = self.held.pop() {
            self.answer(Packet::PubAck(PubAck::new(packet_id)))?;
        }
        Ok(())
    }

    fn answer(&mut self, packet: Packet) -> Result<(), Over> {
        packet.write(&mut self.send, MAX_PACKET).map(drop).map_err(|_| LOST)
    }

    async fn flush(&mut self, socket: &mut TcpStream) -> Result<(), Over> {
        let written = timeout(PATIENCE, socket.write_all(&self.send)).await;
        self.send.clear();
        if matches!(written, Ok(Ok(()))) { Ok(()) } else { Err(LOST) }
    }

    async fn tell(&self, command: Command) -> Result<(), Over> {
        self.router.send(command).await.map_err(|_| LOST)
    }
}
