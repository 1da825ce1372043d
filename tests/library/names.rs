//! How points are called: one word per thing, and a quantity's name goes with its units.

/// A quantity: the words that name it, and the units it comes in. An empty unit: it may have none.
pub struct Quantity {
    /// The words, as they stand in a name.
    pub words: &'static str,
    /// Its units.
    pub units: &'static [&'static str],
    /// What it is.
    pub meaning: &'static str,
}

const fn quantity(words: &'static str, units: &'static [&'static str], meaning: &'static str) -> Quantity {
    Quantity { words, units, meaning }
}

/// The quantities; the first one whose words a name has is the name's.
pub const QUANTITIES: &[Quantity] = &[
    quantity("percent", &["percent"], "of a limit or a capacity, after what it is a part of"),
    quantity("thd", &["percent"], "total harmonic distortion, before what is distorted: `thd_voltage_l1`"),
    quantity("unbalance", &["percent"], "difference between the phases"),
    quantity("soc", &["percent"], "state of charge"),
    quantity("power_factor", &["", "percent"], "active by apparent power, with harmonics"),
    quantity("cos_phi", &[""], "the same of the fundamental only"),
    quantity("phase_angle", &["deg"], "between voltage and current"),
    quantity("reactive_energy", &["varh", "kvarh"], "counter of reactive energy"),
    quantity("apparent_energy", &["VAh", "kVAh"], "counter of apparent energy"),
    quantity("energy", &["Wh", "kWh", "MWh"], "counter of active energy, or of heat"),
    quantity("reactive_power", &["var", "kvar"], ""),
    quantity("apparent_power", &["VA", "kVA"], ""),
    quantity("active_power", &["W", "kW"], ""),
    quantity("power", &["W", "kW"], "of direct current, or where the device doesn't say which"),
    quantity("voltage", &["V"], ""),
    quantity("current", &["A"], ""),
    quantity("frequency", &["Hz", "kHz"], ""),
    quantity("resistance", &["Ω", "MΩ"], ""),
    quantity("torque", &["percent"], "of the motor, of its nominal torque"),
    quantity("speed", &["rpm"], "of a shaft"),
    quantity("thermal_load", &["percent"], "of what trips the device"),
    quantity("temperature", &["°C"], ""),
    quantity("humidity", &["percent"], "relative"),
    quantity("moisture", &["percent"], ""),
    quantity("pressure", &["bar"], ""),
    quantity("volume_flow", &["l/min"], ""),
    quantity("time", &["s", "h", "d"], "a duration; a moment is `clock`, or ends in `_at`"),
    quantity("timeout", &["s"], ""),
    quantity("charge", &["Ah"], "counter of charge; with `energy`, `power` or `current` that of charging"),
];

/// Units of quantities that one device or two have.
pub const OTHER_UNITS: &[&str] = &["deg", "imp/kWh", "mg/kg", "min", "ms", "pH", "µS/cm"];

/// Words that are not used, and what is said instead.
pub const INSTEAD: &[(&str, &str)] = &[
    ("amps", "current"),
    ("batt", "battery"),
    ("curr", "current"),
    ("delivered", "energy_import or energy_export"),
    ("freq", "frequency"),
    ("isolation", "insulation"),
    ("outside", "outdoor"),
    ("peak", "max"),
    ("pf", "power_factor"),
    ("received", "energy_import or energy_export"),
    ("sn", "serial_number"),
    ("status", "state"),
    ("temp", "temperature"),
    ("volt", "voltage"),
    ("volts", "voltage"),
    ("watt", "active_power"),
    ("watts", "active_power"),
];

/// Names that standards of drives give.
const EXCEPTIONS: &[&str] = &["status_word", "extended_status_word"];

/// The quantity that a name is about.
pub fn quantity_of(name: &str) -> Option<&'static Quantity> {
    QUANTITIES.iter().find(|quantity| has_words(name, quantity.words))
}

/// Does the name have these words, as whole words in a row? Digits at a word's end don't count: `pv1`, `energy2`.
fn has_words(name: &str, words: &str) -> bool {
    let stems: Vec<&str> =
        name.split('_').map(|word| word.trim_end_matches(|c: char| c.is_ascii_digit())).collect();
    let wanted: Vec<&str> = words.split('_').collect();
    stems.windows(wanted.len()).any(|run| run == wanted)
}

/// What is wrong with a name, if anything. `unit` is the point's, `counts` says that it holds a measured number.
pub fn fault(name: &str, unit: &str, counts: bool) -> Option<String> {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !name.starts_with(|c: char| c.is_ascii_lowercase())
        || name.split('_').any(|word| word.is_empty() || !word.chars().all(lower))
    {
        return Some("a name is words of lower case letters and digits, with '_' in between".into());
    }
    if !EXCEPTIONS.contains(&name)
        && let Some((word, instead)) = INSTEAD.iter().find(|(word, _)| has_words(name, word))
    {
        return Some(format!("say '{instead}' instead of '{word}'"));
    }
    if ["l1_n", "l2_n", "l3_n", "power_total", "factor_total"].iter().any(|end| name.ends_with(end)) {
        return Some(
            "voltages to neutral are voltage_l1, and a quantity of the whole device has no suffix".into(),
        );
    }
    let quantity = quantity_of(name)?;
    let fits = quantity.units.contains(&unit) || !counts && unit.is_empty();
    (!fits).then(|| format!("'{}' is in {:?}, and not in '{unit}'", quantity.words, quantity.units))
}
