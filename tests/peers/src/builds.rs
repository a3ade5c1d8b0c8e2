//! What it costs to build: derived structs beside serde's, and a small application that depends on us beside one that depends on etcd-client.
//!
//! No peer process and no server are at work here, but cargo and what it starts; so this is no case of `cases.rs`. All is generated in a directory of its own,
//! with the versions of the lock files of this repository, and built offline: what is missing is downloaded before.

mod application;
mod derive;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::Result;

/// What `--only` finds both tables by.
pub(crate) const TITLE: &str = "build costs";

/// The tables.
pub(crate) fn measure(rounds: usize) -> Result<String> {
    let place = Place::new()?;
    Ok([derive::measure(&place.0, rounds)?, application::measure(&place.0, rounds.min(2))?].join("\n"))
}

/// A directory that is removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("etcd-typed-builds-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// Of this repository.
fn repository() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?)
}

/// A crate of this source, with its manifest. `lock` is the lock file to take versions from.
fn generate(at: &Path, manifest: &str, file: &str, source: &str, lock: &Path) -> Result<()> {
    fs::create_dir_all(at.join("src"))?;
    fs::write(at.join("Cargo.toml"), format!("{manifest}\n[workspace]\n"))?;
    fs::write(at.join("src").join(file), source)?;
    fs::copy(lock, at.join("Cargo.lock"))?;
    // The lock file may lack nothing, and has more than is needed; offline nothing else is found.
    let fetched = Command::new("cargo").args(["fetch", "--quiet"]).current_dir(at).output()?;
    if fetched.status.success() { Ok(()) } else { Err(said(&fetched.stderr)) }
}

/// What one call of cargo took: seconds of processor time of all that it started, and its messages.
struct Built {
    seconds: f64,
    messages: String,
}

fn cargo(at: &Path, target: &Path, arguments: &[&str]) -> Result<Built> {
    let before = children_seconds()?;
    let output = Command::new("cargo")
        .args(arguments)
        .args(["--offline", "--quiet", "--message-format", "json"])
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_TARGET_DIR", target)
        .current_dir(at)
        .output()?;
    if !output.status.success() {
        return Err(said(&output.stderr));
    }
    Ok(Built { seconds: children_seconds()? - before, messages: String::from_utf8(output.stdout)? })
}

fn said(stderr: &[u8]) -> crate::Error {
    format!("cargo: {}", String::from_utf8_lossy(stderr)).into()
}

/// User and system time of all children of this process that have ended, and of theirs; in steps of 10 ms.
fn children_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field is a name in parentheses, which may have spaces in it. After it comes the third; the times are the sixteenth and the seventeenth.
    let (_, rest) = stat.rsplit_once(')').ok_or("/proc/self/stat is of another form")?;
    let ticks: Vec<f64> = rest.split_whitespace().skip(13).take(2).map(str::parse).collect::<std::result::Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}
