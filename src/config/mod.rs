//! Site file → plan.

pub mod plan;
