//! Site file → plan: every file is read, every finding of all files is collected, and nothing is started.

mod advice;
mod connection;
mod device;
pub mod difference;
pub mod examples;
mod fit;
mod http;
mod include;
mod library;
mod look;
mod memory;
mod merge;
mod passes;
pub mod plan;
pub mod ports;
mod publish;
mod rates;
pub mod readdress;
mod secret;
mod site;
mod telemetry;
pub mod url;
mod written;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use self::examples::Proven;
use crate::document::types::Nullable;
use crate::document::yaml::Node;
use crate::document::{codes, read::At, read::Read as _, read::Reader, schema, source, yaml};
use crate::drivers::opcua::config::User;
use crate::mapping::compiled::DeviceMap;
use crate::mapping::points::Points;
use crate::mapping::profile::Profile;
use crate::model::diagnostic::{Diagnostic, Diagnostics, Severity, SourceFile, Span};
use crate::model::secret::Secret;
use crate::northbound::http::config::Auth;

/// Where profiles are looked for beside the site file's own `mappings/`.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Folders, first one first.
    pub mapping_dirs: Vec<PathBuf>,
    /// [`ports::BY_ID`], where the links of serial ports may be looked at.
    pub port_links: Option<PathBuf>,
    /// Look whether the secrets and certificates that a site names are there.
    pub look_for_secrets: bool,
    /// Where the secrets and certificates are that a site names [default: where the site file is].
    pub beside: Option<PathBuf>,
}

/// What came of loading a site file.
#[derive(Debug)]
pub struct Loaded {
    /// The plan; `None` when it could not be made. A site that can't fit on its bus has one, to be looked at: see
    /// [`Loaded::is_sound`].
    pub site: Option<plan::Site>,
    /// What the examples of its profiles prove, by the profiles' names.
    pub proven: Vec<Proven>,
    /// Everything found in all files, by file and line. Warnings come with a plan too.
    pub diagnostics: Vec<Diagnostic>,
}

impl Loaded {
    /// Was a profile given in place of a site file?
    pub fn is_profile(&self) -> bool {
        self.diagnostics.iter().any(|finding| finding.code == codes::A_PROFILE)
    }

    /// May it be started?
    pub fn is_sound(&self) -> bool {
        self.site.is_some() && self.diagnostics.iter().all(|finding| finding.severity != Severity::Error)
    }
}

/// What came of loading a profile alone.
#[derive(Debug)]
pub struct LoadedProfile {
    /// The profile's name, when it has one.
    pub name: Option<String>,
    /// The profile as it is written.
    pub written: Option<Profile>,
    /// Its map; `None` when there are errors.
    pub map: Option<Arc<DeviceMap>>,
    /// What its examples prove.
    pub proven: Proven,
    /// Everything found.
    pub diagnostics: Vec<Diagnostic>,
}

/// The documents that have a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// A site file.
    Site,
    /// A profile.
    Profile,
}

/// Reads a site file and all profiles that it uses.
pub fn load(path: &Path, options: &LoadOptions) -> Loaded {
    let mut found = Diagnostics::default();
    let file = source::read(path, &mut found);
    let mut proven = Vec::new();
    let site = file.and_then(|file| read_site(&file, options, &mut proven, &mut found));
    Loaded { site, proven, diagnostics: found.sorted() }
}

/// The same for a site file whose text is at hand; `name` is how diagnostics call it.
pub fn load_text(name: &str, text: &str, options: &LoadOptions) -> Loaded {
    let mut found = Diagnostics::default();
    let file = Arc::new(SourceFile { path: name.into(), text: text.into() });
    let mut proven = Vec::new();
    let site = read_site(&file, options, &mut proven, &mut found);
    Loaded { site, proven, diagnostics: found.sorted() }
}

/// The same without any file: beside the built-in profiles there are only those given, with their names and texts.
#[cfg(fuzzing)]
pub(crate) fn load_from_memory(text: &str, profiles: &[(String, &str)]) -> Loaded {
    let mut found = Diagnostics::default();
    let file = Arc::new(SourceFile { path: "site.yaml".into(), text: text.into() });
    let mut library = library::Library::in_memory(profiles, &mut found);
    let site = compile(&file, &mut library, |_, _| {}, &mut found);
    Loaded { site, proven: library.proven(), diagnostics: found.sorted() }
}

fn read_site(
    file: &Arc<SourceFile>,
    options: &LoadOptions,
    proven: &mut Vec<Proven>,
    found: &mut Diagnostics,
) -> Option<plan::Site> {
    let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    let mut library = library::Library::new(folder, &options.mapping_dirs);
    let folder = options.beside.as_deref().unwrap_or(folder);
    // What the machine has is looked at where it may be.
    let look = |written: &written::Site, found: &mut Diagnostics| {
        ports::check(written, options.port_links.as_deref(), found);
        if options.look_for_secrets {
            look::check(written, folder, found);
        }
    };
    let site = compile(file, &mut library, look, found);
    *proven = library.proven();
    let mut site = site?;
    site.files = Arc::new(plan::Files { site: Some(Arc::clone(file)), profiles: library.into_files() });
    site.routes.iter_mut().for_each(|route| beside(folder, route));
    site.connections.iter_mut().for_each(|connection| user_beside(folder, connection));
    Some(site)
}

