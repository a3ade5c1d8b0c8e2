//! Tests of encoding, decoding and checking a struct with every kind of field.

use std::collections::BTreeMap;

use super::*;
use crate::EtcdSchema;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(crate = crate, validate = in_order)]
struct App {
    #[etcd(validate = even)]
    low: u8,
    #[etcd(alias = "old_high", validate = even, default = 3)]
    high: u8,
    #[etcd(validate = even)]
    maybe: Option<u8>,
    #[etcd(dir)]
    inner: Inner,
    #[etcd(flatten)]
    beside: Beside,
    #[etcd(dir)]
    inners: BTreeMap<String, Inner>,
    #[etcd(entries, validate = even)]
    each: BTreeMap<String, u8>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(crate = crate, validate = not_ten)]
struct Inner {
    #[etcd(validate = even)]
    size: u8,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(crate = crate, validate = says_all)]
struct Beside {
    #[etcd(secret, allow_debug, validate = even)]
    pin: u8,
}

fn even(value: &u8) -> Result<(), String> {
    if value.is_multiple_of(2) { Ok(()) } else { Err(format!("{value} is odd")) }
}

fn in_order(app: &App) -> Result<(), String> {
    if app.low <= app.high { Ok(()) } else { Err(format!("{} is above {}", app.low, app.high)) }
}

fn not_ten(inner: &Inner) -> Result<(), &'static str> {
    if inner.size == 10 { Err("ten") } else { Ok(()) }
}

fn says_all(beside: &Beside) -> Result<(), String> {
    if beside.pin == 77 { Err(format!("{beside:?}")) } else { Ok(()) }
}

fn encode<S: Schema>(directory: &Key, value: &S) -> Result<Encoded> {
    encode_over(directory, None, value, false)
}

fn good() -> App {
    App {
        low: 2,
        high: 4,
        maybe: None,
        inner: Inner { size: 2 },
        beside: Beside { pin: 2 },
        inners: BTreeMap::from([("a/b".to_owned(), Inner { size: 2 })]),
        each: BTreeMap::from([("x".to_owned(), 2)]),
    }
}

fn bad() -> App {
    App {
        low: 7,
        high: 5,
        maybe: Some(1),
        inner: Inner { size: 10 },
        beside: Beside { pin: 77 },
        inners: BTreeMap::from([("a/b".to_owned(), Inner { size: 3 }), ("c".to_owned(), Inner { size: 10 })]),
        each: BTreeMap::from([("_".to_owned(), 9), ("x".to_owned(), 2)]),
    }
}

const MASK: &str = "*** (a secret: the reason is not shown)";
const MASK_OF_STRUCT: &str = "*** (the struct has a secret in it: the reason is not shown)";

/// The problems of [`bad`]. The problems of a struct's fields come before the problem of the struct
/// as a whole.
const WRONG: [(&str, &str); 10] = [
    ("/app/low", "7 is odd"),
    ("/app/high", "5 is odd"),
    ("/app/maybe", "1 is odd"),
    ("/app/inner", "ten"),
    ("/app/pin", MASK),
    ("/app", MASK_OF_STRUCT),
    ("/app/inners/a%2Fb/size", "3 is odd"),
    ("/app/inners/c", "ten"),
    ("/app/each/_", "9 is odd"),
    ("/app", MASK_OF_STRUCT),
];

fn app() -> Key {
    Key::parse("/app").unwrap()
}

fn seen(problems: &[Problem]) -> Vec<(&str, &str)> {
    assert!(problems.iter().all(|problem| problem.kind == ProblemKind::Rejected));
    problems.iter().map(|problem| (problem.key.as_str(), problem.reason.as_str())).collect()
}

#[test]
fn encode_runs_every_validation() {
    assert!(encode(&app(), &good()).is_ok());
    let error = encode(&app(), &bad()).unwrap_err();
    assert_eq!(seen(error.problems()), WRONG);
    assert!(error.problems().iter().all(|problem| problem.revision.is_none()));
    assert!(encode_unchecked(&app(), &bad()).is_ok());
}

