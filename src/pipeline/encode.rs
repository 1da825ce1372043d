//! Samples to JSON: one message per batch, written straight into bytes.
//!
//! Always valid JSON: names are plain (the configuration sees to it), texts are escaped, floats are finite.

use std::fmt::{self, Write as _};

use crate::mapping::batch::Note;
use crate::mapping::compiled::{Point, PointIx, Select};
use crate::mapping::transform::Sample;
use crate::model::decimal::whole_f32;
use crate::model::time::Stamp;
use crate::model::value::{Cause, Value};

/// The part of a device's messages that never changes: `{"site":"bakery","device":"main","ts":"`.
pub fn prefix(site: &str, device: &str) -> Vec<u8> {
    let mut out = b"{\"site\":".to_vec();
    text(site, &mut out);
    out.extend_from_slice(b",\"device\":");
    text(device, &mut out);
    out.extend_from_slice(b",\"ts\":\"");
    out
}

/// What a data message begins with.
pub struct Heading<'h> {
    /// The part that never changes.
    pub prefix: &'h [u8],
    /// When the values arrived.
    pub stamp: Stamp,
    /// The run of the gateway.
    pub epoch: u64,
    /// The message's number within (device, epoch) on its route.
    pub seq: u64,
}

/// A data message. `samples` are those to publish, `notes` what the device says of some of
/// them beside their values.
pub fn data<'a>(
    heading: &Heading<'_>,
    points: &[Point],
    samples: impl Iterator<Item = &'a Sample> + Clone,
    notes: &[(PointIx, Note)],
    out: &mut Vec<u8>,
) {
    let Heading { prefix, stamp, epoch, seq } = heading;
    out.extend_from_slice(prefix);
    let _ = write!(Bytes(out), "{stamp}\",\"epoch\":{epoch},\"seq\":{seq},\"values\":{{");
    let mut first = true;
    for (ix, value) in samples.clone() {
        let Ok(value) = value else { continue };
        key(&points[ix.0 as usize].name, &mut first, out);
        write_value(value, &points[ix.0 as usize], out);
    }
    out.push(b'}');
    let mut first = true;
    for (ix, cause) in samples {
        let Err(cause) = cause else { continue };
        if first {
            out.extend_from_slice(b",\"bad\":{");
        }
        key(&points[ix.0 as usize].name, &mut first, out);
        write_cause(*cause, out);
    }
    out.extend_from_slice(if first { b"" } else { b"}" });
    let name = |ix: &PointIx| &*points[ix.0 as usize].name;
    let uncertain = notes.iter().filter_map(|(ix, note)| Some((name(ix), note.uncertain?)));
    object("uncertain", uncertain, out);
    let times = notes.iter().filter_map(|(ix, note)| Some((name(ix), note.time?)));
    object("times", times, out);
    out.push(b'}');
}

/// `,"name":{"point":"text",…}`; nothing for nothing.
fn object<'n>(name: &str, members: impl Iterator<Item = (&'n str, impl fmt::Display)>, out: &mut Vec<u8>) {
    let mut first = true;
    for (point, text) in members {
        if first {
            let _ = write!(Bytes(out), ",\"{name}\":{{");
        }
        key(point, &mut first, out);
        let _ = write!(Bytes(out), "\"{text}\"");
    }
    if !first {
        out.push(b'}');
    }
}

/// A value as JSON.
pub fn write_value(value: &Value, point: &Point, out: &mut Vec<u8>) {
    match value {
        Value::Bool(bit) => out.extend_from_slice(if *bit { b"true" } else { b"false" }),
        Value::Number(number) => number.write_json(out),
        Value::Float32(float) => match whole_f32(*float) {
            Some(whole) => _ = write!(Bytes(out), "{whole}"),
            None => write_float(float, out),
        },
        Value::Float64(float) => write_float(float, out),
        Value::Text(label) => text(label, out),
        Value::Json(json) => out.extend_from_slice(json.as_bytes()),
        Value::Flags(word) => {
            let names: &[_] = if let Select::Flags(names) = &point.transform.select { names } else { &[] };
            out.push(b'{');
            let mut first = true;
            for (name, bit) in names {
                key(name, &mut first, out);
                out.extend_from_slice(if word >> bit & 1 == 1 { b"true" } else { b"false" });
            }
            out.push(b'}');
        }
    }
}

