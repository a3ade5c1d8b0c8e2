//! Checks the layers of the library: a module imports only modules of lower layers, and the files
//! of a module do not import each other in a circle. The layers are the rows of the table in
//! DESIGN.md, which this test reads. A module without a row fails the test, so each new module
//! needs a row.
//!
//! Inside a module, the rules are:
//!
//! - A file may use the files below it, and the files above it: `queue.rs` and `queue/guard.rs` may
//!   use each other, and so may `live/upstream.rs` and `live/upstream/proof.rs`.
//! - Files with the same parent use each other in one direction only. A file counts together with
//!   all files below it. So there is an order in which the files can be read.
//! - A name belongs to the file that defines it: `super::Guard` in `queue/token.rs` counts as a use
//!   of `queue/guard.rs`, although `queue.rs` re-exports the name.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A row of the table in DESIGN.md. A module may use modules of lower rows, but no other module of
/// the same row.
struct Row {
    modules: Vec<String>,
    purpose: String,
}

/// The rows from bottom to top.
static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let design = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../DESIGN.md"));
    let (_, section) = design.split_once("\n## The layers\n").expect("the section about the layers");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut rows: Vec<Row> = section.lines().filter(|line| line.starts_with("| `")).map(row).collect();
    rows.reverse();
    rows
});

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [modules, purpose] = cells[..] else { panic!("{line:?} has no two cells") };
    let modules = modules.split(", ").map(|module| module.trim_matches('`').to_owned()).collect();
    Row { modules, purpose: purpose.to_owned() }
}

/// A step of a pictured path: a module, and what the module does. The first and the last step may
/// have a name that is not a module.
type Step = Option<(&'static str, &'static str)>;

/// The paths in the second picture. Each has a name, a flag that is true if the path leads from the
/// server up to the caller, and the steps from top to bottom.
const WAYS: [(&str, bool, [Step; 6]); 3] = [
    (
        "a set",
        false,
        [
            Some(("your program", "cfg.set(&value)")),
            Some(("handle", "validates; plans one transaction")),
            None,
            Some(("schema", "turns fields into keys and texts")),
            Some(("store::v3", "sends one request")),
            Some(("etcd", "commits at the next revision")),
        ],
    ),
    (
        "an event",
        true,
        [
            Some(("your program", "live.get()")),
            Some(("live", "shows the next state, if it is valid")),
            Some(("changes", "keeps the keys; finds what changed")),
            Some(("watch", "resumes after a cut, without a gap")),
            Some(("store::v3", "groups events by revision")),
            Some(("etcd", "sends events")),
        ],
    ),
    (
        "an acquire",
        false,
        [
            Some(("your program", "client.lock(name).acquire()")),
            Some(("lock", "returns the guard")),
            Some(("queue", "creates a key; waits until it is first")),
            Some(("lease", "is granted, and kept alive")),
            Some(("store::v3", "sends one request")),
            Some(("etcd", "orders the keys by creation")),
        ],
    ),
];

/// Returns the row of a module: its own row, or that of the nearest enclosing module with a row.
fn place(module: &str) -> Option<(usize, &'static str)> {
    let mut name = module;
    loop {
        let found =
            ROWS.iter().enumerate().find_map(|(row, names)| Some((row, names.modules.iter().find(|known| *known == name)?.as_str())));
        // The row of `store` is only for the trait and its types. A new module beside `store::v2`
        // needs its own row.
        if let Some((row, known)) = found {
            return (known != "store" || module == "store").then_some((row, known));
        }
        name = name.rsplit_once("::")?.0;
    }
}

/// Returns why an import is not allowed, or `None` if it is allowed.
fn fault(from: &str, to: &str) -> Option<String> {
    match (place(from), place(to)) {
        (None, _) => Some(format!("`{from}` has no row: give it one")),
        // A name that is defined in `store`, `error` and the like counts as a use of that module.
        (Some(_), None) => Some(format!("`{from}` uses `{to}`, which has no row")),
        (Some((_, own)), Some((_, other))) if own == other => None,
        (Some((row, _)), Some((below, _))) if below < row => None,
        (Some((row, own)), Some((other_row, other))) => Some(format!("`{from}` ({own}, row {row}) uses `{to}` ({other}, row {other_row})")),
    }
}

/// The modules of the library with their texts, without test modules.
struct Source {
    texts: BTreeMap<String, String>,
    /// For each name that a module re-exports from a child: the defining module, and the name in
    /// it. The root is the module `""`.
    exports: BTreeMap<(String, String), (String, String)>,
}

