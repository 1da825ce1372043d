//! Node ids and browse paths as written → as a session knows them. Pure.
//!
//! Namespaces are given by their URI and have an index that is the server's, and may be another after its restart: it is looked
//! up at each connect in the server's NamespaceArray, and never remembered.

use opcua::types::{
    BrowsePath, ByteString, Guid, Identifier, NodeId, QualifiedName, ReferenceTypeId, RelativePath,
    RelativePathElement,
};

/// Where a node is, for the server of a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    /// By its id.
    Id(NodeId),
    /// By the names on the way from the Objects folder to it; its id is to be asked for (TranslateBrowsePathsToNodeIds).
    Path(Box<BrowsePath>),
}

/// Why an address means nothing to a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The server has no such namespace.
    #[error("the server has no namespace {0}")]
    Namespace(String),
    /// The configuration is checked before; this is for nothing but completeness.
    #[error("'{0}' is no node id")]
    Malformed(String),
}

/// Resolves an address. `default` is the URI of the namespace of ids and names that give none, `namespaces` the server's.
pub fn resolve(text: &str, default: Option<&str>, namespaces: &[String]) -> Result<Address, AddressError> {
    let default = || default.map_or(Ok(0), |uri| index(uri, namespaces));
    match text.strip_prefix('/') {
        Some(path) => self::path(path, &default).map(|path| Address::Path(Box::new(path))),
        None => node_id(text, &default, namespaces).map(Address::Id),
    }
}

fn index(uri: &str, namespaces: &[String]) -> Result<u16, AddressError> {
    let at = namespaces.iter().position(|known| known == uri).and_then(|at| u16::try_from(at).ok());
    at.ok_or_else(|| AddressError::Namespace(uri.to_string()))
}

/// A node id.
pub fn node_id(
    text: &str,
    default: &dyn Fn() -> Result<u16, AddressError>,
    namespaces: &[String],
) -> Result<NodeId, AddressError> {
    let malformed = || AddressError::Malformed(text.to_string());
    let (namespace, identifier) = match text.split_once(';') {
        Some((namespace, identifier)) if namespace.starts_with("nsu=") => {
            (index(namespace.trim_start_matches("nsu="), namespaces)?, identifier)
        }
        Some((namespace, identifier)) if namespace.starts_with("ns=") => {
            (namespace.trim_start_matches("ns=").parse().map_err(|_| malformed())?, identifier)
        }
        _ => (default()?, text),
    };
    let (kind, value) = identifier.split_once('=').ok_or_else(malformed)?;
    let identifier = match kind {
        "i" => value.parse().ok().map(Identifier::Numeric),
        "s" => Some(Identifier::String(value.into())),
        "g" => value.parse::<Guid>().ok().map(Identifier::Guid),
        "b" => ByteString::from_base64(value).map(Identifier::ByteString),
        _ => None,
    };
    Ok(NodeId { namespace, identifier: identifier.ok_or_else(malformed)? })
}

/// `Line1/Speed`, `0:Server/0:ServerStatus`.
fn path(path: &str, default: &dyn Fn() -> Result<u16, AddressError>) -> Result<BrowsePath, AddressError> {
    let element = |name: &str| {
        let given = name.split_once(':').and_then(|(index, name)| Some((index.parse().ok()?, name)));
        let (namespace_index, name) = match given {
            Some(given) => given,
            None => (default()?, name),
        };
        Ok(RelativePathElement {
            reference_type_id: ReferenceTypeId::HierarchicalReferences.into(),
            is_inverse: false,
            include_subtypes: true,
            target_name: QualifiedName { namespace_index, name: name.into() },
        })
    };
    let elements = path.split('/').map(element).collect::<Result<_, _>>()?;
    Ok(BrowsePath {
        starting_node: NodeId::objects_folder_id(),
        relative_path: RelativePath { elements: Some(elements) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces() -> Vec<String> {
        ["http://opcfoundation.org/UA/", "urn:server", "http://vendor/uri"].map(String::from).to_vec()
    }

    fn id(text: &str, default: Option<&str>) -> String {
        match resolve(text, default, &namespaces()) {
            Ok(Address::Id(id)) => id.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_namespace_is_looked_up_by_its_uri() {
        assert_eq!(id("nsu=http://vendor/uri;s=Line1.Speed", None), "ns=2;s=Line1.Speed");
        assert_eq!(id("s=\"Line1\".\"Speed\"", Some("urn:server")), "ns=1;s=\"Line1\".\"Speed\"");
        assert_eq!(id("i=2258", None), "i=2258");
        assert_eq!(id("ns=0;i=2258", Some("urn:server")), "i=2258");
        assert_eq!(
            id("ns=7;g=09087e75-8e5e-499b-954f-f2a9603db28a", None),
            "ns=7;g=09087e75-8e5e-499b-954f-f2a9603db28a"
        );
        let missing = AddressError::Namespace("urn:other".into());
        assert_eq!(resolve("nsu=urn:other;i=1", None, &namespaces()), Err(missing.clone()));
        assert_eq!(resolve("s=a", Some("urn:other"), &namespaces()), Err(missing));
    }

    #[test]
    fn a_path_is_names_in_the_default_namespace_or_with_an_index() {
        let Ok(Address::Path(path)) = resolve("/Line1/0:Speed", Some("http://vendor/uri"), &namespaces())
        else {
            panic!("a path")
        };
        let names: Vec<_> = path.relative_path.elements.unwrap().into_iter().map(|e| e.target_name).collect();
        assert_eq!(names[0], QualifiedName { namespace_index: 2, name: "Line1".into() });
        assert_eq!(names[1], QualifiedName { namespace_index: 0, name: "Speed".into() });
    }
}
