//! Instructions of a decode, an encode and a read of a live view, counted by callgrind: unlike times they are the same on a busy machine. What does it
//! is the program in `tests/instructions`, built for release; each case is run twice, and what the second run did more often is what is counted.
//!
//! The bounds are what is counted on x86-64 with rustc 1.95, and 15 % more, or a few instructions where there are only a few. Another compiler or another
//! allocator may need others. That they are low beside serde_json on the same values, in the same program, should hold everywhere.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// A struct of twenty fields, out of the answer of a store: from its keys and values to the struct and its versions.
#[test]
fn decode() {
    let decode = each("read", 200) - each("range", 200);
    let document = each("serde_json decode", 200);
    assert!(decode <= 57_700.0, "{decode} instructions");
    // Twenty keys and their revisions, where the document has twenty names and is one value.
    assert!(decode <= 3.9 * document, "{decode} instructions, and serde_json {document}");
}

/// The same struct, to its keys and values.
#[test]
fn encode() {
    let (encode, document) = (each("encode", 200), each("serde_json encode", 200));
    assert!(encode <= 30_300.0, "{encode} instructions");
    assert!(encode <= 3.6 * document, "{encode} instructions, and serde_json {document}");
}

/// A field of what is current, together with the loop and the comparison around it.
#[test]
fn live_reads() {
    let (get, reader) = (each("live get", 20_000), each("live reader", 20_000));
    assert!(get <= 71.0, "{get} instructions");
    assert!(reader <= 18.0, "{reader} instructions");
}

/// The instructions of one of the program's cases.
fn each(case: &str, times: u64) -> f64 {
    let more = counted(case, 2 * times).checked_sub(counted(case, times)).expect("more of the same takes more");
    more as f64 / times as f64
}

/// The instructions of the whole program that does it so many times.
fn counted(case: &str, times: u64) -> u64 {
    let callgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(&*PROGRAM)
        .args([case, &times.to_string()])
        .output()
        .unwrap_or_else(|error| {
            panic!("valgrind, which counts instructions: {error}; `tests/run` or `apt-get install valgrind` installs it")
        });
    let said = said_by("valgrind", &callgrind);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.unwrap_or_else(|| panic!("valgrind does not say what it counted:\n{said}"))
}

/// Built at its first use. Packages that are selected alone have no features that others want; those that the tests turn on would be in it.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target directory");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--release", "--quiet", "--package", "etcd-typed-instructions", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    said_by("cargo", &built);
    target.join("release").join("etcd-typed-instructions")
});

/// On the standard error. Panics if it failed.
fn said_by(program: &str, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} failed, {}:\n{said}", output.status);
    said
}
