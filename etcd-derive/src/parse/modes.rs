//! The kind of a field, which mutually exclusive attributes decide, and the combinations of
//! attributes that are refused.

use proc_macro2::Ident;
use quote::quote;
use syn::Type;

use super::{is_secret, limits, only_masks};
use crate::attr::{Attrs, Given, Source};
use crate::ctxt::Ctxt;

/// The kind of a field, which mutually exclusive attributes decide.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Leaf,
    Dir,
    Entries,
    Flatten,
    Skip,
}

const MODES: [(&str, Mode); 4] = [("skip", Mode::Skip), ("flatten", Mode::Flatten), ("dir", Mode::Dir), ("entries", Mode::Entries)];

impl Mode {
    /// Returns the kind that the attributes decide. `#[etcd(...)]` takes precedence over serde. A
    /// field with a form for the whole value (`json`, `with`, `text`) is not flattened, even if
    /// serde flattens it.
    pub(super) fn of(attrs: &Attrs) -> Self {
        let deciding = |source| MODES.into_iter().find(|(name, _)| attrs.from(source, name).is_some()).map(|(_, mode)| mode);
        let has_form = ["json", "with", "text"].iter().any(|form| attrs.has(form));
        deciding(Source::Etcd).or_else(|| deciding(Source::Serde).filter(|mode| *mode != Self::Flatten || !has_form)).unwrap_or(Self::Leaf)
    }

    /// Returns the attribute that decided this kind.
    fn decided_by(self, attrs: &Attrs) -> Option<&Given> {
        let (name, _) = MODES.into_iter().find(|(_, mode)| *mode == self)?;
        attrs.find(name)
    }

    /// Describes the kind in an error about conflicting attributes.
    fn words(self) -> &'static str {
        match self {
            Self::Skip => "a skipped field is not stored",
            Self::Flatten => "the keys of a flattened struct are in this directory",
            Self::Leaf | Self::Dir | Self::Entries => "the field is stored in another way",
        }
    }

    /// Returns the reason why an attribute of serde cannot be applied to a field of this kind.
    /// Returns `None` if it can be applied or may be ignored.
    fn refuses_of_serde(self, given: &Given) -> Option<&'static str> {
        let name = given.name.to_string();
        match (self, name.as_str()) {
            (Self::Dir | Self::Entries, "alias") => Some("only a field of one key can have an alias: remove this"),
            (Self::Entries, "default") if given.expr().is_some() => Some(
                "a map without keys is empty, so it has no other default: remove this, or store the map in one key with `#[etcd(json)]`",
            ),
            (Self::Entries, "serialize_with" | "deserialize_with") => {
                Some("this makes one value of the whole map, and `entries` stores one key for each value: remove one of them")
            }
            (Self::Flatten, "serialize_with" | "deserialize_with") => {
                Some("this makes one value of the whole struct, and `flatten` stores its keys: remove one of them, or add `#[etcd(json)]`")
            }
            _ => None,
        }
    }

    /// Returns the reason why an attribute is not allowed on a field of this kind, or `None` if it
    /// is allowed.
    fn refuses(self, name: &str) -> Option<&'static str> {
        match (self, name) {
            (Self::Skip, "skip") | (Self::Flatten, "flatten") | (Self::Dir, "dir") | (Self::Entries, "entries") => None,
            (Self::Leaf, _) | (Self::Dir, "rename" | "default") | (Self::Entries, "rename" | "secret" | "allow_debug") => None,
            (Self::Entries, "json" | "with" | "text" | "validate" | "range" | "length" | "one_of") => None,
            (Self::Skip, _) => Some("`skip` leaves the field out: remove this, or `skip`"),
            (Self::Flatten, "rename" | "alias") => {
                Some("`flatten` puts the keys of the field's struct next to those of this struct, so there is no name to set: remove this")
            }
            (Self::Flatten, "validate") => Some("put `#[etcd(validate = ...)]` on the flattened struct"),
            (Self::Flatten, "default") => Some("put `#[etcd(default)]` on the fields of the flattened struct"),
            (Self::Flatten, "secret") => Some("put `#[etcd(secret)]` on the fields of the flattened struct"),
            (Self::Flatten, _) => Some("`flatten` is for a struct of keys: remove this, or `flatten`"),
            (Self::Dir, "json" | "with" | "text") => {
                Some("`dir` stores one key per field, this stores the whole struct in one key: remove one of them")
            }
            (Self::Dir, "entries") => Some("`dir` is for a map of structs, `entries` for a map of values: remove one of them"),
            (Self::Dir, "validate") => Some("put `#[etcd(validate = ...)]` on the nested struct"),
            (Self::Dir, "secret") => Some("put `#[etcd(secret)]` on the fields of the nested struct"),
            (Self::Entries, "default") => Some("a map without keys is empty and needs no default: remove this"),
            (Self::Dir | Self::Entries, "alias") => Some("only a field of one key can have an alias: remove this"),
            (Self::Dir | Self::Entries, _) => Some("this has no meaning here: remove it"),
        }
    }
}

