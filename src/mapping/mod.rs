//! The mapping layer: from raw readings to named, scaled values. Pure.

pub mod batch;
pub mod compile;
pub mod compiled;
pub mod device;
pub mod example;
pub mod inverse;
pub mod node;
pub mod parameters;
pub mod points;
pub mod profile;
pub mod recent;
pub mod refused;
pub mod transform;
pub mod write;
pub mod written;
