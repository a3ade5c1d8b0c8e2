//! Cases about unusual values and key names.

use super::bench::{Bench, keys};
use crate::error::ErrorKind;
use crate::key::Key;
use crate::store::{Compare, Condition, Op, Range, Span, Txn};

/// Texts with a special meaning in a format between a program and a server: in forms, JSON, URLs or
/// terminals.
const ODD_VALUES: [&str; 16] = [
    " ",
    "a+b&c=d;e%20f",
    "%",
    "%zz",
    "line\nfeed\r\nand tab\t",
    "nul \0 and \u{1b}[31m",
    "\"quoted\" 'twice' \\ back",
    "<script>&amp;</script>",
    "\u{2028}\u{2029}",
    "\u{fffd}",
    "\u{feff}bom",
    "é日本🦀",
    "e\u{301}",
    "{\"json\": [1, 2, null]}",
    "true",
    "0",
];

const ODD_SEGMENTS: [&str; 32] = [
    ":foo", "a b", " lead", "trail ", "ü", "日本", "🦀", "e\u{301}", "a#b", "a?b=c", "a&b", "a;b", "a+b", "a=b", "a,b", "100%", "%2F",
    "%2e%2e", "%zz", "\"", "'", "\\", "...", "..c", "~", "<a>", "[x]", "{x}", "|^`", "*", "\u{2028}", "\u{fffd}",
];

pub(super) async fn odd_values_read_back_and_compare(bench: &Bench<'_>) {
    let key = bench.key("a");
    let mut reader = bench.watch_all().await;
    for value in ODD_VALUES {
        let revision = bench.put(&key, value).await;
        assert_eq!(bench.value(&key).await, value);
        reader.expect_put(revision, &key, value).await;
        let swap = |to: &'static str| Txn {
            compares: vec![Compare::key(&key, Condition::Value(value.into()))],
            then: vec![Op::put(&key, to.into())],
            otherwise: vec![],
        };
        let swapped = bench.commit(swap("swapped")).await;
        assert!(swapped.succeeded, "{value:?} is what is there");
        reader.expect_put(swapped.revision, &key, "swapped").await;
        assert!(!bench.commit(swap("again")).await.succeeded, "{value:?} is not there any more");
        let revision = bench.put(&key, value).await;
        reader.expect_put(revision, &key, value).await;
        let delete = Txn { then: vec![Op::delete(&key)], ..swap("") };
        assert!(bench.commit(delete).await.succeeded, "{value:?} is what is there");
        reader.expect_delete(&key).await;
    }
}

pub(super) async fn odd_keys_are_keys(bench: &Bench<'_>) {
    let mut reader = bench.watch_all().await;
    let mut written: Vec<Key> =
        ODD_SEGMENTS.iter().flat_map(|odd| [bench.key(&format!("{odd}/{odd}")), bench.key(&format!("leaf/{odd}"))]).collect();
    for key in &written {
        let revision = bench.put(key, key.to_string()).await;
        reader.expect_put(revision, key, key.as_str()).await;
    }
    written.sort_unstable();
    let listed = bench.list().await;
    assert_eq!(keys(&listed), written.iter().map(ToString::to_string).collect::<Vec<_>>());
    for key in &written {
        assert_eq!(bench.value(key).await, key.to_string(), "each holds its own value");
    }
    for odd in ODD_SEGMENTS {
        let below = bench.range(Range::of(Span::Below(bench.key(odd)))).await;
        assert_eq!(keys(&below), [bench.key(&format!("{odd}/{odd}")).to_string()]);
    }
    for key in &written {
        bench.delete(key).await;
        reader.expect_delete(key).await;
    }
    assert!(bench.list().await.kvs.is_empty());
}

/// On v2, listings and watches of a directory leave out names that begin with `_`. A request with
/// the full name still works.
pub(super) async fn hidden_name_is_a_key(bench: &Bench<'_>) {
    let hidden = [bench.key("_hidden"), bench.key("_dir/x"), bench.key("dir/_x")];
    let visible = bench.key("visible");
    let mut reader = bench.watch_all().await;
    for key in &hidden {
        let revision = bench.put(key, "v").await;
        let kv = bench.found(key).await;
        assert_eq!((kv.value.as_ref(), kv.modified), (&b"v"[..], revision));
        if !bench.capabilities().directories {
            reader.expect_put(revision, key, "v").await;
        }
    }
    let revision = bench.put(&visible, "v").await;
    reader.expect_put(revision, &visible, "v").await;
    let expected = if bench.capabilities().directories { vec![&visible] } else { vec![&hidden[1], &hidden[0], &hidden[2], &visible] };
    assert_eq!(keys(&bench.list().await), expected.iter().map(ToString::to_string).collect::<Vec<_>>());
    let inside = bench.range(Range::of(Span::Below(bench.key("_dir")))).await;
    assert_eq!(keys(&inside), [hidden[1].to_string()]);
    for key in &hidden {
        bench.delete(key).await;
        assert_eq!(bench.get(key).await, None);
    }
}

