//! The text of `devices.json`, as somebody may have left it.
//!
//! Laws: what was read is written so that it's read again as the same; what is written has a bounded size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taktbus::fuzzing::{read_state, write_state};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match read_state(text) {
        Ok(bans) => {
            let written = write_state(&bans);
            assert!(
                written.is_char_boundary(0) && serde_json::from_str::<serde_json::Value>(&written).is_ok()
            );
            assert_eq!(read_state(&written).ok(), Some(bans));
        }
        Err(error) => assert!(error.to_string().len() < 512, "{error}"),
    }
});
