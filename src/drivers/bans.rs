//! What was found out about devices and should outlive the process: holes that shift what is read behind them.
//!
//! Drivers touch no files: they are given what is known, and report what they find.

use tokio::sync::mpsc;

use crate::model::place::Table;

/// Bans on their way to who keeps them. Full: the ban holds in this process, and is found again after a restart.
pub const BANS: usize = 64;

/// Addresses that a device leaves out of an answer over them: no request may read over them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ban {
    /// The link, as [`super::Plan::link`] gives it.
    pub link: String,
    /// Behind it, the unit.
    pub unit: u8,
    /// The table.
    pub table: Table,
    /// The first address that is left out, zero-based.
    pub address: u16,
    /// How many.
    pub count: u16,
}

/// What is known, and where to tell what is found.
#[derive(Clone, Debug, Default)]
pub struct Bans {
    known: Vec<Ban>,
    found: Option<mpsc::Sender<Ban>>,
}

impl Bans {
    /// `found` gets what is found.
    pub fn new(known: Vec<Ban>, found: Option<mpsc::Sender<Ban>>) -> Self {
        Self { known, found }
    }

    /// Is this known?
    pub fn has(&self, ban: &Ban) -> bool {
        self.known.contains(ban)
    }

    /// Remembers it. `false`: not beyond this process.
    pub fn add(&mut self, ban: Ban) -> bool {
        self.known.push(ban.clone());
        self.found.as_ref().is_some_and(|found| found.try_send(ban).is_ok())
    }
}
