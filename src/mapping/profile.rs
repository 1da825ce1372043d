//! Profiles as written: what a device is. The only list of their keys.

use serde_json::{Value, json};

use super::example::Example;
use super::node::{MemberPath, NodeId};
use super::parameters::Formula;
use super::points::Points;
use super::refused::RefusedWords;
use super::written::{
    Access, ByteWord, CharsWord, ClockWord, DeadbandWord, FunctionWord, InvalidByType, InvalidWords, Labels,
    Mask, OrderWord, ProfileName, RangeWord, TypeWord, ZoneWord,
};
use crate::document::codes;
use crate::document::duration::{Duration, Interval, Rest};
use crate::document::fields::document;
use crate::document::read::{At, Read, Reader};
use crate::document::schema::Schemas;
use crate::document::types::{Either, Flag, Int, List, Name, Names, Nullable, Number, Text, whole_number};
use crate::document::yaml::Node;
use crate::model::place::Table;

/// An address as written: zero-based on the wire, or counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub i64);

impl Read for Address {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let number = whole_number(node, to)?;
        // 65536 is the last one where the list counts from 1; whether it does is known to the whole profile only.
        if (0..=65_536).contains(&number) {
            return i64::try_from(number).ok().map(Self);
        }
        let finding = to.error(
            codes::ADDRESS,
            node,
            format!("address {number} is out of range: 0 to 65535 is allowed"),
        );
        if (100_001..=465_536).contains(&number) {
            finding
                .help(format!("a number of the vendor's list, with its table in front? Write ref: {number}"));
        }
        None
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": 0, "maximum": 65_536, "examples": [0, 40] })
    }
}

/// Registers: the first one of a run, or each of them, most significant first.
pub type Registers = Either<Address, List<Address>>;

document! {
    /// A device profile: what a device is. A site says where such devices hang.
    pub struct Profile ("a profile") {
        /// The profile's name, and its place: eastron/sdm630 is mappings/eastron/sdm630.yaml.
        /// Example: `eastron/sdm630`
        required profile: ProfileName,
        /// What the device is called on its nameplate.
        /// Example: `Eastron SDM630 three-phase meter`
        optional title: Text,
        /// Where the numbers come from.
        /// Example: `["Modbus register map V1.8, 2023"]`
        optional sources: List<Text>,
        /// 0: numbers go on the wire; 1: the vendor's list counts from 1. Default 0.
        /// Example: `0`
        optional address_base: Int<0, 1>,
        /// Order of numbers of two or more registers. Default ABCD.
        optional order: OrderWord,
        /// Order of written numbers of two or more registers, where it differs from the order that they are read in.
        optional write_order: OrderWord,
        /// Raw values that mean "not available", by type.
        optional invalid: InvalidByType,
        /// What requests must respect.
        optional limits: Limits,
        /// Addresses that the device gives as a whole only: what lies in one is read with all of it.
        /// Example: `[{"holding": 0, "count": 20}]`
        optional blocks: List<BlockWords>,
        /// Addresses that the device answers with exception 2: no point is there, and no request reads over them.
        /// Example: `[{"holding": "100..119"}]`
        optional refused: List<RefusedWords>,
        /// OPC UA: the URI of the namespace of node ids and paths that name none.
        /// Example: `http://www.siemens.com/simatic-s7-opcua`
        optional namespace: Text,
        /// Numbers that a site gives (`with`), by name; a point uses them as $NAME.
        optional parameters: Names<ParameterWords>,
        /// Profiles whose points, limits and other keys this one has too, and changes.
        /// Example: `acme/common`
        optional include: Either<ProfileName, List<ProfileName>>,
        /// The points by name. Of what is included: changed keys, or null to drop one.
        optional points: Points<Nullable<Point>>,
        /// Test vectors: `check` proves the map against them, without the device.
        /// Example: `[{"registers": {"input": {"0": [17254, 26214]}}, "expect": {"voltage_l1": 230.4}}]`
        optional examples: List<Example>,
    }
}

document! {
    /// A number that a site gives.
    pub struct ParameterWords ("a parameter") {
        /// What it is where a site gives none. Without a default each device must give it.
        /// Example: `1`
        optional default: Number,
        /// Smallest and largest value: 1..1000.
        optional range: RangeWord,
        /// What it is, for people.
        /// Example: `Ratio of the current transformers`
        optional desc: Text,
    }
}

document! {
    /// What requests to the device must respect.
    pub struct Limits ("limits") {
        /// Largest number of registers of one request. Default 125.
        /// Example: `50`
        optional max_registers: Int<1, 125>,
        /// Largest number of coils or discrete inputs of one request. Default 2000.
        /// Example: `256`
        optional max_bits: Int<1, 2000>,
        /// Unneeded addresses that a request may read over. Default 0.
        /// Example: `8`
        optional max_gap: Int<0, 2000>,
        /// Rest after the connection came up.
        optional delay_after_connect: Rest,
        /// Rest between an answer and the next request.
        optional delay_between_requests: Rest,
        /// How long to wait for an answer.
        optional response_timeout: Duration<1, 60_000>,
        /// Function codes that the device understands. Default: all.
        /// Example: `[3, 4, 16]`
        optional functions: List<Int<1, 127>>,
        /// How often the device renews its values: reading them more often yields the same again.
        optional refresh: Interval,
        /// OPC UA: largest number of nodes or monitored items of one request. Default: as the server says.
        /// Example: `100`
        optional max_nodes: Int<1, 100_000>,
    }
}

document! {
    /// Addresses that the device gives as a whole only.
    pub struct BlockWords ("a block") {
        /// Address of its first coil.
        optional coil: Address,
        /// Address of its first discrete input.
        optional discrete: Address,
        /// Address of its first input register.
        optional input: Address,
        /// Address of its first holding register.
        optional holding: Address,
        /// How many registers, or bits.
        /// Example: `20`
        required count: Int<1, 2000>,
    }
}

