//! What other tools read and write: register tables, and the configurations of other gateways, into profiles; profiles
//! into register tables. Pure.
//!
//! - What can't be carried over is named in a [`note::Note`] with its place; nothing is dropped silently.
//! - What is written passes `check`: each point that the checker refuses is left out, and its row is named.
//! - Everything from outside is bounded: the size of a file, its rows, columns and cells, what a spreadsheet unpacks to,
//!   and the notes.

mod address;
mod checked;
mod columns;
mod draft;
pub mod export;
pub mod home_assistant;
mod names;
pub mod neuron;
pub mod note;
mod numbers;
mod orders;
mod rows;
pub mod sheet;
pub mod site;
mod spreadsheet;
pub mod table;
pub mod telegraf;
mod titles;
pub mod tree;
mod type_names;
mod types;
mod words;
mod yaml;

pub use names::slug;
pub use yaml::scalar;

/// Largest file, in bytes: the same as of a configuration file.
pub const MAX_FILE_BYTES: u64 = crate::document::source::MAX_FILE_BYTES;

/// The name of a profile that nobody named: where it is going to be, below `mappings/`, or `imported/` and the file's name.
pub fn profile_name(file: &std::path::Path, output: Option<&std::path::Path>) -> String {
    let parts: Vec<String> = output
        .map(|path| {
            path.with_extension("")
                .iter()
                .map(|part| names::slug(&part.to_string_lossy()).replace('_', "-"))
                .collect()
        })
        .unwrap_or_default();
    let below = parts.iter().rposition(|part| part == "mappings").map(|at| parts[at + 1..].join("/"));
    let stem = || {
        file.file_stem()
            .map(|stem| names::slug(&stem.to_string_lossy()).replace('_', "-"))
            .unwrap_or_default()
    };
    let is_name = |name: &String| !name.is_empty() && !name.starts_with('/') && !name.contains("//");
    below.filter(is_name).unwrap_or_else(|| match stem() {
        stem if stem.is_empty() => "imported/device".into(),
        stem => format!("imported/{stem}"),
    })
}
