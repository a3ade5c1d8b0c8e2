//! The keys and values of the cases, which are the same for every peer.

use std::sync::LazyLock;

use crate::Result;
use crate::cases::Prepare;
use crate::peers::put_all;

/// The number of keys, and of values.
pub(crate) const COUNT: usize = 1000;

/// The keys of the cases that read or write single keys. Each value has 256 bytes of text.
pub(crate) static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| (0..COUNT).map(|n| format!("/requests/{n:04}")).collect());
pub(crate) static VALUES: LazyLock<Vec<String>> = LazyLock::new(|| (0..COUNT).map(value).collect());

fn value(n: usize) -> String {
    format!("{n:0256}")
}

/// Returns the keys and values. Each key has the value with the same number.
pub(crate) fn keys() -> Vec<(String, String)> {
    KEYS.iter().cloned().zip(VALUES.iter().cloned()).collect()
}

/// The directory of the struct of 20 fields, 8 bytes each: ten numbers and ten texts, in the order
/// of their keys.
pub(crate) const CONFIG: &str = "/config/";

pub(crate) fn fields() -> Vec<(String, String)> {
    let number = |n| (format!("{CONFIG}number_{n}"), format!("{}", 10_000_000 + n));
    let text = |n| (format!("{CONFIG}text_{n}"), format!("text{n:04}"));
    (0..10).map(number).chain((0..10).map(text)).collect()
}

/// Returns the path of the directory with this number of keys.
pub(crate) fn directory_name(count: usize) -> String {
    format!("/directory/{count}/")
}

/// Returns the content of that directory in the order of the keys. Each value has 256 bytes of
/// text.
pub(crate) fn directory(count: usize) -> Vec<(String, String)> {
    let directory = directory_name(count);
    (0..count).map(|n| (format!("{directory}{n:06}"), value(n))).collect()
}

/// Returns a function that writes these pairs to the server.
pub(crate) fn prepare(pairs: impl Fn() -> Vec<(String, String)> + 'static) -> Prepare {
    Box::new(move |address| {
        let pairs = pairs();
        Box::pin(async move { put_all(&address, pairs).await })
    })
}

/// Fails unless exactly these pairs were found, in their order.
pub(crate) fn check_all<'a>(wanted: &[(String, String)], found: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>) -> Result<()> {
    if found.len() != wanted.len() {
        return Err(format!("found {} keys, expected {}", found.len(), wanted.len()).into());
    }
    let differs = |((key, value), found): (&(String, String), (&[u8], &[u8]))| found != (key.as_bytes(), value.as_bytes());
    if wanted.iter().zip(found).any(differs) { Err("the keys or values differ from what was written".into()) } else { Ok(()) }
}

/// Fails unless the value of this number was found.
pub(crate) fn check(found: Option<&[u8]>, value: usize) -> Result<()> {
    if found == Some(VALUES[value].as_bytes()) {
        return Ok(());
    }
    Err(format!("found {:?}, expected the value of number {value}", found.map(String::from_utf8_lossy)).into())
}
