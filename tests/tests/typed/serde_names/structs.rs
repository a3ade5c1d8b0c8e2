//! The structs of the tests. For each case of `rename_all` there is a struct that has every shape
//! of a field name and every attribute that changes a name.

use std::collections::BTreeMap;

use super::Draw;

/// The names of fields with an alias, each with its alias.
pub(super) const ALIASES: [(&str, &str); 3] = [("Given-name", "older"), ("besideGiven", "old name"), ("both", "old.one")];

/// A type of which random values can be created.
pub(super) trait Drawn: Sized {
    fn drawn(draw: &mut Draw<'_>) -> Self;
}

impl Drawn for u8 {
    fn drawn(draw: &mut Draw<'_>) -> Self {
        draw.byte()
    }
}

impl Drawn for i64 {
    fn drawn(draw: &mut Draw<'_>) -> Self {
        Self::from(draw.byte()) - 100
    }
}

impl Drawn for bool {
    fn drawn(draw: &mut Draw<'_>) -> Self {
        draw.once_in(2)
    }
}

/// The text is never JSON.
impl Drawn for String {
    fn drawn(draw: &mut Draw<'_>) -> Self {
        format!("text {}", draw.byte())
    }
}

impl<T: Drawn> Drawn for Option<T> {
    fn drawn(draw: &mut Draw<'_>) -> Self {
        draw.once_in(2).then(|| T::drawn(draw))
    }
}

impl<T: Drawn> Drawn for Vec<T> {
    fn drawn(draw: &mut Draw<'_>) -> Self {
        (0..draw.byte() % 3).map(|_| T::drawn(draw)).collect()
    }
}

/// The map has at least one entry, because serde writes an empty map, but a directory without keys
/// does not exist.
impl<T: Drawn> Drawn for BTreeMap<String, T> {
    fn drawn(draw: &mut Draw<'_>) -> Self {
        (0..=draw.byte() % 3).map(|at| (format!("Entry_{at}"), T::drawn(draw))).collect()
    }
}

/// Defines a struct and implements [`Drawn`] for it. The fields after `;` are skipped.
macro_rules! drawn {
    (
        $(#[$attribute:meta])*
        struct $name:ident $(<$($parameter:ident),*>)? {
            $($(#[$of_field:meta])* $field:ident: $ty:ty,)*;
            $($(#[$of_skipped:meta])* $skipped:ident: $skipped_ty:ty,)*
        }
    ) => {
        // serde requires `Default`, for a struct in a map that is missing.
        #[derive(EtcdSchema, Serialize, Deserialize, Default, Debug, PartialEq)]
        $(#[$attribute])*
        #[allow(non_snake_case, reason = "serde takes every name as it is")]
        pub(in super::super) struct $name $(<$($parameter),*>)? {
            $($(#[$of_field])* $field: $ty,)*
            $($(#[$of_skipped])* $skipped: $skipped_ty,)*
        }

        impl $(<$($parameter: Drawn),*>)? Drawn for $name $(<$($parameter),*>)? {
            fn drawn(draw: &mut Draw<'_>) -> Self {
                Self { $($field: Drawn::drawn(draw),)* $($skipped: Default::default(),)* }
            }
        }
    };
}

macro_rules! case {
    ($module:ident $(, $case:literal)?; $level:literal) => {
        pub(super) mod $module {
            use std::collections::BTreeMap;

            use etcd_typed::{EtcdSchema, EtcdValue};
            use serde::{Deserialize, Serialize};

            use super::{Draw, Drawn};

            drawn! {
                $(#[serde(rename_all = $case)])?
                struct Outer<B, N> {
                    one: u8,
                    two_words: String,
                    x: bool,
                    a_b: u8,
                    a_1: u8,
                    v2: u8,
                    with_2_digits_3x: u8,
                    p99_ms: i64,
                    number_1_2: u8,
                    http_url: String,
                    id: u8,
                    mixedCase: u8,
                    parseHTTPUrl: u8,
                    SHOUT: u8,
                    SHOUT_LOUD: u8,
                    Pascal: u8,
                    double__underscore: u8,
                    trailing_: u8,
                    größe: u8,
                    r#type: u8,
                    r#match: Option<u8>,
                    r#async_fn: u8,
                    #[serde(skip_serializing_if = "Option::is_none")]
                    left_out_if_none: Option<String>,
                    #[serde(default)]
                    with_default: u8,
                    #[serde(default = "super::seven")]
                    with_given_default: u8,
                    some_list: Vec<i64>,
                    some_level: Option<Level>,
                    #[serde(rename = "Given-name", alias = "older")]
                    renamed: u8,
                    #[serde(rename = "Имя")]
                    renamed_letters: Option<u8>,
                    #[serde(rename = "a.b c")]
                    renamed_marks: u8,
                    #[serde(rename(serialize = "both ways", deserialize = "both ways"))]
                    renamed_both_ways: u8,
                    #[serde(flatten)]
                    beside: B,
                    #[serde(flatten, rename = "ignored")]
                    twice: Twice,
                    #[etcd(dir)]
                    nested_part: N,
                    #[serde(rename = "Below")]
                    #[etcd(dir)]
                    renamed_part: N,
                    #[etcd(dir)]
                    optional_part: Option<N>,
                    #[serde(default)]
                    #[etcd(dir)]
                    parts_by_name: BTreeMap<String, N>,
                    #[serde(default)]
                    #[etcd(entries)]
                    numbers_by_name: BTreeMap<String, u8>,
                    #[serde(default, rename = "By-name")]
                    #[etcd(entries)]
                    renamed_map: BTreeMap<String, String>,
                    ;
                    #[serde(skip)]
                    skipped: u8,
                    #[serde(skip, rename = "two_words")]
                    skipped_name: u8,
                    #[serde(skip_serializing, skip_deserializing)]
                    skipped_both_ways: Option<u8>,
                }
            }

            drawn! {
                $(#[serde(rename_all = $case)])?
                struct Beside {
                    in_beside: Option<u8>,
                    y: u8,
                    beside_4_you: String,
                    r#loop: bool,
                    besideHTTP: Option<u8>,
                    #[serde(rename = "besideGiven", alias = "old name")]
                    renamed: u8,
                    ;
                    #[serde(skip)]
                    left_out: Option<u8>,
                }
            }

            drawn! {
                $(#[serde(rename_all(serialize = $case, deserialize = $case))])?
                struct Twice {
                    #[serde(flatten)]
                    deeper: Deeper,
                    in_twice: u8,
                    ;
                }
            }

            drawn! {
                $(#[serde(rename_all = $case)])?
                struct Deeper {
                    deeper_still_here: Option<u8>,
                    #[serde(rename = "Deeper_Given")]
                    renamed: u8,
                    ;
                }
            }

            drawn! {
                $(#[serde(rename_all = $case)])?
                struct Nested {
                    in_nested: u8,
                    z: Option<u8>,
                    r#in: Option<String>,
                    tls_v1_3: bool,
                    #[serde(rename = "both", alias = "old.one")]
                    renamed: Option<u8>,
                    #[serde(flatten)]
                    deeper: Deeper,
                    ;
                    #[serde(skip)]
                    left_out: String,
                }
            }

            #[derive(EtcdValue, Serialize, Deserialize, Debug, PartialEq)]
            #[serde(rename_all = $level)]
            pub(in super::super) enum Level {
                Low,
                VeryHigh,
                HTTPOnly,
                V2,
                A,
                #[serde(rename = "Given level")]
                Renamed,
            }

            impl Drawn for Level {
                fn drawn(draw: &mut Draw<'_>) -> Self {
                    match draw.byte() % 6 {
                        0 => Self::Low,
                        1 => Self::VeryHigh,
                        2 => Self::HTTPOnly,
                        3 => Self::V2,
                        4 => Self::A,
                        _ => Self::Renamed,
                    }
                }
            }
        }
    };
}

case!(lower, "lowercase"; "lowercase");
case!(upper, "UPPERCASE"; "UPPERCASE");
case!(pascal, "PascalCase"; "PascalCase");
case!(camel, "camelCase"; "camelCase");
case!(snake, "snake_case"; "snake_case");
case!(screaming_snake, "SCREAMING_SNAKE_CASE"; "SCREAMING_SNAKE_CASE");
case!(kebab, "kebab-case"; "kebab-case");
case!(screaming_kebab, "SCREAMING-KEBAB-CASE"; "SCREAMING-KEBAB-CASE");
// Without `rename_all`, this library stores a variant in `snake_case`, while serde writes its Rust
// name.
case!(no_case; "snake_case");

/// The default of a field.
fn seven() -> u8 {
    7
}
