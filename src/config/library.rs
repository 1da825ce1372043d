//! Where profiles are found: beside the site, in given folders, installed, built in; each is read and compiled once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::examples::{Proven, prove};
use super::include::Included;
use super::merge::Merged;
use crate::document::read::{At, Read as _, Reader};
use crate::document::suggest::did_you_mean;
use crate::document::types::Either;
use crate::document::{codes, source, yaml};
use crate::mapping::compile::{self, Defaults, Selection};
use crate::mapping::compiled::DeviceMap;
use crate::mapping::device::Limits;
use crate::mapping::profile::Profile;
use crate::mapping::written::ProfileName;
use crate::model::diagnostic::{Diagnostics, SourceFile, Span};

/// Profiles that are part of the binary: names and texts.
pub const BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

/// Where packages install profiles.
const INSTALLED: &str = "/usr/share/taktbus/mappings";

/// Names looked at for a suggestion, and how deep folders are searched for them.
const MAX_NAMES: usize = 2_000;
const MAX_FOLDER_DEPTH: usize = 4;

/// Longest chain of profiles that include one the other.
const MAX_INCLUDES: usize = 8;

/// A profile, read and compiled.
pub struct Entry {
    /// As written, with what it includes; without its points.
    pub written: Profile,
    /// The points: what devices patch.
    pub merged: Merged,
    /// Is all known that it includes?
    pub is_whole: bool,
    /// What it says about all points.
    pub defaults: Defaults,
    /// What requests must respect.
    pub limits: Limits,
    /// The map of an unpatched device; `None` when the profile has errors.
    pub map: Option<Arc<DeviceMap>>,
    /// What its examples prove.
    pub proven: Proven,
}

/// All profiles that a site uses.
pub struct Library {
    folders: Vec<PathBuf>,
    read: HashMap<String, Option<Arc<Entry>>>,
    /// The names of the profiles that are being read: each includes the next.
    open: Vec<String>,
    /// What was read, by the profiles' names.
    files: BTreeMap<String, Arc<SourceFile>>,
}

impl Library {
    /// Looks in `mappings/` beside the site file first, then in the given folders.
    pub fn new(site_folder: &Path, given: &[PathBuf]) -> Self {
        let mut folders = vec![site_folder.join("mappings")];
        folders.extend(given.iter().cloned());
        folders.push(PathBuf::from(INSTALLED));
        Self { folders, read: HashMap::new(), open: Vec::new(), files: BTreeMap::new() }
    }

    /// These profiles and those built in, without any folder.
    #[cfg(fuzzing)]
    pub fn in_memory(profiles: &[(String, &str)], found: &mut Diagnostics) -> Self {
        let mut entry = |(name, text): &(String, &str)| {
            let file = SourceFile { path: format!("mappings/{name}.yaml"), text: text.to_string() };
            (name.clone(), read_profile(&Arc::new(file), found).map(Arc::new))
        };
        let read = profiles.iter().map(&mut entry).collect();
        Self { folders: Vec::new(), read, open: Vec::new(), files: BTreeMap::new() }
    }

    /// A profile. What is wrong with it is reported the first time; that it is missing, at each place that wants it.
    pub fn get(&mut self, name: &At<ProfileName>, found: &mut Diagnostics) -> Option<Arc<Entry>> {
        let key = &name.value.0;
        if let Some(known) = self.read.get(key) {
            return known.clone();
        }
        let file = match self.find(key) {
            Some(Source::File(path)) => {
                let file = source::read(&path, found);
                self.files.extend(file.clone().map(|file| (key.clone(), file)));
                file
            }
            Some(Source::BuiltIn(text)) => {
                let path = format!("(built in) mappings/{key}.yaml");
                Some(Arc::new(SourceFile { path, text: text.to_string() }))
            }
            None => {
                self.report_missing(name, found);
                return None;
            }
        };
        let before = found.errors();
        let entry = file.and_then(|file| {
            let written = parse(&file, found)?;
            self.open.push(key.clone());
            let entry = self.complete(written, &file, before, found);
            self.open.pop();
            Some(Arc::new(entry))
        });
        if let Some(own) = entry.as_ref().and_then(|entry| entry.written.profile.as_ref())
            && own.value.0 != *key
        {
            found
                .warning(codes::PROFILE_NAME, &own.span, format!("this file was found as '{key}'"))
                .help("a profile has the name of its file below mappings/");
        }
        self.read.insert(key.clone(), entry.clone());
        entry
    }

    /// Includes what a profile includes, and compiles all of it.
    fn complete(
        &mut self,
        own: Profile,
        file: &Arc<SourceFile>,
        before: usize,
        found: &mut Diagnostics,
    ) -> Entry {
        let whole = Span { file: Arc::clone(file), range: 0..0 };
        let included = self.include(&own, found);
        let is_whole = !included.is_partly_known && (own.points.is_some() || own.include.is_some());
        let (written, merged) = included.complete(own, found);
        let defaults = Defaults::of(&written, found);
        let limits = compile::profile_limits(&written, &defaults, found);
        let selection = Selection { dropped: &merged.dropped, ..Selection::default() };
        let compiled = is_whole.then(|| {
            // The faults of what is included come up again: reported once.
            let mut later = Diagnostics::default();
            let map = compile::compile(&merged.points, &defaults, &limits, selection, &whole, &mut later);
            found.absorb(later);
            map
        });
        let map = compiled.flatten();
        let proven = map.as_ref().map(|map| prove(&written, map, found)).unwrap_or_default();
        let map = map.filter(|_| found.errors() == before).map(Arc::new);
        Entry { written, merged, is_whole, defaults, limits, map, proven }
    }

