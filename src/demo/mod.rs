//! What a demonstration needs besides the gateway, in this process: nothing to install.

pub mod broker;
pub mod subscriber;
