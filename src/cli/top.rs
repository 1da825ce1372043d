//! `taktbus top`: a running gateway on a terminal, once a second.
//!
//! - Drawing (`draw`) and keys (`view`) are pure; here is the terminal, and who asks the gateway.
//! - It has one screen of what the control socket tells; a gateway that goes is asked until it's back.
//! - The terminal is as it was after any end: a key, SIGTERM, SIGHUP, an error, a panic.

mod draw;
mod snapshot;
mod view;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::terminal;
use ratatui::layout::Rect;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use self::snapshot::Snapshot;
use self::view::{Act, View};
use super::{Outcome, TopArgs, explain};
use crate::runtime::control;

/// How often the gateway is asked.
const EACH: Duration = Duration::from_secs(1);
/// It's left alone for this many times as long as its last answers took: on one core, they are taken from the polls.
const REST: u32 = 20;
/// Keys and answers that wait to be looked at; their senders wait when it's full.
const WAITING: usize = 16;
/// The width of a screen that goes elsewhere than to a terminal.
const WIDTH: u16 = 100;

pub async fn top(args: TopArgs) -> Result<Outcome> {
    let path = explain::socket(args.control);
    let first = status(&path).await.with_context(|| explain::nobody(&path))?;
    if args.once || !std::io::stdout().is_terminal() {
        out!("{}", page(&first));
        return Ok(Outcome::Fine);
    }
    watch(path, first).await?;
    Ok(Outcome::Fine)
}

async fn status(path: &Path) -> Result<Snapshot> {
    let told = answered(path, "status").await?;
    Ok(Snapshot::read(&told))
}

async fn answered(path: &Path, question: &str) -> Result<Value> {
    let told = control::ask(path, question).await?;
    if let Some(error) = told["error"].as_str() {
        bail!("{error}");
    }
    Ok(told)
}

/// Everything there is, as text.
fn page(snapshot: &Snapshot) -> String {
    let terminal = std::io::stdout().is_terminal().then(terminal::size).and_then(Result::ok);
    let width = terminal.map_or(WIDTH, |(columns, _)| columns.max(40));
    let view = View::default();
    // The last line is about keys.
    let area = Rect::new(0, 0, width, draw::height(snapshot, &view));
    let mut buffer = Buffer::empty(area);
    draw::draw(snapshot, &view, area, &mut buffer);
    let lines = (0..area.height.saturating_sub(1)).map(|y| {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        // Nothing is selected on paper.
        format!("{}\n", line.strip_prefix('>').map_or(line.clone(), |rest| format!(" {rest}")).trim_end())
    });
    lines.collect()
}

/// What the asking task tells.
enum Told {
    Status(Result<Snapshot>),
    Account(String, String),
}

/// The terminal, given back when it's dropped. A panic gives it back before it's printed (`try_init`).
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    /// Empties it, so that the next drawing writes everything. The library's `clear` asks the terminal where its cursor is, and the answer
    /// would come as keys.
    fn clear(&mut self) -> Result<()> {
        let size = self.0.size()?;
        Ok(self.0.resize(Rect::new(0, 0, size.width, size.height))?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn watch(path: PathBuf, first: Snapshot) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut screen = Screen(ratatui::try_init().context("this terminal can't be drawn on; try --once")?);
    let mut keys = keys();
    let (wanted, wants) = watch::channel(None);
    let (tell, mut told) = mpsc::channel(WAITING);
    let asking = tokio::spawn(ask(path, wants, tell));
    let (mut snapshot, mut before) = (first.clone(), first);
    let mut view = View::default();
    let mut silent_since: Option<Instant> = None;
    loop {
        view.silent = silent_since.map(|since| since.elapsed());
        screen.0.draw(|frame| draw::draw(&snapshot, &view, frame.area(), frame.buffer_mut()))?;
        tokio::select! {
            key = keys.recv() => match key {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    match view.key(key, &snapshot) {
                        Act::Quit => break,
                        Act::DrawAnew => screen.clear()?,
                        Act::Draw => {}
                    }
                    let asks_for = view.asks_for().map(str::to_owned);
                    wanted.send_if_modified(|wanted| std::mem::replace(wanted, asks_for.clone()) != asks_for);
                }
                // A new size: it's drawn anew.
                Some(_) => {}
                // The terminal has gone.
                None => break,
            },
            Some(told) = told.recv() => match told {
                Told::Status(Ok(status)) => {
                    silent_since = None;
                    snapshot = status.clone().since(&before);
                    before = status;
                }
                Told::Status(Err(_)) => {
                    silent_since.get_or_insert_with(Instant::now);
                }
                Told::Account(name, text) => view.take_account(&name, text),
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => break,
        }
    }
    asking.abort();
    Ok(())
}

/// What is typed, and new sizes, until the terminal fails. The thread that waits for them ends with the process.
fn keys() -> mpsc::Receiver<Event> {
    let (pressed, keys) = mpsc::channel(WAITING);
    let wait = move || {
        while let Ok(event) = event::read() {
            if pressed.blocking_send(event).is_err() {
                return;
            }
        }
    };
    // Without the thread its sender is gone, and the view ends.
    let _ = std::thread::Builder::new().name("keys".into()).spawn(wait);
    keys
}

/// Asks for the status, and for the account that is wanted, again and again; at once when another one is wanted.
async fn ask(path: PathBuf, mut wants: watch::Receiver<Option<String>>, tell: mpsc::Sender<Told>) {
    loop {
        let started = Instant::now();
        let wanted = wants.borrow_and_update().clone();
        if let Some(name) = wanted {
            let text = match answered(&path, &format!("explain {name}")).await {
                Ok(told) => explain::account(&told, true),
                Err(error) => format!("{error:#}"),
            };
            if tell.send(Told::Account(name, text)).await.is_err() {
                return;
            }
        }
        if tell.send(Told::Status(status(&path).await)).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(EACH.max(started.elapsed() * REST)) => {}
            changed = wants.changed() => if changed.is_err() { return },
        }
    }
}
