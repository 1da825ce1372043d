//! The shipped profiles: their text, what they say, and what is made of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use taktbus::config;
use taktbus::document::read::{Read as _, Reader};
use taktbus::document::yaml::{self, Kind, Node};
use taktbus::mapping::compile;
use taktbus::mapping::compiled::DeviceMap;
use taktbus::mapping::device::Limits;
use taktbus::mapping::profile::{Point, Profile};
use taktbus::model::diagnostic::{Diagnostics, SourceFile};

/// A profile below `mappings/`.
pub struct Shipped {
    /// Its path below `mappings/`, without `.yaml`.
    pub name: String,
    /// The file.
    pub text: String,
    /// The file as nodes: examples are read from them.
    pub node: Node,
    /// What it says.
    pub written: Profile,
    /// What is made of it.
    pub map: Arc<DeviceMap>,
    /// Everything that `check` finds, as it prints it.
    pub findings: String,
}

/// The folder of the shipped profiles.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings")
}

/// All of them, by name.
pub fn profiles() -> Vec<Shipped> {
    let mut paths = Vec::new();
    collect(&folder(), &mut paths);
    paths.sort();
    assert!(paths.len() > 30, "only {} profiles below {}", paths.len(), folder().display());
    paths.iter().map(|path| Shipped::read(path)).collect()
}

fn collect(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            all.push(path);
        }
    }
}

impl Shipped {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let loaded = config::load_profile(path);
        let findings: String = loaded.diagnostics.iter().map(ToString::to_string).collect();
        let map = loaded.map.unwrap_or_else(|| panic!("{}: {findings}", path.display()));
        let file = Arc::new(SourceFile { path: path.display().to_string(), text: text.clone() });
        let mut found = Diagnostics::default();
        let node = yaml::parse(&file, &mut found).unwrap();
        let written = Profile::read(&node, &mut Reader::new(&file, &mut found)).unwrap();
        let name = path.strip_prefix(folder()).unwrap().with_extension("").display().to_string();
        Self { name, text, node, written, map, findings }
    }

    /// What it is called.
    pub fn title(&self) -> &str {
        self.written.title.as_ref().map_or("", |title| &title.value.0)
    }

    /// Where its numbers come from.
    pub fn sources(&self) -> Vec<&str> {
        self.written.sources.iter().flat_map(|list| &list.value.0).map(|text| text.value.0.as_str()).collect()
    }

    /// Its points by name, as written.
    pub fn points(&self) -> impl Iterator<Item = (&str, &Point)> {
        let points = self.written.points.iter().flat_map(|points| &points.value.0);
        points.filter_map(|(name, point)| Some((name.value.as_str(), point.as_ref()?.0.as_ref()?)))
    }

    /// Has it nodes of an OPC UA server, and no registers?
    pub fn is_opc_ua(&self) -> bool {
        self.points().all(|(_, point)| point.node.is_some())
    }

    /// What its requests respect.
    pub fn limits(&self) -> Limits {
        let written = self.written.limits.as_ref();
        written.map_or_else(Limits::default, |limits| compile::limits(Limits::default(), &limits.value))
    }

    /// The comments between its head and its points: what one should know about the device.
    pub fn notes(&self) -> String {
        let head = self.text.lines().take_while(|line| *line != "points:");
        let notes = head.filter_map(|line| line.strip_prefix("# "));
        notes.filter(|note| !note.starts_with("yaml-language-server")).collect::<Vec<_>>().join(" ")
    }

    /// What its examples expect: the points' names, and `true` where a value must be bad.
    pub fn expectations(&self) -> Vec<Vec<(String, bool)>> {
        let Some(Node { kind: Kind::Sequence(examples), .. }) = entry(&self.node, "examples") else {
            return Vec::new();
        };
        examples.iter().map(|example| expected(entry(example, "expect"))).collect()
    }
}

fn expected(expect: Option<&Node>) -> Vec<(String, bool)> {
    let Some(Node { kind: Kind::Mapping(pairs), .. }) = expect else { return Vec::new() };
    let bad = |value: &Node| matches!(&value.kind, Kind::Scalar { text, plain: true } if **text == *"null");
    pairs.iter().map(|(name, value)| (word(name).to_string(), bad(value))).collect()
}

/// The value of a key.
fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Kind::Mapping(pairs) = &node.kind else { return None };
    pairs.iter().find(|(name, _)| word(name) == key).map(|(_, value)| value)
}

fn word(node: &Node) -> &str {
    if let Kind::Scalar { text, .. } = &node.kind { text } else { "" }
}