impl Source {
    fn new(texts: BTreeMap<String, String>) -> Self {
        let mut source = Self { texts, exports: BTreeMap::new() };
        for (module, text) in &source.texts {
            let base = if module == "lib" { "" } else { module };
            let imported = statements(text).into_iter().filter_map(|line| {
                let (visibility, path) = line.split_once("use ")?;
                let is_import = visibility.is_empty() || visibility.starts_with("pub");
                is_import.then(|| path.trim_end_matches(';').trim_start_matches("self::").to_owned())
            });
            let names = imported.flat_map(|path| source.names(base, &path)).filter(|(_, (origin, _))| origin != base);
            source.exports.extend(names.map(|(name, origin)| ((base.to_owned(), name), origin)).collect::<Vec<_>>());
        }
        source
    }

    fn read(src: &Path) -> Self {
        Self::new(modules(src).into_iter().map(|(module, path)| (module, without_tests(&read(&path)).to_owned())).collect())
    }

    /// Returns the names that a path below `base` imports, each with the module that it comes from
    /// and its name in that module.
    fn names(&self, base: &str, path: &str) -> Vec<(String, (String, String))> {
        let path = path.trim();
        if let Some(list) = path.strip_prefix('{') {
            return items(list).into_iter().flat_map(|path| self.names(base, path)).collect();
        }
        let name = identifier(path);
        let longer = join(base, &name);
        if self.texts.contains_key(&longer)
            && let Some(further) = path.get(name.len()..).and_then(|rest| rest.strip_prefix("::"))
        {
            return self.names(&longer, further);
        }
        let shown = path.split_once(" as ").map_or(name.as_str(), |(_, alias)| alias);
        vec![(shown.to_owned(), (base.to_owned(), name))]
    }

    /// Returns the modules that a text imports, from the paths after `crate::` and `super::`.
    fn imports(&self, module: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for line in statements(text) {
            let line = line.as_str();
            for (at, _) in line.match_indices("crate::") {
                // Skip `$crate::` and `my_crate::`.
                if line.get(..at).is_some_and(|before| before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')) {
                    continue;
                }
                found.extend(self.targets("", line.get(at + "crate::".len()..).unwrap_or_default()));
            }
            let mut rest = line;
            while let Some((_, after)) = rest.split_once("super::") {
                let mut base = module.rsplit_once("::").map_or("", |(parent, _)| parent);
                rest = after;
                while let Some(further) = rest.strip_prefix("super::") {
                    base = base.rsplit_once("::").map_or("", |(parent, _)| parent);
                    rest = further;
                }
                found.extend(self.targets(base, rest));
            }
        }
        found
    }

    /// Returns the modules that define the names in a path below `base`. The path may contain a
    /// list of names in braces.
    fn targets(&self, base: &str, path: &str) -> Vec<String> {
        if let Some(list) = path.strip_prefix('{') {
            return items(list).into_iter().flat_map(|path| self.targets(base, path.trim())).collect();
        }
        let name = identifier(path);
        let longer = join(base, &name);
        if self.texts.contains_key(&longer) {
            let further = path.get(name.len()..).and_then(|rest| rest.strip_prefix("::"));
            return further.map_or_else(|| vec![longer.clone()], |rest| self.targets(&longer, rest));
        }
        let mut at = (base.to_owned(), name);
        while let Some(origin) = self.exports.get(&at) {
            at = origin.clone();
        }
        if at.0.is_empty() { Vec::new() } else { vec![at.0] }
    }

    /// Returns the uses between files, as pairs of the using and the used file.
    fn uses(&self) -> BTreeSet<(String, String)> {
        let uses = self.texts.iter().flat_map(|(module, text)| {
            let imports = self.imports(module, text).into_iter().filter(move |import| import != module);
            imports.map(move |import| (module.clone(), import))
        });
        uses.collect()
    }
}

