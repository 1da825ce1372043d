//! `taktbus write --dry-run`: the request that would write a value, explained byte by byte. Nothing is sent.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use serde_json::{Value as Json, json};

use super::table::Table;
use super::{Outcome, SiteArgs, site};
use crate::config::plan::{Connection, Protocol, Site};
use crate::document::suggest::nearest;
use crate::drivers::modbus::config::Link;
use crate::drivers::modbus::config::ModbusConfig;
use crate::drivers::modbus::framing::{self, Framing};
use crate::drivers::modbus::plan::Block;
use crate::drivers::modbus::write::{self, Change, Write};
use crate::mapping::compiled::Order;
use crate::mapping::device::Device;
use crate::mapping::inverse;
use crate::mapping::transform::apply;
use crate::mapping::write::{Setting, Target};
use crate::model::value::{Raw, Value};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taktbus write --dry-run gateway.yaml box1 max_current 16
  taktbus write --dry-run gateway.yaml boiler mode eco         # a text of the point's enum
  taktbus write --dry-run gateway.yaml pump running true       # a coil, or a bit of a register
  taktbus write --dry-run gateway.yaml pv power_limit 50 --scale-factor -1

A point can be written when its profile says so (access: rw, or w) and the site allows it:
  allow_write: {box1: [max_current]}

Exit codes: 0 the frame was shown, 2 the write is refused.")]
pub struct WriteArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// The device
    #[arg(value_name = "DEVICE")]
    device: String,
    /// The point
    #[arg(value_name = "POINT")]
    point: String,
    /// The value, in the point's unit
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    value: String,
    /// Show the request instead of sending it; this version can do nothing else
    #[arg(long)]
    dry_run: bool,
    /// The present value of the point's scale factor, where it has one (`scale_from`)
    #[arg(long, value_name = "EXPONENT", allow_negative_numbers = true)]
    scale_factor: Option<i32>,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub fn write(args: &WriteArgs) -> Result<Outcome> {
    if !args.dry_run {
        errln!("error: this version writes nothing: with --dry-run it shows the request");
        return Ok(Outcome::WrongConfiguration);
    }
    let site = match site::site(&args.site) {
        Ok(site) => site,
        Err(outcome) => return Ok(outcome),
    };
    match planned(&site, args) {
        Ok(planned) if args.json => outln!("{:#}", planned.as_json()),
        Ok(planned) => out!("{}", planned.as_text()),
        Err(refusal) => {
            errln!("error: {refusal}");
            return Ok(Outcome::WrongConfiguration);
        }
    }
    Ok(Outcome::Fine)
}

/// A write that nothing forbids.
struct Planned<'s> {
    connection: &'s Connection,
    config: &'s ModbusConfig,
    device: &'s Device,
    target: &'s Target,
    setting: Setting,
    write: Write,
    /// What is read back when all goes well.
    shown: String,
    framing: Framing,
}

fn planned<'s>(site: &'s Site, args: &WriteArgs) -> Result<Planned<'s>, String> {
    let (connection, device) = device(site, &args.device)?;
    let target = allowed(site, device, &args.point)?;
    let refused = |refusal: inverse::Refusal| {
        let hint = match (&refusal, target.transform.scale_from) {
            (inverse::Refusal::NoScaleFactor, Some(from)) => {
                let name = &device.map.points[from.0 as usize].name;
                format!(" ('{name}'): read it, and give its value as --scale-factor")
            }
            _ => String::new(),
        };
        format!("'{}' cannot be written to {} {}: {refusal}{hint}", args.value, device.name, target.name)
    };
    let value = inverse::parse(&args.value, target).map_err(refused)?;
    let setting = target.setting(&value, args.scale_factor).map_err(refused)?;
    let write = Write::new(device.unit, target, &setting).map_err(|error| error.to_string())?;
    let Protocol::Modbus(config) = &connection.protocol else {
        return Err(format!(
            "'{}' is behind an OPC UA server, which this version does not write to",
            device.name
        ));
    };
    let framing = match config.link {
        Link::Tcp { .. } => Framing::Mbap,
        Link::RtuOverTcp { .. } | Link::Serial { .. } => Framing::Rtu,
    };
    let shown = shown(target, &setting, args.scale_factor);
    Ok(Planned { connection, config, device, target, setting, write, shown, framing })
}

fn device<'s>(site: &'s Site, name: &str) -> Result<(&'s Connection, &'s Device), String> {
    let all = || site.connections.iter().flat_map(|c| c.devices.iter().map(move |device| (c, device)));
    all().find(|(_, device)| *device.name == *name).ok_or_else(|| {
        let known: Vec<&str> = all().map(|(_, device)| &*device.name).collect();
        format!("no device '{name}' in the site; it has: {}", known.join(", "))
    })
}

