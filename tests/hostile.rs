//! Hostile files are refused within a second and 64 MiB, and no text whatever makes the loader panic.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use taktbus::config::{self, LoadOptions, Loaded};
use taktbus::model::diagnostic::Severity;
use tokio::time::Instant;

/// Unoptimised code is some ten times slower.
const LIMIT: Duration = if cfg!(debug_assertions) { Duration::from_secs(10) } else { Duration::from_secs(1) };

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("taktbus-hostile-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn load(&self, bytes: &[u8]) -> Loaded {
        let path = self.0.join("site.yaml");
        std::fs::write(&path, bytes).unwrap();
        load(&path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn load(path: &Path) -> Loaded {
    config::load(path, &LoadOptions::default())
}

fn site(points: &str) -> String {
    format!(
        "site: s\nconnections: {{c: {{tcp: 'h:1'}}}}\ndevices:\n  d:\n    via: c\n    every: 1s\n    points:\n{points}\
         publish: {{p: {{mqtt: 'mqtt://localhost'}}}}\n"
    )
}

fn bomb() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_string();
    for level in 1..=9 {
        text += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", "));
    }
    text
}

/// Four bytes short of the limit of a file.
const MOST: usize = 4 * 1024 * 1024 - 4;

/// The most memory that a load may need, the whole process counted.
const MEMORY_KIB: u64 = 64 * 1024;

/// As much again for files that are read whole because only their meaning is wrong: 45,000 points take it.
const MEANING_KIB: u64 = 2 * MEMORY_KIB;

/// Forgets the highest memory use so far (proc_pid_clear_refs(5)).
fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Points of a site: few enough that the reader, and not the parser, is what they are hostile to.
const MANY: usize = 45_000;

/// A site of nearly 4 MiB, or of many points.
fn many(line: impl Fn(usize) -> String) -> String {
    let mut points = String::with_capacity(MOST);
    for n in 0..MANY {
        let line = line(n);
        if points.len() + line.len() > MOST - 400 {
            break;
        }
        points += &line;
    }
    site(&points)
}

type Case = (&'static str, fn() -> String);

const CASES: &[Case] = &[
    ("alias bomb", bomb),
    ("10,000 levels of lists", || "[".repeat(10_000)),
    ("10,000 levels of maps", || "{a: ".repeat(10_000)),
    ("10,000 levels of compact lists", || "- ".repeat(10_000)),
    ("4 MiB of brackets", || "[".repeat(MOST)),
    ("4 MiB of colons", || ":".repeat(MOST)),
    ("4 MiB of empty values", || format!("[{}", ",".repeat(MOST - 1))),
    ("4 MiB of items", || format!("[{}", "a,".repeat(MOST / 2 - 1))),
    ("4 MiB of one word", || "a".repeat(MOST)),
    ("4 MiB of question marks", || "? ".repeat(MOST / 2)),
    ("4 MiB of quotes", || "'".repeat(MOST)),
    ("4 MiB of empty lines", || "\n".repeat(MOST)),
    ("4 MiB of anchors", || "- &a x\n".repeat(MOST / 7)),
    ("4 MiB of tabs", || "\t".repeat(MOST)),
];

const WRONG_IN_MEANING: &[Case] = &[
    ("unknown keys", || many(|n| format!("      p{n}: {{hodling{n}: 1}}\n"))),
    ("unknown names", || many(|n| format!("      p{n}: {{sum: {{q{n}: 1}}}}\n"))),
    ("the same key", || many(|_| "      p: 1\n".to_string())),
    ("wrong types", || many(|n| format!("      p{n}: {{holding: 1, type: flaot32}}\n"))),
];

#[test]
fn hostile_files_are_refused_at_once_and_in_little_memory() {
    let folder = Folder::new("files");
    let parsed = CASES.iter().map(|case| (case, MEMORY_KIB));
    for ((name, text), memory) in parsed.chain(WRONG_IN_MEANING.iter().map(|case| (case, MEANING_KIB))) {
        let path = folder.0.join("site.yaml");
        std::fs::write(&path, text()).unwrap();
        reset_peak();
        let start = Instant::now();
        let loaded = load(&path);
        let printed: usize = loaded.diagnostics.iter().map(|diagnostic| diagnostic.to_string().len()).sum();
        let took = start.elapsed();
        let peak = peak_kib();
        println!("{name}: {took:?}, {peak} KiB, {printed} bytes of messages");
        assert!(loaded.site.is_none(), "{name}");
        assert!(printed > 0 && printed < 1_000_000, "{name}: {printed} bytes of messages");
        assert!(took < LIMIT, "{name}: {took:?}");
        assert!(peak < memory, "{name}: {peak} KiB");
    }
}

#[test]
fn a_hundred_megabytes_are_refused_without_reading_them() {
    let folder = Folder::new("huge");
    let path = folder.0.join("site.yaml");
    std::fs::File::create(&path).unwrap().set_len(100 * 1024 * 1024).unwrap();
    let start = Instant::now();
    assert!(load(&path).site.is_none());
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// A site that uses much of the language.
fn valid() -> String {
    site(
        "      a: {holding: 0, type: int32, order: CDAB, scale: 0.1, invalid: 0x7FFFFFFF, unit: W}\n\
         \u{20}     b: {sum: {a: 2}, deadband: 1%}\n      c: {ref: 30001, type: string, length: 4}\n\
         \u{20}     d: {holding: [9, 7], type: uint32, scale_from: e}\n      e: {input: 3, type: int16, internal: true}\n\
         \u{20}     f: {holding: 5, bits: {x1: 0, x2: 9}}\n      g: {coil: 2, enum: {0: 'off', 1: 'on'}}\n",
    )
}

#[test]
fn the_site_that_is_mutated_is_valid() {
    let loaded = Folder::new("valid").load(valid().as_bytes());
    assert!(loaded.site.is_some(), "{:?}", loaded.diagnostics);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let loaded = Folder::new("bytes").load(&bytes);
        prop_assert!(loaded.site.is_none());
        prop_assert!(loaded.diagnostics.iter().all(|diagnostic| !diagnostic.to_string().is_empty()));
    }

    #[test]
    fn a_mutated_site_is_read_or_refused_with_a_reason(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6, "[-a1:{}\\[\\],&*'\"% \n#é0x.]{0,4}"), 1..6),
    ) {
        let mut text = valid();
        for (at, cut, insert) in edits {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let Some(first) = places.get(at.index(places.len().max(1))).copied() else { break };
            let last = text[first..].char_indices().nth(cut).map_or(text.len(), |(at, _)| first + at);
            text.replace_range(first..last, &insert);
        }
        let start = Instant::now();
        let loaded = Folder::new("mutated").load(text.as_bytes());
        prop_assert!(start.elapsed() < LIMIT);
        prop_assert_eq!(loaded.site.is_none(), loaded.diagnostics.iter().any(|d| d.severity == Severity::Error));
        for diagnostic in &loaded.diagnostics {
            prop_assert!(diagnostic.to_string().starts_with("/"), "each finding has its place: {}", diagnostic);
        }
    }
}
