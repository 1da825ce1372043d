//! The command line: arguments in, exit codes out. Exit codes: 0 fine, 1 failed, 2 the configuration or the
//! arguments are wrong.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::runtime::events::Events;
use logging::LogFormat;

// `println!` panics when the reader has gone (`taktbus schema site | head`); these stop caring, but for `told`.
macro_rules! out {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        $crate::cli::told(write!(std::io::stdout(), $($text)*));
    }};
}
macro_rules! outln {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        $crate::cli::told(writeln!(std::io::stdout(), $($text)*));
    }};
}
macro_rules! err {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stderr(), $($text)*);
    }};
}
macro_rules! errln {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod browse;
mod check;
mod connection;
mod demo;
mod diff;
mod explain;
mod explain_code;
mod export;
mod generate;
mod import;
mod live;
mod logging;
mod opcua;
mod plan;
mod probe;
mod read;
mod reload;
mod report;
mod run;
mod scan;
mod simulate;
mod site;
mod store;
mod summary;
mod table;
mod test;
mod top;
mod watch;
mod write;

/// Field buses to the cloud, on time.
///
/// Reads PLCs, meters and drives over Modbus, turns registers into named, scaled values by YAML, and publishes
/// JSON over MQTT within a latency budget that is declared per device and enforced.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 fine, 1 failed, 2 the configuration or the arguments are wrong."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    logging: Logging,
}

#[derive(Debug, Args)]
struct Logging {
    /// How log lines on stderr look
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "FORMAT")]
    log_format: LogFormat,
    /// Log more (-v: debug, -vv: trace); TAKTBUS_LOG=info,taktbus::drivers=debug is finer
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Log warnings and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run simulated devices, a broker and the gateway between them; nothing to install
    ///
    /// Without a site file: a small plant. With one: the devices of that site, simulated from their profiles; nothing is
    /// published but to the demo's own broker. On a terminal: a live table. Piped: one JSON line per message.
    #[command(
        after_help = "Examples:\n  taktbus demo                 a small plant\n  taktbus demo gateway.yaml    your own site, without its devices"
    )]
    Demo(DemoArgs),
    /// Run a site until SIGTERM or Ctrl-C
    Run(RunArgs),
    /// Report every mistake in a site file (or a profile) and the files it uses
    ///
    /// Touches no device and no broker.
    Check(CheckArgs),
    /// Tell what is different between two site files: connections, devices, points, routes
    ///
    /// By what they mean: another order of keys is no difference, another register in a profile is one. Exit code 0: none,
    /// 1: some, 2: a file is wrong.
    #[command(
        after_help = "Examples:\n  taktbus diff gateway.yaml.bak gateway.yaml\n  taktbus diff old.yaml new.yaml --json\n  taktbus diff --running    what a reload would change"
    )]
    Diff(diff::DiffArgs),
    /// Prove maps without a device: the examples of a profile, or of all profiles of a site, value by value
    ///
    /// Exit code 2 when a value is not the expected one.
    #[command(
        after_help = "Examples:\n  taktbus test mappings/eastron/sdm630.yaml\n  taktbus test gateway.yaml --failed"
    )]
    Test(test::TestArgs),
    /// Serve the devices of a site on this machine, from their profiles: something to talk to without the devices
    ///
    /// Registers hold what the profiles' examples say, and plausible values elsewhere; measurements move. Limits, refused
    /// addresses, holes and rests are those of the profiles. Points with access rw can be written. Network devices are
    /// listeners on loopback, serial lines pseudo-terminals with the line's speed.
    #[command(
        after_help = "Examples:\n  taktbus simulate gateway.yaml --site simulated.yaml\n  taktbus read simulated.yaml     in another terminal"
    )]
    Simulate(simulate::SimulateArgs),
    /// Show the requests on each wire, the bus load, and the worst age of every point
    Plan(PlanArgs),
    /// Read devices once and print their values
    ///
    /// Exit code 1: a device did not answer or refused, or not everything was read in time. A value that is bad by
    /// itself is shown with its cause, and is no failure.
    Read(ReadArgs),
    /// Ask a running gateway why values are late, bad or missing, and who spends its buses
    ///
    /// Answers through the gateway's local socket: as the user that runs it, or as root.
    #[command(
        after_help = "Examples:\n  taktbus explain           everything\n  taktbus explain oven1     one device\n  taktbus explain oven1.temperature    one point: request, answer, and how they became its value\n  taktbus explain meters    one connection with all its devices"
    )]
    Explain(ExplainArgs),
    /// Watch a running gateway: connections, devices, lateness against budget, routes, events
    ///
    /// Asks the gateway's local socket once a second: as the user that runs it, or as root. Touches no device.
    #[command(
        after_help = "Keys: q quit, arrows select and scroll, s sort, enter explains the selected device, ? help"
    )]
    Top(TopArgs),
    /// Have a running gateway go over to what its site file says now
    ///
    /// Only what has changed is touched: no other device misses a poll, no message is lost. All of it or nothing: a file with errors
    /// (exit code 2), or a change that needs a restart (1), leaves what runs as it is. SIGHUP and `systemctl reload taktbus` do the same.
    #[command(
        after_help = "Examples:\n  taktbus reload --dry-run    what would change\n  taktbus reload\n  taktbus reload --confirm 60s    undone unless `taktbus reload --keep` follows"
    )]
    Reload(reload::ReloadArgs),
    /// Tell the long story of a finding's code: what it means, why, and what to write instead
    ///
    /// Without a code: all of them, a line each.
    ExplainCode {
        /// The code, as `check` shows it in brackets: E017
        #[arg(value_name = "CODE")]
        code: Option<String>,
    },
    /// Find out what a register means: every type and order, ranked by what the value should be
    Probe(probe::ProbeArgs),
    /// Find the units on a connection, politely: one question at a time
    Scan(scan::ScanArgs),
    /// Show what an OPC UA server has: a tree, YAML lines to paste, or a whole profile
    #[command(
        after_help = "Examples:\n  taktbus browse opc.tcp://192.168.1.60?security=None\n  taktbus browse line --site gateway.yaml --filter temp --yaml\n  taktbus browse line --site gateway.yaml /2:Line1 --profile acme/line > mappings/acme/line.yaml"
    )]
    Browse(browse::BrowseArgs),
    /// Certificates of OPC UA connections: our own, and the servers that are trusted
    Opcua(opcua::OpcuaArgs),
    /// Look into the store of messages that are not delivered yet: inspect, verify, export, drop
    Store(store::StoreArgs),
    /// Show the request that writes a value, byte by byte; nothing is sent
    Write(write::WriteArgs),
    /// Turn a vendor's register table (CSV, Excel), or another gateway's configuration, into YAML
    ///
    /// The YAML goes to standard output, what could not be carried over to standard error, with row and column.
    Import(import::ImportArgs),
    /// Turn a profile into a register table (CSV) for a spreadsheet
    ///
    /// What a table can't carry is listed on standard error.
    Export(export::ExportArgs),
    /// Print the JSON Schema of site files or profiles, for editors
    Schema {
        /// Which file
        #[arg(value_enum)]
        kind: SchemaKind,
    },
    /// Write the man pages or the shell completions of this command line; for packages
    #[command(hide = true)]
    Generate(generate::GenerateArgs),
}