#[test]
fn problems_at_root_have_root_keys() {
    let error = encode(&Key::root(), &Inner { size: 10 }).unwrap_err();
    assert_eq!(seen(error.problems()), [("/", "ten")]);
    let error = encode(&Key::root(), &Inner { size: 5 }).unwrap_err();
    assert_eq!(seen(error.problems()), [("/size", "5 is odd")]);
}

#[test]
fn single_value_is_validated_at_its_key() {
    let codec = Codec::<u8>::value().validated(|value| even(value).map_err(ValueError::new));
    assert_eq!(validate_value(&app(), &2, &codec), None);
    assert_eq!(seen(validate_value(&app(), &77, &codec).as_slice()), [("/app", "77 is odd")]);
    assert_eq!(seen(validate_value(&app(), &77, &codec.secret()).as_slice()), [("/app", MASK)]);
}

fn stored(pairs: &[(&str, &'static str)]) -> Tree {
    let entry = |(at, &(key, value)): (usize, &(&str, &'static str))| {
        let revision = Revision::new(at as u64 + 1);
        let kv = KeyValue {
            key: key.to_owned().into(),
            value: value.into(),
            created: revision,
            modified: revision,
            version: None,
            lease: None,
            ttl: None,
        };
        (key.to_owned(), Stored::from(kv))
    };
    pairs.iter().enumerate().map(entry).collect()
}

/// Checks a tree and returns kind, key, reason and revision of each problem.
fn checked(pairs: &[(&str, &'static str)]) -> Vec<String> {
    let problems = check(
        &app(),
        &stored(pairs),
        |relative| App::TABLE.owns(relative),
        |relative| App::TABLE.removable_around(relative),
        |relative| App::TABLE.enums_around(relative, 0, true),
        |decoder| decoder.whole::<App>(),
    );
    problems.iter().map(|problem| format!("{:?} {problem}", problem.kind)).collect()
}

#[test]
fn valid_value_has_no_problems() {
    let encoded = encode(&app(), &good()).unwrap();
    let pairs: Vec<_> = encoded.iter().map(|(key, value)| (key.as_str(), &*String::from_utf8(value.to_vec()).unwrap().leak())).collect();
    assert_eq!(checked(&pairs), [""; 0]);
}

#[tokio::test]
async fn check_reports_problems_that_a_write_refuses() {
    let encoded = encode_unchecked(&app(), &bad()).unwrap();
    let pairs: Vec<_> = encoded.iter().map(|(key, value)| (key.as_str(), &*String::from_utf8(value.to_vec()).unwrap().leak())).collect();
    let tree = stored(&pairs);
    let found = check(
        &app(),
        &tree,
        |relative| App::TABLE.owns(relative),
        |relative| App::TABLE.removable_around(relative),
        |relative| App::TABLE.enums_around(relative, 0, true),
        |decoder| decoder.whole::<App>(),
    );
    assert_eq!(seen(&found), WRONG);
    assert_eq!(decode_valid_in_steps::<App>(&app(), &tree, Revision::new(20)).await.unwrap_err().problems(), found);
    assert_eq!(*decode::<App>(&app(), &tree, Revision::new(20)).unwrap(), bad(), "reading validates nothing");
    for problem in &found {
        let own = app().below(problem.key.as_str().as_bytes()).and_then(|relative| tree.get(relative));
        // The problem of a struct has the newest revision of the struct's keys.
        let expected = match (own, problem.key.as_str()) {
            (Some(stored), _) => stored.modified,
            (None, "/app/inner") => tree["inner/size"].modified,
            (None, "/app/inners/c") => tree["inners/c/size"].modified,
            (None, _) if problem == &found[5] => tree["pin"].modified,
            (None, _) => tree.values().map(|stored| stored.modified).max().unwrap(),
        };
        assert_eq!(problem.revision, Some(expected), "{problem}");
    }
}

#[test]
fn check_reports_all_problems_at_once() {
    let found = checked(&[
        ("each/50%", "2"),
        ("each/_hidden", "2"),
        ("each/deeper/x", "2"),
        ("each/x", "3"),
        ("hihg", "4"),
        ("inner/size", "ten"),
        ("inners/%2f/size", "2"),
        ("inners/a/sise", "2"),
        ("inners/b/size", "10"),
        ("low", "4"),
        ("old_high", "5"),
        ("pin", "hunter2"),
        ("_locks/x", "2"),
    ]);
    let expected = [
        "Rejected /app/old_high: 5 is odd (revision 11)",
        "Undecodable /app/inner/size: not an integer in 0 … 255: invalid digit found in string (revision 6)",
        "Undecodable /app/pin: *** (a secret: the reason is not shown) (revision 12)",
        "ForeignKey /app/inners/%2f: the key's name is not escaped as this library does it: write `%2F` if \"/\" is meant, or `%252f` for the text `%2f`",
        "Rejected /app/inners/b: ten (revision 9)",
        "ForeignKey /app/each/50%: the key's name is not escaped as this library does it: write `50%25` (revision 1)",
        "Rejected /app/each/x: 3 is odd (revision 4)",
        "Unknown /app/_locks/x: not a key of the schema (revision 13)",
        "Unknown /app/each/deeper/x: not a key of the schema (revision 3)",
        "Unknown /app/hihg: not a key of the schema (revision 5)",
        "Unknown /app/inners/a/sise: not a key of the schema (revision 8)",
    ];
    assert_eq!(found, expected);
}

#[test]
fn empty_directory_reports_missing_fields_and_bad_default() {
    let expected = [
        "Missing /app/low: missing (unsigned integer)",
        "Rejected /app/high: 3 is odd",
        "Missing /app/inner/size: missing (unsigned integer)",
        "Missing /app/pin: missing (unsigned integer)",
    ];
    assert_eq!(checked(&[]), expected);
}

#[test]
fn check_ignores_unread_alias() {
    let well = [("low", "2"), ("high", "4"), ("inner/size", "2"), ("pin", "2")];
    assert_eq!(checked(&well), [""; 0]);
    let alias = |value| [&well[..], &[("old_high", value)]].concat();
    assert_eq!(checked(&alias("bad")), [""; 0]);
}

#[test]
fn table_marks_secret_keys() {
    #[derive(EtcdSchema)]
    #[etcd(crate = crate)]
    struct Outer {
        #[etcd(flatten)]
        app: App,
        #[etcd(secret, alias = "old_token")]
        token: String,
        #[etcd(dir)]
        login: Beside,
        #[etcd(dir)]
        logins: BTreeMap<String, Beside>,
        #[etcd(entries, secret)]
        keys: BTreeMap<String, u8>,
    }
    let secret = ["pin", "token", "old_token", "login/pin", "logins/x/pin", "keys/x"];
    let open = ["low", "old_high", "inner/size", "inners/x/size", "each/pin", "login", "keys", "pin/x", "other/pin", "logins/pin"];
    for key in secret {
        assert!(Outer::TABLE.owns(key) && Outer::TABLE.is_secret(key), "{key}");
    }
    for key in open {
        assert!(!Outer::TABLE.is_secret(key), "{key}");
    }
}

/// A struct with more adjacent leaves than one tuple holds.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(crate = crate, change(PartialEq))]
struct Long {
    a: u8,
    b: u16,
    c: u32,
    d: Option<u64>,
    e: String,
    f: i8,
    #[etcd(default = 6)]
    g: i16,
    h: i32,
    i: i64,
    j: bool,
    k: f32,
    l: f64,
    m: char,
    n: Option<String>,
    #[etcd(entries)]
    o: BTreeMap<String, u8>,
    p: u8,
}

#[test]
fn fields_beyond_tuple_limit_keep_their_order() {
    let directory = Key::parse("/long").unwrap();
    let long = Long {
        a: 0,
        b: 1,
        c: 2,
        d: Some(3),
        e: "4".to_owned(),
        f: 5,
        g: 7,
        h: 8,
        i: 9,
        j: true,
        k: 10.5,
        l: 11.5,
        m: 'm',
        n: None,
        o: BTreeMap::from([("x".to_owned(), 13)]),
        p: 14,
    };
    let encoded = encode(&directory, &long).unwrap();
    assert_eq!(encoded.keys().map(String::as_str).collect::<String>(), "abcdefghijklmo/xp");
    assert_eq!((&encoded["l"][..], &encoded["m"][..]), (&b"11.5"[..], &b"m"[..]));
    let stored =
        |value: Bytes| Stored { value, created: Revision::default(), modified: Revision::default(), version: None, lease: None, ttl: None };
    let mut tree: Tree = encoded.into_iter().map(|(relative, value)| (relative, stored(value))).collect();
    let revision = Revision::default();
    assert_eq!(*decode::<Long>(&directory, &tree, revision).unwrap(), long);

    // Every problem is reported, in the order of the struct, on both sides of the tuple limit.
    let before = tree.clone();
    for relative in ["p", "m", "l", "a"] {
        tree.insert(relative.to_owned(), stored(Bytes::from_static(b"no")));
    }
    let error = decode::<Long>(&directory, &tree, revision).unwrap_err();
    let keys: Vec<_> = error.problems().iter().map(|problem| problem.key.to_string()).collect();
    assert_eq!(keys, ["/long/a", "/long/l", "/long/m", "/long/p"]);

    // Changes are also reported in the order of the struct.
    let mut tree = before;
    let changed: ChangedKeys = ["a", "l", "m", "p"].into_iter().map(|relative| (relative.to_owned(), tree.remove(relative))).collect();
    let (mut problems, mut out) = (Vec::new(), Vec::new());
    Delta::new(&directory, &tree, &changed, revision, false, true, &mut problems).whole::<Long, LongChange>(|change| change, &mut out);
    assert!(matches!(&out[..], [LongChange::A(_), LongChange::L(_), LongChange::M(_), LongChange::P(_)]), "{out:?}");
}

/// A struct of a typical size that a service reads at its start.
#[derive(EtcdSchema, Clone, Debug, PartialEq, Default)]
#[etcd(crate = crate)]
struct Twenty {
    a0: u32,
    a1: u32,
    a2: u32,
    a3: u32,
    a4: u32,
    a5: u32,
    a6: u32,
    a7: u32,
    a8: u32,
    a9: u32,
    b0: String,
    b1: String,
    b2: String,
    b3: String,
    b4: String,
    b5: String,
    b6: String,
    b7: String,
    b8: String,
    b9: String,
}

/// The limits are the counts of rustc 1.95 (40 and 32) plus four, as a reserve for other versions
/// of the standard library. One more allocation per field would exceed them.
#[test]
fn reading_and_writing_allocate_only_results() {
    let directory = Key::parse("/twenty").unwrap();
    let name = || "thirty-one bytes of a text, here".to_owned();
    let value = Twenty { a0: 1_000, b0: name(), b1: name(), b2: name(), b3: name(), b4: name(), b5: name(), ..Twenty::default() };
    let mut encoded = Encoded::new();
    let counted = allocation_counter::measure(|| encoded = encode(&directory, &value).unwrap());
    // A write allocates the key and the bytes of each field, and the nodes of the map.
    assert!(counted.count_total <= ENCODE_ALLOCATIONS, "encode: {}", counted.count_total);

    let tree: Tree = encoded
        .into_iter()
        .map(|(relative, value)| {
            let revision = Revision::default();
            (relative, Stored { value, created: revision, modified: revision, version: None, lease: None, ttl: None })
        })
        .collect();
    let mut read = None;
    let counted = allocation_counter::measure(|| read = decode::<Twenty>(&directory, &tree, Revision::default()).ok());
    assert_eq!(read.as_deref(), Some(&value));
    // A read allocates the key of each field in the basis, and the text of each `String`.
    assert!(counted.count_total <= DECODE_ALLOCATIONS, "decode: {}", counted.count_total);
}

const ENCODE_ALLOCATIONS: u64 = 44;
const DECODE_ALLOCATIONS: u64 = 36;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(crate = crate)]
struct Deep {
    low: u8,
    #[etcd(entries)]
    each: BTreeMap<String, u8>,
    #[etcd(dir)]
    maybe: Option<Nested>,
    #[etcd(dir)]
    many: BTreeMap<u8, Nested>,
    #[etcd(flatten)]
    beside: Nested,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(crate = crate)]
struct Nested {
    #[etcd(entries)]
    rows: HashMap<u8, u8>,
    #[etcd(dir)]
    inners: BTreeMap<u8, Inner>,
    note: Option<u8>,
}

fn relative() -> impl proptest::strategy::Strategy<Value = String> {
    let nested = "(rows/[0-9]{1,2}|inners/[0-9]/size|note|inners/[0-9]/other)";
    proptest::string::string_regex(&format!("(low|each/[a-c_%]{{1,2}}|maybe/{nested}|many/[0-3x]/{nested}|{nested}|else)")).unwrap()
}

proptest::proptest! {
    #[test]
    fn decoding_with_yields_matches_decoding_at_once(
        keys in proptest::collection::btree_map(relative(), ("[0-9]{1,2}|x", 1..30_u64, 0..3_i64), 0..60),
    ) {
        let key_value = |(relative, (value, at, lease)): (&String, &(String, u64, i64))| {
            let at = Revision::new(*at);
            let lease = LeaseId::from_signed(*lease);
            KeyValue { key: format!("/app/{relative}").into(), value: value.clone().into(), created: at, modified: at, version: None, lease, ttl: None }
        };
        let kvs: Vec<_> = keys.iter().map(key_value).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let known = tree(&app(), kvs.clone());
        proptest::prop_assert_eq!(&runtime.block_on(tree_in_steps(&app(), kvs.clone())), &known);
        proptest::prop_assert_eq!(&runtime.block_on(kept_tree_in_steps(&app(), kvs, |_| {})), &known);
        for validation in [Validation::Run, Validation::Skip] {
            let at = Revision::new(40);
            let at_once = decode_with(&app(), &known, at, validation, |decoder| decoder.whole::<Deep>());
            let in_steps = runtime.block_on(read_in_steps(&app(), &known, at, validation, |decoder| decoder.whole::<Deep>()));
            match (at_once, in_steps) {
                (Ok(at_once), Ok(in_steps)) => {
                    proptest::prop_assert_eq!(&*at_once, &*in_steps);
                    proptest::prop_assert_eq!(format!("{:?}", at_once.versions), format!("{:?}", in_steps.versions));
                }
                (Err(at_once), Err(in_steps)) => proptest::prop_assert_eq!(at_once.problems(), in_steps.problems()),
                (at_once, in_steps) => proptest::prop_assert!(false, "{at_once:?} and {in_steps:?}"),
            }
        }
    }
}

#[cfg(feature = "snapshot")]
#[test]
fn needed_secret_is_found_in_enum_variant() {
    #[derive(EtcdSchema, Debug)]
    #[etcd(crate = crate)]
    enum Store {
        Local {
            path: String,
        },
        Remote {
            #[etcd(secret, allow_debug)]
            token: String,
        },
    }

    #[derive(EtcdSchema, Debug)]
    #[etcd(crate = crate)]
    enum Shared {
        Open {
            name: String,
        },
        Closed {
            #[etcd(secret, allow_debug)]
            name: Option<String>,
        },
    }

    let place = |table: &Table| table.needed_secret().map(|secret| secret.place);
    assert_eq!(place(Store::TABLE).as_deref(), Some("token"));
    assert_eq!(place(Shared::TABLE).as_deref(), Some("name"), "the key is left out of a snapshot for all variants");
    assert!(Shared::TABLE.is_secret("name") && !Store::TABLE.is_secret("path"));
    assert!(Store::TABLE.is_present_by("kind") && !Store::TABLE.is_present_by("path"));
}
