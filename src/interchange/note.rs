//! What is to be said about an imported or exported file, and where.

use std::fmt;

use crate::document::scalar::shortened;
pub use crate::model::diagnostic::Severity;

/// More errors than this, and more warnings, are counted, not kept.
const MAX_NOTES: usize = 250;

/// One thing that was noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// An error: something was left out. A warning: it was carried over, and somebody should look at it.
    pub severity: Severity,
    /// The line of a text, or the row of a sheet, counted from 1. `None`: about the whole file.
    pub line: Option<usize>,
    /// The title of the column.
    pub column: Option<String>,
    /// What it is, in one sentence.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Note {
    /// Something that was left out.
    pub fn error(line: impl Into<Option<usize>>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            line: line.into(),
            column: None,
            message: message.into(),
            help: None,
        }
    }

    /// Something to look at.
    pub fn warning(line: impl Into<Option<usize>>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(line, message) }
    }

    /// Adds the column.
    pub fn column(self, title: &str) -> Self {
        Self { column: Some(shortened(title)), ..self }
    }

    /// Adds what to do about it.
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// `FILE:LINE: error: column 'Type': message`, and the help.
    pub fn show<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        Shown { note: self, file }
    }
}

struct Shown<'a> {
    note: &'a Note,
    file: &'a str,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(line) = self.note.line {
            write!(f, "{line}:")?;
        }
        match self.note.severity {
            Severity::Error => f.write_str(" error: ")?,
            Severity::Warning => f.write_str(" warning: ")?,
        }
        if let Some(column) = &self.note.column {
            write!(f, "column '{column}': ")?;
        }
        f.write_str(&self.note.message)?;
        match &self.note.help {
            Some(help) => write!(f, "\n   = help: {help}"),
            None => Ok(()),
        }
    }
}

/// All that was noticed: what is about the whole file, and at most [`MAX_NOTES`] errors and as many warnings about lines; the
/// rest is counted.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    whole: Vec<Note>,
    errors: Vec<Note>,
    warnings: Vec<Note>,
    dropped: usize,
}

impl Notes {
    /// Adds one.
    pub fn push(&mut self, note: Note) {
        let list = match (note.line, note.severity) {
            (None, _) => &mut self.whole,
            (_, Severity::Error) => &mut self.errors,
            (_, Severity::Warning) => &mut self.warnings,
        };
        if list.len() < MAX_NOTES {
            list.push(note);
        } else {
            self.dropped += 1;
        }
    }

    /// By line; what is about the whole file comes first. Should there be more than are kept, the last one says so.
    pub fn sorted(self) -> Vec<Note> {
        let mut all = self.whole;
        all.extend(self.errors);
        all.extend(self.warnings);
        all.sort_by_key(|note| note.line);
        if self.dropped > 0 {
            all.push(Note::warning(None, format!("and {} more like these", self.dropped)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_where_it_is_and_what_to_do() {
        let note = Note::error(12, "unknown type 'flot'").column("Data\ttype").help("such as int16");
        assert_eq!(
            note.show("t.csv").to_string(),
            "t.csv:12: error: column 'Data type': unknown type 'flot'\n   = help: such as int16"
        );
        assert_eq!(Note::warning(None, "no unit").show("t.csv").to_string(), "t.csv: warning: no unit");
    }

    #[test]
    fn notes_beyond_the_limit_are_counted() {
        let mut notes = Notes::default();
        (0..MAX_NOTES + 7).rev().for_each(|line| notes.push(Note::warning(line, "x")));
        notes.push(Note::error(3, "an error is kept all the same"));
        notes.push(Note::error(None, "and what is about all of it"));
        let sorted = notes.sorted();
        assert_eq!(sorted.len(), MAX_NOTES + 3);
        assert_eq!((sorted[0].line, sorted[1].line, sorted[2].line), (None, Some(3), Some(7)));
        assert_eq!(sorted[MAX_NOTES + 2].message, "and 7 more like these");
    }
}