impl BlockWords {
    /// Where it begins, if that is in this table.
    pub fn address(&self, table: Table) -> Option<&At<Address>> {
        let at = match table {
            Table::Coil => &self.coil,
            Table::Discrete => &self.discrete,
            Table::Input => &self.input,
            Table::Holding => &self.holding,
        };
        at.as_deref()
    }
}

document! {
    /// How a point is written.
    pub struct WriteWords ("a write") {
        /// Function code: 5 or 15 for a coil, 6 or 16 for one register, 16 for several, 22 for a part of a register.
        optional function: FunctionWord,
        /// Smallest and largest value that may be written, in the point's unit: 6..16.
        optional range: RangeWord,
        /// Single values outside of the range that may be written too.
        /// Example: `[0]`
        optional also: List<Number>,
        /// The bytes as they go on the wire. Default: the profile's write_order, else as it is read.
        optional order: OrderWord,
        /// How often it must be written again, for devices that fall back without.
        optional refresh: Interval,
    }
}

document! {
    /// A named value.
    pub struct Point ("a point") {
        /// Address of a coil.
        optional coil: Address,
        /// Address of a discrete input.
        optional discrete: Address,
        /// Address of an input register, or a list of registers, high word first.
        optional input: Registers,
        /// Address of a holding register, or a list of registers, high word first.
        optional holding: Registers,
        /// Paper notation, counted from 1: 30001 is the first input register, 400001 the first holding register.
        /// Example: `400001`
        optional r#ref: Int<1, 465_536>,
        /// OPC UA node id: ns=2;s=Line1.Speed, or with the namespace's URI, nsu=URI;s=…. Or a browse path from the Objects folder:
        /// /Line1/Speed.
        optional node: NodeId,
        /// OPC UA: the part of an array or a structure that is the value.
        /// Example: `zones[2].temperature`
        optional member: MemberPath,
        /// Other points and their factors.
        optional sum: Names<Formula>,
        /// What the registers hold. Of an OPC UA node: the type that it must have; without one, any is taken.
        optional r#type: TypeWord,
        /// The bytes as they come on the wire, A the most significant. Default: the profile's.
        optional order: OrderWord,
        /// One bit, 0 the least significant.
        /// Example: `3`
        optional bit: Int<0, 63>,
        /// Named bits, 0 the least significant.
        optional bits: Names<Int<0, 63>>,
        /// The bits that make the value.
        /// Example: `61440`
        optional mask: Mask,
        /// Half of a register, with int8 and uint8.
        optional byte: ByteWord,
        /// value = raw × scale + offset. Default 1. A number, or a product with parameters: 0.1 * $ct_ratio.
        optional scale: Formula,
        /// value = raw × scale + offset. Default 0. A number, or a product with parameters.
        optional offset: Formula,
        /// The point that holds the exponent: value = raw × 10^exponent.
        /// Example: `voltage_sf`
        optional scale_from: Name,
        /// The unit; percent for %.
        /// Example: `kWh`
        optional unit: Text,
        /// Raw values that mean "not available"; none switches the profile's off.
        /// Example: `32768`
        optional invalid: InvalidWords,
        /// Texts for numbers; an unknown number stays a number.
        optional r#enum: Labels,
        /// The smallest and the largest value that can be true, in the point's unit: -40..85. Others are bad: implausible.
        optional plausible: RangeWord,
        /// Publish only when the value moved by this much, or by this many percent.
        optional deadband: DeadbandWord,
        /// With a deadband: publish at least this often, moved or not.
        optional heartbeat: Interval,
        /// Publish the mean of this many values. A bad value begins it anew.
        /// Example: `3`
        optional smooth: Int<2, 1000>,
        /// May it be read (r), written (w), or both (rw)? Default r.
        optional access: Access,
        /// How it is written, with access rw or w.
        optional write: WriteWords,
        /// With a range in the name, such as relay_{0..15}: how far it is from one address (or bit) to the next. Default: the
        /// width of the type.
        /// Example: `2`
        optional step: Int<1, 65_535>,
        /// The name of its rate: default, once, or one that the site gives an interval.
        /// Example: `fast`
        optional rate: Name,
        /// Give it a request of its own.
        optional alone: Flag,
        /// Read for other points only, not published.
        optional internal: Flag,
        /// Registers of a string, or of a mod10k.
        /// Example: `16`
        optional length: Int<1, 125>,
        /// Which bytes of each register carry text. Default both.
        optional chars: CharsWord,
        /// Layout of a datetime. Default unix.
        optional format: ClockWord,
        /// Where a datetime's clock is. Default utc for unix and unix_ms, local for all others.
        optional zone: ZoneWord,
        /// What it is, for people.
        /// Example: `Energy since the installation`
        optional desc: Text,
    }
}

/// The keys that say where a point's value is.
pub const LOCATIONS: [&str; 7] = ["coil", "discrete", "input", "holding", "ref", "node", "sum"];

impl Point {
    /// This point with single keys replaced. A new location replaces the old one.
    pub fn with_patch(mut self, patch: Self) -> Self {
        if LOCATIONS.iter().any(|key| patch.given(key).is_some()) {
            (self.coil, self.discrete, self.input, self.holding) = (None, None, None, None);
            (self.r#ref, self.node, self.member, self.sum) = (None, None, None, None);
        }
        if ["bit", "bits", "mask"].iter().any(|key| patch.given(key).is_some()) {
            (self.bit, self.bits, self.mask) = (None, None, None);
        }
        self.patched(patch)
    }
}