/// The shortest text that reads back as the same float: `230.4`, `1e30`.
fn write_float(float: &(impl fmt::Display + fmt::LowerExp), out: &mut Vec<u8>) {
    let start = out.len();
    let _ = write!(Bytes(out), "{float}");
    if out.len() - start > 24 {
        out.truncate(start);
        let _ = write!(Bytes(out), "{float:e}");
    }
}

fn write_cause(cause: Cause, out: &mut Vec<u8>) {
    let _ = write!(Bytes(out), "\"{cause}\"");
}

/// `"name":`, with a comma before all but the first.
fn key(name: &str, first: &mut bool, out: &mut Vec<u8>) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A JSON string.
pub fn text(text: &str, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Lets `write!` append to bytes.
pub struct Bytes<'a>(pub &'a mut Vec<u8>);

impl fmt::Write for Bytes<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::compiled::{ReadingIx, Source, Transform};
    use crate::model::decimal::Decimal;
    use proptest::prelude::*;

    fn point(name: &str, select: Select) -> Point {
        Point {
            name: name.into(),
            unit: None,
            source: Source::Reading(ReadingIx(0)),
            transform: Transform { select, ..Transform::default() },
            published: true,
            plausible: None,
            deadband: None,
            heartbeat: None,
            smooth: None,
            alone: false,
            rate: "default".into(),
        }
    }

    #[test]
    fn a_message_is_as_the_design_says() {
        let points = [
            point("voltage_l1", Select::Whole),
            point("state", Select::Whole),
            point("grid_power", Select::Whole),
            point("status", Select::Flags(vec![("run".into(), 0), ("fault".into(), 3)])),
        ];
        let samples = [
            (PointIx(0), Ok(Value::Number("230.40".parse::<Decimal>().unwrap()))),
            (PointIx(1), Ok(Value::Text("pro\"ducing".into()))),
            (PointIx(2), Err(Cause::Timeout)),
            (PointIx(3), Ok(Value::Flags(0b1000))),
        ];
        let stamp = Stamp::from_unix_micros(1_763_812_800_123_000).unwrap();
        let mut out = Vec::new();
        let prefix = prefix("bakery", "main");
        let heading = Heading { prefix: &prefix, stamp, epoch: 7, seq: 4711 };
        data(&heading, &points, samples.iter(), &[], &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"site":"bakery","device":"main","ts":"2025-11-22T12:00:00.123Z","epoch":7,"seq":4711,"values":{"voltage_l1":230.4,"state":"pro\"ducing","status":{"run":false,"fault":true}},"bad":{"grid_power":"timeout"}}"#
        );
    }

    #[test]
    fn quirk_28_a_float32_counter_has_the_digits_that_it_has_and_no_others() {
        let p = point("energy", Select::Whole);
        let json = |value| {
            let mut out = Vec::new();
            write_value(&value, &p, &mut out);
            String::from_utf8(out).unwrap()
        };
        // Above 2^26 a float32 counts in steps of 8.
        assert_eq!(json(Value::Float32(67_108_864.0)), "67108864");
        assert_eq!(json(Value::Float32(67_108_871.0)), "67108872");
        assert_eq!(json(Value::Float32(-3e9)), "-3000000000");
        assert_eq!(json(Value::Float32(230.4)), "230.4");
        assert_eq!(json(Value::Float32(1_234.567_9)), "1234.5679");
    }

    proptest! {
        #[test]
        fn any_finite_value_is_json_and_reads_back_equal(bits in any::<u64>(), single in any::<u32>()) {
            let (double, single) = (f64::from_bits(bits), f32::from_bits(single));
            prop_assume!(double.is_finite() && single.is_finite());
            let p = point("x", Select::Whole);
            let json = |value| {
                let mut out = Vec::new();
                write_value(&value, &p, &mut out);
                assert!(serde_json::from_slice::<f64>(&out).is_ok());
                String::from_utf8(out).unwrap()
            };
            // Read back by the standard library: serde_json's own parser is off by a bit now and then.
            prop_assert_eq!(json(Value::Float64(double)).parse::<f64>().unwrap(), double);
            prop_assert_eq!(json(Value::Float32(single)).parse::<f32>().unwrap(), single);
        }
    }
}
