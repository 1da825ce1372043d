//! `cargo bench --bench hot_path`: what a 100-point reply costs at each stage.

use divan::Bencher;
use path::Path;

mod path;

fn main() {
    divan::main();
}

#[divan::bench]
fn decode_100_points(bencher: Bencher) {
    let path = Path::new();
    bencher.bench_local(|| path.decode());
}

#[divan::bench]
fn map_100_points(bencher: Bencher) {
    let path = Path::new();
    let readings = path.decode();
    let (mut slots, mut samples) = (Vec::new(), Vec::new());
    bencher.bench_local(|| path.map(&readings, &mut slots, &mut samples));
}

#[divan::bench]
fn encode_100_points(bencher: Bencher) {
    let path = Path::new();
    let readings = path.decode();
    let (mut samples, mut out) = (Vec::new(), Vec::new());
    path.map(&readings, &mut Vec::new(), &mut samples);
    bencher.bench_local(|| path.encode(&samples, &mut out));
}

#[divan::bench]
fn last_byte_to_queue_100_points(bencher: Bencher) {
    let mut path = Path::new();
    bencher.bench_local(|| path.whole());
}