    /// Reads what a profile includes.
    fn include(&mut self, own: &Profile, found: &mut Diagnostics) -> Included {
        let mut included = Included::default();
        let Some(at) = &own.include else { return included };
        let single;
        let names = match &at.value {
            Either::Short(name) => {
                single = [At { value: name.clone(), span: at.span.clone() }];
                &single[..]
            }
            Either::Long(list) => &list.0,
        };
        for name in names {
            let fault = if self.open.contains(&name.value.0) {
                Some(self.circle(&name.value.0))
            } else if self.open.len() > MAX_INCLUDES {
                Some(format!("more than {MAX_INCLUDES} profiles include one the other"))
            } else {
                None
            };
            if let Some(message) = fault {
                found.error(codes::INCLUDE, &name.span, message);
                included.is_partly_known = true;
                continue;
            }
            match self.get(name, found) {
                Some(entry) => {
                    included.is_partly_known |= !entry.is_whole;
                    included.add(name, &entry.written, &entry.merged, found);
                }
                None => included.is_partly_known = true,
            }
        }
        included
    }

    fn circle(&self, name: &str) -> String {
        format!("'{name}' includes itself: {} includes {name}", self.open.join(" includes "))
    }

    /// What the examples of all profiles that were read prove, by the profiles' names.
    pub fn proven(&self) -> Vec<Proven> {
        let read = self.read.iter().filter_map(|(name, entry)| Some((name, entry.as_ref()?)));
        let named =
            |(name, entry): (&String, &Arc<Entry>)| Proven { profile: name.clone(), ..entry.proven.clone() };
        let mut proven: Vec<Proven> = read.map(named).collect();
        proven.sort_by(|a, b| a.profile.cmp(&b.profile));
        proven
    }

    /// The profiles that are files and were read, by their names.
    pub fn into_files(self) -> BTreeMap<String, Arc<SourceFile>> {
        self.files
    }

    fn find(&self, name: &str) -> Option<Source> {
        let file = format!("{name}.yaml");
        let path = self.folders.iter().map(|folder| folder.join(&file)).find(|path| path.exists());
        let built_in = || BUILT_IN.iter().find(|(built_in, _)| *built_in == name);
        path.map(Source::File).or_else(|| built_in().map(|(_, text)| Source::BuiltIn(text)))
    }

    fn report_missing(&self, name: &At<ProfileName>, found: &mut Diagnostics) {
        let mut names: BTreeSet<String> = BUILT_IN.iter().map(|(name, _)| name.to_string()).collect();
        for folder in &self.folders {
            collect_names(folder, "", MAX_FOLDER_DEPTH, &mut names);
        }
        let near = did_you_mean(found, &name.value.0, names.iter().map(String::as_str));
        let mut looked: Vec<String> =
            self.folders.iter().map(|folder| folder.display().to_string()).collect();
        looked.push("the built-in profiles".into());
        found
            .error(
                codes::UNKNOWN_PROFILE,
                &name.span,
                format!("there is no profile '{}'{near}", name.value.0),
            )
            .help(format!("looked for {}.yaml in {}", name.value.0, looked.join(", ")));
    }
}

enum Source {
    File(PathBuf),
    BuiltIn(&'static str),
}

/// Reads and compiles a profile alone; what it includes is looked for below the folder that its name counts from.
/// `None` when the file is no map at all.
pub fn read_profile(file: &Arc<SourceFile>, found: &mut Diagnostics) -> Option<Entry> {
    let before = found.errors();
    let written = parse(file, found)?;
    let name = written.profile.as_ref().map_or("", |name| name.value.0.as_str()).to_string();
    let root = Path::new(&file.path).ancestors().nth(name.split('/').count()).unwrap_or(Path::new(""));
    let folders = vec![root.to_path_buf(), PathBuf::from(INSTALLED)];
    let mut library = Library { folders, read: HashMap::new(), open: vec![name], files: BTreeMap::new() };
    Some(library.complete(written, file, before, found))
}

fn parse(file: &Arc<SourceFile>, found: &mut Diagnostics) -> Option<Profile> {
    let node = yaml::parse(file, found)?;
    let written = Profile::read(&node, &mut Reader::new(file, found))?;
    if !["points", "include"].iter().any(|key| node.has_key(key)) {
        found.error(codes::MISSING_KEY, &node.span(file), "a profile needs the key 'points'");
    }
    Some(written)
}

fn collect_names(folder: &Path, prefix: &str, depth: usize, names: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if names.len() >= MAX_NAMES {
            return;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".yaml") {
            names.insert(format!("{prefix}{stem}"));
        } else if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_names(&entry.path(), &format!("{prefix}{name}/"), depth - 1, names);
        }
    }
}
