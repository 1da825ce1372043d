//! YAML as written: every word keeps its place, and one declaration gives the reader and the JSON Schema.
//!
//! Nothing here knows what a document is about. Readers report every problem into
//! [`Diagnostics`](crate::model::diagnostic::Diagnostics) and go on; they never stop at the first one.

pub mod codes;
pub mod duration;
pub mod fields;
pub mod read;
pub mod scalar;
pub mod schema;
pub mod source;
pub mod suggest;
pub mod types;
pub mod yaml;
