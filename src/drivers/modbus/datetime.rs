//! Dates and times of day as devices write them → RFC 3339 text. Pure.
//!
//! UTC ends in `Z`; a device's local time has no offset, because nobody knows it. What is no date is out of range.

use jiff::Timestamp;
use jiff::civil::DateTime;

use crate::mapping::compiled::{Clock, ClockFormat};
use crate::model::value::Cause;

/// The text of a date and time, from the bytes of its registers, the most significant first.
pub fn text(clock: Clock, bytes: &[u8]) -> Result<Box<str>, Cause> {
    let when = match clock.format {
        ClockFormat::Unix => {
            let seconds = u32::from_be_bytes(bytes.try_into().map_err(|_| Cause::Garbled)?);
            utc(Timestamp::from_second(i64::from(seconds)))?
        }
        ClockFormat::UnixMs => {
            let ms = i64::from_be_bytes(bytes.try_into().map_err(|_| Cause::Garbled)?);
            utc(Timestamp::from_millisecond(ms))?
        }
        ClockFormat::Iec870 => iec870(bytes)?,
        ClockFormat::Packed => {
            let [year, month, day, hour, minute, second] = bytes.try_into().map_err(|_| Cause::Garbled)?;
            civil(
                [2000 + u16::from(year), month.into(), day.into(), hour.into(), minute.into(), second.into()],
                0,
            )?
        }
        ClockFormat::Fields => {
            let words: Vec<u16> = bytes.as_chunks().0.iter().map(|word| u16::from_be_bytes(*word)).collect();
            civil(words.as_slice().try_into().map_err(|_| Cause::Garbled)?, 0)?
        }
    };
    let zone = if clock.utc { "Z" } else { "" };
    Ok(format!("{when}{zone}").into())
}

fn utc(instant: Result<Timestamp, jiff::Error>) -> Result<DateTime, Cause> {
    let instant = instant.map_err(|_| Cause::OutOfRange)?;
    Ok(jiff::tz::Offset::UTC.to_datetime(instant))
}

/// Four words (the DATETIME of Schneider's iEM3000 register list, DOCA0005EN): the year since 2000 in 7 bits; month, weekday and
/// day; hour; minute; milliseconds of the minute. That the minute's top bit means "invalid" is of IEC 60870-5-4.
fn iec870(bytes: &[u8]) -> Result<DateTime, Cause> {
    let bytes: [u8; 8] = bytes.try_into().map_err(|_| Cause::Garbled)?;
    let [_, year, month, day, hour, minute, ms_high, ms_low] = bytes;
    if minute & 0x80 != 0 {
        return Err(Cause::Invalid);
    }
    let ms = u16::from_be_bytes([ms_high, ms_low]);
    let date = [
        2000 + u16::from(year & 0x7F),
        u16::from(month & 0x0F),
        u16::from(day & 0x1F),
        u16::from(hour & 0x1F),
        u16::from(minute & 0x3F),
        ms / 1000,
    ];
    civil(date, ms % 1000)
}

/// Year, month, day, hour, minute, second, and milliseconds.
fn civil(fields: [u16; 6], ms: u16) -> Result<DateTime, Cause> {
    let [year, rest @ ..] = fields.map(|field| i16::try_from(field).map_err(|_| Cause::OutOfRange));
    let [month, day, hour, minute, second] =
        rest.map(|field| field.and_then(|field| i8::try_from(field).map_err(|_| Cause::OutOfRange)));
    DateTime::new(year?, month?, day?, hour?, minute?, second?, i32::from(ms) * 1_000_000)
        .map_err(|_| Cause::OutOfRange)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: ClockFormat, utc: bool, bytes: &[u8]) -> Result<String, Cause> {
        text(Clock { format, utc }, bytes).map(Into::into)
    }

    #[test]
    fn quirk_26_every_layout_gives_the_same_moment() {
        let when = || Ok("2026-11-23T03:44:47".to_string());
        let utc = || Ok("2026-11-23T03:44:47Z".to_string());
        assert_eq!(read(ClockFormat::Unix, true, &1_795_405_487u32.to_be_bytes()), utc());
        assert_eq!(read(ClockFormat::UnixMs, true, &1_795_405_487_000u64.to_be_bytes()), utc());
        assert_eq!(read(ClockFormat::Packed, false, &[26, 11, 23, 3, 44, 47]), when());
        let fields = [2026u16, 11, 23, 3, 44, 47].map(u16::to_be_bytes).concat();
        assert_eq!(read(ClockFormat::Fields, false, &fields), when());
        // Monday (1) in the upper bits of the day, 47,000 ms.
        assert_eq!(read(ClockFormat::Iec870, false, &[0, 26, 11, 1 << 5 | 23, 3, 44, 0xB7, 0x98]), when());
    }

    #[test]
    fn what_is_no_date_is_never_shown_as_one() {
        assert_eq!(read(ClockFormat::Packed, false, &[0; 6]), Err(Cause::OutOfRange));
        assert_eq!(read(ClockFormat::Packed, false, &[26, 2, 30, 0, 0, 0]), Err(Cause::OutOfRange));
        assert_eq!(read(ClockFormat::Iec870, false, &[0xFF; 8]), Err(Cause::Invalid));
        assert_eq!(read(ClockFormat::Fields, false, &[0xFF; 12]), Err(Cause::OutOfRange));
        assert_eq!(read(ClockFormat::UnixMs, true, &[0x7F; 8]), Err(Cause::OutOfRange));
        assert_eq!(read(ClockFormat::Unix, true, &[0; 3]), Err(Cause::Garbled));
    }
}
