//! Compares the public API of the library with `tests/public_api.txt`, which has one line for each
//! item, so that every change of the API is seen in review. Also checks which public types are
//! `Send` and `Sync`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod source;
mod threads;

use std::collections::BTreeSet;
use std::path::Path;

use self::source::Source;

/// Returns the sources of the library.
fn library() -> Source {
    Source::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../etcd-typed/src/lib.rs"))
}

/// Returns the lines that are in only one of the lists, marked as in a diff.
fn difference(accepted: &str, found: &str) -> String {
    let (accepted, found): (BTreeSet<&str>, BTreeSet<&str>) = (accepted.lines().collect(), found.lines().collect());
    let removed = accepted.difference(&found).map(|line| format!("- {line}\n"));
    removed.chain(found.difference(&accepted).map(|line| format!("+ {line}\n"))).collect()
}

#[test]
fn public_api_equals_accepted_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("public_api.txt");
    let found: String = library().public_items().into_iter().map(|line| line + "\n").collect();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let accepted = std::fs::read_to_string(&path).unwrap();
    assert!(
        accepted == found,
        "the public API changed; `UPDATE_SNAPSHOTS=1 cargo test -p etcd-typed-tests --test without_server public_api` accepts it:\n{}",
        difference(&accepted, &found)
    );
}

#[test]
fn public_items_are_found_through_reexports() {
    let source = Source::of(&[
        ("", "mod a; pub mod b; mod c; pub use a::{One, inner::Two as Second}; #[doc(hidden)] pub mod __private { pub use crate::c::*; }"),
        (
            "a",
            "pub mod inner; use crate::c::Hidden; pub struct One<T> { pub x: T, y: u8 } impl<T> One<T> { pub fn f(&self) {} fn g() {} }
             impl<T> std::fmt::Debug for One<T> { fn fmt(&self) {} } impl Hidden { pub fn h() {} }",
        ),
        ("a::inner", "use super::One; #[non_exhaustive] #[derive(Clone)] pub enum Two { /// d\n A, B(u8) } impl From<Two> for One<u8> {}"),
        ("b", "pub fn go(n: u8) -> u8 { n } pub(crate) fn no() {} #[cfg(feature = \"x\")] pub trait T: Send { fn t(&self); }"),
        ("c", "pub struct Hidden;"),
    ]);
    let expected = [
        "One::f: pub fn f(&self)",
        "One::x: pub T",
        "One: impl From<Two> for One<u8>",
        "One: impl<T> std::fmt::Debug for One<T>",
        "One: pub struct One<T>",
        "Second::A: A",
        "Second::B: B(u8)",
        "Second: #[derive(Clone)] #[non_exhaustive] pub enum Two",
        "b::T::t: fn t(&self)",
        "b::T: #[cfg(feature = \"x\")] pub trait T: Send",
        "b::go: pub fn go(n: u8) -> u8",
        "b: pub mod b",
    ];
    let found = source.public_items();
    assert_eq!(found.iter().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(expected));
    assert_eq!(source.public_types(), BTreeSet::from(["One".to_owned(), "Two".to_owned()]));
}
