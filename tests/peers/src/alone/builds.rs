//! What it costs to build: derived structs beside serde's, and a small application that depends on us beside one that depends on etcd-client.
//!
//! All is generated in a directory of its own, with the versions of the lock files of this repository, and built offline; what is missing is fetched
//! before. The cost is processor time, of cargo and all that it starts.

mod application;
mod derive;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use super::Alone;
use crate::Result;
use crate::cases::{Better, Column};

/// At the most: builds are long, and their processor time differs little between two.
const ROUNDS: usize = 2;

pub(super) fn builds() -> [Alone; 2] {
    [derive::derived(), application::application()]
}

fn column(title: &str) -> Column {
    Column { title: title.to_owned(), better: Better::Lower }
}

/// A directory that is removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Result<Self> {
        let path = env::temp_dir().join(format!("etcd-typed-builds-{}-{name}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// A crate of this name and source, with dependencies in the form of Cargo.toml. Versions are those of the lock file.
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

/// One that is built.
struct Crate {
    at: PathBuf,
    source: PathBuf,
    target: PathBuf,
}

/// What one call of cargo took: seconds of processor time of all that it started; and its messages.
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

    /// So that it is built anew, and what it depends on is not.
    fn touch(&self) -> Result<()> {
        let source = fs::read(&self.source)?;
        Ok(fs::write(&self.source, source)?)
    }

    /// So that all is built anew.
    fn clean(&self) -> Result<()> {
        if self.target.exists() { Ok(fs::remove_dir_all(&self.target)?) } else { Ok(()) }
    }
}

/// User and system time of all children of this process that have ended, and of theirs; in steps of 10 ms.
fn seconds_of_children() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // See proc(5). The second field is a name in parentheses, which may have spaces in it; the times are fields 16 and 17, in hundredths.
    let (_, rest) = stat.rsplit_once(')').ok_or("/proc/self/stat has another form")?;
    let mut hundredths = 0.0;
    for field in rest.split_whitespace().skip(13).take(2) {
        hundredths += field.parse::<f64>()?;
    }
    Ok(hundredths / 100.0)
}

/// Of this repository.
fn repository() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?)
}
