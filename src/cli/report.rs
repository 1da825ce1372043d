//! Findings for programs: JSON, and the annotations of GitHub's workflows. `docs/check-output.md` documents both shapes.

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::model::diagnostic::{Diagnostic, Severity, Span};

/// How `check` says what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// for people
    Text,
    /// one JSON document, for editors and programs
    Json,
    /// annotations of a GitHub workflow
    Github,
}

/// What came of a check.
pub struct Verdict {
    /// Everything found, by file and line.
    pub diagnostics: Vec<Diagnostic>,
    /// May it be used?
    pub accepted: bool,
    /// Devices of an accepted site; `None` for a profile.
    pub devices: Option<usize>,
    /// Points of an accepted file: those that a site publishes, all of a profile.
    pub points: usize,
    /// Values of a profile that its examples prove.
    pub proven: usize,
}

impl Verdict {
    /// One document: `diagnostics` and `summary`.
    pub fn json(&self) -> Value {
        let mut summary = json!({
            "accepted": self.accepted,
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "points": self.points,
        });
        if let (Some(devices), Some(summary)) = (self.devices, summary.as_object_mut()) {
            summary.insert("devices".into(), devices.into());
        }
        json!({ "diagnostics": self.diagnostics.iter().map(object).collect::<Vec<_>>(), "summary": summary })
    }

    /// A workflow command per finding, each on a line.
    pub fn github(&self) -> String {
        self.diagnostics.iter().map(annotation).collect()
    }

    fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// A finding as an object; what has no place in a file has no `file`.
fn object(finding: &Diagnostic) -> Value {
    let mut object = json!({
        "code": finding.code,
        "severity": finding.severity.word(),
        "message": finding.message,
        "help": finding.help,
    });
    if let (Some(span), Some(object)) = (&finding.span, object.as_object_mut()) {
        let (line, column) = span.line_column();
        object.insert("file".into(), span.file.path.as_str().into());
        object.insert("line".into(), line.into());
        object.insert("column".into(), column.into());
        object.insert("end_column".into(), end_column(span, column).into());
        object.insert("source".into(), span.excerpt().into());
    }
    object
}

/// The column behind the last character of the finding's first line.
fn end_column(span: &Span, column: usize) -> usize {
    column + span.width()
}

/// `::error file=…,line=…,col=…,title=…::message` (GitHub Actions, "Workflow commands", setting an error message).
fn annotation(finding: &Diagnostic) -> String {
    let mut properties = Vec::new();
    if let Some(span) = &finding.span {
        let (line, column) = span.line_column();
        properties.push(format!("file={}", property(&span.file.path)));
        properties.push(format!("line={line},col={column},endColumn={}", end_column(span, column)));
    }
    properties.push(format!("title={}", finding.code));
    let help = finding.help.as_ref().map_or_else(String::new, |help| format!("\n{help}"));
    let message = data(&format!("{}{help}", finding.message));
    format!("::{} {}::{message}\n", finding.severity.word(), properties.join(","))
}

/// Escapes a message, as actions/toolkit does (packages/core/src/command.ts, `escapeData`).
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes a property, as actions/toolkit does (`escapeProperty`).
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::diagnostic::{Diagnostics, SourceFile};
    use std::sync::Arc;

    fn verdict() -> Verdict {
        let text = "site: x\nunit: °C bad\n".to_string();
        let start = text.find("bad").unwrap();
        let file = Arc::new(SourceFile { path: "a,b:c.yaml".into(), text });
        let mut all = Diagnostics::default();
        all.error("E020", &Span { file, range: start..start + 3 }, "90 % of:\r\nit").help("remove, it");
        all.error_nowhere("E001", "x.yaml: cannot be read");
        Verdict { diagnostics: all.sorted(), accepted: false, devices: Some(0), points: 0, proven: 0 }
    }

    #[test]
    fn json_has_an_object_per_finding_and_a_summary() {
        let document = verdict().json();
        assert_eq!(
            document["diagnostics"][1],
            json!({
                "code": "E020", "severity": "error", "file": "a,b:c.yaml", "line": 2, "column": 10, "end_column": 13,
                "message": "90 % of:\r\nit", "help": "remove, it", "source": "unit: °C bad",
            })
        );
        assert_eq!(document["diagnostics"][0]["file"], Value::Null);
        assert_eq!(
            document["summary"],
            json!({ "accepted": false, "errors": 2, "warnings": 0, "devices": 0, "points": 0 })
        );
    }

    #[test]
    fn annotations_are_one_escaped_line_each() {
        assert_eq!(
            verdict().github(),
            "::error title=E001::x.yaml: cannot be read\n\
             ::error file=a%2Cb%3Ac.yaml,line=2,col=10,endColumn=13,title=E020::90 %25 of:%0D%0Ait%0Aremove, it\n"
        );
    }
}
