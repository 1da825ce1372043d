//! Field buses to the cloud, on time.
//!
//! The modules, in dependency order; each imports only those above it (`tests/layering.rs` keeps it so):
//!
//! - [`budget`] latency budgets and the deadline queue, pure
//! - [`metrics`] every metric of the program
//! - [`model`] the nouns
//! - [`document`] YAML as written, with the place of every word
//! - [`mapping`] from raw readings to named, scaled values, pure
//! - [`drivers`] southbound
//! - [`pipeline`] batch → mapping → message per route
//! - [`store`] what survives an outage, a crash and a power cut
//! - [`northbound`] the forwarder and its sinks
//! - [`config`] site file → plan
//! - [`interchange`] register tables and other gateways' configurations, in and out
//! - [`runtime`] starts, watches and stops tasks
//! - [`simulation`] the devices of a site without the devices
//! - [`demo`] an embedded broker and a subscriber
//! - [`cli`] the command line

pub mod budget;
pub mod cli;
pub mod config;
pub mod demo;
pub mod document;
pub mod drivers;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod interchange;
pub mod mapping;
pub mod metrics;
pub mod model;
pub mod northbound;
pub mod pipeline;
pub mod runtime;
pub mod simulation;
pub mod store;
