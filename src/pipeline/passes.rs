//! What a route lets through. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a route carries of each device; a device that is not named passes whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// By device.
    pub devices: BTreeMap<Arc<str>, Pass>,
}

/// What a route carries of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pass {
    /// All of it.
    #[default]
    All,
    /// Nothing, not even its status.
    None,
    /// These points.
    Only(BTreeSet<Arc<str>>),
    /// All but these points.
    Except(BTreeSet<Arc<str>>),
}

impl Passes {
    /// What it carries of a device.
    pub fn of(&self, device: &str) -> Pass {
        self.devices.get(device).cloned().unwrap_or_default()
    }
}

impl Pass {
    /// Does this point pass?
    pub fn lets(&self, point: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Only(points) => points.contains(point),
            Self::Except(points) => !points.contains(point),
        }
    }
}
