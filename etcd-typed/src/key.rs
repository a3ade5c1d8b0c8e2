//! `Key`: the path of a value or of a directory. Only this module decides how stored bytes map to
//! keys. `schema.rs` decides which keys a struct owns.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// The path of one key or directory.
///
/// Invariants:
///
/// - A key is the root, or it starts with `/` and has no trailing `/`.
/// - No segment is empty, `.` or `..`. None contains `/` or a control character.
/// - A key is readable text, such as `/prod/checkout/rate-limit`.
///
/// A client with a [namespace](crate::ClientBuilder::namespace) puts the namespace before every
/// path, so its keys start with that text: `v1/instances/7`.
///
/// [`Key::parse`] takes a path as a person types it. [`Key::child`] takes *data* (a tenant's name,
/// a map key) and escapes it, so that no value can add a segment or change the path above. The name
/// `_etcd-typed` is reserved for this library: `child` escapes it, and typed handles ignore it. On
/// v2, which hides names that begin with `_`, handles also escape the `_` (`%5Fx`).
///
/// ```
/// use etcd_typed::Key;
///
/// let quotas = Key::parse("/app/quotas")?;
/// assert_eq!(quotas.child("acme").as_str(), "/app/quotas/acme");
/// assert_eq!(quotas.child("../admin").as_str(), "/app/quotas/..%2Fadmin");
/// assert_eq!(quotas.child("..").as_str(), "/app/quotas/%2E%2E");
/// assert_eq!(quotas.child("_x").as_str(), "/app/quotas/_x");
/// # Ok::<(), etcd_typed::Error>(())
/// ```
///
/// These rules do not apply to keys in the queue of a lock or an election: users choose the name of
/// the queue, and other clients choose the names of their keys. For such a `Key`, [`Key::as_bytes`]
/// returns exactly the stored bytes, and [`Key::as_str`] replaces bytes that are not UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    /// A path without a trailing slash, so the root is the empty string. Or a key in a queue, if it
    /// is UTF-8.
    Text(Arc<str>),
    /// A key of another client that is not UTF-8. The `Arc` keeps all other keys small.
    Bytes(Arc<NotText>),
}

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct NotText {
    bytes: Box<[u8]>,
    /// The text for display: `bytes` with replacement characters for what is not UTF-8.
    shown: Box<str>,
}

impl Key {
    /// Returns the root directory, which contains all keys.
    #[must_use]
    pub fn root() -> Self {
        Self::text("")
    }

    /// Parses a path as a person types it: `/app/db/pool`, or `/` for the root. Drops one trailing
    /// `/`.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the path does not start with `/`, or a segment is empty, `.`, `..` or
    /// contains a control character. Use [`Key::child`] for data that may contain such characters.
    pub fn parse(path: &str) -> Result<Self, KeyError> {
        let Some(rest) = path.strip_prefix('/') else {
            return Err(KeyError::new(path, "a key starts with `/`"));
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return if path.len() <= 1 { Ok(Self::root()) } else { Err(KeyError::new(path, "a segment is empty")) };
        }
        for segment in rest.split('/') {
            if let Some(reason) = literal_fault(segment) {
                return Err(KeyError::new(path, reason));
            }
        }
        Ok(Self::text(&path[..=rest.len()]))
    }

    /// Returns the key below this one for `value`. Escapes the value, so that it stays one segment
    /// and can be read back.
    #[must_use]
    pub fn child(&self, value: &str) -> Self {
        self.then(&format!("/{}", escape(value)))
    }

    /// Returns the key below this one for `value`, in the form for v2, which hides names with a
    /// leading `_`.
    pub(crate) fn hidden_child(&self, value: &str) -> Self {
        let segment = escape(value);
        self.descend(&with_escaped_underscores(&segment).unwrap_or(segment.into_owned()))
    }