/// The target, if the profile and the site let it be written.
fn allowed<'s>(site: &Site, device: &'s Device, name: &str) -> Result<&'s Target, String> {
    let target = device.map.writes.iter().find(|target| *target.name == *name);
    let allows = site.allow_write.get(&*device.name).is_some_and(|points| points.contains(name));
    match target {
        Some(target) if allows => Ok(target),
        Some(_) => Err(format!(
            "the site does not allow to write '{name}': add it to allow_write: {{{}: [{name}]}}",
            device.name
        )),
        None if device.map.points.iter().any(|point| *point.name == *name) => Err(format!(
            "point '{name}' of device '{}' can only be read: its access is r, the default",
            device.name
        )),
        None => {
            let writable = device.map.writes.iter().map(|target| &*target.name);
            let known = writable.chain(device.map.points.iter().map(|point| &*point.name));
            let near = nearest(name, known).map_or(String::new(), |near| format!(": did you mean '{near}'?"));
            Err(format!("device '{}' has no point '{name}'{near}", device.name))
        }
    }
}

/// What the gateway will publish when the write has worked.
fn shown(target: &Target, setting: &Setting, exponent: Option<i32>) -> String {
    match apply(&setting.raw, &target.transform, exponent) {
        Ok(Value::Text(text) | Value::Json(text)) => text.to_string(),
        Ok(Value::Bool(bit)) => bit.to_string(),
        Ok(Value::Number(number)) => number.to_string(),
        Ok(Value::Float32(float)) => float.to_string(),
        Ok(Value::Float64(float)) => float.to_string(),
        Ok(Value::Flags(word)) => format!("0x{word:X}"),
        Err(cause) => cause.to_string(),
    }
}

impl Planned<'_> {
    /// The request's frame; on TCP with the first transaction id of a connection.
    fn request(&self) -> Vec<u8> {
        framing::frame(self.framing, self.write.unit, 1, &self.write.pdu())
    }

    /// The answer's frame when it's done.
    fn answer(&self) -> Vec<u8> {
        framing::frame(self.framing, self.write.unit, 1, &self.write.answer())
    }

    /// The read that proves it, and its frame.
    fn read_back(&self) -> Option<(Block, Vec<u8>)> {
        let block = write::read_back(self.target)?;
        Some((block, framing::frame(self.framing, self.write.unit, 2, &write::read_pdu(block))))
    }

    fn as_text(&self) -> String {
        let Self { connection, config, device, target, write, .. } = self;
        let unit_word = target.unit.as_deref().map(|unit| format!(" {unit}")).unwrap_or_default();
        let function = write.function();
        let mut out = String::from("dry run: nothing is sent\n\n");
        let mut line = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        line(format!("{} {} = {}{unit_word}", device.name, target.name, self.shown));
        line(format!("raw         {}", raw(&self.setting)));
        line(format!("place       {}", place(target, write)));
        line(format!("connection  {} ({}), unit {}", connection.name, config.link, write.unit));
        if !target.allowed.to_string().is_empty() {
            line(format!("allowed     {}{unit_word}", target.allowed));
        }
        if let Some(refresh) = target.refresh {
            line(format!(
                "refresh     to be written again every {}",
                crate::document::duration::show_duration(refresh)
            ));
        }
        line(format!("\nrequest     FC{} {function}\n  {}\n", function.code(), hex(&self.request())));
        line(indented(&self.fields().render()));
        line(format!("answer when done\n  {}\n", hex(&self.answer())));
        match self.read_back() {
            Some((block, frame)) => {
                line(format!(
                    "read back   {}, must be {}{unit_word}\n  {}",
                    describe(block),
                    self.shown,
                    hex(&frame)
                ));
            }
            None => line("read back   none: the point can only be written (access: w)".into()),
        }
        out
    }

    /// The request's bytes with what they mean.
    fn fields(&self) -> Table {
        let frame = self.request();
        let mut table = Table::new(&["bytes", "meaning"]);
        let mut at = 0;
        for (length, meaning) in self.meanings(frame.len()) {
            table.row([hex(&frame[at..at + length]), meaning]);
            at += length;
        }
        table
    }

    /// How many bytes mean what, over the whole frame of `length` bytes.
    fn meanings(&self, length: usize) -> Vec<(usize, String)> {
        let write = &self.write;
        let mut all = Vec::new();
        if self.framing == Framing::Mbap {
            all.push((2, "transaction id: counts up, the answer repeats it".into()));
            all.push((2, "protocol id 0: Modbus".into()));
            all.push((2, format!("length: {} bytes follow", length - 6)));
        }
        all.push((1, format!("unit id {}", write.unit)));
        all.push((1, format!("function code {}: {}", write.function().code(), write.function())));
        all.push((2, format!("address {}, counted from 0", write.address)));
        let state = |set: bool| if set { "on" } else { "off" };
        match &write.change {
            Change::Coil(set) => all.push((2, format!("the coil {}", state(*set)))),
            Change::Register(word) => all.push((2, format!("value {}", u16::from_be_bytes(*word)))),
            Change::Coils(set) => {
                all.push((2, "1 coil".into()));
                all.push((1, "1 byte follows".into()));
                all.push((1, format!("the coil {}", state(*set))));
            }
            Change::Registers(words) => {
                all.push((2, site::plural(words.len() / 2, "register")));
                all.push((1, format!("{} bytes follow", words.len())));
                let order =
                    if words.len() > 2 { format!(", order {}", order(self.target)) } else { String::new() };
                all.push((words.len(), format!("value {}{order}", raw(&self.setting))));
            }
            Change::Mask { and, .. } => {
                all.push((2, format!("AND mask: {} of 16 bits stay as they are", and.count_ones())));
                all.push((2, "OR mask: what the others become".into()));
            }
        }
        if self.framing == Framing::Rtu {
            all.push((2, "CRC".into()));
        }
        all
    }

    fn as_json(&self) -> Json {
        let config = self.config;
        let read_back = self.read_back().map(|(block, frame)| {
            json!({
                "function": block.table.read_function(), "table": block.table.key(), "address": block.address,
                "count": block.count, "frame": hex(&frame), "value": self.shown,
            })
        });
        json!({
            "dry_run": true,
            "device": &*self.device.name,
            "point": &*self.target.name,
            "value": self.shown,
            "unit": self.target.unit.as_deref(),
            "raw": raw(&self.setting),
            "connection": self.connection.name,
            "link": config.link.to_string(),
            "unit_id": self.write.unit,
            "function": self.write.function().code(),
            "address": self.write.address,
            "request": hex(&self.request()),
            "answer": hex(&self.answer()),
            "read_back": read_back,
            "refresh_ms": self.target.refresh.map(|refresh| refresh.as_millis() as u64),
        })
    }
}

