//! Where a value is on its device: addresses as they go on the wire.

use std::fmt;
use std::sync::Arc;

/// One of Modbus' four tables (Modbus Application Protocol V1.1b3, section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Read with function code 1, one bit each.
    Coil,
    /// Read with function code 2, one bit each.
    Discrete,
    /// Read with function code 4, 16 bits each.
    Input,
    /// Read with function code 3, 16 bits each.
    Holding,
}

impl Table {
    /// The function code that reads this table.
    pub fn read_function(self) -> u8 {
        match self {
            Self::Coil => 1,
            Self::Discrete => 2,
            Self::Holding => 3,
            Self::Input => 4,
        }
    }

    /// Coils and discrete inputs hold bits, the other two 16-bit registers.
    pub fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// The key that names this table in a map: `coil`, `discrete`, `input`, `holding`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Input => "input",
            Self::Holding => "holding",
        }
    }
}

/// Where one reading is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `count` consecutive addresses of one table. For bit tables `count` is 1.
    /// `address + count` never exceeds 65536.
    Run {
        /// The table.
        table: Table,
        /// First address, zero-based, as on the wire.
        address: u16,
        /// Number of registers (or bits).
        count: u16,
    },
    /// Registers listed one by one, most significant first (`holding: [690, 625]`).
    Scattered {
        /// The table: input or holding.
        table: Table,
        /// Zero-based addresses, as on the wire.
        addresses: Box<[u16]>,
    },
    /// An OPC UA node.
    Node(Arc<NodePlace>),
}

/// An OPC UA node, as written; what its namespace's index is, is known to a session only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodePlace {
    /// A node id (`nsu=http://vendor/uri;s=Line1.Speed`), or a browse path from the Objects folder (`/Line1/Speed`).
    pub address: Box<str>,
    /// The part of an array or a structure: `[3]`, `zone.temperature`, `zones[2].temperature`.
    pub member: Option<Box<str>>,
}

/// `ns=2;s=Line1`, `ns=2;s=Line1 zones[2].temperature`
impl fmt::Display for NodePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)?;
        self.member.as_ref().map_or(Ok(()), |member| write!(f, " {member}"))
    }
}

impl Place {
    /// The table, for Modbus places.
    pub fn table(&self) -> Option<Table> {
        match self {
            Self::Run { table, .. } | Self::Scattered { table, .. } => Some(*table),
            Self::Node(_) => None,
        }
    }

    /// Its addresses, in the order of the value's words; none of a node.
    pub fn cells(&self) -> Box<dyn Iterator<Item = (Table, u16)> + '_> {
        match self {
            Self::Run { table, address, count } => {
                Box::new((0..*count).map(|i| (*table, address.saturating_add(i))))
            }
            Self::Scattered { table, addresses } => {
                Box::new(addresses.iter().map(|address| (*table, *address)))
            }
            Self::Node(_) => Box::new(std::iter::empty()),
        }
    }
}