    /// Appends another path: `/a` joined with `/b/c` is `/a/b/c`.
    #[must_use]
    pub fn join(&self, below: &Self) -> Self {
        self.then(below.name())
    }

    /// Appends text to this key byte for byte. Checks no rules and adds no slash.
    pub(crate) fn then(&self, text: &str) -> Self {
        match &self.0 {
            Repr::Text(own) => Self::text(format!("{own}{text}")),
            Repr::Bytes(own) => Self::stored(&[&own.bytes, text.as_bytes()].concat()),
        }
    }

    /// Appends bytes to this key. Checks no rules and adds no slash.
    pub(crate) fn then_bytes(&self, bytes: &[u8]) -> Self {
        if self.is_root() { Self::stored(bytes) } else { Self::stored(&[self.as_bytes(), bytes].concat()) }
    }

    /// Returns the key with these stored bytes, which need not follow the rules of a path.
    pub(crate) fn stored(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::text(text),
            Err(_) => {
                let shown = String::from_utf8_lossy(bytes).into_owned().into();
                Self(Repr::Bytes(Arc::new(NotText { bytes: bytes.into(), shown })))
            }
        }
    }

    /// Returns the key that a client with this namespace puts before every path. If the text starts
    /// with `/`, drops one trailing `/`, as [`Key::parse`] does. Keeps any other text byte for
    /// byte.
    pub(crate) fn namespace(text: &str) -> Self {
        Self::text(text.strip_suffix('/').filter(|_| text.starts_with('/')).unwrap_or(text))
    }

    /// Whether parsing this key's text with [`Key::parse`] returns this key.
    pub(crate) fn is_path(&self) -> bool {
        Self::parse(self.as_str()).is_ok_and(|path| path == *self)
    }

    fn text(text: impl Into<Arc<str>>) -> Self {
        Self(Repr::Text(text.into()))
    }

    /// Returns the key's text, which is empty for the root.
    fn name(&self) -> &str {
        match &self.0 {
            Repr::Text(text) => text,
            Repr::Bytes(key) => &key.shown,
        }
    }

    /// Returns the key at `relative` below this one. `relative` is stored segments, separated by
    /// `/`. It must already be part of a key: from a schema's table or from [`Key::below`].
    pub(crate) fn descend(&self, relative: &str) -> Self {
        self.descend_through(&mut String::new(), relative)
    }

    /// Like [`descend`](Self::descend), but builds the text in a buffer that the caller can reuse.
    pub(crate) fn descend_through(&self, scratch: &mut String, relative: &str) -> Self {
        let name = self.name();
        scratch.clear();
        scratch.reserve(name.len() + 1 + relative.len());
        scratch.push_str(name);
        scratch.push('/');
        scratch.push_str(relative);
        Self::text(scratch.as_str())
    }

    /// Returns the path as text. The root is `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self.name() {
            "" => "/",
            name => name,
        }
    }

    /// Returns the key as the server stores it. Differs from [`as_str`](Self::as_str) only for
    /// another client's key that is not UTF-8.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Text(_) => self.as_str().as_bytes(),
            Repr::Bytes(key) => &key.bytes,
        }
    }

    /// Whether the key is UTF-8, so that [`as_str`](Self::as_str) is the exact key.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.0, Repr::Text(_))
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.name().is_empty()
    }

    /// Returns the segments from the root down, escaped as they are stored.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.name().split('/').skip(1)
    }

    /// Returns the directory that contains this key. `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.name().rsplit_once('/')?;
        Some(Self::text(parent))
    }

    /// Returns the prefix of every key below this directory: `/app/` for `/app`, so `/apple` is not
    /// below `/app`.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{}/", self.name())
    }

    /// Returns the part of a stored key that follows this directory. `None` if the key is not below
    /// this directory. Also `None` if that part is not UTF-8 or has an empty segment, since this
    /// library writes no such keys.
    #[must_use]
    pub fn below<'k>(&self, stored: &'k [u8]) -> Option<&'k str> {
        let relative = stored.strip_prefix(self.name().as_bytes())?.strip_prefix(b"/")?;
        let relative = std::str::from_utf8(relative).ok()?;
        let bytes = relative.as_bytes();
        let has_empty =
            bytes.first().is_none_or(|first| *first == b'/') || bytes.last() == Some(&b'/') || bytes.windows(2).any(|pair| pair == b"//");
        (!has_empty).then_some(relative)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Serializes the path as text.
