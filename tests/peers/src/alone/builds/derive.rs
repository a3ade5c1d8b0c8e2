//! Builds 200 structs of 10 fields. Each struct has a derive and is used once. The dependencies are
//! built beforehand and not counted.

use super::{Alone, Crate, Place, ROUNDS, column, repository};
use crate::cases::{Goal, Table};
use crate::page::Row;
use crate::peers::OURS;
use crate::{Result, progress};

const STRUCTS: usize = 200;
const FIELDS: usize = 10;
const TYPES: [&str; 6] = ["u32", "u64", "i64", "f64", "bool", "String"];

const SERDE: &str = "serde, Deserialize";
const BASE: &str = "rustc, Debug and Clone and Default";
const PEERS: &[&str] = &[OURS, SERDE, BASE];

pub(super) fn derived() -> Alone {
    let table = Table {
        title: format!("build costs: {STRUCTS} derived structs of {FIELDS} fields"),
        columns: ["check, CPU s", "release build, CPU s", "check, CPU ms/struct", "release build, CPU ms/struct"].map(column).into(),
        baseline: SERDE,
        goals: vec![Goal::times(3.0, "check", SERDE), Goal::times(5.0, "release", SERDE)],
    };
    Alone { table, peers: PEERS, measure, long: true }
}

/// A derive macro that is measured.
struct Derive {
    dependencies: String,
    imports: &'static str,
    derived: &'static str,
    /// Code that uses the struct `NAME` once.
    usage: &'static str,
}

/// Returns the derives, in the order of `PEERS`. Each struct is used in the usual way: the whole
/// struct is read. etcd-typed's future is boxed, so that the compiler generates code for it.
fn derives() -> Result<[Derive; 3]> {
    Ok([
        Derive {
            // The generated code does not depend on the stores, which take long to build.
            dependencies: format!(
                "etcd-typed = {{ path = {:?}, default-features = false, features = [\"derive\"] }}",
                repository()?.join("etcd-typed")
            ),
            imports: "use std::pin::Pin;\nuse etcd_typed::{Dir, EtcdSchema, Result, Versioned};",
            derived: "EtcdSchema",
            usage: "(dir: &Dir<NAME>) -> Pin<Box<dyn Future<Output = Result<Versioned<NAME>>> + Send + '_>> { Box::pin(dir.get()) }",
        },
        Derive {
            dependencies: "serde = { version = \"1\", features = [\"derive\"] }\nserde_json = \"1\"".to_owned(),
            imports: "use serde::Deserialize;",
            derived: "Deserialize",
            usage: "(text: &[u8]) -> serde_json::Result<NAME> { serde_json::from_slice(text) }",
        },
        Derive {
            dependencies: String::new(),
            imports: "",
            derived: "Debug, Clone, Default",
            usage: "() -> String { format!(\"{:?}\", NAME::default().clone()) }",
        },
    ])
}

impl Derive {
    fn source(&self) -> String {
        let mut source = format!("{}\n", self.imports);
        for number in 0..STRUCTS {
            let name = format!("Settings{number}");
            let fields: String =
                (0..FIELDS).map(|field| format!("    pub field_{number}_{field}: {},\n", TYPES[(number + field) % TYPES.len()])).collect();
            source += &format!("#[derive({})]\npub struct {name} {{\n{fields}}}\n", self.derived);
            source += &format!("pub fn use_{number}{}\n", self.usage.replace("NAME", &name));
        }
        source
    }
}

fn measure(rounds: usize) -> Result<Vec<Row>> {
    let (place, lock) = (Place::new("derive")?, repository()?.join("Cargo.lock"));
    let mut crates = Vec::new();
    for (number, derive) in derives()?.iter().enumerate() {
        let made = place.generate(&format!("derive-{number}"), &derive.dependencies, "lib.rs", &derive.source(), &lock)?;
        made.build(CHECK)?;
        made.build(RELEASE)?;
        crates.push(made);
    }
    let mut rows: Vec<Row> = PEERS.iter().map(|peer| Row { peer, rounds: Vec::new() }).collect();
    for round in 0..rounds.min(ROUNDS) {
        let mut order: Vec<(&Crate, &mut Row)> = crates.iter().zip(&mut rows).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (made, row) in order {
            let (check, release) = (anew(made, CHECK)?, anew(made, RELEASE)?);
            progress(format_args!("derived structs, round {}, {}: {check:.2} {release:.2}", round + 1, row.peer));
            let each = 1e3 / STRUCTS as f64;
            row.rounds.push(vec![check, release, check * each, release * each]);
        }
    }
    Ok(rows)
}

const CHECK: &[&str] = &["check"];
const RELEASE: &[&str] = &["build", "--release"];

fn anew(made: &Crate, command: &[&str]) -> Result<f64> {
    made.touch()?;
    Ok(made.build(command)?.seconds)
}
