//! `taktbus store`: what waits on disk, looked at from outside.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Outcome;
use super::site::plural;
use super::table::Table;
use crate::model::time::Stamp;
use crate::runtime::{state, stores};
use crate::store::disk::Folder;
use crate::store::format;
use crate::store::inspect::{Contents, look};
use crate::store::{Marks, StoreError, Stored};

#[derive(Debug, Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
    /// The state directory of the gateway [default: $STATE_DIRECTORY]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Only this route's store
    #[arg(long, global = true, value_name = "NAME")]
    route: Option<String>,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Show what waits: by device and run, with ages, sizes and gaps; a running gateway is not disturbed
    Inspect {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Read everything and report damage; exits with 1 if there is any
    Verify,
    /// Print what waits as JSON lines: device, epoch, seq, topic and payload
    Export,
    /// Throw a store away, with all that waits in it; refused while a gateway has it open
    Drop {
        /// Yes, these messages will never be delivered
        #[arg(long)]
        yes: bool,
    },
}

pub fn store(args: StoreArgs) -> Result<Outcome> {
    let Some(state) = args.state.or_else(state::default_directory) else {
        errln!("error: where is the store? Give the state directory of the gateway: --state DIR");
        return Ok(Outcome::WrongConfiguration);
    };
    let stores = found(&stores::folder(&state), args.route.as_deref())?;
    if stores.is_empty() {
        let which = args.route.map_or_else(String::new, |route| format!(" of a route '{route}'"));
        errln!("error: there is no store{which} in {}", state.display());
        return Ok(Outcome::Failed);
    }
    match args.command {
        StoreCommand::Inspect { json: true } => inspect_json(&stores),
        StoreCommand::Inspect { json: false } => inspect(&stores),
        StoreCommand::Verify => verify(&stores),
        StoreCommand::Export => export(&stores),
        StoreCommand::Drop { yes } => drop_all(&stores, yes),
    }
}

/// The stores of all routes, or of one, by name.
fn found(folder: &Path, route: Option<&str>) -> Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let mut stores = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && route.is_none_or(|route| route == name) {
            stores.push((name, entry.path()));
        }
    }
    stores.sort();
    Ok(stores)
}

fn read(path: &Path, each: impl FnMut(&Stored, Marks)) -> Result<Contents> {
    look(path, each).with_context(|| format!("cannot read the store {}", path.display()))
}

fn inspect(stores: &[(String, PathBuf)]) -> Result<Outcome> {
    for (name, path) in stores {
        let contents = read(path, |_, _| ())?;
        let messages: u64 = contents.waiting.values().map(|waiting| waiting.messages).sum();
        outln!(
            "route {name}: {} undelivered in {}, {} on disk ({})",
            plural(messages as usize, "message"),
            plural(contents.segments.len(), "segment"),
            size(contents.bytes),
            path.display()
        );
        if !contents.waiting.is_empty() {
            let titles =
                ["device", ">epoch", ">messages", ">bytes", ">from seq", ">to seq", "oldest", "newest"];
            let mut table = Table::new(&titles);
            for ((device, epoch), waiting) in &contents.waiting {
                table.row([
                    device.to_string(),
                    epoch.to_string(),
                    waiting.messages.to_string(),
                    size(waiting.bytes),
                    waiting.seq.0.to_string(),
                    waiting.seq.1.to_string(),
                    time(waiting.at.0),
                    time(waiting.at.1),
                ]);
            }
            out!("{}", table.render());
        }
        for gap in &contents.gaps {
            let id = &gap.id;
            outln!("gap: {} of epoch {}, seq {} to {}: {}", id.device, id.epoch, id.from, id.to, gap.reason);
        }
    }
    Ok(Outcome::Fine)
}

fn inspect_json(stores: &[(String, PathBuf)]) -> Result<Outcome> {
    let mut routes = Vec::new();
    for (name, path) in stores {
        let contents = read(path, |_, _| ())?;
        let waiting: Vec<Value> = contents
            .waiting
            .iter()
            .map(|((device, epoch), waiting)| {
                json!({
                    "device": &**device, "epoch": epoch, "messages": waiting.messages, "bytes": waiting.bytes,
                    "seq": { "from": waiting.seq.0, "to": waiting.seq.1 },
                    "at": { "from": time(waiting.at.0), "to": time(waiting.at.1) },
                })
            })
            .collect();
        let gaps: Vec<Value> = contents
            .gaps
            .iter()
            .map(|gap| {
                let id = &gap.id;
                json!({ "device": &*id.device, "epoch": id.epoch, "from": id.from, "to": id.to, "reason": gap.reason })
            })
            .collect();
        routes.push(json!({
            "route": name, "path": path, "bytes": contents.bytes, "segments": contents.segments.len(),
            "waiting": waiting, "gaps": gaps,
        }));
    }
    outln!("{:#}", Value::from(routes));
    Ok(Outcome::Fine)
}

fn verify(stores: &[(String, PathBuf)]) -> Result<Outcome> {
    let mut outcome = Outcome::Fine;
    for (name, path) in stores {
        let contents = read(path, |_, _| ())?;
        let mut table =
            Table::new(&["segment", ">messages", ">records", ">missing", ">unreadable", "finding"]);
        for segment in &contents.segments {
            let finding = match (&segment.header, segment.missing, segment.unknown, segment.unreadable) {
                (None, ..) => "its header is damaged",
                (_, 0, 0, 0) => "fine",
                _ => "damaged",
            };
            if finding != "fine" {
                outcome = Outcome::Failed;
            }
            table.row([
                segment.file.clone(),
                segment.messages.to_string(),
                segment.records.to_string(),
                segment.missing.to_string(),
                size(segment.unreadable),
                finding.to_string(),
            ]);
        }
        outln!("route {name}");
        out!("{}", table.render());
    }
    Ok(outcome)
}

fn export(stores: &[(String, PathBuf)]) -> Result<Outcome> {
    for (name, path) in stores {
        read(path, |stored, _| {
            let Stored { epoch, seq, at, device, topic, payload, .. } = stored;
            let payload: Value = serde_json::from_slice(payload)
                .unwrap_or_else(|_| String::from_utf8_lossy(payload).into_owned().into());
            let line = json!({
                "route": name, "device": &**device, "epoch": epoch, "seq": seq, "at": time(*at), "topic": &**topic,
                "payload": payload,
            });
            outln!("{line}");
        })?;
    }
    Ok(Outcome::Fine)
}

fn drop_all(stores: &[(String, PathBuf)], yes: bool) -> Result<Outcome> {
    for (name, path) in stores {
        let folder = match Folder::lock(path) {
            Ok(folder) => folder,
            Err(StoreError::InUse) => {
                errln!("error: the store of route '{name}' is in use: stop the gateway first");
                return Ok(Outcome::Failed);
            }
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        };
        let waiting: u64 = read(path, |_, _| ())?.waiting.values().map(|waiting| waiting.messages).sum();
        if !yes && waiting > 0 {
            errln!(
                "error: {} of route '{name}' would be lost; with --yes they are",
                plural(waiting as usize, "message")
            );
            return Ok(Outcome::Failed);
        }
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if format::number(&name).is_some() || name == format::SPARE {
                std::fs::remove_file(entry.path())?;
            }
        }
        drop(folder);
        outln!("route {name}: {} dropped", plural(waiting as usize, "message"));
    }
    Ok(Outcome::Fine)
}

fn time(millis: i64) -> String {
    Stamp::from_unix_micros(millis.saturating_mul(1000))
        .map_or_else(|| millis.to_string(), |at| at.to_string())
}

/// `850 B`, `12.3 KiB`, `4.5 MiB`
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
