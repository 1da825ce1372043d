//! Doors for the fuzz targets (`fuzz/`) to decoders of outside bytes that are nobody else's business. Exists under
//! `--cfg fuzzing` only.

use std::collections::BTreeSet;

use crate::config::{self, Loaded, LoadedProfile};
use crate::drivers::bans::Ban;
use crate::runtime::explain::Explainer;
use crate::runtime::{control, state};

/// A site file and the profiles that it may name besides those built in, by name and text. Touches no file's content.
pub fn site(text: &str, profiles: &[(String, &str)]) -> Loaded {
    config::load_from_memory(text, profiles)
}

/// A profile alone.
pub fn profile(text: &str) -> LoadedProfile {
    config::load_profile_text("profile.yaml", text)
}

/// What a state file says.
pub fn read_state(text: &str) -> Result<BTreeSet<Ban>, state::StateError> {
    state::parse(text)
}

/// The text of a state file.
pub fn write_state(bans: &BTreeSet<Ban>) -> String {
    state::render(bans)
}

/// What comes back on the control socket for the bytes that come in.
pub async fn control(question: &[u8], explainer: &Explainer) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    control::answer(question, &mut answer, explainer, None).await?;
    Ok(answer)
}
