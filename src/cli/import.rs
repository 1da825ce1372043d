//! `taktbus import`: a register table, or another gateway's configuration, becomes YAML.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use super::{Outcome, site};
use crate::document::source;
use crate::interchange::note::Severity;
use crate::interchange::sheet::text;
use crate::interchange::table::{self, Column, Imported, Options};
use crate::interchange::{MAX_FILE_BYTES, home_assistant, neuron, profile_name, telegraf};
use crate::model::place::Table;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A register table (.csv, .tsv, .xlsx), or what --from says; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the file is, when it's another gateway's
    ///
    /// Telegraf's and Home Assistant's become a site file, Neuron's tags a profile (or a site, when they are of several
    /// stations).
    #[arg(long, value_enum, value_name = "GATEWAY", conflicts_with_all = ["map", "base", "table", "sheet"])]
    from: Option<Gateway>,
    /// Which column is which, where its title is not known, for instance --map type='Data format'
    #[arg(long, value_name = "COLUMN=TITLE", value_parser = mapping)]
    map: Vec<(Column, String)>,
    /// What addresses count from: 0, as they go on the wire, or 1 [default: 0; references such as 40001 are recognised]
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u16).range(0..=1))]
    base: Option<u16>,
    /// Which table rows are in that do not say it [default: holding]
    #[arg(long, value_enum, value_name = "TABLE")]
    table: Option<TableWord>,
    /// Which sheet of a spreadsheet [default: the one with most known titles]
    #[arg(long, value_name = "NAME")]
    sheet: Option<String>,
    /// The profile's name [default: from the path of the output below mappings, or the file's name]
    #[arg(long, value_name = "VENDOR/MODEL")]
    profile: Option<String>,
    /// Write here instead of to standard output
    #[arg(short, long, value_name = "OUT.yaml")]
    output: Option<PathBuf>,
    /// Replace the output if it exists
    #[arg(long, requires = "output")]
    force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Gateway {
    /// telegraf.conf with [[inputs.modbus]]
    Telegraf,
    /// configuration.yaml with modbus:
    HomeAssistant,
    /// a table of tags, as Neuron exports it
    Neuron,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TableWord {
    Coil,
    Discrete,
    Input,
    Holding,
}

impl TableWord {
    fn table(self) -> Table {
        match self {
            Self::Coil => Table::Coil,
            Self::Discrete => Table::Discrete,
            Self::Input => Table::Input,
            Self::Holding => Table::Holding,
        }
    }
}

/// `type=Data format`
fn mapping(text: &str) -> Result<(Column, String), String> {
    let words = || Column::TITLES.map(|(_, word, _)| word).join(", ");
    let (word, title) = text.split_once('=').ok_or("write COLUMN=TITLE, such as type='Data format'")?;
    match Column::of_word(word.trim()) {
        Some(column) => Ok((column, title.trim().to_owned())),
        None => Err(format!("'{word}' is no column: one of {}", words())),
    }
}

pub fn import(args: ImportArgs) -> Result<Outcome> {
    let shown = args.file.display().to_string();
    let bytes = read(&args.file)?;
    let profile = args.profile.clone().unwrap_or_else(|| profile_name(&args.file, args.output.as_deref()));
    let file =
        args.file.file_name().map_or_else(|| shown.clone(), |name| name.to_string_lossy().into_owned());
    // A site has a single word for its name.
    let site = profile.rsplit('/').next().unwrap_or_default();
    let imported = match args.from {
        None => table(&args, &bytes, profile, file).with_context(|| shown.clone() + hint(&args.file)),
        Some(Gateway::Telegraf) => {
            telegraf::import(&text(&bytes), site, &file).with_context(|| shown.clone())
        }
        Some(Gateway::HomeAssistant) => {
            home_assistant::import(&text(&bytes), site, &file).with_context(|| shown.clone())
        }
        Some(Gateway::Neuron) => neuron::import(&bytes, &profile, &file).with_context(|| shown.clone()),
    };
    finish(&args, &shown, &imported?)
}

/// For files that are no tables by their names.
fn hint(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("conf" | "toml") => " (is it Telegraf's? --from telegraf)",
        Some("yaml" | "yml") => " (is it Home Assistant's? --from home-assistant)",
        _ => "",
    }
}

fn table(args: &ImportArgs, bytes: &[u8], profile: String, file: String) -> Result<Imported> {
    let options = Options {
        map: args.map.clone(),
        base: args.base,
        sheet: args.sheet.clone(),
        table: args.table.map(TableWord::table),
        profile,
        file,
    };
    Ok(table::import(bytes, &options)?)
}

/// Prints what is to be said, and writes what there is to write.
fn finish(args: &ImportArgs, shown: &str, imported: &Imported) -> Result<Outcome> {
    for note in &imported.notes {
        errln!("{}", note.show(shown));
    }
    if imported.points == 0 {
        errln!("{shown}: no points, {} left out: nothing is written", imported.left_out);
        return Ok(Outcome::Failed);
    }
    let target = match &args.output {
        Some(path) => {
            write(path, &imported.yaml, args.force)?;
            path.display().to_string()
        }
        None => {
            out!("{}", imported.yaml);
            shown.to_owned()
        }
    };
    let points = site::plural(imported.points, "point");
    errln!("{target}: {points}, {} left out", imported.left_out);
    let is_whole = imported.notes.iter().all(|note| note.severity != Severity::Error);
    Ok(if is_whole { Outcome::Fine } else { Outcome::Failed })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        bytes
    } else {
        match source::read_bytes(path) {
            Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => Vec::new(),
            bytes => return bytes.with_context(|| path.display().to_string()),
        }
    };
    if bytes.is_empty() || bytes.len() as u64 > MAX_FILE_BYTES {
        bail!("{}: empty, or larger than {MAX_FILE_BYTES} bytes", path.display());
    }
    Ok(bytes)
}

/// Writes a file; one that exists is replaced only when that is wanted.
pub fn write(path: &Path, text: &str, force: bool) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!force);
    let mut file = options.open(path).with_context(|| match force {
        true => path.display().to_string(),
        false => format!("{}: cannot be created (--force replaces a file)", path.display()),
    })?;
    file.write_all(text.as_bytes()).with_context(|| path.display().to_string())
}