#[derive(Clone, Debug, Args)]
struct SiteArgs {
    /// The site file
    #[arg(value_name = "SITE.yaml")]
    site: PathBuf,
    /// Look for profiles here too, after the mappings folder beside the site file
    #[arg(long = "mappings", value_name = "DIR")]
    mappings: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// What the findings look like; the exit code is the same for all
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    format: report::Format,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// End by itself after this time, for instance 10s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lasting: Option<Duration>,
    /// Answer `taktbus explain` on this local socket [default: $RUNTIME_DIRECTORY/control, or
    /// $XDG_RUNTIME_DIR/taktbus/control; none of them set: no socket]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Keep in this directory what is not delivered yet, and what is found out about devices [default: $STATE_DIRECTORY, as
    /// systemd gives it; not set: messages wait in memory only]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Reload by itself when the site file, or a profile beside it or in a --mappings folder, has changed. A file with errors
    /// changes nothing
    #[arg(long)]
    watch: bool,
    /// When the site file can't be used, or has had the gateway end five times within two minutes of its start, run what ran well
    /// last in its place (DIR/last-good), until a reload succeeds. For services
    #[arg(long)]
    or_last_good: bool,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// Only this device, this connection, or this point (DEVICE.POINT)
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The gateway's socket, where it was given to `run` [default: that of the service, or of this user's `run`]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct TopArgs {
    /// The gateway's socket, where it was given to `run` [default: that of the service, or of this user's `run`]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Print one screen as text and end; so it is too where stdout is no terminal
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// A site file whose devices are simulated [default: a small plant]
    #[arg(value_name = "SITE.yaml")]
    site: Option<PathBuf>,
    /// Look for profiles here too, after the mappings folder beside the site file
    #[arg(long = "mappings", value_name = "DIR", requires = "site")]
    mappings: Vec<PathBuf>,
    /// End by itself after this time, for instance 10s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lasting: Option<Duration>,
    /// One JSON line per message, also on a terminal
    #[arg(long)]
    json: bool,
    /// Answer `taktbus explain` and `taktbus top` on this local socket [default: as `run`]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PlanArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// One line per point instead of one per request
    #[arg(long, conflicts_with = "json")]
    points: bool,
    /// For programs
    #[arg(long)]
    json: bool,
    /// Do every read for real, and show what the devices make of it: answered, refused, divided, timed out
    ///
    /// Nothing is published. Nobody else may be using the devices' serial line.
    #[arg(long, conflicts_with = "points")]
    live: bool,
    /// With --live: give up after this time
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration, requires = "live")]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct ReadArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Only these devices
    #[arg(value_name = "DEVICE")]
    devices: Vec<String>,
    /// One JSON line per message
    #[arg(long)]
    json: bool,
    /// Give up after this time
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Where OPC UA certificates are [default: $STATE_DIRECTORY]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaKind {
    /// site files (gateway.yaml)
    Site,
    /// profiles (mappings/vendor/device.yaml)
    Profile,
}