fn compile(
    file: &Arc<SourceFile>,
    library: &mut library::Library,
    look: impl FnOnce(&written::Site, &mut Diagnostics),
    found: &mut Diagnostics,
) -> Option<plan::Site> {
    let node = yaml::parse(file, found)?;
    if is_profile(&node) {
        found
            .error(codes::A_PROFILE, &node.span(file), "this is a profile, and a site file is expected")
            .help("a device of a site names it (`profile: …`); `taktbus check` checks a profile alone");
        return None;
    }
    let written = written::Site::read(&node, &mut Reader::new(file, found))?;
    drop(node);
    look(&written, found);
    let site = site::compile(&written, library, found)?;
    fit::check(&written, &site, found);
    Some(site)
}

/// A profile given for a site file would get an error for each of its keys.
fn is_profile(node: &Node) -> bool {
    node.has_key("profile") && !node.has_key("site")
}

/// Files that a route names are looked for beside the site file, wherever the program was started.
fn beside(folder: &Path, route: &mut plan::Route) {
    // Joining leaves absolute paths alone.
    let resolve = |path: &mut PathBuf| *path = folder.join(&path);
    let (tls, secret) = match &mut route.sink {
        plan::SinkConfig::Mqtt(mqtt) => (&mut mqtt.tls, mqtt.password.as_mut()),
        plan::SinkConfig::Http(http) => {
            let secret = match &mut http.auth {
                Auth::None => None,
                Auth::Bearer(secret) | Auth::Basic(_, secret) => Some(secret),
            };
            (&mut http.tls, secret)
        }
    };
    if let Some(tls) = tls {
        tls.ca.iter_mut().for_each(resolve);
        tls.client.iter_mut().for_each(|(cert, key)| [cert, key].into_iter().for_each(resolve));
    }
    if let Some(Secret::File(path)) = secret {
        resolve(path);
    }
}

/// The same for the files of an OPC UA user.
fn user_beside(folder: &Path, connection: &mut plan::Connection) {
    let plan::Protocol::Opcua(config) = &mut connection.protocol else { return };
    match &mut config.user {
        User::Name(_, Secret::File(path)) => *path = folder.join(&path),
        User::Certificate { cert, key } => {
            *cert = folder.join(&cert);
            *key = folder.join(&key);
        }
        User::Name(..) | User::Anonymous => {}
    }
}

/// Reads and checks a profile that no site uses yet.
pub fn load_profile(path: &Path) -> LoadedProfile {
    let mut found = Diagnostics::default();
    let file = source::read(path, &mut found);
    profile(file, found)
}

/// The same for a profile whose text is at hand; `name` is how diagnostics call it.
pub fn load_profile_text(name: &str, text: &str) -> LoadedProfile {
    let file = Arc::new(SourceFile { path: name.into(), text: text.into() });
    profile(Some(file), Diagnostics::default())
}

fn profile(file: Option<Arc<SourceFile>>, mut found: Diagnostics) -> LoadedProfile {
    let read = file.and_then(|file| Some((library::read_profile(&file, &mut found)?, file)));
    let Some((entry, file)) = read else {
        return LoadedProfile {
            name: None,
            written: None,
            map: None,
            proven: Proven::default(),
            diagnostics: found.sorted(),
        };
    };
    let name = entry.written.profile.as_ref().map(|at| at.value.0.clone());
    let map = entry.map.filter(|_| !found.has_errors());
    let (mut written, proven) = (entry.written, entry.proven);
    let points =
        entry.merged.points.into_iter().map(|(name, point)| (name, point.map(|p| Nullable(Some(p)))));
    let span = Span { file, range: 0..0 };
    written.points = Some(Box::new(At { value: Points(points.collect()), span }));
    let written = Some(written);
    LoadedProfile { name, written, map, proven, diagnostics: found.sorted() }
}

/// The JSON Schema (draft 2020-12) of a document, from the same declarations that read it.
pub fn schema(kind: DocumentKind) -> Value {
    match kind {
        DocumentKind::Site => schema::of::<written::Site>("taktbus site file"),
        DocumentKind::Profile => schema::of::<Profile>("taktbus device profile"),
    }
}

/// The names of the profiles that are built into the binary.
pub fn built_in_profiles() -> impl Iterator<Item = &'static str> {
    library::BUILT_IN.iter().map(|(name, _)| *name)
}
