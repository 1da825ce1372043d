//! Floats, counted: which values a type has, and which of them is nearest. Pure.

use crate::mapping::compiled::Kind;
use crate::model::value::Raw;

/// A binary floating-point format (IEEE 754). Its values are counted: the ordinal of 0 is 0, that of the smallest
/// positive one is 1.
#[derive(Clone, Copy)]
pub enum Format {
    /// binary16
    Half,
    /// binary32
    Single,
    /// binary64
    Double,
}

impl Format {
    /// That of a type.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Float16 => Self::Half,
            Kind::Float32 => Self::Single,
            _ => Self::Double,
        }
    }

    /// Its largest finite value.
    pub fn largest(self) -> f64 {
        match self {
            Self::Half => 65_504.0,
            Self::Single => f64::from(f32::MAX),
            Self::Double => f64::MAX,
        }
    }

    /// The ordinal of the nearest value; `None` when it lies beyond the largest.
    pub fn nearest(self, value: f64) -> Option<i64> {
        let size = value.abs();
        // A quotient of what was read may be rounded to just above the largest.
        if size.is_nan() || size > self.largest() * (1.0 + 1e-12) {
            return None;
        }
        let ordinal = match self {
            // Steps of 2^-24 up to 2^-14, then 1024 steps to each power of two.
            Self::Half => {
                let exponent = ((size.to_bits() >> 52) as i32 - 1023).max(-14);
                let steps = (size * 2f64.powi(10 - exponent)).round_ties_even() as i64;
                i64::from(exponent + 14) * 1024 + steps
            }
            Self::Single => i64::from((size as f32).to_bits()),
            Self::Double => size.to_bits() as i64,
        };
        Some(if value < 0.0 { -ordinal } else { ordinal }).filter(|ordinal| self.is_finite(*ordinal))
    }

    /// Is it the ordinal of a finite value?
    pub fn is_finite(self, ordinal: i64) -> bool {
        let infinity = match self {
            Self::Half => 0x7C00,
            Self::Single => i64::from(f32::INFINITY.to_bits()),
            Self::Double => f64::INFINITY.to_bits() as i64,
        };
        ordinal.abs() < infinity
    }

    /// The value of an ordinal.
    pub fn raw(self, ordinal: i64) -> Raw {
        let size = ordinal.unsigned_abs();
        let sign = if ordinal < 0 { -1.0 } else { 1.0 };
        match self {
            Self::Half => {
                let (exponent, fraction) = (size >> 10, (size & 0x3FF) as f32);
                let size = match exponent {
                    0 => fraction * 2f32.powi(-24),
                    exponent => (1024.0 + fraction) * 2f32.powi(exponent as i32 - 25),
                };
                Raw::Float32(size * sign)
            }
            Self::Single => Raw::Float32(f32::from_bits(size as u32) * sign),
            Self::Double => Raw::Float64(f64::from_bits(size) * f64::from(sign)),
        }
    }
}
