//! What `taktbus demo` runs beside the gateway.

pub mod plant;
