//! The nouns that every layer shares. No I/O but the wall clock and secrets, no logging.

pub mod clock;
pub mod decimal;
pub mod diagnostic;
pub mod gaps;
pub mod message;
pub mod place;
pub mod secret;
pub mod time;
pub mod value;
