//! OPC UA node ids, browse paths and members as written. Pure; namespaces are resolved by whoever has a session.
//!
//! The notation is that of OPC UA Part 6, 5.3.1.10: `ns=2;s=Line1.Speed`, `nsu=http://vendor/uri;i=42`, `i=2258`. A namespace index may
//! move when a server is changed, its URI doesn't.

use serde_json::{Value, json};

use crate::document::codes;
use crate::document::read::{Read, Reader};
use crate::document::scalar::shortened;
use crate::document::schema::Schemas;
use crate::document::types::Text;
use crate::document::yaml::{Kind, Node};

/// Longest identifier, in characters (OPC UA Part 3, 8.2.4).
const MAX_IDENTIFIER: usize = 4096;

/// What a pattern can see of a node id.
const PATTERN: &str = r"^(((ns=[0-9]{1,5}|nsu=[^;]+);)?(i=([0-9]|\{\}){1,10}|[sgb]=.+)|/.+)$";

/// What stands for the number, in the node ids of a range of points.
pub const NUMBER: &str = "{}";

/// A node id, or a browse path, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeId(pub String);

impl Read for NodeId {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let Text(text) = Text::read(node, to)?;
        // In a range of points `{}` stands for a number; whether there is a range is seen by the point's reader.
        if let Err(why) = check(&text.replace(NUMBER, "0")) {
            to.error(codes::NODE_ID, node, format!("'{}' is no node id: {why}", shortened(&text)))
                .help("such as ns=2;i=42, nsu=http://vendor/uri;s=Line1.Speed, or 'ns=3;s=\"Line1\".\"Speed\"' in single quotes");
            return None;
        }
        Some(Self(text))
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string", "pattern": PATTERN, "examples": ["ns=0;i=2258", "nsu=http://vendor/uri;s=Line1.Speed"] })
    }
}

impl NodeId {
    /// The node id of one point of a range.
    pub fn numbered(&self, number: u32) -> Self {
        Self(self.0.replace(NUMBER, &number.to_string()))
    }

    /// Why it is none, where `{}` stands for nothing else.
    pub fn fault(&self) -> Option<&'static str> {
        check(&self.0).err()
    }
}

/// The part of an array or a structure, as written: `[3]`, `zone.temperature`, `zones[2].temperature`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPath(pub String);

/// One step into a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'p> {
    /// A member of a structure.
    Field(&'p str),
    /// An element of an array, from 0.
    Element(usize),
}

/// The steps of a member path; `None`: it is none.
pub fn steps(path: &str) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (name, elements) = part.split_at(part.find('[').unwrap_or(part.len()));
        match name {
            // Only at the beginning there is an element of what has no name.
            "" if elements.is_empty() || !steps.is_empty() => return None,
            "" => {}
            name => steps.push(Step::Field(name)),
        }
        let mut rest = elements;
        while let Some(after) = rest.strip_prefix('[') {
            let (index, after) = after.split_once(']')?;
            let digits = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
            steps.push(Step::Element(index.parse().ok().filter(|_| digits)?));
            rest = after;
        }
        if !rest.is_empty() {
            return None;
        }
    }
    Some(steps)
}

impl Read for MemberPath {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        const EXAMPLES: &str = "such as '[3]', zone.temperature or zones[2].temperature";
        // Bare [3] is a list to YAML.
        if matches!(node.kind, Kind::Sequence(_)) {
            to.expected(node, "the part of a value").help("in quotes: '[3]'");
            return None;
        }
        let Text(text) = Text::read(node, to)?;
        if text.chars().count() > MAX_IDENTIFIER || steps(&text).is_none() {
            let message = format!("'{}' is no part of a value", shortened(&text));
            to.error(codes::NODE_ID, node, message).help(EXAMPLES);
            return None;
        }
        Some(Self(text))
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string", "pattern": r"^[^.\[\]]*(\[[0-9]+\])*(\.[^.\[\]]+(\[[0-9]+\])*)*$", "examples": ["zones[2].temperature"] })
    }
}