pub(super) async fn long_key_works_or_is_refused(bench: &Bench<'_>) {
    let deep = vec!["d"; 300].join("/");
    for path in ["n".repeat(500), "n".repeat(2_000), "ü".repeat(1_000), "n".repeat(5_000), "n".repeat(100_000), deep] {
        let key = bench.key(&path);
        let put = Txn { then: vec![Op::put(&key, "v".into())], ..Txn::default() };
        match bench.store().commit(put).await {
            Ok(_) => {
                assert_eq!(bench.value(&key).await, "v");
                assert_eq!(keys(&bench.list().await), [key.to_string()]);
                bench.delete(&key).await;
            }
            Err(error) => {
                let odd = path.len() > 1_000 || key.segments().count() > 32;
                assert!(odd, "a key of {} bytes is refused: {error:?}", key.as_str().len());
                assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::InvalidKey, false), "{error:?}");
                bench.range_refused(Range::of(Span::Key(key)), ErrorKind::InvalidKey).await;
                assert!(bench.list().await.kvs.is_empty());
            }
        }
    }
}

pub(super) async fn map_keys_cannot_escape_their_segment(bench: &Bench<'_>) {
    let data = ["..", ".", "", "/", "../admin", "a/b", "/etc", "\0", "\n", "_hidden", "%", "%2F", "a//b"];
    let map = bench.key("map");
    // Handles escape a leading `_` where the store hides such names.
    let child = |name: &str| if bench.capabilities().directories { map.hidden_child(name) } else { map.child(name) };
    for name in data {
        bench.put(&child(name), name).await;
    }
    let mut expected: Vec<String> = data.iter().map(|name| child(name).to_string()).collect();
    expected.sort_unstable();
    assert_eq!(keys(&bench.list().await), expected, "all of them are keys of the map, and there are no others");
    for name in data {
        assert_eq!(bench.value(&child(name)).await, name);
    }
}

/// Keys of queues and of other clients are not always paths. The case does nothing on stores whose
/// keys are always paths (v2).
pub(super) async fn non_path_keys_are_kept_byte_for_byte(bench: &Bench<'_>) {
    if bench.capabilities().directories {
        return;
    }
    let dir = bench.dir().as_str();
    // All names are below the directory. Some begin with a second slash.
    let names = [&b"/x"[..], b"//x", b"x", b"x/", b"x//y", b" ", "ü".as_bytes(), b"\0", b"\xff\xfe"];
    let stored = |name: &[u8]| Key::stored(&[dir.as_bytes(), b"/", name].concat());
    for name in names {
        bench.put(&stored(name), "1").await;
        assert_eq!(bench.value(&stored(name)).await, "1", "{name:?}");
    }
    let below = async |directory: Key| {
        let mut found: Vec<_> = bench.range(Range::of(Span::Below(directory))).await.kvs.into_iter().map(|kv| kv.key.to_vec()).collect();
        found.sort();
        found
    };
    let listed = |names: &[&[u8]]| {
        let mut keys: Vec<_> = names.iter().map(|name| stored(name).as_bytes().to_vec()).collect();
        keys.sort();
        keys
    };
    assert_eq!(below(bench.dir().clone()).await, listed(&names));
    assert_eq!(below(stored(b"")).await, listed(&[b"/x", b"//x"]), "below a directory that ends with a slash");
    assert_eq!(below(stored(b"x")).await, listed(&[b"x//y"]), "the key `x/` has no name below `x`");
    let odd = stored(b"\xff\xfe");
    let compares = vec![Compare::key(&odd, Condition::Value("1".into())), Compare::key(&stored(b"\xff"), Condition::Absent)];
    let committed = bench.commit(Txn { compares, then: vec![Op::delete(&odd)], ..Txn::default() }).await;
    assert!(committed.succeeded);
    assert_eq!(bench.get(&odd).await, None);
    assert_eq!(below(bench.dir().clone()).await.len(), names.len() - 1);
}
