//! Parameters: numbers that a profile leaves to the site (`parameters`, `with`), and the products that use them.
//!
//! A profile with parameters that have no default is checked with stand-ins of their range; a device without their values is
//! refused. Products are exact decimals.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::profile::Profile;
use crate::document::codes;
use crate::document::read::{At, Read, Reader};
use crate::document::scalar::{Meaning, meaning, shortened};
use crate::document::schema::Schemas;
use crate::document::suggest::did_you_mean;
use crate::document::types::{Names, Number};
use crate::document::yaml::Node;
use crate::model::decimal::Decimal;
use crate::model::diagnostic::{Diagnostics, Span};

/// Most numbers and parameters of a product.
const MAX_FACTORS: usize = 8;

/// A product of numbers and parameters: `0.1`, `$ct_ratio`, `0.1 * $ct_ratio`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formula {
    /// The product of the numbers.
    pub number: Decimal,
    /// The names of the parameters, without `$`.
    pub parameters: Vec<String>,
}

impl Read for Formula {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let text = match meaning(node) {
            Meaning::Bare(text) | Meaning::Quoted(text) if text.contains(['$', '*']) => text,
            _ => {
                return Number::read(node, to)
                    .map(|number| Self { number: number.0, parameters: Vec::new() });
            }
        };
        let formula = Self::parse(text);
        if formula.is_none() {
            to.error(codes::FORMULA, node, format!("'{}' is no product", shortened(text))).help(format!(
                "up to {MAX_FACTORS} numbers and parameters with * between them, such as 0.1 * $ct_ratio"
            ));
        }
        formula
    }

    fn schema(_: &mut Schemas) -> Value {
        let factor = r"(-?[0-9]*\.?[0-9]+|\$[^\s*$]+)";
        let pattern = format!(r"^ *{factor}( *\* *{factor})* *$");
        json!({
            "anyOf": [{ "type": "number" }, { "type": "string", "pattern": pattern }],
            "examples": [0.1, "$ct_ratio", "0.1 * $ct_ratio"],
        })
    }
}

impl Formula {
    fn parse(text: &str) -> Option<Self> {
        let mut formula = Self { number: Decimal::ONE, parameters: Vec::new() };
        let factors: Vec<&str> = text.split('*').map(str::trim).take(MAX_FACTORS + 1).collect();
        if factors.len() > MAX_FACTORS {
            return None;
        }
        for factor in factors {
            match factor.strip_prefix('$') {
                Some(name) if name.is_empty() || name.contains(|c: char| c == '$' || c.is_whitespace()) => {
                    return None;
                }
                Some(name) => formula.parameters.push(name.to_string()),
                None => formula.number = formula.number.checked_mul(factor.parse().ok()?)?,
            }
        }
        Some(formula)
    }
}

/// A profile's parameters by name.
#[derive(Clone, Debug, Default)]
pub struct Parameters(BTreeMap<String, Parameter>);

#[derive(Clone, Debug)]
struct Parameter {
    value: Option<Decimal>,
    range: Option<(Decimal, Decimal)>,
    desc: Option<String>,
}

impl Parameter {
    /// Reports a value outside of the range.
    fn check(&self, name: &str, value: Decimal, span: &Span, found: &mut Diagnostics) {
        if let Some((low, high)) = self.range.filter(|(low, high)| !(*low..=*high).contains(&value)) {
            let message = format!("{value} is out of range: parameter '{name}' may be {low} to {high}");
            found.error(codes::OUT_OF_RANGE, span, message);
        }
    }

    /// A number to check the profile with while no site has given one.
    fn stand_in(&self) -> Decimal {
        match self.range {
            Some((low, high)) if !(low..=high).contains(&Decimal::ONE) => {
                if low.is_zero() {
                    high
                } else {
                    low
                }
            }
            _ => Decimal::ONE,
        }
    }
}

impl Parameters {
    /// Those of a profile, with their defaults.
    pub fn of(profile: &Profile, found: &mut Diagnostics) -> Self {
        let mut all = BTreeMap::new();
        for (name, words) in profile.parameters.iter().flat_map(|at| &at.value.0) {
            let words = words.clone().unwrap_or_default();
            let parameter = Parameter {
                // What is wrong with a declaration has been reported: nobody is to blame for a missing value too.
                value: words.default.as_ref().map(|at| at.value.0).or(words.faulty.then_some(Decimal::ONE)),
                range: words.range.as_ref().map(|at| (at.value.0, at.value.1)),
                desc: words.desc.as_ref().map(|at| at.value.0.clone()),
            };
            if let Some(default) = &words.default {
                parameter.check(&name.value, default.value.0, &default.span, found);
            }
            all.insert(name.value.clone(), parameter);
        }
        Self(all)
    }

    /// Do all have a value?
    pub fn are_complete(&self) -> bool {
        self.0.values().all(|parameter| parameter.value.is_some())
    }

    /// Those of a device: `given` values instead of the defaults. Reports parameters that are unknown, and values that are
    /// missing or out of range.
    pub fn with(&self, given: Option<&Names<Number>>, device: &At<String>, found: &mut Diagnostics) -> Self {
        let mut all = self.clone();
        for (name, value) in given.iter().flat_map(|names| &names.0) {
            let Some(parameter) = all.0.get_mut(&name.value) else {
                self.report_unknown(&name.value, &name.span, found);
                continue;
            };
            // A value that was wrong has been reported.
            let number = value.map_or_else(|| parameter.stand_in(), |value| value.0);
            parameter.check(&name.value, number, &name.span, found);
            parameter.value = Some(number);
        }
        for (name, parameter) in all.0.iter().filter(|(_, parameter)| parameter.value.is_none()) {
            let message =
                format!("device '{}' needs a value for the parameter '{name}' of its profile", device.value);
            let desc = parameter.desc.as_ref().map_or_else(String::new, |desc| format!(" ({desc})"));
            let help = format!("such as with: {{{name}: {}}}{desc}", parameter.stand_in());
            found.error(codes::PARAMETER, &device.span, message).help(help);
        }
        all
    }

    /// What a product is. `None`: it has a parameter that does not exist, or it doesn't fit; which is reported.
    pub fn value(&self, formula: &At<Formula>, found: &mut Diagnostics) -> Option<Decimal> {
        let mut product = Some(formula.value.number);
        for name in &formula.value.parameters {
            let Some(parameter) = self.0.get(name) else {
                self.report_unknown(name, &formula.span, found);
                return None;
            };
            let factor = parameter.value.unwrap_or_else(|| parameter.stand_in());
            product = product.and_then(|product| product.checked_mul(factor));
        }
        if product.is_none() {
            found.error(codes::OUT_OF_RANGE, &formula.span, "the product has too many digits");
        }
        product
    }

    fn report_unknown(&self, name: &str, span: &Span, found: &mut Diagnostics) {
        let near = did_you_mean(found, name, self.0.keys().map(String::as_str));
        let message = format!("the profile has no parameter '{}'{near}", shortened(name));
        let diagnostic = found.error(codes::PARAMETER, span, message);
        if self.0.is_empty() {
            diagnostic.help("a profile declares them: parameters: {ct_ratio: {default: 1, range: 1..1000}}");
        }
    }
}
