//! Golden cases as folders: a site, its profiles and its devices' memory → the messages that are published.
//!
//! `tests/golden/NAME/` holds `site.yaml`, `mappings/…`, `memory.txt` and `expected.jsonl`. A line of memory is
//! `UNIT TABLE ADDRESS: WORD WORD …`, hexadecimal words (0 and 1 for bits); a request that leaves the memory is refused
//! with exception 2. `TAKTBUS_BLESS=1 cargo test --test golden` rewrites what is expected: read the difference.

#![allow(clippy::unwrap_used)] // also outside the test functions

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use taktbus::config::plan::Protocol;
use taktbus::config::{LoadOptions, load};
use taktbus::drivers::modbus::ModbusPlan;
use taktbus::drivers::modbus::decode::cut;
use taktbus::drivers::modbus::plan::{Block, Exchange};
use taktbus::mapping::transform::evaluate;
use taktbus::model::time::Stamp;
use taktbus::model::value::Cause;
use taktbus::pipeline::encode;

type Memory = BTreeMap<(u8, String, u16), u16>;

#[test]
fn every_site_publishes_what_is_expected_of_its_devices_memory() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 5, "only {} cases", folders.len());
    let bless = std::env::var_os("TAKTBUS_BLESS").is_some();
    let mut wrong = Vec::new();
    for folder in folders {
        let messages = messages(&folder);
        let file = folder.join("expected.jsonl");
        if bless {
            std::fs::write(&file, &messages).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        if messages != expected {
            wrong.push(format!("{}\n--- expected\n{expected}--- published\n{messages}", folder.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One line per read, in the order of the site file.
fn messages(folder: &Path) -> String {
    let loaded = load(&folder.join("site.yaml"), &LoadOptions::default());
    let text: String = loaded.diagnostics.iter().map(ToString::to_string).collect();
    let site = loaded.site.unwrap_or_else(|| panic!("{}: {text}", folder.display()));
    let memory = memory(&std::fs::read_to_string(folder.join("memory.txt")).unwrap());
    let mut out = Vec::new();
    for connection in site.connections {
        let Protocol::Modbus(config) = connection.protocol else { panic!("a Modbus connection") };
        for planned in ModbusPlan::compile(config, connection.devices).unwrap().devices {
            let device = &planned.device;
            for (seq, (read, exchange)) in planned.reads.iter().zip(&planned.exchanges).enumerate() {
                let mut samples = Vec::new();
                match answers(&memory, device.unit, exchange) {
                    Ok(data) => {
                        let readings: Vec<_> = exchange.cuts.iter().map(|c| cut(c, &data)).collect();
                        evaluate(&device.map, read, &readings, &mut Vec::new(), &mut samples);
                    }
                    Err(cause) => samples.extend(read.publishes.iter().map(|ix| (*ix, Err(cause)))),
                }
                let points = &device.map.points;
                samples.retain(|(ix, _)| read.publishes.contains(ix));
                let stamp = Stamp::from_unix_micros(0).unwrap();
                let prefix = encode::prefix(&site.name, &device.name);
                let heading = encode::Heading { prefix: &prefix, stamp, epoch: 1, seq: seq as u64 };
                encode::data(&heading, points, samples.iter(), &[], &mut out);
                out.push(b'\n');
            }
        }
    }
    for line in String::from_utf8(out.clone()).unwrap().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    String::from_utf8(out).unwrap()
}

/// The data of all answers of a read, as the driver lays them out.
fn answers(memory: &Memory, unit: u8, exchange: &Exchange) -> Result<Vec<u8>, Cause> {
    let again = exchange.repeat_first.then(|| exchange.blocks[0]);
    let mut data = Vec::new();
    for block in exchange.blocks.iter().copied().chain(again) {
        data.extend(answer(memory, unit, block).ok_or(Cause::Exception(2))?);
    }
    Ok(data)
}

fn answer(memory: &Memory, unit: u8, block: Block) -> Option<Vec<u8>> {
    let word = |offset| memory.get(&(unit, block.table.key().to_string(), block.address + offset)).copied();
    let words: Option<Vec<u16>> = (0..block.count).map(word).collect();
    let words = words?;
    if !block.table.is_bits() {
        return Some(words.iter().flat_map(|word| word.to_be_bytes()).collect());
    }
    let bits =
        |bits: &[u16]| bits.iter().enumerate().fold(0, |byte, (n, bit)| byte | u8::from(*bit != 0) << n);
    Some(words.chunks(8).map(bits).collect())
}

fn memory(text: &str) -> Memory {
    let mut memory = Memory::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let (place, words) = line.split_once(':').unwrap_or_else(|| panic!("no ':' in {line:?}"));
        let [unit, table, address] = place.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line:?}")
        };
        let address: u16 = address.parse().unwrap();
        for (word, address) in words.split_whitespace().zip(address..) {
            let word = u16::from_str_radix(word, 16).unwrap();
            memory.insert((unit.parse().unwrap(), table.to_string(), address), word);
        }
    }
    memory
}