fn identifier(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn join(base: &str, name: &str) -> String {
    if base.is_empty() { name.to_owned() } else { format!("{base}::{name}") }
}

/// Returns the circles of files with the same parent. Each file counts together with all files
/// below it.
fn circles(uses: &BTreeSet<(String, String)>) -> Vec<String> {
    let mut siblings: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for (from, to) in uses {
        let (from, to): (Vec<&str>, Vec<&str>) = (from.split("::").collect(), to.split("::").collect());
        let same = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
        if let (Some(one), Some(other)) = (from.get(same), to.get(same)) {
            siblings.entry(from[..same].join("::")).or_default().insert(((*one).to_owned(), (*other).to_owned()));
        }
    }
    for edges in siblings.values_mut() {
        // Removes the files that use no other remaining file, or that no remaining file uses. Such
        // files are not part of an import cycle.
        loop {
            let (from, to): (BTreeSet<_>, BTreeSet<_>) = edges.iter().cloned().unzip();
            let before = edges.len();
            edges.retain(|(one, other)| to.contains(one) && from.contains(other));
            if edges.len() == before {
                break;
            }
        }
    }
    let circles = siblings.into_iter().filter(|(_, edges)| !edges.is_empty());
    circles.map(|(parent, edges)| format!("in `{parent}`: {edges:?}")).collect()
}

/// Returns the lines of a text without comments. An import over several lines is joined into one
/// line.
fn statements(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        match found.last_mut() {
            Some(import) if open => import.push_str(line),
            _ => found.push(line.to_owned()),
        }
        let import = open || ["use ", "pub use ", "pub(crate) use ", "pub(super) use "].iter().any(|start| line.starts_with(start));
        open = import && !line.ends_with(';');
    }
    found
}

/// Returns the items of a comma-separated list, up to its closing brace.
fn items(list: &str) -> Vec<&str> {
    let (mut found, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                found.extend(list.get(start..at));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

/// Returns the modules of the library and their files, without modules that contain only tests.
fn modules(src: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut open = vec![src.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(src).expect("below").with_extension("");
                let name = relative.iter().map(|part| part.to_str().expect("text")).collect::<Vec<_>>().join("::");
                found.insert(name.strip_suffix("::mod").unwrap_or(&name).to_owned(), path);
            }
        }
    }
    let tests: Vec<String> = found.iter().flat_map(|(module, path)| test_modules(module, &read(path))).collect();
    found.retain(|module, _| !tests.iter().any(|test| module == test || module.starts_with(&format!("{test}::"))));
    found
}

/// Returns the modules that a text declares for tests only and that have their own files.
fn test_modules(module: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter_map(|pair| match pair {
        [condition, declaration] if condition.starts_with("#[cfg(test)") || condition.starts_with("#[cfg(all(test,") => {
            declaration.strip_prefix("mod ")?.strip_suffix(';')
        }
        _ => None,
    });
    declared.map(|name| if module == "lib" { name.to_owned() } else { format!("{module}::{name}") }).collect()
}