pub(super) fn refuse_what_does_not_go(ctxt: &Ctxt, attrs: &Attrs, mode: Mode, ty: &Type) {
    let of_serde = |name| attrs.from(Source::Serde, name);
    let is_masked = only_masks(ty, of_serde("serialize_with"), of_serde("deserialize_with"));
    for given @ Given { name, source, .. } in attrs.iter() {
        match (source, mode.decided_by(attrs)) {
            (Source::Etcd, Some(by)) if by.source == Source::Serde => {
                if mode.refuses(&name.to_string()).is_some() {
                    let by = &by.name;
                    let message =
                        format_args!("serde's `{by}` and `{name}` exclude each other, since {}: remove one of them", mode.words());
                    ctxt.error(both(name, by), message);
                }
            }
            (Source::Etcd, _) => {
                if let Some(reason) = mode.refuses(&name.to_string()) {
                    ctxt.error(name, reason);
                }
            }
            (Source::Serde, _) if is_masked && name == "serialize_with" => {}
            (Source::Serde, _) => {
                if let Some(reason) = mode.refuses_of_serde(given) {
                    ctxt.error(name, reason);
                }
            }
        }
    }
    if let (Mode::Leaf | Mode::Entries, true, Some(with)) = (mode, attrs.has("json"), attrs.find("with")) {
        ctxt.error(&with.name, "a value has one stored form: remove `with`, or `json`");
    }
    limits::refuse_what_does_not_go(ctxt, attrs, mode == Mode::Leaf || mode == Mode::Entries);
    refuse_one_direction(ctxt, attrs, mode, ty);
}

/// Refuses a field that serde only reads or only writes. A key is written and read, so the user
/// must decide what happens to such a field. A `Secret` that serde does not write is accepted,
/// since it has no `Serialize`.
fn refuse_one_direction(ctxt: &Ctxt, attrs: &Attrs, mode: Mode, ty: &Type) {
    let is_decided = mode == Mode::Skip || attrs.iter().any(|given| given.source == Source::Etcd);
    let one = |name| attrs.from(Source::Serde, name).filter(|_| !is_decided);
    if let Some(given) = one("skip_serializing").filter(|_| !is_secret(ty)) {
        ctxt.error(
            &given.name,
            "serde reads this field and never writes it, and a key that a write leaves out would be deleted by it: leave the field out with \
             `#[etcd(skip)]`, or store it with `#[etcd(rename = \"segment\")]`",
        );
    }
    if let Some(given) = one("skip_deserializing") {
        ctxt.error(
            &given.name,
            "serde writes this field and never reads it, and a key that is not read says nothing: leave the field out with `#[etcd(skip)]`, or store \
             it with `#[etcd(rename = \"segment\")]`",
        );
    }
}

/// Returns tokens that span both attributes, so that one error marks both.
fn both(one: &Ident, other: &Ident) -> proc_macro2::TokenStream {
    quote!(#one #other)
}
