//! Counts the instructions of a decode, an encode and a read of a live view with callgrind. Unlike
//! times, these counts are the same on a busy machine. The measured program is in
//! `tests/instructions` and built for release. Each case runs twice with different numbers of
//! repetitions; the difference of the two counts is divided by that of the repetitions.
//!
//! The bounds are the counts on x86-64 with rustc 1.95 plus 15 %, or plus a few instructions if the
//! count is small. Another compiler or allocator may need other bounds. The bounds relative to
//! serde_json, with the same values in the same program, should hold everywhere.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// Decodes the keys and values in a store's answer to a struct with twenty fields and its
/// revisions.
#[test]
fn decode_stays_within_instruction_bound() {
    let decode = each("read", 200) - each("range", 200);
    let document = each("serde_json decode", 200);
    assert!(decode <= 57_700.0, "{decode} instructions");
    // Decoding the struct does more work: the struct has twenty keys with revisions, and the JSON
    // document is one value with twenty names.
    assert!(decode <= 3.9 * document, "{decode} instructions, and serde_json {document}");
}

/// Encodes the same struct to its keys and values.
#[test]
fn encode_stays_within_instruction_bound() {
    let (encode, document) = (each("encode", 200), each("serde_json encode", 200));
    assert!(encode <= 30_300.0, "{encode} instructions");
    assert!(encode <= 3.6 * document, "{encode} instructions, and serde_json {document}");
}

/// Reads a field of the current state. The count includes the loop and a comparison.
#[test]
fn live_read_stays_within_instruction_bound() {
    let (get, reader) = (each("live get", 20_000), each("live reader", 20_000));
    assert!(get <= 71.0, "{get} instructions");
    assert!(reader <= 18.0, "{reader} instructions");
}

/// Returns the number of instructions per repetition of a case.
fn each(case: &str, times: u64) -> f64 {
    let more = counted(case, 2 * times).checked_sub(counted(case, times)).expect("more repetitions take more instructions");
    more as f64 / times as f64
}

/// Returns the number of instructions of a whole run of the program with `times` repetitions.
fn counted(case: &str, times: u64) -> u64 {
    let callgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(&*PROGRAM)
        .args([case, &times.to_string()])
        .output()
        .unwrap_or_else(|error| {
            panic!("valgrind, which counts instructions: {error}; `tests/run` or `apt-get install valgrind` installs it")
        });
    let said = stderr_of("valgrind", &callgrind);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.unwrap_or_else(|| panic!("valgrind prints no count:\n{said}"))
}

/// The path of the measured program, which is built at its first use. The program is built without
/// the other packages, since the features that the tests enable would change it.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--release", "--quiet", "--package", "etcd-typed-instructions", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    stderr_of("cargo", &built);
    target.join("release").join("etcd-typed-instructions")
});

/// Returns the text that the program wrote to standard error. Panics if the program failed.
fn stderr_of(program: &str, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} failed, {}:\n{said}", output.status);
    said
}