fn place(target: &Target, write: &Write) -> String {
    let Some(table) = target.reading.place.table() else { return String::new() };
    let table = table.key();
    let address = write.address;
    match &write.change {
        Change::Coil(_) | Change::Coils(_) => format!("{table} {address}"),
        Change::Register(word) => format!("{table} {address}: 0x{}", plain_hex(word)),
        Change::Registers(words) => {
            let shown: Vec<String> = words.chunks(2).map(|word| format!("0x{}", plain_hex(word))).collect();
            let shown = shown.join(" ");
            if words.len() == 2 {
                return format!("{table} {address}: {shown}");
            }
            let last = usize::from(address) + words.len() / 2 - 1;
            format!("{table} {address}–{last}: {shown} (order {})", order(target))
        }
        Change::Mask { and, or } => {
            format!(
                "{table} {address}: of its bits 0x{:04X} become 0x{:04X}, the others stay",
                !and,
                or & !and
            )
        }
    }
}

/// The order's letters, as many as the value has bytes.
fn order(target: &Target) -> &'static str {
    let registers = target.reading.decode.kind.registers();
    match (target.order, registers) {
        (Order::Abcd | Order::Cdab, None | Some(1)) => "AB",
        (Order::Badc | Order::Dcba, None | Some(1)) => "BA",
        (Order::Abcd, Some(2)) => "ABCD",
        (Order::Cdab, Some(2)) => "CDAB",
        (Order::Badc, Some(2)) => "BADC",
        (Order::Dcba, Some(2)) => "DCBA",
        (Order::Abcd, _) => "ABCDEFGH",
        (Order::Cdab, _) => "GHEFCDAB",
        (Order::Badc, _) => "BADCFEHG",
        (Order::Dcba, _) => "HGFEDCBA",
    }
}

fn raw(setting: &Setting) -> String {
    match &setting.raw {
        Raw::Bool(bit) => bit.to_string(),
        Raw::Int(number) => number.to_string(),
        Raw::Uint(number) => match setting.mask {
            Some(mask) => format!("0x{number:X} in the bits 0x{mask:X}"),
            None => number.to_string(),
        },
        Raw::Float32(float) => float.to_string(),
        Raw::Float64(float) => float.to_string(),
        Raw::Text(text) | Raw::Json(text) => format!("'{text}'"),
    }
}

/// `FC3 holding 261–262 (2)`
fn describe(block: Block) -> String {
    let Block { table, address, count } = block;
    let last = u32::from(address) + u32::from(count) - 1;
    let span = if count == 1 { address.to_string() } else { format!("{address}–{last} ({count})") };
    format!("FC{} {} {span}", table.read_function(), table.key())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(" ")
}

fn plain_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
