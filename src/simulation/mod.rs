//! The devices of a site without the devices: served on this machine, from what their profiles say.
//!
//! Network connections are TCP listeners, serial lines are pseudo-terminals that carry bytes no faster than their baud rate.
//! Requests are answered through tokio-modbus' servers, so that the gateway and what it talks to share no protocol code.

mod line;
mod opcua;
mod server;
mod unit;
mod values;

pub use self::opcua::base::node_manager as opcua_base;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_serial::SerialStream;

use self::server::Units;
use self::unit::Unit;
use crate::config::examples::Proven;
use crate::config::plan::{Connection, Protocol, Site};
use crate::drivers::modbus::config::Link;
use crate::drivers::modbus::config::ModbusConfig;
use crate::drivers::opcua::config::{Endpoint, Security, User};
use crate::mapping::device::Device;

/// How a site is simulated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address that network devices are served at.
    pub listen: IpAddr,
    /// Their ports.
    pub ports: Ports,
    /// Devices that are wired and dead.
    pub mute: BTreeSet<String>,
    /// What each answer waits for.
    pub delay: Duration,
    /// Values keep what the examples say.
    pub still: bool,
}

/// Which ports network connections are served at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Any that is free.
    Free,
    /// The one that the site says, where the site says this machine; any free one elsewhere.
    Own,
    /// This one and those that follow, in the order of the file.
    From(u16),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: Ipv4Addr::LOCALHOST.into(),
            ports: Ports::Free,
            mute: BTreeSet::new(),
            delay: Duration::ZERO,
            still: false,
        }
    }
}

/// Where a simulated connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A listener.
    Tcp(SocketAddr),
    /// The near end of a pseudo-terminal.
    Port(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Port(path) => path.display().fmt(f),
        }
    }
}

/// Running devices. They run until it's dropped.
#[derive(Debug)]
pub struct Simulation {
    /// Where each connection is, by its name.
    pub addresses: BTreeMap<String, Address>,
    _tasks: JoinSet<()>,
    // The near ends stay open, as a cable does when the gateway closes its port.
    _line_ends: Vec<SerialStream>,
}

impl Simulation {
    /// Serves all devices of a site; `proven` has what the examples of their profiles hold.
    pub async fn start(site: &Site, proven: &[Proven], options: &Options) -> io::Result<Self> {
        let mut simulation =
            Self { addresses: BTreeMap::new(), _tasks: JoinSet::new(), _line_ends: Vec::new() };
        let mut networks = 0;
        for connection in &site.connections {
            let config = match &connection.protocol {
                Protocol::Modbus(config) => config,
                Protocol::Opcua(config) => {
                    let listener =
                        listen(&config.endpoint.host, config.endpoint.port, options, networks).await?;
                    let address = listener.local_addr()?;
                    let is_mute = |device: &Device| options.mute.contains(&*device.name);
                    let devices: Vec<_> =
                        connection.devices.iter().filter(|device| !is_mute(device)).cloned().collect();
                    let server = opcua::server(&devices, options.still, address).map_err(io::Error::other)?;
                    simulation._tasks.spawn(server.serve(listener));
                    networks += 1;
                    simulation.addresses.insert(connection.name.clone(), Address::Tcp(address));
                    continue;
                }
            };
            let units = units(connection, proven, options);
            let address = simulation.serve(config, units, options, networks).await.map_err(|cause| {
                io::Error::new(cause.kind(), format!("connection '{}': {cause}", connection.name))
            })?;
            networks += u16::from(matches!(address, Address::Tcp(_)));
            simulation.addresses.insert(connection.name.clone(), address);
        }
        Ok(simulation)
    }

    async fn serve(
        &mut self,
        config: &ModbusConfig,
        units: BTreeMap<u8, Option<Unit>>,
        options: &Options,
        networks: u16,
    ) -> io::Result<Address> {
        match &config.link {
            Link::Tcp { host, port } => {
                let listener = listen(host, *port, options, networks).await?;
                let address = listener.local_addr()?;
                let units = Units::new(units, options.delay).behind_a_gateway();
                self._tasks.spawn(server::tcp(listener, units));
                Ok(Address::Tcp(address))
            }
            Link::RtuOverTcp { host, port, line } => {
                let listener = listen(host, *port, options, networks).await?;
                let address = listener.local_addr()?;
                self._tasks.spawn(server::rtu_over_tcp(listener, Units::new(units, options.delay), *line));
                Ok(Address::Tcp(address))
            }
            Link::Serial { line, .. } => {
                let (far, line_end, path) = line::open(*line, &mut self._tasks)?;
                self._line_ends.push(line_end);
                self._tasks.spawn(server::rtu(far, Units::new(units, options.delay)));
                Ok(Address::Port(path))
            }
        }
    }

    /// Puts the addresses of the simulated connections into the site.
    pub fn redirect(&self, site: &mut Site) {
        for connection in &mut site.connections {
            let config = match &mut connection.protocol {
                Protocol::Modbus(config) => config,
                Protocol::Opcua(config) => {
                    if let Some(Address::Tcp(address)) = self.addresses.get(&connection.name) {
                        let (host, port) = (address.ip().to_string(), address.port());
                        config.endpoint = Endpoint { host, port, path: String::new() };
                        // The simulated server is on this machine, and has no security and no users.
                        (config.security, config.user) = (Security::None, User::Anonymous);
                    }
                    continue;
                }
            };
            // A pseudo-terminal has no transceiver.
            config.rs485 = None;
            match (&mut config.link, self.addresses.get(&connection.name)) {
                (
                    Link::Tcp { host, port } | Link::RtuOverTcp { host, port, .. },
                    Some(Address::Tcp(address)),
                ) => (*host, *port) = (address.ip().to_string(), address.port()),
                (Link::Serial { path, .. }, Some(Address::Port(near))) => path.clone_from(near),
                _ => {}
            }
        }
    }
}

/// The units of a connection; several devices may be one unit. `None`: it is mute.
fn units(connection: &Connection, proven: &[Proven], options: &Options) -> BTreeMap<u8, Option<Unit>> {
    let mut units: BTreeMap<u8, Option<Unit>> = BTreeMap::new();
    for device in &connection.devices {
        let unit = units.entry(device.unit).or_default();
        if options.mute.contains(&*device.name) {
            continue;
        }
        let example = device
            .profile
            .as_ref()
            .and_then(|name| proven.iter().find(|proven| proven.profile == **name))
            .map(|proven| &proven.registers);
        unit.get_or_insert_default().add(device, example, options.still);
    }
    units
}

async fn listen(host: &str, port: u16, options: &Options, networks: u16) -> io::Result<TcpListener> {
    let here = match host {
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        host => host.parse().ok().filter(IpAddr::is_loopback),
    };
    let address = match (options.ports, here) {
        (Ports::Own, Some(here)) => SocketAddr::new(here, port),
        (Ports::Own, None) | (Ports::Free, _) => SocketAddr::new(options.listen, 0),
        (Ports::From(first), _) => {
            let port = first.checked_add(networks);
            let port = port.ok_or_else(|| io::Error::other("no port is left: begin with a lower one"))?;
            SocketAddr::new(options.listen, port)
        }
    };
    let taken =
        |cause: io::Error| io::Error::new(cause.kind(), format!("cannot listen at {address}: {cause}"));
    TcpListener::bind(address).await.map_err(taken)
}
