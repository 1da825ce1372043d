//! Writes a profile and has the checker read it: what the checker refuses is left out, and said.

use super::draft::Draft;
use super::note::{Note, Notes};
use super::yaml::{self, Head, Written};
use crate::config::{LoadedProfile, load_profile_text};
use crate::document::codes;
use crate::model::diagnostic::{Diagnostic, Severity};

/// How often a profile is written anew: a point that is left out may be another one's scale factor.
const MAX_PASSES: usize = 16;

/// The text, the points that are in it, and how many were left out.
pub fn profile(head: &Head, drafts: Vec<Draft>, notes: &mut Notes) -> (String, Vec<Draft>, usize) {
    let (before, mut drafts) = (drafts.len(), drafts);
    for pass in 0..MAX_PASSES {
        let written = yaml::profile(head, &drafts);
        let findings = errors(&written.text);
        if findings.is_empty() && !drafts.is_empty() {
            let left_out = before - drafts.len();
            return (written.text, drafts, left_out);
        }
        // The checker keeps some hundred findings of a file only, so each point is looked at alone.
        if pass == 0 && findings.iter().all(|finding| finding.code != codes::YAML_SIZE) {
            drafts.retain(|draft| alone(draft, notes));
            continue;
        }
        let refused = refused(&written, &findings);
        if refused.is_empty() {
            for finding in findings.iter().filter(|_| !drafts.is_empty()) {
                notes.push(Note::error(None, finding.message.clone()));
            }
            break;
        }
        for (index, finding) in &refused {
            notes.push(note(&drafts[*index], finding));
        }
        let mut index = 0..;
        drafts.retain(|_| !refused.iter().any(|(refused, _)| Some(*refused) == index.next()));
    }
    (String::new(), Vec::new(), before)
}

/// Is a point sound by itself? Its scale factor is looked at later.
pub fn alone(draft: &Draft, notes: &mut Notes) -> bool {
    let bare = Draft { scale_from: None, heading: None, ..draft.clone() };
    let head = Head { profile: "imported/alone".into(), ..Head::default() };
    let written = yaml::profile(&head, std::slice::from_ref(&bare));
    let findings = errors(&written.text);
    match findings.first() {
        Some(finding) => {
            notes.push(note(draft, finding));
            false
        }
        None => true,
    }
}

/// The errors of a text.
fn errors(text: &str) -> Vec<Diagnostic> {
    let LoadedProfile { diagnostics, .. } = load_profile_text("imported", text);
    diagnostics.into_iter().filter(|finding| finding.severity == Severity::Error).collect()
}

/// The drafts whose lines have findings, each once.
pub fn refused<'f>(
    written: &Written,
    findings: impl IntoIterator<Item = &'f Diagnostic>,
) -> Vec<(usize, &'f Diagnostic)> {
    let mut refused: Vec<(usize, &Diagnostic)> = Vec::new();
    for finding in findings {
        // That the whole is too large is no point's fault.
        let Some(span) = finding.span.as_ref().filter(|_| finding.code != codes::YAML_SIZE) else { continue };
        let line = span.line_column().0;
        let draft =
            written.lines.binary_search_by_key(&line, |(line, _)| *line).map(|at| written.lines[at].1);
        if let Ok(index) = draft
            && refused.iter().all(|(known, _)| *known != index)
        {
            refused.push((index, finding));
        }
    }
    refused
}

/// What the checker says of a point, at the point's own line.
pub fn note(draft: &Draft, finding: &Diagnostic) -> Note {
    let note = Note::error(draft.line, finding.message.clone());
    match &finding.help {
        Some(help) => note.help(help.clone()),
        None => note,
    }
}
