//! What `taktbus demo` runs beside the gateway.

pub mod broker;
pub mod plant;
