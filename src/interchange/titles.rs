//! The columns that an import knows, and their titles as vendors write them: English, German, a few of other languages.

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Column {
    Table,
    AddressZeroBased,
    Address,
    Count,
    Type,
    WordOrder,
    Scale,
    Divisor,
    Offset,
    Unit,
    Access,
    Name,
    Description,
    Bit,
    Function,
    Invalid,
    Enum,
    Rate,
}

impl Column {
    /// The word for `--map`, and the titles that are taken for it. Lower case, single blanks, no punctuation. The first
    /// one is what an export writes.
    #[rustfmt::skip]
    pub const TITLES: [(Self, &'static str, &'static [&'static str]); 18] = [
        (Self::Table, "table", &[
            "table", "register type", "reg type", "registertype", "object type", "object", "register table",
            "modbus table", "memory area", "area", "space", "registerart", "bereich", "tabelle", "register kind",
            "modbus type",
        ]),
        (Self::AddressZeroBased, "address_zero_based", &[
            "address zero based", "zero based address", "address 0 based", "0 based address", "wire address",
            "pdu address", "protocol address", "modbus pdu address", "register offset", "address offset",
            "offset address", "address base 0", "protocol offset",
        ]),
        (Self::Address, "address", &[
            "address", "register", "reg", "register address", "modbus address", "modbus register", "addr", "adr",
            "reg addr", "reg address", "register number", "register no", "register nr", "reg no", "reg nr",
            "start address", "starting address", "start register", "starting register", "first register", "start",
            "reference", "ref", "modicon address", "modbus reference", "modbus addr", "data address", "address dec",
            "dec", "decimal", "address decimal", "adresse", "registeradresse", "modbus adresse", "modbusadresse",
            "startadresse", "register adresse", "registernummer", "node id", "nodeid", "node", "parameter address",
            "direccion", "indirizzo", "adres", "adresse modbus", "registre", "registro", "address hex", "hex",
            "hex address", "register hex", "id",
        ]),
        (Self::Count, "count", &[
            "count", "number of registers", "no of registers", "nr of registers", "registers", "words", "length",
            "len", "size", "quantity", "qty", "word count", "register count", "reg count", "register length",
            "data length", "num", "nb", "number", "length words", "size words", "no of words", "number of words",
            "length bytes", "bytes", "number of bytes", "size bytes", "anzahl", "anzahl register", "registeranzahl",
            "laenge", "länge", "longueur", "lunghezza",
        ]),
        (Self::Type, "type", &[
            "type", "data type", "datatype", "format", "data format", "value type", "variable type", "var type",
            "encoding", "data encoding", "datentyp", "typ", "datenformat", "representation", "register format",
            "tipo", "dtype",
        ]),
        (Self::WordOrder, "word_order", &[
            "word order", "byte order", "byteorder", "wordorder", "endian", "endianness", "endianess", "order",
            "swap", "byte swap", "word swap", "wortreihenfolge", "bytereihenfolge", "reihenfolge",
        ]),
        (Self::Scale, "scale", &[
            "scale", "scaling", "scale factor", "scaling factor", "factor", "multiplier", "multiply", "multiply by",
            "gain", "resolution", "coefficient", "conversion", "conversion factor", "step", "lsb", "weight",
            "skalierung", "skalierungsfaktor", "faktor", "multiplikator", "auflösung", "wertigkeit", "sf", "scaler",
            "scalar", "mult", "facteur", "fattore",
        ]),
        (Self::Divisor, "divisor", &[
            "divisor", "divider", "divide by", "division", "div", "teiler", "dividend by",
        ]),
        (Self::Offset, "offset", &[
            "offset", "value offset", "bias", "versatz", "nullpunkt",
        ]),
        (Self::Unit, "unit", &[
            "unit", "units", "uom", "unit of measure", "unit of measurement", "engineering unit", "eng unit", "eu",
            "measure unit", "einheit", "einheiten", "unité", "unita", "unità", "unidad",
        ]),
        (Self::Access, "access", &[
            "access", "r w", "rw", "read write", "r wo", "ro rw", "access type", "access right", "access rights",
            "permission", "permissions", "mode", "attribute", "attributes", "zugriff", "zugriffsart",
            "lesen schreiben", "direction", "properties", "acces", "accesso",
        ]),
        (Self::Name, "name", &[
            "name", "parameter", "parameter name", "variable", "variable name", "register name", "signal",
            "signal name", "point", "point name", "tag", "tag name", "tagname", "measurand", "measurement",
            "measured value", "label", "identifier", "symbol", "field", "item", "short name", "value", "value name",
            "data", "data point", "datapoint", "quantity name", "bezeichnung", "messwert", "messgröße", "größe",
            "parametername", "designation", "nom", "nome", "nombre", "object name", "register description",
            "parameter description",
        ]),
        (Self::Description, "description", &[
            "description", "desc", "comment", "comments", "remark", "remarks", "note", "notes", "meaning",
            "details", "detail", "explanation", "definition", "info", "information", "long name", "title",
            "beschreibung", "bemerkung", "bemerkungen", "kommentar", "erläuterung", "bedeutung", "text",
            "descrizione", "descripción", "content", "contents",
        ]),
        (Self::Bit, "bit", &[
            "bit", "bit no", "bit number", "bit position", "bit index", "bitnummer",
        ]),
        (Self::Function, "function", &[
            "function", "function code", "fc", "fcode", "func", "functioncode", "function codes", "modbus function",
            "modbus function code", "funktion", "funktionscode", "fkt", "read function", "supported function codes",
        ]),
        (Self::Invalid, "invalid", &[
            "invalid", "invalid value", "nan", "nan value", "not available", "na value", "not implemented value",
            "no value",
        ]),
        (Self::Enum, "enum", &[
            "enum", "enumeration", "enumerations", "value list", "enum values",
        ]),
        (Self::Rate, "rate", &[
            "rate",
        ]),
    ];

    /// The column of a word of `--map`.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::TITLES.iter().find(|(_, known, _)| *known == word).map(|(column, ..)| *column)
    }

    /// Its word for `--map`.
    pub fn word(self) -> &'static str {
        Self::TITLES.iter().find(|(column, ..)| *column == self).map_or("", |(_, word, _)| word)
    }
}
