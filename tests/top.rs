//! `taktbus top` against a running demo: as text, and on a pseudo-terminal (by `script` of util-linux, which every Debian has).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

const TAKTBUS: &str = env!("CARGO_BIN_EXE_taktbus");
/// A machine may stall for seconds.
const SOON: Duration = Duration::from_secs(60);

/// A folder of one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("taktbus-top-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn demo(control: &Path) -> Running {
    let mut demo = Command::new(TAKTBUS);
    demo.args(["demo", "--json", "--control"]).arg(control).stdout(Stdio::null()).stderr(Stdio::null());
    let demo = Running(demo.spawn().unwrap());
    until("the demo's socket", || control.exists());
    demo
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < SOON, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn top(control: &Path, once: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(TAKTBUS).arg("top").args(once).arg("--control").arg(control).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), out, err)
}

#[test]
fn one_screen_is_printed_where_there_is_no_terminal() {
    let folder = Folder::new("once");
    let control = folder.path("control");
    let (code, out, err) = top(&control, &["--once"]);
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(err.contains("no gateway answers at"), "{err}");
    let _demo = demo(&control);
    until("an online device", || top(&control, &["--once"]).1.contains(" online "));
    let (code, out, err) = top(&control, &[]);
    assert_eq!((code, &*err), (Some(0), ""));
    for part in ["taktbus 0.", "DEVICE", "BUDGET", "dryer", "ROUTE", "EVENTS", "link up connection="] {
        assert!(out.contains(part), "no {part} in\n{out}");
    }
    assert!(!out.contains('\x1b') && !out.contains("q quit"), "{out}");
}

/// `taktbus top` on a pseudo-terminal of 80 x 24, and what it has written there since the last look.
struct Terminal {
    script: Running,
    keys: ChildStdin,
    written: Arc<Mutex<String>>,
}

impl Terminal {
    /// The settings of the terminal before and after are in the files `before` and `after`, the process id is in `pid`.
    fn open(folder: &Folder, control: &Path) -> Self {
        let commands = format!(
            "cd {}; stty rows 24 cols 80; stty -g > before; sh -c 'echo $$ > pid; exec {TAKTBUS} top --control {}'; echo $? > code; stty -g > after",
            folder.0.display(),
            control.display()
        );
        let mut script = Command::new("script");
        script
            .args(["--quiet", "--return", "--command", &commands, "/dev/null"])
            .env("TERM", "xterm-256color");
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let written = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (script.stdout.take().unwrap(), written.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        let keys = script.stdin.take().unwrap();
        Self { script: Running(script), keys, written }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Has everything drawn again (ctrl-l) until this word is in it: drawings show only what differs.
    fn sees(&mut self, word: &str) {
        until(word, || {
            self.press("\x0c");
            std::thread::sleep(Duration::from_millis(200));
            std::mem::take(&mut *self.written.lock().unwrap()).contains(word)
        });
    }

    /// Waits for the end, and compares the terminal with what it was.
    fn ends_and_gives_it_back(mut self, folder: &Folder) {
        until("the end", || self.script.0.try_wait().unwrap().is_some());
        let read = |name| fs::read_to_string(folder.path(name)).unwrap();
        assert_eq!(read("before"), read("after"));
        assert_eq!(read("code"), "0\n");
        until("the screen's end", || self.written.lock().unwrap().contains("\x1b[?1049l"));
        assert!(self.written.lock().unwrap().contains("\x1b[?25h"), "the cursor is not shown");
    }
}

#[test]
fn keys_work_a_restart_is_survived_and_the_terminal_is_given_back() {
    let folder = Folder::new("keys");
    let control = folder.path("control");
    let running = demo(&control);
    let mut terminal = Terminal::open(&folder, &control);
    terminal.sees("dryer");
    terminal.press("s");
    terminal.sees("lateness");
    terminal.press("?");
    terminal.sees("ctrl-l");
    // An arrow as terminals send it, after the help is left.
    terminal.press("q\x1b[B\r");
    terminal.sees("answered");
    terminal.press("q");
    terminal.sees("EVENTS");
    drop(running);
    terminal.sees("ANSWER");
    let _again = demo(&control);
    terminal.sees("EVENTS");
    until("its return", || {
        terminal.press("\x0c");
        std::thread::sleep(Duration::from_millis(300));
        let written = std::mem::take(&mut *terminal.written.lock().unwrap());
        written.contains("EVENTS") && !written.contains("ANSWER")
    });
    terminal.press("q");
    terminal.ends_and_gives_it_back(&folder);
}

#[test]
fn a_terminal_is_given_back_after_sigterm() {
    let folder = Folder::new("sigterm");
    let control = folder.path("control");
    let _demo = demo(&control);
    let mut terminal = Terminal::open(&folder, &control);
    terminal.sees("dryer");
    let pid = fs::read_to_string(folder.path("pid")).unwrap();
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
    terminal.ends_and_gives_it_back(&folder);
}
