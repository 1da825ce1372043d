//! The connection that a command looks around on: one word, or a name from a site file.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, SiteArgs, site};
use crate::config::plan::Protocol;
use crate::config::url;
use crate::drivers::modbus::config::ModbusConfig;

#[derive(Clone, Debug, Args)]
pub struct ConnectionArgs {
    /// tcp://HOST[:PORT], rtu:///dev/ttyUSB0?baud=9600&format=8N1, rtu+tcp://HOST:PORT, opc.tcp://HOST:PORT, or with --site a
    /// connection's name
    ///
    /// Behind the question mark stand the keys that a connection has in a site file.
    #[arg(value_name = "CONNECTION")]
    pub connection: String,
    /// Take the connection of this name from a site file
    #[arg(long, value_name = "SITE.yaml")]
    site: Option<PathBuf>,
}

impl ConnectionArgs {
    /// The Modbus connection; what is wrong with it has been printed.
    pub fn config(&self) -> Result<ModbusConfig, Outcome> {
        match self.protocol()? {
            Protocol::Modbus(config) => Ok(config),
            Protocol::Opcua(_) => {
                errln!(
                    "error: connection '{}' is an OPC UA server; `taktbus browse` looks around there",
                    self.connection
                );
                Err(Outcome::WrongConfiguration)
            }
        }
    }

    /// The connection, whatever it speaks; what is wrong with it has been printed.
    pub fn protocol(&self) -> Result<Protocol, Outcome> {
        match &self.site {
            Some(path) => self.of_site(path),
            None => url::connection_of(&self.connection).map_err(|error| {
                errln!("error: connection '{}': {error}", self.connection);
                Outcome::WrongConfiguration
            }),
        }
    }

    fn of_site(&self, path: &std::path::Path) -> Result<Protocol, Outcome> {
        let args = SiteArgs { site: path.to_path_buf(), mappings: Vec::new() };
        let loaded = site::load(&args);
        let connections = loaded.site.ok_or(Outcome::WrongConfiguration)?.connections;
        if let Some(found) = connections.iter().find(|connection| connection.name == self.connection) {
            return Ok(found.protocol.clone());
        }
        let names: Vec<&str> = connections.iter().map(|connection| connection.name.as_str()).collect();
        errln!("error: no connection '{}' in the site; it has: {}", self.connection, names.join(", "));
        Err(Outcome::WrongConfiguration)
    }
}
