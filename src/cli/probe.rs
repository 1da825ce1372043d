//! `taktbus probe`: registers and their neighbours as every type in every order, ranked by what the value should be.

mod expect;
mod guess;
mod look;
mod show;

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use self::expect::Expect;
use self::look::{Blind, look};
use self::show::Shown;
use super::connection::ConnectionArgs;
use super::{Outcome, duration};
use crate::drivers::modbus::client::Client;
use crate::drivers::modbus::config::Link;
use crate::drivers::modbus::plan::Block;
use crate::model::place::Table;

/// Registers that are read in front of those asked for, and behind: the last one may begin a value of four.
const BEFORE: u16 = 2;
const BEHIND: u16 = 4;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taktbus probe tcp://192.168.1.50 1 holding 100 --expect 230±10
  taktbus probe tcp://192.168.1.50:1502 1 input 40 4               # everything that they may mean
  taktbus probe 'rtu:///dev/ttyUSB0?baud=9600&format=8N1' 2 holding 0
  taktbus probe --site gateway.yaml meters 2 input 0 --expect 49.9..50.1

Write down a value that the device shows, ask for its register with --expect, and paste the
line that fits. The address counts from 0, as on the wire; its neighbours are shown too, because
most lists on paper count from 1.

Exit codes: 0 read, 1 the device does not answer or refuses, 2 the arguments are wrong.")]
pub struct ProbeArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// The unit id
    #[arg(value_name = "UNIT")]
    unit: u8,
    /// The table
    #[arg(value_name = "TABLE", value_enum)]
    table: TableArg,
    /// The first address, counted from 0
    #[arg(value_name = "ADDRESS", value_parser = address)]
    address: u16,
    /// How many registers
    #[arg(value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    count: u16,
    /// What the value should be: 230±10, 230+-10, 230±5%, 220..240, or 230
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    expect: Option<Expect>,
    /// Every type and order too, with --expect
    #[arg(long)]
    all: bool,
    /// How long to wait for each answer [default: the connection's]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TableArg {
    /// function code 1
    Coil,
    /// function code 2
    Discrete,
    /// function code 4
    Input,
    /// function code 3
    Holding,
}

impl TableArg {
    fn table(self) -> Table {
        match self {
            Self::Coil => Table::Coil,
            Self::Discrete => Table::Discrete,
            Self::Input => Table::Input,
            Self::Holding => Table::Holding,
        }
    }
}

pub async fn probe(args: ProbeArgs) -> Result<Outcome> {
    let config = match args.connection.config() {
        Ok(config) => config,
        Err(outcome) => return Ok(outcome),
    };
    if !matches!(config.link, Link::Tcp { .. }) && !(1..=247).contains(&args.unit) {
        errln!("error: a serial line has the unit ids 1 to 247");
        return Ok(Outcome::WrongConfiguration);
    }
    let Some(window) = Window::of(&args) else {
        errln!("error: {} registers from address {} reach beyond the last, 65535", args.count, args.address);
        return Ok(Outcome::WrongConfiguration);
    };
    let link = config.link.to_string();
    let mut client = Client::new(config);
    let seen = match look(&mut client, args.unit, window.block, args.address, args.timeout).await {
        Ok(seen) => seen,
        Err(blind) => {
            let where_to_look =
                if matches!(blind, Blind::Unit { .. }) { ": taktbus scan finds units" } else { "" };
            errln!("error: {link}: {blind}{where_to_look}");
            return Ok(Outcome::Failed);
        }
    };
    let found = match args.expect {
        Some(expect) => guess::fitting(&seen.words, &window.asked, &window.starts, expect),
        None => guess::plausible(&seen.words, &window.asked, &window.starts),
    };
    let shown = Shown {
        link,
        unit: args.unit,
        table: window.block.table,
        asked: &window.asked,
        starts: &window.starts,
        seen: &seen,
        expect: args.expect,
        found: if window.block.table.is_bits() { &[] } else { &found },
        all: args.all,
    };
    match args.json {
        true => outln!("{:#}", shown.as_json()),
        false => out!("{}", shown.as_text()),
    }
    let answered = window.asked.iter().any(|address| seen.words.contains_key(address));
    Ok(if answered { Outcome::Fine } else { Outcome::Failed })
}

/// What is asked for, and what is read for it.
struct Window {
    asked: Vec<u16>,
    /// Where values are taken to begin: what was asked for, and one to each side.
    starts: Vec<u16>,
    block: Block,
}

impl Window {
    /// `None` beyond the last address.
    fn of(args: &ProbeArgs) -> Option<Self> {
        let last = args.address.checked_add(args.count - 1)?;
        let first_read = args.address.saturating_sub(BEFORE);
        let last_read = last.saturating_add(BEHIND);
        let block =
            Block { table: args.table.table(), address: first_read, count: last_read - first_read + 1 };
        let asked = (args.address..=last).collect();
        let starts = (args.address.saturating_sub(1)..=last.saturating_add(1)).collect();
        Some(Self { asked, starts, block })
    }
}

/// `100` or `0x64`.
fn address(text: &str) -> Result<u16, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| "an address is 0 to 65535, or 0x0 to 0xFFFF".into())
}
