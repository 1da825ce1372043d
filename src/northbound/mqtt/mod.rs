//! MQTT 3.1.1 (OASIS standard, 29 October 2014) as a sink.

pub mod config;
