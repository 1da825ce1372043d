//! `taktbus scan`: who is there? One register of each unit id is asked for, one request at a time.
//!
//! An exception is an answer too: only what is silent, or what a gateway says is not there, is absent.

mod show;
mod units;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tokio::time::{Instant, sleep};

use self::show::Shown;
use self::units::Units;
use super::connection::ConnectionArgs;
use super::summary::short;
use super::{Outcome, duration};
use crate::drivers::LinkLost;
use crate::drivers::modbus::client::Client;
use crate::drivers::modbus::config::{Line, Link, ModbusConfig, Parity};
use crate::drivers::modbus::exchange::Reply;
use crate::drivers::modbus::identify::Identity;
use crate::drivers::modbus::plan::Block;
use crate::model::place::Table;

/// So many links in a row that can't be opened end the scan.
const MOST_CLOSED: u32 = 3;

/// So many links in a row that drop instead of an answer end the scan.
const MOST_DROPPED: u32 = 8;

/// Servers that take one client need a moment to notice that it has gone.
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// Gateway path unavailable, gateway target failed to respond (Modbus Application Protocol V1.1b3, section 7).
const NOT_THERE: [u8; 2] = [0x0A, 0x0B];

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taktbus scan tcp://192.168.1.50
  taktbus scan 'rtu:///dev/ttyUSB0?baud=9600&format=8N1' --units 1..32
  taktbus scan rtu:///dev/ttyUSB0 --bauds 9600,19200 --formats 8N1,8E1 --units 1..10
  taktbus scan --site gateway.yaml meters

Nothing else may talk on the connection meanwhile: stop the gateway first. Ctrl-C prints what was
found so far.

Exit codes: 0 somebody answers, 1 nobody does, 2 the arguments are wrong.")]
pub struct ScanArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Unit ids, such as 1..32 or 1,2,10..20 [default: 1..247, on Modbus TCP also 0 and 255]
    #[arg(long, value_name = "UNITS")]
    units: Option<Units>,
    /// How long to wait for each answer
    #[arg(long, value_name = "DURATION", default_value = "300ms", value_parser = duration)]
    timeout: Duration,
    /// Function codes to ask with: units that are silent to the first are asked with the next
    #[arg(long, value_name = "CODES", value_delimiter = ',', default_value = "3,4", value_parser = clap::value_parser!(u8).range(1..=4))]
    functions: Vec<u8>,
    /// Speeds of a serial line to try, in bits per second
    #[arg(long, value_name = "BAUDS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(110..=4_000_000))]
    bauds: Vec<u32>,
    /// Formats of a serial line to try: 8N1, 8E1, 8O1, 8N2
    #[arg(long, value_name = "FORMATS", value_delimiter = ',', value_parser = format)]
    formats: Vec<(Parity, u8)>,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// A unit that answers.
pub struct Found {
    /// Its line's settings, where it's a line.
    pub line: Option<Line>,
    pub unit: u8,
    /// With which function code it answered.
    pub function: u8,
    /// The register's value, or the exception.
    pub answer: Result<u16, u8>,
    pub took: Duration,
    pub identity: Option<Identity>,
}

pub async fn scan(args: ScanArgs) -> Result<Outcome> {
    let config = match args.connection.config() {
        Ok(config) => config,
        Err(outcome) => return Ok(outcome),
    };
    let Some(lines) = lines(&config, &args) else {
        errln!("error: --bauds and --formats are for serial lines");
        return Ok(Outcome::WrongConfiguration);
    };
    let is_tcp = matches!(config.link, Link::Tcp { .. });
    let units = args.units.clone().unwrap_or_else(|| Units::usual(is_tcp));
    if !is_tcp && let Some(unit) = units.0.iter().find(|unit| !(1..=247).contains(*unit)) {
        errln!("error: unit id {unit}: a serial line has 1 to 247");
        return Ok(Outcome::WrongConfiguration);
    }
    let mut scan = Scan::new(&args, units, lines.len());
    scan.announce(&config);
    let ended = tokio::select! {
        ended = scan.lines(config, lines) => ended,
        _ = tokio::signal::ctrl_c() => Err(Ended::Interrupted),
    };
    scan.progress.clear();
    scan.found.sort_by_key(|found| found.unit);
    let shown = Shown { found: &scan.found, units: scan.units.0.len() };
    match args.json {
        true => outln!("{:#}", shown.as_json()),
        false => out!("{}", shown.as_text()),
    }
    match ended {
        Ok(()) => {}
        Err(Ended::Interrupted) => {
            errln!("interrupted: {} of {} questions were asked", scan.progress.done, scan.progress.total);
        }
        Err(Ended::Lost(lost)) => errln!("error: {lost}"),
    }
    Ok(if scan.found.is_empty() { Outcome::Failed } else { Outcome::Fine })
}

/// Why a scan ended early.
enum Ended {
    Interrupted,
    Lost(LinkLost),
}

struct Scan {
    units: Units,
    functions: Vec<u8>,
    timeout: Duration,
    found: Vec<Found>,
    progress: Progress,
    dropped: u32,
}

impl Scan {
    fn new(args: &ScanArgs, units: Units, lines: usize) -> Self {
        let total = units.0.len() * lines;
        Self {
            units,
            functions: args.functions.clone(),
            timeout: args.timeout,
            found: Vec::new(),
            progress: Progress::new(total),
            dropped: 0,
        }
    }

    fn announce(&self, config: &ModbusConfig) {
        // After a timeout a line rests for half as long again.
        let each = match config.link {
            Link::Tcp { .. } => self.timeout,
            _ => self.timeout * 3 / 2,
        };
        let most = each * u32::try_from(self.progress.total * self.functions.len()).unwrap_or(u32::MAX);
        errln!(
            "{}: {} unit ids, {} at most; nothing else may talk on it meanwhile",
            config.link,
            self.units.0.len(),
            short(most)
        );
    }