impl serde::Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.as_str())
    }
}

impl std::str::FromStr for Key {
    type Err = KeyError;

    fn from_str(path: &str) -> Result<Self, KeyError> {
        Self::parse(path)
    }
}

/// The reason why a text is not a [`Key`]. It becomes an [`Error`](crate::Error) of kind
/// [`InvalidKey`](crate::ErrorKind::InvalidKey).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError {
    path: String,
    reason: Cow<'static, str>,
}

impl KeyError {
    pub(crate) fn new(path: &str, reason: &'static str) -> Self {
        Self { path: path.to_owned(), reason: reason.into() }
    }

    /// Adds advice to the reason.
    pub(crate) fn advise(self, advice: &str) -> Self {
        Self { reason: format!("{}; {advice}", self.reason).into(), ..self }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a key: {}", self.path, self.reason)
    }
}

impl KeyError {
    /// Returns the reason, without the path.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }
}

impl std::error::Error for KeyError {}

/// Returns the reason why a segment is not valid in [`Key::parse`], or `None` if it is valid.
fn literal_fault(segment: &str) -> Option<&'static str> {
    match segment {
        "" => Some("a segment is empty"),
        "." | ".." => Some("a segment is `.` or `..`"),
        _ if segment.chars().any(char::is_control) => Some("a segment holds a control character"),
        _ => None,
    }
}

/// Whether v2 servers hide this segment in listings: its name starts with `_`.
#[cfg(feature = "v2")]
pub(crate) fn is_hidden_on_v2(segment: &str) -> bool {
    segment.starts_with('_')
}

/// Whether the segment is reserved for this library. Handles ignore it on every store.
pub(crate) fn is_reserved(segment: &str) -> bool {
    segment == RESERVED
}

const RESERVED: &str = "_etcd-typed";

/// The escaped form of a `_` at the start of a name, which v2 would hide.
const UNDERSCORE: &str = "%5F";

/// Escapes the `_` at the start of each segment. This is the form that this library stores on v2,
/// and that its earlier versions stored everywhere. `None` if no segment starts with `_`.
pub(crate) fn with_escaped_underscores(relative: &str) -> Option<String> {
    let changes = relative.split('/').any(|segment| segment.starts_with('_'));
    changes.then(|| {
        let escaped = |segment: &str| segment.strip_prefix('_').map_or_else(|| segment.to_owned(), |rest| format!("{UNDERSCORE}{rest}"));
        relative.split('/').map(escaped).collect::<Vec<_>>().join("/")
    })
}

/// Reverses [`with_escaped_underscores`]. `None` if no segment starts with an escaped `_`.
pub(crate) fn with_plain_underscores(relative: &str) -> Option<String> {
    let plain = |segment: &str| {
        let rest = segment.strip_prefix(UNDERSCORE)?;
        Some(format!("_{rest}")).filter(|plain| !is_reserved(plain))
    };
    let changes = relative.split('/').any(|segment| plain(segment).is_some());
    changes.then(|| relative.split('/').map(|segment| plain(segment).unwrap_or_else(|| segment.to_owned())).collect::<Vec<_>>().join("/"))
}

