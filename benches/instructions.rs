//! Instructions per sample from the last byte of a reply to the message in the queue: repeatable on noisy machines.
//!
//! ```sh
//! cargo bench --bench instructions --no-run   # prints the program's path
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null PROGRAM 1000
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null PROGRAM 11000
//! ```
//!
//! The difference of the two instruction counts, divided by 10,000 × 100 samples.

use path::{POINTS, Path};

mod path;

fn main() {
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1000);
    let mut path = Path::new();
    for _ in 0..rounds {
        path.whole();
    }
    println!("{rounds} replies of {POINTS} points");
}
