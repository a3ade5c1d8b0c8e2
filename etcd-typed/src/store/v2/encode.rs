//! Encodes keys and parameters for requests. Every byte outside the unreserved set of RFC 3986 is
//! escaped here. The URL parser would treat `#` and `?` as syntax, and the server rejects a raw `;`
//! in a form.

use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;

/// The path of the keys API.
const KEYS: &str = "/v2/keys";

/// The maximum length of a path. On a plain connection, a request line may have 4096 bytes; the
/// server resets the TCP connection for a longer line. The remainder is for the parameters.
const MAX_PATH: usize = 3000;

/// The maximum length of a path with parameters: 4096 bytes minus the longest method and the HTTP
/// version.
pub(super) const MAX_TARGET: usize = 4096 - "DELETE  HTTP/1.1\r\n".len();

/// The maximum depth of a key. A recursive listing nests as deeply as its keys, and the JSON parser
/// stops at 128 levels. Each segment takes two levels.
const MAX_DEPTH: usize = 60;

/// Returns the path of a key or directory.
///
/// # Errors
///
/// `InvalidKey` if the path is too long or too deep to be sent and read back, or would arrive as
/// another path.
pub(super) fn path(key: &Key) -> Result<String> {
    let refuse = |reason: String| Err(Error::new(ErrorKind::InvalidKey, reason).at(key));
    if key.is_root() {
        return Ok(format!("{KEYS}/"));
    }
    let mut path = KEYS.to_owned();
    let mut depth = 0;
    for segment in key.segments() {
        // `Key` allows none of these segments. The server would redirect such a path to another
        // key.
        if matches!(segment, "" | "." | "..") {
            return refuse("a segment is empty, `.` or `..`".to_owned());
        }
        depth += 1;
        path.push('/');
        push(&mut path, segment.as_bytes());
    }
    if depth > MAX_DEPTH {
        return refuse(format!("etcd v2 keys may have {MAX_DEPTH} segments here, this one has {depth}"));
    }
    if path.len() > MAX_PATH {
        return refuse(format!("its path takes {} bytes in a request and may take {MAX_PATH} on etcd v2", path.len()));
    }
    Ok(path)
}

/// Request parameters, encoded for a form body or for the query of a URL.
#[derive(Debug, Default)]
pub(super) struct Parameters(String);

impl Parameters {
    pub(super) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        push(&mut self.0, value.as_ref());
        self
    }

    pub(super) fn flag(self, name: &str) -> Self {
        self.with(name, "true")
    }

    pub(super) fn number(self, name: &str, value: u64) -> Self {
        self.with(name, value.to_string())
    }

    /// Returns the parameters as a form body.
    pub(super) fn into_form(self) -> String {
        self.0
    }

    /// Returns the path with these parameters as its query.
    pub(super) fn behind(self, path: &str) -> String {
        if self.0.is_empty() { path.to_owned() } else { format!("{path}?{}", self.0) }
    }
}

fn push(out: &mut String, bytes: &[u8]) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.reserve(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Each half of a byte is below 16, so the index is within `HEX`.
            out.extend(['%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(path: &str) -> Key {
        Key::parse(path).expect("a key")
    }

    #[test]
    fn syntax_characters_are_escaped() {
        assert_eq!(path(&key("/:foo/a b")).unwrap(), "/v2/keys/%3Afoo/a%20b");
        assert_eq!(path(&key("/h#h?x=1&y%2F;\"'+")).unwrap(), "/v2/keys/h%23h%3Fx%3D1%26y%252F%3B%22%27%2B");
        assert_eq!(path(&key("/ü")).unwrap(), "/v2/keys/%C3%BC");
        assert_eq!(path(&Key::root().child("..")).unwrap(), "/v2/keys/%252E%252E");
        assert_eq!(path(&Key::root()).unwrap(), "/v2/keys/");
    }

    #[test]
    fn too_long_paths_are_refused() {
        let longest = key(&format!("/{}", "a".repeat(MAX_PATH - KEYS.len() - 1)));
        assert_eq!(path(&longest).unwrap().len(), MAX_PATH);
        let longer = key(&format!("{longest}b"));
        assert_eq!(path(&longer).unwrap_err().kind(), ErrorKind::InvalidKey);
        let deepest = key(&"/a".repeat(MAX_DEPTH));
        assert!(path(&deepest).is_ok());
        assert_eq!(path(&deepest.child("b")).unwrap_err().kind(), ErrorKind::InvalidKey);
    }

    #[test]
    fn parameters_are_joined_and_escaped() {
        let parameters = || Parameters::default().with("value", "a;b&c=%+\n ü").flag("prevExist").number("ttl", 5);
        let form = "value=a%3Bb%26c%3D%25%2B%0A%20%C3%BC&prevExist=true&ttl=5";
        assert_eq!(parameters().into_form(), form);
        assert_eq!(parameters().behind("/v2/keys/a"), format!("/v2/keys/a?{form}"));
        assert_eq!(Parameters::default().behind("/v2/keys/a"), "/v2/keys/a");
    }

    proptest! {
        /// The URL parser of the HTTP client must send exactly what was encoded here.
        #[test]
        fn url_parser_keeps_path(segments in proptest::collection::vec("\\PC{1,8}|[.%#?;+_]{1,3}", 1..6)) {
            let key = segments.iter().fold(Key::root(), |key, segment| key.child(segment));
            let path = path(&key).unwrap();
            let address = reqwest::Url::parse(&format!("http://127.0.0.1:1{path}?wait=true")).unwrap();
            prop_assert_eq!(address.path(), path.as_str());
            prop_assert_eq!(address.query(), Some("wait=true"));
        }
    }
}
