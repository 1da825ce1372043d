//! What is wrong with a configuration, and where: collected from all files, printed once.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A file as it was read: its name for people, and its text for the excerpts.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The path as the user would write it.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// A stretch of a file. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The file.
    pub file: Arc<SourceFile>,
    /// Byte offsets into its text.
    pub range: Range<usize>,
}

/// Does it stop the start?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration can't be used.
    Error,
    /// Legal, but probably not meant.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Does it stop the start?
    pub severity: Severity,
    /// Stable code of this kind of finding, such as `E017`.
    pub code: &'static str,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where. `None` when it is about no place in a file (the file is missing).
    pub span: Option<Span>,
    /// What to do about it.
    pub help: Option<String>,
}

/// More findings than this are counted, not kept: nobody reads them, and a hostile file must not fill the memory.
pub const MAX_FINDINGS: usize = 500;

/// All findings of one run, in the order they were found; at most [`MAX_FINDINGS`] are kept.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
    /// Where findings beyond the limit go.
    spill: Option<Diagnostic>,
    errors: usize,
    dropped: usize,
}

impl Diagnostics {
    /// Reports an error at a place.
    pub fn error(&mut self, code: &'static str, span: &Span, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Error, code, Some(span.clone()), message.into())
    }

    /// Reports a warning at a place.
    pub fn warning(
        &mut self,
        code: &'static str,
        span: &Span,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.push(Severity::Warning, code, Some(span.clone()), message.into())
    }

    /// Reports an error that has no place in a file.
    pub fn error_nowhere(&mut self, code: &'static str, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Error, code, None, message.into())
    }

    /// Is there anything that stops the start?
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// How many errors were reported.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// Are further findings only counted?
    pub fn is_full(&self) -> bool {
        self.found.len() >= MAX_FINDINGS
    }

    /// Takes over the findings of a later stage; what is known already is not repeated.
    pub fn absorb(&mut self, later: Self) {
        for diagnostic in later.found {
            if !self.found.contains(&diagnostic) {
                let Diagnostic { severity, code, message, span, help } = diagnostic;
                self.push(severity, code, span, message).help = help;
            }
        }
        self.dropped += later.dropped;
    }

    /// Everything found, by file and line, each finding once. If there was more than is kept, the last one says so.
    pub fn sorted(mut self) -> Vec<Diagnostic> {
        let place = |d: &Diagnostic| d.span.as_ref().map(|s| (s.file.path.clone(), s.range.start));
        self.found.sort_by(|a, b| (place(a), &a.code, &a.message).cmp(&(place(b), &b.code, &b.message)));
        self.found.dedup();
        if let (Some(mut last), more @ 1..) = (self.spill, self.dropped) {
            last.message = format!("{} (and {} more findings)", last.message, more - 1);
            self.found.push(last);
        }
        self.found
    }

    fn push(
        &mut self,
        severity: Severity,
        code: &'static str,
        span: Option<Span>,
        message: String,
    ) -> &mut Diagnostic {
        if severity == Severity::Error {
            self.errors += 1;
        }
        let diagnostic = Diagnostic { severity, code, message, span, help: None };
        let at = self.found.len();
        if at >= MAX_FINDINGS {
            self.dropped += 1;
            return self.spill.insert(diagnostic);
        }
        self.found.push(diagnostic);
        &mut self.found[at]
    }
}

impl Severity {
    /// `error` or `warning`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl Diagnostic {
    /// Adds what to do about it.
    pub fn help(&mut self, help: impl Into<String>) {
        self.help = Some(help.into());
    }
}

impl Span {
    /// Line and column, both counted from 1; the column in characters.
    pub fn line_column(&self) -> (usize, usize) {
        let before = &self.file.text[..floor_char(&self.file.text, self.range.start)];
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// How many characters of its first line it covers; at least 1.
    pub fn width(&self) -> usize {
        let text = &self.file.text;
        let (from, to) = (floor_char(text, self.range.start), floor_char(text, self.range.end));
        text.get(from..to).map_or(1, |s| s.lines().next().unwrap_or("").chars().count()).max(1)
    }

    /// The line that it starts on, without its end, its control characters and its password; of a very long one the
    /// beginning.
    pub fn excerpt(&self) -> String {
        let text = &self.file.text;
        let start = text[..floor_char(text, self.range.start)].rfind('\n').map_or(0, |n| n + 1);
        let line = text[start..].lines().next().unwrap_or("");
        blanked(&without_secrets(line)).take(LONGEST_EXCERPT).collect()
    }
}

/// The largest character boundary at or before `at`.
fn floor_char(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

/// A line as it may be shown and logged: each character of a secret in it is a `*`, so that columns stay.
fn without_secrets(line: &str) -> Cow<'_, str> {
    let mut shown = Cow::Borrowed(line);
    for key in ["password", "bearer"] {
        let mut from = 0;
        while let Some(found) = shown[from..].find(key) {
            from += found + key.len();
            if let Some(secret) = secret_behind(&shown, from) {
                from = secret.start;
                let stars = "*".repeat(shown[secret.clone()].chars().count());
                shown.to_mut().replace_range(secret, &stars);
            }
        }
    }
    shown
}

/// Where the value of the key that ends at `key` is, if it's a secret itself and not where one is to be found.
fn secret_behind(line: &str, key: usize) -> Option<Range<usize>> {
    let rest = line[key..].trim_start_matches(['"', '\'', ' ']);
    let value = rest.strip_prefix(':').map(str::trim_start).filter(|value| !value.starts_with('{'))?;
    let from = line.len() - value.len();
    let end = match value.chars().next() {
        // A quote that is part of the secret (doubled, or behind a backslash) hides all that follows too.
        Some(quote @ ('"' | '\'')) => value.rfind(quote).filter(|end| *end > 0).map(|end| end + 1),
        _ => value.find([',', '}']),
    };
    Some(from..end.map_or(line.len(), |end| from + end))
}

/// Source lines longer than this are cut in excerpts, so that a hostile file can't flood a terminal.
const LONGEST_EXCERPT: usize = 160;

/// What a file quotes may hold the escape codes of terminals.
fn blanked(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|c| if c.is_control() { ' ' } else { c })
}