/// Returns the text without the test module at its end, which may import any module.
fn without_tests(text: &str) -> &str {
    let ends = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\npub(crate) mod tests {"];
    ends.iter().fold(text, |text, end| text.split(end).next().unwrap_or_default())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a source file")
}

fn library() -> Source {
    Source::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../etcd-typed/src"))
}

#[test]
fn every_import_is_from_lower_layer() {
    let source = library();
    let mut edges = 0;
    let mut faults = Vec::new();
    for (module, text) in &source.texts {
        let imports = source.imports(module, text);
        edges += imports.len();
        faults.extend(imports.iter().filter_map(|import| fault(module, import)));
        if place(module).is_none() {
            faults.push(format!("`{module}` has no row: give it one"));
        }
    }
    assert!(source.texts.len() > 30 && edges > 100, "{} modules, {edges} imports: the search does not find the source", source.texts.len());
    assert!(faults.is_empty(), "imports that do not point down:\n{}", faults.join("\n"));
}

/// See the rules at the top of this file.
#[test]
fn module_files_have_no_import_cycle() {
    let uses = library().uses();
    let inside = uses.iter().filter(|(from, to)| from.split("::").next() == to.split("::").next()).count();
    assert!(inside > 200, "{inside} uses inside modules: the search does not find them");
    let circles = circles(&uses);
    assert!(circles.is_empty(), "circles of files:\n{}", circles.join("\n"));
}

#[test]
fn import_cycle_is_detected() {
    let circles = |texts: &[(&str, &str)]| {
        circles(&Source::new(texts.iter().map(|(module, text)| ((*module).to_owned(), (*text).to_owned())).collect()).uses())
    };
    let parent = "mod a;\nmod b;\npub(crate) use self::a::A;\nuse b::{B, C as D};";
    for (name, a, b) in [
        ("siblings", "use super::b::B;", "use super::a::A;"),
        ("a path in code", "    let x = super::b::B::new();", "use crate::m::a::A;"),
        ("names that the parent re-exports", "use super::B;", "use super::{A, other};"),
        ("a renamed name", "use super::D;", "use super::A;"),
        ("an import over several lines", "use super::{\n    B,\n    other,\n};", "use super::A;"),
        ("a name that the root re-exports", "use super::B;", "use crate::A;"),
    ] {
        let texts = [("lib", "mod m;\npub use m::A;"), ("m", parent), ("m::a", a), ("m::b", b)];
        assert_eq!(circles(&texts).len(), 1, "{name}");
    }
    // A file below is part of its parent.
    let below = [("m", "mod a;\nmod b;"), ("m::a", "mod c;"), ("m::a::c", "use crate::m::b::B;"), ("m::b", "use super::a::A;")];
    assert_eq!(circles(&below).len(), 1);
    let three = [("m", ""), ("m::a", "use super::b::B;"), ("m::b", "use super::c::C;"), ("m::c", "use super::a::A;")];
    assert_eq!(circles(&three).len(), 1);

    for (name, a, b) in [
        ("one direction", "use super::b::B;", "use super::other;"),
        ("parent and child", "use super::{Own, m};", "use super::Own;\nuse super::a::A;"),
        ("a comment", "use super::b::B;", "// as super::a::A does"),
    ] {
        let texts = [("m", parent), ("m::a", a), ("m::b", b)];
        assert_eq!(circles(&texts), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn import_from_higher_layer_is_detected() {
    let modules = ["key", "error", "store", "store::connect", "store::v2", "store::v2::http", "store::v3", "watch", "handle", "client"]
        .map(|module| (module.to_owned(), String::new()));
    let root = ("lib".to_owned(), "pub use client::Client;".to_owned());
    let source = Source::new(modules.into_iter().chain([root]).collect());
    let faults =
        |module: &str, text: &str| source.imports(module, text).iter().filter_map(|import| fault(module, import)).collect::<Vec<_>>();
    for (module, text) in [
        ("key", "use crate::error::Error;"),
        ("store", "    let x = crate::client::Client::new();"),
        ("store::v3", "use crate::store::v2::V2Store;"),
        ("store::v3", "use super::v2::V2Store;"),
        ("store::v2::http", "use super::super::v3::V3Store;"),
        ("watch", "use crate::{handle::Dir, key::Key};"),
        ("handle", "use crate::{key::Key, client::Client};"),
        ("handle", "use crate::{\n    error::{Error, Result},\n    client::Client,\n};"),
        ("handle", "use crate::Client;"),
    ] {
        assert_eq!(faults(module, text).len(), 1, "{module}: {text}");
    }
    for (module, text) in [
        ("error", "use crate::key::Key;"),
        ("store::v2::http", "use super::{Thing, other};\nuse crate::store::connect::Endpoint;\nuse crate::store::Range;"),
        ("client", "use crate::store::v2::V2Store;\nuse crate::watch::Watch;"),
        ("key", "// as crate::client::Client does"),
        ("key", "$crate::client::Client"),
    ] {
        assert_eq!(faults(module, text), Vec::<String>::new(), "{module}: {text}");
    }
    assert!(place("store::v4").is_none() && place("helpers").is_none());
}

/// Returns an SVG picture. Its light background and dark text are legible on light and dark pages. It
/// contains no empty line, since Markdown would end it there.
fn svg(label: &str, height: usize, body: &str) -> String {
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {height}" width="780" height="{height}" role="img" aria-label="{label}" style="max-width:100%;height:auto" font-family="sans-serif" font-size="12" fill="#1b1f24">
<rect width="780" height="{height}" rx="8" fill="#f6f8fa"/>
{body}</svg>
"##
    )
}

fn text(x: usize, y: usize, attributes: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x}\" y=\"{y}\"{attributes}>{text}</text>\n")
}

fn frame(x: usize, y: usize, width: usize, height: usize) -> String {
    format!("<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"4\" fill=\"#dbe9ff\" stroke=\"#3b6fb6\"/>\n")
}

fn layers() -> String {
    let mut body = String::new();
    for (line, Row { modules, purpose }) in ROWS.iter().rev().enumerate() {
        let y = 12 + 34 * line;
        body += &frame(12, y, 756, 28);
        body += &text(24, y + 18, " font-family=\"monospace\" font-weight=\"bold\"", &modules.join(", "));
        body += &text(756, y + 18, " text-anchor=\"end\"", purpose);
    }
    svg("The modules, each above those that it uses", 12 + 34 * ROWS.len() + 6, &body)
}

fn ways() -> String {
    let mut body = String::new();
    for (column, (name, up, steps)) in WAYS.iter().enumerate() {
        let (x, mut last) = (12 + 256 * column, None);
        body += &text(x + 122, 26, " font-size=\"14\" font-weight=\"bold\" text-anchor=\"middle\"", name);
        for (line, (module, what)) in steps.iter().enumerate().filter_map(|(line, step)| Some((line, step.as_ref()?))) {
            let y = 38 + 68 * line;
            body += &frame(x, y, 244, 46);
            body += &text(x + 12, y + 19, " font-family=\"monospace\" font-weight=\"bold\"", module);
            body += &text(x + 12, y + 36, "", what);
            if let Some(last) = last.replace(y + 46) {
                let (tip, wings) = if *up { (last + 2, last + 10) } else { (y - 2, y - 10) };
                let middle = x + 122;
                body += &format!("<path d=\"M{middle} {last}V{y}\" stroke=\"#3b6fb6\" stroke-width=\"2\"/>\n");
                body += &format!("<path d=\"M{middle} {tip}L{} {wings}H{}Z\" fill=\"#3b6fb6\"/>\n", middle - 5, middle + 5);
            }
        }
    }
    svg("The way of a set, of an event and of an acquire through the modules", 38 + 68 * 6 - 10, &body)
}

/// The pictures in the documentation match the table. To write the pictures after a change of the
/// table: `WRITE_PICTURES=1 cargo test -p etcd-typed-tests --test without_server layering::`.
#[test]
fn pictures_in_documentation_match_layer_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (name, picture) in [("layers.svg", layers()), ("ways.svg", ways())] {
        let path = root.join("etcd-typed/src/guide").join(name);
        if std::env::var_os("WRITE_PICTURES").is_some() {
            fs::write(&path, &picture).expect("the picture is written");
        }
        assert!(read(&path) == picture, "{name} does not show the rows of this test: set WRITE_PICTURES=1 to write it");
        for document in ["DESIGN.md", "etcd-typed/src/lib.rs"] {
            assert!(read(&root.join(document)).contains(&format!("guide/{name}")), "{document} does not show {name}");
        }
    }
}