/// Escapes `value` into one segment. [`unescape`] is the inverse. Different values never share a
/// segment.
///
/// Escapes `%`, `/`, control characters, the first character of the reserved name, and every
/// character of `.` and `..`. The empty string becomes a lone `%`. All other text stays as a person
/// would type it.
pub(crate) fn escape(value: &str) -> Cow<'_, str> {
    let whole = matches!(value, "." | "..");
    // Fast path: nearly every name has only harmless bytes. Other names are checked character by
    // character.
    let harmless = |byte: u8| byte.is_ascii_graphic() && byte != b'%' && byte != b'/';
    let is_escaped = |c: char| c == '%' || c == '/' || c.is_control();
    let plain = !value.is_empty() && !whole && !is_reserved(value) && (value.bytes().all(harmless) || !value.chars().any(is_escaped));
    if plain {
        return Cow::Borrowed(value);
    }
    if value.is_empty() {
        return Cow::Borrowed("%");
    }
    let mut out = String::with_capacity(value.len() + 8);
    for (at, c) in value.char_indices() {
        if whole || is_escaped(c) || (at == 0 && is_reserved(value)) {
            let mut utf8 = [0; 4];
            for byte in c.encode_utf8(&mut utf8).bytes() {
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Returns the value of a segment. `None` if neither [`escape`] nor [`with_escaped_underscores`]
/// writes such a segment: it belongs to another client, and no handle can address it.
pub(crate) fn unescape(segment: &str) -> Option<Cow<'_, str>> {
    let value = if segment == "%" {
        Cow::Borrowed("")
    } else if segment.bytes().any(|byte| byte == b'%') {
        let mut bytes = Vec::with_capacity(segment.len());
        let mut rest = segment.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            if first != b'%' {
                bytes.push(first);
                continue;
            }
            let (hex, tail) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
            rest = tail;
        }
        Cow::Owned(String::from_utf8(bytes).ok()?)
    } else {
        Cow::Borrowed(segment)
    };
    is_form_of(segment, &escape(&value)).then_some(value)
}

/// Whether `segment` is `own`, or the form of `own` with an escaped `_`.
pub(crate) fn is_form_of(segment: &str, own: &str) -> bool {
    segment == own || with_escaped_underscores(own).is_some_and(|escaped| segment == escaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parse_keeps_path_as_typed() {
        for path in ["/a", "/a/b c/ü", "/:foo/bar", "/a/50%", "/_hidden/x", "/a.b/..c"] {
            assert_eq!(Key::parse(path).map(|k| k.to_string()), Ok(path.to_owned()));
        }
        assert_eq!(Key::parse("/").map(|k| k.is_root()), Ok(true));
        assert_eq!(Key::parse("/a/").map(|k| k.to_string()), Ok("/a".to_owned()));
    }

    #[test]
    fn parse_refuses_invalid_paths() {
        for path in ["", "a", "a/b", "//", "/a//b", "/a//", "/./a", "/a/..", "/a\0b", "/a\n"] {
            assert!(Key::parse(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn below_matches_whole_segments() {
        let app = Key::parse("/app").expect("a key");
        assert_eq!(app.below(b"/app/x/y"), Some("x/y"));
        for foreign in [&b"/apple/x"[..], b"/app", b"/app/", b"/app//x", b"/app/x/", b"/app/\xff", b"app/x"] {
            assert_eq!(app.below(foreign), None, "{foreign:?}");
        }
        assert_eq!(Key::root().below(b"/app"), Some("app"));
    }

    #[test]
    fn unescape_refuses_segments_that_escape_never_writes() {
        for foreign in ["50%", "%2f", "%41", "_etcd-typed", ".", "..", "%zz", "%2", "a%", "%+1", "x%5F", "%5f"] {
            assert_eq!(unescape(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn leading_underscore_is_read_plain_or_escaped() {
        for (value, own, older) in [("_x", "_x", "%5Fx"), ("_", "_", "%5F"), ("__%", "__%25", "%5F_%25")] {
            assert_eq!(escape(value), own);
            assert_eq!(with_escaped_underscores(own).as_deref(), Some(older));
            assert_eq!(with_plain_underscores(older).as_deref(), Some(own));
            assert_eq!((unescape(own).as_deref(), unescape(older).as_deref()), (Some(value), Some(value)));
        }
        assert_eq!(with_escaped_underscores("a_/x"), None);
        assert_eq!(with_plain_underscores("a%5F/x"), None);
        assert_eq!(with_plain_underscores("a/%5Fb/c").as_deref(), Some("a/_b/c"));
        // The reserved name has only the escaped form.
        assert_eq!((escape(RESERVED).as_ref(), unescape("%5Fetcd-typed").as_deref()), ("%5Fetcd-typed", Some(RESERVED)));
        assert_eq!((with_plain_underscores("%5Fetcd-typed"), unescape("_etcd-typed2").as_deref()), (None, Some("_etcd-typed2")));
    }

    #[test]
    fn stored_key_keeps_every_byte() {
        for bytes in [&b"/a"[..], b"/a/", b"/a//", b"a/b", b"dlock:x", b" ", "ü/ö".as_bytes(), b"/a/\xff", b"\0"] {
            assert_eq!(Key::stored(bytes).as_bytes(), bytes);
        }
        assert_eq!(Key::stored(b"/a/b"), Key::parse("/a/b").expect("a key"));
        let odd = Key::stored(b"/a/\xff");
        assert_ne!(odd, Key::stored(b"/a/\xfe"));
        assert_eq!((odd.as_str(), odd.then("x").as_bytes()), ("/a/\u{fffd}", &b"/a/\xffx"[..]));
    }

    #[test]
    fn namespace_may_be_any_text() {
        let path = Key::parse("/a/b").expect("a key");
        for (text, key) in [
            ("", "/a/b"),
            ("/", "/a/b"),
            ("/prod", "/prod/a/b"),
            ("/prod/", "/prod/a/b"),
            ("/prod//", "/prod//a/b"),
            ("v1", "v1/a/b"),
            ("v1/", "v1//a/b"),
            ("dynamo:/", "dynamo://a/b"),
            ("prod.", "prod./a/b"),
            (" ü", " ü/a/b"),
        ] {
            let namespace = Key::namespace(text);
            let key_below = namespace.join(&path);
            assert_eq!((key_below.as_str(), key_below.as_bytes()), (key, key.as_bytes()), "{text:?}");
            assert_eq!(key_below.parent().expect("a parent").descend("b"), key_below);
            assert_eq!(namespace.below(key.as_bytes()), Some("a/b"), "{text:?}");
        }
        assert!(Key::namespace("/prod/").is_path() && Key::namespace("").is_path());
        assert!(!Key::namespace("v1").is_path() && !Key::namespace("/prod//").is_path() && !Key::namespace("/a\n").is_path());
    }

    #[test]
    fn then_appends_text_without_escaping() {
        let namespace = Key::parse("/prod").expect("a key");
        for (name, prefix) in [("/a", "/prod/a/"), ("/a/", "/prod/a//"), ("a", "/proda/"), ("/", "/prod//"), (" ", "/prod /")] {
            assert_eq!(namespace.then(name).prefix(), prefix);
        }
        assert_eq!(Key::root().then("a").prefix(), "a/");
        assert_eq!(Key::root().then("/").prefix(), "//");
    }

    proptest! {
        #[test]
        fn escape_yields_one_reversible_segment(value in "\\PC*|[._/%\0-\x1f\u{7f}-\u{9f}]{0,4}") {
            let segment = escape(&value).into_owned();
            prop_assert!(literal_fault(&segment).is_none() && !segment.contains('/') && !is_reserved(&segment));
            let read = unescape(&segment);
            prop_assert_eq!(read.as_deref(), Some(value.as_str()));
        }

        #[test]
        fn unescape_never_panics(segment in "\\PC*|[%0-9a-fA-F_]{0,8}") {
            if let Some(value) = unescape(&segment) {
                prop_assert!(is_form_of(&segment, &escape(&value)));
            }
        }
    }
}
