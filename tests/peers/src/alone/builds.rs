//! Build costs: derived structs compared with serde's, and a small application that depends on
//! etcd-typed compared with one that depends on etcd-client.
//!
//! Each crate is generated in a temporary directory, with the versions of this repository's lock
//! files. Missing dependencies are fetched first, and then the crate is built offline. The cost is
//! the processor time of cargo and all processes that cargo starts.

mod application;
mod derive;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use super::Alone;
use crate::Result;
use crate::cases::{Better, Column};

/// The maximum number of rounds. Builds take long, and their processor time differs little from
/// round to round.
const ROUNDS: usize = 2;

pub(super) fn builds() -> [Alone; 2] {
    [derive::derived(), application::application()]
}

fn column(title: &str) -> Column {
    Column { title: title.to_owned(), better: Better::Lower }
}

/// A temporary directory. It is removed when this value is dropped.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Result<Self> {
        let path = env::temp_dir().join(format!("etcd-typed-builds-{}-{name}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Generates a crate with this name and source. `dependencies` are lines of Cargo.toml, and
    /// `lock` is the lock file with their versions.
    fn generate(&self, name: &str, dependencies: &str, file: &str, source: &str, lock: &Path) -> Result<Crate> {
        let at = self.0.join(name);
        fs::create_dir_all(at.join("src"))?;
        let package = format!("[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n");
        fs::write(at.join("Cargo.toml"), format!("{package}\n[dependencies]\n{dependencies}\n\n[workspace]\n"))?;
        fs::write(at.join("src").join(file), source)?;
        fs::copy(lock, at.join("Cargo.lock"))?;
        let made = Crate { source: at.join("src").join(file), target: at.join("target"), at };
        made.cargo(&["fetch", "--quiet"])?;
        Ok(made)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// A generated crate.
struct Crate {
    at: PathBuf,
    source: PathBuf,
    target: PathBuf,
}

/// The result of one cargo command: the seconds of processor time of all its processes, and its
/// messages.
struct Built {
    seconds: f64,
    messages: String,
}

impl Crate {
    fn build(&self, arguments: &[&str]) -> Result<Built> {
        self.cargo(&[arguments, &["--offline", "--quiet", "--message-format", "json"]].concat())
    }

    fn cargo(&self, arguments: &[&str]) -> Result<Built> {
        let before = seconds_of_children()?;
        let output = Command::new("cargo")
            .args(arguments)
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_TARGET_DIR", &self.target)
            .current_dir(&self.at)
            .output()?;
        if !output.status.success() {
            let (messages, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let messages: String = messages.chars().take(2_000).collect();
            return Err(format!("cargo {}: {said}\n{messages}", arguments.join(" ")).into());
        }
        Ok(Built { seconds: seconds_of_children()? - before, messages: String::from_utf8(output.stdout)? })
    }

    /// Touches the source, so that cargo builds the crate again but not its dependencies.
    fn touch(&self) -> Result<()> {
        let source = fs::read(&self.source)?;
        Ok(fs::write(&self.source, source)?)
    }

    /// Removes the target directory, so that cargo builds everything again.
    fn clean(&self) -> Result<()> {
        if self.target.exists() { Ok(fs::remove_dir_all(&self.target)?) } else { Ok(()) }
    }
}

/// Returns the seconds of user and system time that all ended children of this process, and their
/// children, have taken, in steps of 10 ms.
fn seconds_of_children() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // See proc(5). The second field is a name in parentheses, which may contain spaces. The times
    // are fields 16 and 17, in hundredths of a second.
    let (_, rest) = stat.rsplit_once(')').ok_or("/proc/self/stat has no name in parentheses")?;
    let mut hundredths = 0.0;
    for field in rest.split_whitespace().skip(13).take(2) {
        hundredths += field.parse::<f64>()?;
    }
    Ok(hundredths / 100.0)
}

/// Returns the root of this repository.
fn repository() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?)
}