#[test]
fn pictured_paths_cross_layers_in_order() {
    for (name, _, steps) in WAYS {
        let steps: Vec<&str> = steps.iter().flatten().map(|(module, _)| *module).collect();
        let [_, modules @ .., _] = &steps[..] else { panic!("{name} has no steps") };
        let rows: Vec<usize> = modules.iter().map(|module| place(module).expect("a module").0).collect();
        assert!(rows.is_sorted_by(|above, below| above >= below), "{name} goes through {modules:?}, in rows {rows:?}");
    }
}

/// A jump of the wall clock changes no deadline, because the modules with deadlines use only clocks
/// that never go back (F16).
#[test]
fn no_deadline_depends_on_wall_clock() {
    const KEEP_TIMES: [&str; 10] = ["clock", "runtime", "retry", "lease", "queue", "watch", "changes", "publish", "election", "store"];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../etcd-typed/src");
    let reads_wall_clock =
        |text: &str| ["SystemTime::now", "UNIX_EPOCH.elapsed", "ClockId::Realtime"].iter().any(|name| text.contains(name));
    let modules = modules(&src);
    let keep_times = |module: &&String| KEEP_TIMES.contains(&module.split("::").next().unwrap_or_default());
    let kept: Vec<&String> = modules.keys().filter(keep_times).collect();
    let faulty: Vec<_> = kept.iter().filter(|module| reads_wall_clock(without_tests(&read(&modules[**module])))).collect();
    assert!(kept.len() > 30, "the search does not find the source: {kept:?}");
    assert!(faulty.is_empty(), "{faulty:?} read the wall clock");
    // A lock stores the wall-clock time of its request, as a text for people.
    let lock = read(&modules["lock"]);
    assert!(reads_wall_clock(&lock) && lock.matches("SystemTime::now()").count() == 1);
}

#[test]
fn openssl_is_not_linked() {
    let lock = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock"));
    assert!(lock.contains("name = \"rustls\""), "the lock file contains rustls");
    for name in ["openssl", "openssl-sys", "native-tls"] {
        assert!(!lock.contains(&format!("name = \"{name}\"\n")), "{name}: rustls provides TLS, so no system library is needed");
    }
}
