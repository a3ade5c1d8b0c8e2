//! The walks over a struct with every kind of field.

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
    #[etcd(secret, validate = even)]
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

/// What is wrong with [`bad`]; of each what is in a field first, and what of the whole after it.
const WRONG: [(&str, &str); 10] = [
    ("/app/low", "7 is odd"),
    ("/app/high", "5 is odd"),
    ("/app/maybe", "1 is odd"),
    ("/app/inner", "ten"),
    ("/app/pin", MASK),
    ("/app", MASK_OF_STRUCT),
    ("/app/inners/a%2Fb/size", "3 is odd"),
    ("/app/inners/c", "ten"),
    ("/app/each/%5F", "9 is odd"),
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
fn every_validation_of_a_value_is_run() {
    assert_eq!(validate(&app(), &good()), []);
    let problems = validate(&app(), &bad());
    assert_eq!(seen(&problems), WRONG);
    assert!(problems.iter().all(|problem| problem.revision.is_none()));
    // A write of the same is refused for the same.
    assert_eq!(encode(&app(), &bad()).unwrap_err().problems(), problems);
    assert!(encode_unchecked(&app(), &bad()).is_ok());
}

#[test]
fn the_root_is_a_directory_too() {
    let problems = validate(&Key::root(), &Inner { size: 10 });
    assert_eq!(seen(&problems), [("/", "ten")]);
    let problems = validate(&Key::root(), &Inner { size: 5 });
    assert_eq!(seen(&problems), [("/size", "5 is odd")]);
}

#[test]
fn one_value_is_validated_at_its_own_key() {
    let codec = Codec::<u8>::value().validated(|value| even(value).map_err(ValueError::new));
    assert_eq!(validate_value(&app(), &2, &codec), None);
    assert_eq!(seen(validate_value(&app(), &77, &codec).as_slice()), [("/app", "77 is odd")]);
    assert_eq!(seen(validate_value(&app(), &77, &codec.secret()).as_slice()), [("/app", MASK)]);
    let entries = validate_with(&app(), |encoder| encoder.all_entries(&bad().each, codec));
    assert_eq!(seen(&entries), [("/app/%5F", "9 is odd")]);
    let dirs = validate_with(&app(), |encoder| encoder.all_dirs(&bad().inners));
    assert_eq!(seen(&dirs), [("/app/a%2Fb/size", "3 is odd"), ("/app/c", "ten")]);
}
