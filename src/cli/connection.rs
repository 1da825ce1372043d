//! The connection that a command looks around on: one word, or a name from a site file.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, SiteArgs, site};
use crate::config::plan::Protocol;
use crate::config::url;
use crate::drivers::modbus::config::ModbusConfig;

#[derive(Clone, Debug, Args)]
pub struct ConnectionArgs {
    /// tcp://HOST[:PORT], rtu:///dev/ttyUSB0?baud=9600&format=8N1, rtu+tcp://HOST:PORT, or with --site a connection's name
    ///
    /// Behind the question mark stand the keys that a connection has in a site file.
    #[arg(value_name = "CONNECTION")]
    pub connection: String,
    /// Take the connection of this name from a site file
    #[arg(long, value_name = "SITE.yaml")]
    site: Option<PathBuf>,
}

impl ConnectionArgs {
    /// The connection; what is wrong with it has been printed.
    pub fn config(&self) -> Result<ModbusConfig, Outcome> {
        match &self.site {
            Some(path) => self.of_site(path),
            None => url::connection_of(&self.connection).map_err(|error| {
                errln!("error: connection '{}': {error}", self.connection);
                Outcome::WrongConfiguration
            }),
        }
    }

    fn of_site(&self, path: &std::path::Path) -> Result<ModbusConfig, Outcome> {
        let args = SiteArgs { site: path.to_path_buf(), mappings: Vec::new() };
        let loaded = site::load(&args);
        let connections = loaded.site.ok_or(Outcome::WrongConfiguration)?.connections;
        let found = connections.iter().find(|connection| connection.name == self.connection);
        if let Some(connection) = found {
            if let Protocol::Modbus(config) = &connection.protocol {
                return Ok(config.clone());
            }
            errln!("error: connection '{}' is an OPC UA server; `taktbus browse` looks around there", self.connection);
            return Err(Outcome::WrongConfiguration);
        }
        let names: Vec<&str> = connections.iter().map(|connection| connection.name.as_str()).collect();
        errln!("error: no connection '{}' in the site; it has: {}", self.connection, names.join(", "));
        Err(Outcome::WrongConfiguration)
    }
}