/// `FILE:LINE:COL: error[E017]: message`, the source line, a caret, and the help.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = self.severity.word();
        let message: String = blanked(&self.message).collect();
        if let Some(span) = &self.span {
            let (line, column) = span.line_column();
            writeln!(f, "{}:{line}:{column}: {severity}[{}]: {message}", span.file.path, self.code)?;
            let source = span.excerpt();
            let number = line.to_string();
            writeln!(f, " {number} | {source}")?;
            if column <= LONGEST_EXCERPT {
                let shown = source.chars().count();
                let width = span.width().min((shown + 1).saturating_sub(column).max(1));
                writeln!(f, " {:w$} | {:>column$}{}", "", "^", "^".repeat(width - 1), w = number.len())?;
            }
        } else {
            writeln!(f, "{severity}[{}]: {message}", self.code)?;
        }
        match &self.help {
            Some(help) => writeln!(f, "   = help: {}", blanked(help).collect::<String>()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_beyond_the_limit_are_counted() {
        let mut all = Diagnostics::default();
        for n in 0..MAX_FINDINGS + 10 {
            all.error_nowhere("E001", format!("finding {n:04}"));
        }
        assert_eq!(all.errors(), MAX_FINDINGS + 10);
        let sorted = all.sorted();
        assert_eq!(sorted.len(), MAX_FINDINGS + 1);
        assert_eq!(sorted[MAX_FINDINGS].message, "finding 0509 (and 9 more findings)");
    }

    #[test]
    fn a_finding_of_two_stages_is_reported_once() {
        let (mut all, mut later) = (Diagnostics::default(), Diagnostics::default());
        all.error_nowhere("E001", "a").help("h");
        later.error_nowhere("E001", "a").help("h");
        later.error_nowhere("E001", "b");
        all.absorb(later);
        assert_eq!(all.sorted().len(), 2);
    }

    #[test]
    fn no_escape_code_of_a_terminal_is_shown() {
        let text = "a: \u{1b}[2J".to_string();
        let file = Arc::new(SourceFile { path: "f".into(), text });
        let mut all = Diagnostics::default();
        all.error("E001", &Span { file, range: 3..4 }, "it is \u{1b}[2J").help("not \u{9b}1m");
        let shown = all.sorted()[0].to_string();
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }

    #[test]
    fn a_password_is_never_shown() {
        for (line, shown) in [
            ("  password: s3cret", "  password: ******"),
            ("a: {user: u, password: s3cret, qos: 1}", "a: {user: u, password: ******, qos: 1}"),
            ("a: {'password': \"s,3 ét\", qos: 1}", "a: {'password': ********, qos: 1}"),
            ("password: 'it''s'", "password: *******"),
            ("password: \"s3cret", "password: *******"),
            ("a: {password: {env: P}}", "a: {password: {env: P}}"),
            ("desc: the password of", "desc: the password of"),
            ("{bearer: abc, x: {password: de}}", "{bearer: ***, x: {password: **}}"),
            ("{bearer: {env: T}, password: ab}", "{bearer: {env: T}, password: **}"),
        ] {
            assert_eq!(without_secrets(line), shown);
        }
    }

    #[test]
    fn a_diagnostic_shows_the_line_and_points_at_it() {
        let text = "site: x\nunit: °C bad\n".to_string();
        let start = text.find("bad").unwrap();
        let file = Arc::new(SourceFile { path: "site.yaml".into(), text });
        let mut all = Diagnostics::default();
        all.error("E001", &Span { file, range: start..start + 3 }, "unknown word").help("remove it");
        assert_eq!(
            all.sorted()[0].to_string(),
            "site.yaml:2:10: error[E001]: unknown word\n 2 | unit: °C bad\n   |          ^^^\n   = help: remove it\n"
        );
    }
}
