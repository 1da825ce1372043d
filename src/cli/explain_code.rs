//! `taktbus explain-code`: the long story of a finding's code.

use super::Outcome;
use crate::document::codes::{Code, TABLE};
use crate::document::suggest::nearest;

/// Prints the story of a code, or all codes with their titles.
pub fn explain_code(asked: Option<&str>) -> Outcome {
    let Some(asked) = asked else {
        TABLE.iter().for_each(|code| outln!("{}  {}", code.code, code.title));
        return Outcome::Fine;
    };
    match find(asked) {
        Some(code) => {
            out!("{}: {}\n\n{}", code.code, code.title, shown(code.story));
            Outcome::Fine
        }
        None => {
            let near = nearest(asked, TABLE.iter().map(|code| code.code));
            let near = near.map_or_else(String::new, |code| format!(": did you mean {code}?"));
            errln!("error: there is no code '{}'{near}", asked.escape_debug());
            errln!("`taktbus explain-code` lists them all");
            Outcome::Failed
        }
    }
}

/// `E017`, `e017`, `[E017]`, `E17`, `17`: as people copy and abbreviate it.
fn find(asked: &str) -> Option<&'static Code> {
    let word = asked.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_ascii_uppercase();
    let number = word.trim_start_matches(['E', 'W']);
    let kind = &word[..word.len() - number.len()];
    let kind = if kind.is_empty() { "E" } else { kind };
    let padded = format!("{kind}{number:0>3}");
    TABLE.iter().find(|code| code.code == padded)
}

/// A story for a terminal: examples are indented and introduced in place of their fences.
fn shown(story: &str) -> String {
    let mut text = String::with_capacity(story.len());
    let mut inside = false;
    for line in story.lines() {
        match line {
            "```yaml wrong" | "```yaml right" => {
                inside = true;
                text += if line.ends_with("wrong") { "Refused, or warned of:\n" } else { "Instead:\n" };
            }
            "```" => inside = false,
            _ => {
                text += if inside { "    " } else { "" };
                text += line;
                text += "\n";
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_as_people_write_them() {
        for asked in ["E017", "e017", "error[E017]".trim_start_matches("error"), "E17", "17"] {
            assert_eq!(find(asked).map(|code| code.code), Some("E017"), "{asked}");
        }
        assert_eq!(find("w2").map(|code| code.code), Some("W002"));
        for asked in ["", "E", "X017", "E0170", "E999", "é"] {
            assert!(find(asked).is_none(), "{asked}");
        }
    }

    #[test]
    fn a_story_is_shown_without_its_fences() {
        let story = "Why.\n\n```yaml wrong\na: 1\n```\n\n```yaml right\nb: 1\n```\n";
        assert_eq!(shown(story), "Why.\n\nRefused, or warned of:\n    a: 1\n\nInstead:\n    b: 1\n");
    }

    #[test]
    fn no_story_shows_a_fence() {
        for code in TABLE {
            assert!(!shown(code.story).contains("```"), "{}", code.code);
        }
    }
}