    async fn lines(&mut self, config: ModbusConfig, lines: Vec<Option<Line>>) -> Result<(), Ended> {
        for line in lines {
            let mut config = config.clone();
            if let (Some(line), Link::Serial { line: own, .. } | Link::RtuOverTcp { line: Some(own), .. }) =
                (line, &mut config.link)
            {
                *own = line;
            }
            let mut client = Client::new(config);
            self.line(&mut client, line).await?;
        }
        Ok(())
    }

    /// All units; those that are silent are asked again with the next function code.
    async fn line(&mut self, client: &mut Client, line: Option<Line>) -> Result<(), Ended> {
        let mut silent = self.units.0.clone();
        for (pass, function) in self.functions.clone().into_iter().enumerate() {
            if pass > 0 {
                self.progress.total += silent.len();
            }
            let mut still = Vec::new();
            for unit in silent {
                self.progress.show(unit, self.found.len());
                match self.ask(client, unit, function).await? {
                    Some((answer, took)) => {
                        self.found.push(Found { line, unit, function, answer, took, identity: None });
                        tracing::debug!(unit, function, ?answer, "somebody answers");
                        // Who answers may still not know this question; the scan goes on.
                        let identity = client.identify(unit, self.timeout).await.unwrap_or_default();
                        if let Some(found) = self.found.last_mut() {
                            found.identity = identity;
                        }
                    }
                    None => still.push(unit),
                }
                self.progress.done += 1;
            }
            silent = still;
        }
        Ok(())
    }

    /// Asks a unit for register 0. `None`: it is not there.
    async fn ask(
        &mut self,
        client: &mut Client,
        unit: u8,
        function: u8,
    ) -> Result<Option<(Result<u16, u8>, Duration)>, Ended> {
        let table = [Table::Coil, Table::Discrete, Table::Holding, Table::Input]
            .into_iter()
            .find(|table| table.read_function() == function)
            .unwrap_or(Table::Holding);
        let block = Block { table, address: 0, count: 1 };
        self.connect(client).await?;
        match client.ask(unit, block, Some(self.timeout)).await {
            Ok(answer) => {
                self.dropped = 0;
                let word = match *answer.data {
                    [high, low] => u16::from_be_bytes([high, low]),
                    [bit] => u16::from(bit & 1),
                    _ => 0,
                };
                Ok(match answer.reply {
                    Reply::Data => Some((Ok(word), answer.took)),
                    Reply::Exception(code) if !NOT_THERE.contains(&code) => Some((Err(code), answer.took)),
                    _ => None,
                })
            }
            // Some servers close when they are asked for a unit that they don't have.
            Err(_) if self.dropped < MOST_DROPPED => {
                self.dropped += 1;
                Ok(None)
            }
            Err(lost) => Err(Ended::Lost(lost)),
        }
    }

    /// Opens the link, if it takes several tries.
    async fn connect(&mut self, client: &mut Client) -> Result<(), Ended> {
        let mut tries = 1;
        while let Err(lost) = client.connect().await {
            if tries >= MOST_CLOSED {
                return Err(Ended::Lost(lost));
            }
            tries += 1;
            sleep(BETWEEN_TRIES).await;
        }
        Ok(())
    }
}

/// How far the scan is, on a terminal.
struct Progress {
    shown: bool,
    started: Instant,
    done: usize,
    total: usize,
}

impl Progress {
    fn new(total: usize) -> Self {
        Self { shown: std::io::stderr().is_terminal(), started: Instant::now(), done: 0, total }
    }

    fn show(&self, unit: u8, found: usize) {
        if !self.shown {
            return;
        }
        let left = match u32::try_from(self.done) {
            Ok(done @ 1..) => {
                let left = u32::try_from(self.total - self.done).unwrap_or(u32::MAX);
                format!(", about {} left", short(self.started.elapsed() / done * left))
            }
            _ => String::new(),
        };
        err!("\r\x1b[Kunit {unit} ({} of {}), {found} found{left}", self.done + 1, self.total);
    }

    fn clear(&self) {
        if self.shown {
            err!("\r\x1b[K");
        }
    }
}

/// The settings to try: one for a network, and every combination that was asked for on a line. `None` where there is no
/// line to set.
fn lines(config: &ModbusConfig, args: &ScanArgs) -> Option<Vec<Option<Line>>> {
    let own = match &config.link {
        Link::Serial { line, .. } => *line,
        _ if args.bauds.is_empty() && args.formats.is_empty() => return Some(vec![None]),
        _ => return None,
    };
    let bauds = if args.bauds.is_empty() { vec![own.baud] } else { args.bauds.clone() };
    let formats =
        if args.formats.is_empty() { vec![(own.parity, own.stop_bits)] } else { args.formats.clone() };
    let all = bauds.iter().flat_map(|baud| {
        formats.iter().map(|(parity, stop_bits)| {
            Some(Line { baud: *baud, parity: *parity, stop_bits: *stop_bits, ..own })
        })
    });
    Some(all.collect())
}

/// `8N1`; RTU characters have 8 data bits (MODBUS over serial line V1.02, 2.5.1).
fn format(text: &str) -> Result<(Parity, u8), String> {
    let parity = match text.get(..2) {
        Some("8N") => Parity::None,
        Some("8E") => Parity::Even,
        Some("8O") => Parity::Odd,
        _ => return Err("write 8N1, 8E1, 8O1 or 8N2".into()),
    };
    match &text[2..] {
        "1" => Ok((parity, 1)),
        "2" => Ok((parity, 2)),
        _ => Err("write 8N1, 8E1, 8O1 or 8N2".into()),
    }
}