/// Has stdout refused anything, as when the disk is full?
static OUTPUT_LOST: AtomicBool = AtomicBool::new(false);

/// Remembers that output was lost. That its reader has gone is no failure.
fn told(written: std::io::Result<()>) {
    if written.is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe) {
        OUTPUT_LOST.store(true, Ordering::Relaxed);
    }
}

/// What a command came to.
enum Outcome {
    Fine,
    Failed,
    /// The configuration or an argument is wrong; what is wrong has been printed.
    WrongConfiguration,
}

/// Parses the arguments, runs the command, and turns what came of it into an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runs = matches!(cli.command, Command::Run(_) | Command::Demo(_) | Command::Simulate(_));
    let level = match (cli.logging.quiet, cli.logging.verbose) {
        (true, _) => LevelFilter::WARN,
        // What is asked once answers on stdout; its log is for those who ask for it.
        (_, 0) => {
            if runs {
                LevelFilter::INFO
            } else {
                LevelFilter::WARN
            }
        }
        (_, 1) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let events = logging::start(cli.logging.log_format, level);
    let outcome = dispatch(cli.command, events);
    told(std::io::stdout().flush());
    match outcome {
        Ok(Outcome::Fine) if OUTPUT_LOST.load(Ordering::Relaxed) => {
            errln!("error: the output could not be written");
            ExitCode::from(1)
        }
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Ok(Outcome::WrongConfiguration) => ExitCode::from(2),
        Err(error) => {
            errln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn dispatch(command: Command, events: Events) -> anyhow::Result<Outcome> {
    match command {
        Command::Check(args) => check::check(&args),
        Command::Diff(args) => diff::diff(&args),
        Command::Reload(args) => block_on(reload::reload(args)),
        Command::Test(args) => test::test(&args),
        Command::Plan(args) => block_on(plan::plan(args)),
        Command::ExplainCode { code } => Ok(explain_code::explain_code(code.as_deref())),
        Command::Schema { kind } => check::schema(kind),
        Command::Export(args) => export::export(&args),
        Command::Generate(args) => generate::generate(&args),
        Command::Import(args) => import::import(args),
        Command::Write(args) => write::write(&args),
        Command::Probe(args) => block_on(probe::probe(args)),
        Command::Scan(args) => block_on(scan::scan(args)),
        Command::Browse(args) => block_on(browse::browse(args)),
        Command::Opcua(args) => opcua::opcua(args),
        Command::Store(args) => store::store(args),
        Command::Run(args) => block_on(run::run(args, events)),
        Command::Read(args) => block_on(read::read(args)),
        Command::Demo(args) => block_on(demo::demo(args, events)),
        Command::Simulate(args) => block_on(simulate::simulate(args)),
        Command::Explain(args) => block_on(explain::explain(args)),
        Command::Top(args) => block_on(top::top(args)),
    }
}

/// Everything runs on one thread: a gateway's work is waiting, and one thread needs no locks and little memory.
/// Blocking calls (opening a serial port, resolving a name) go to a small pool.
fn block_on(work: impl Future<Output = anyhow::Result<Outcome>>) -> anyhow::Result<Outcome> {
    // They exist only while something blocks; ports and resolvers that hang must leave room for the others.
    const BLOCKING_THREADS: usize = 64;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    let outcome = runtime.block_on(work);
    // A serial port that hangs on open must not hold up the exit.
    runtime.shutdown_background();
    outcome
}

/// `500ms`, `10s`, `5m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    crate::document::duration::parse_duration(text)
        .ok_or_else(|| "write a number and a unit: 500ms, 10s, 5m, 2h".into())
}
