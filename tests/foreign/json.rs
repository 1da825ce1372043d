//! JSON as text: the tests compare digits, which a parser to floats would hide.

/// The text of an object's member. Panics when `object` is no JSON object: what the gateway sends always is.
pub fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    members(object).find_map(|(key, value)| (key == name).then_some(value))
}

/// Names and value texts of an object. Names are taken as they are (the tests use none that need escapes).
pub fn members(object: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(object).is_ok();
    assert!(is_object, "not a JSON object: {object}");
    let mut rest = &object.trim()[1..];
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([',', ' ']);
        let (name, after) = rest.strip_prefix('"')?.split_once('"')?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        let (value, after) = value.split_at(end_of_value(value));
        rest = after;
        Some((name, value))
    })
}

/// Where the value at the start of `text` ends: at the `,`, `}` or `]` that isn't its own.
fn end_of_value(text: &str) -> usize {
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            _ if in_text => {}
            '{' | '[' => depth += 1,
            '}' | ']' | ',' if depth == 0 => return at,
            '}' | ']' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn members_keep_every_digit() {
    let text = r#"{"a":184467440737095516.15,"b":{"c":"x,}","d":[1,{"e":2}]},"f":true}"#;
    assert_eq!(member(text, "a"), Some("184467440737095516.15"));
    assert_eq!(member(member(text, "b").unwrap(), "c"), Some("\"x,}\""));
    assert_eq!(member(member(text, "b").unwrap(), "d"), Some("[1,{\"e\":2}]"));
    assert_eq!(member(text, "f"), Some("true"));
    assert_eq!(member(text, "c"), None);
}
