//! Writes the table of the shipped profiles, so that the binary carries a copy of `mappings/`.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=mappings");
    println!("cargo::rerun-if-changed=build.rs");
    let mut names = Vec::new();
    let root = Path::new("mappings");
    if root.is_dir() {
        collect(root, "", &mut names)?;
    }
    names.sort();
    let mut table = String::from("&[\n");
    for name in &names {
        let text = format!(
            "include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {:?}))",
            format!("/mappings/{name}.yaml")
        );
        writeln!(table, "    ({name:?}, {text}),").map_err(io::Error::other)?;
    }
    table.push_str("]\n");
    let folder = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&folder).join("profiles.rs"), table)
}

/// The names of all profiles below a folder: their paths without `.yaml`, with `/`.
fn collect(folder: &Path, prefix: &str, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            println!("cargo::rerun-if-changed={}", entry.path().display());
            collect(&entry.path(), &format!("{prefix}{name}/"), names)?;
        } else if let Some(stem) = name.strip_suffix(".yaml") {
            names.push(format!("{prefix}{stem}"));
        }
    }
    Ok(())
}