fn check(text: &str) -> Result<(), &'static str> {
    if let Some(path) = text.strip_prefix('/') {
        return check_path(path);
    }
    let identifier = match text.split_once(';') {
        Some((namespace, identifier)) if namespace.starts_with("ns") => {
            check_namespace(namespace)?;
            identifier
        }
        _ => text,
    };
    let (kind, value) = identifier.split_once('=').ok_or("an identifier is i=, s=, g= or b=")?;
    if value.chars().count() > MAX_IDENTIFIER {
        return Err("an identifier has at most 4096 characters");
    }
    let fits = match kind {
        "i" => value.parse::<u32>().is_ok() && value.bytes().all(|byte| byte.is_ascii_digit()),
        "s" => !value.is_empty(),
        "g" => is_guid(value),
        "b" => is_base64(value),
        "ns" | "nsu" => return Err("after the namespace comes ';' and i=, s=, g= or b="),
        _ => return Err("an identifier is i=, s=, g= or b="),
    };
    if fits { Ok(()) } else { Err("i= is a number of 32 bits, s= a text, g= a GUID, b= base64") }
}

/// Names from one node to the next, divided by slashes.
fn check_path(path: &str) -> Result<(), &'static str> {
    if path.chars().count() > MAX_IDENTIFIER {
        return Err("a path has at most 4096 characters");
    }
    match path.split('/').all(|name| !name.is_empty()) {
        true => Ok(()),
        false => Err("a path is names from the Objects folder on, such as /Line1/Speed"),
    }
}

fn check_namespace(namespace: &str) -> Result<(), &'static str> {
    let fits = match namespace.split_once('=') {
        Some(("ns", index)) => index.parse::<u16>().is_ok() && !index.starts_with('+'),
        Some(("nsu", uri)) => !uri.is_empty(),
        _ => false,
    };
    if fits { Ok(()) } else { Err("a namespace is ns= and a number up to 65535, or nsu= and a URI") }
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_guid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == 5
        && parts
            .iter()
            .zip([8, 4, 4, 4, 12])
            .all(|(part, digits)| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let letters = body.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
    !body.is_empty() && letters && text.len().is_multiple_of(4) && text.len() - body.len() <= 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn node_ids_as_servers_show_them_are_accepted() {
        for good in [
            "i=2258",
            "ns=0;i=2258",
            "ns=4;s=|var|WAGO 750-8102 PFC100 CS 2ETH RS.Application.PLC_PRG.testInt",
            "nsu=http://www.siemens.com/simatic-s7-opcua;s=\"Line1\".\"Zone\"[2].\"Temp\"",
            "s=a;b=c",
            "nsu=urn:BeckhoffAutomation:Ua:PLC1;s=MAIN.nCounter",
            "ns=1;g=09087e75-8e5e-499b-954f-f2a9603db28a",
            "ns=1;b=M/RbKBsRVkePCePcx24oRA==",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn a_path_leads_from_the_objects_folder() {
        assert_eq!(check("/Line1/Speed"), Ok(()));
        assert_eq!(
            check("/2:Line1/nsu=http://vendor:Speed"),
            Err("a path is names from the Objects folder on, such as /Line1/Speed")
        );
        for bad in ["/", "//Speed", "/Line1/"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_member_is_a_way_into_a_value() {
        use Step::{Element, Field};
        assert_eq!(steps("[3]"), Some(vec![Element(3)]));
        assert_eq!(steps("[1][0]"), Some(vec![Element(1), Element(0)]));
        assert_eq!(steps("zones[2].temp"), Some(vec![Field("zones"), Element(2), Field("temp")]));
        for bad in ["", ".", "a.", "a..b", "a.[1]", "[x]", "[1", "[+1]", "a[1]b", "[1]b"] {
            assert_eq!(steps(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_node_id_is_refused() {
        for bad in [
            "",
            "Line1.Speed",
            "ns=2",
            "ns=65536;i=1",
            "ns=+1;i=1",
            "ns=2;i=-1",
            "ns=2;i=+1",
            "i=4294967296",
            "s=",
            "ns=;i=1",
            "nsu=;i=1",
            "nsx=1;i=1",
            "g=09087e75",
            "b=a",
            "b===",
            "ns=2;ns=3;i=1",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check(&format!("s={}", "x".repeat(MAX_IDENTIFIER + 1))).is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange_to_be_looked_at(text in ".*") {
            let _ = check(&text);
        }

        #[test]
        fn every_number_and_namespace_is_a_node_id(namespace: u16, id: u32) {
            let text = format!("ns={namespace};i={id}");
            prop_assert_eq!(check(&text), Ok(()));
        }
    }
}
