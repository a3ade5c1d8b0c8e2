//! Converts a `DeriveInput` and its attributes to the model, one type and one field at a time.
//! Rules that cover several fields are in `check.rs`.

mod limits;
mod prefix;
mod types;
mod value;

use proc_macro2::Ident;
use quote::format_ident;
use syn::ext::IdentExt;
use syn::{Attribute, Data, DeriveInput, Expr, ExprLit, Fields, Lit, Meta, Type, parse_quote};

use crate::attr::{Attrs, Given, Place};
use crate::case::{self, Case};
use crate::ctxt::Ctxt;
use crate::model::{Codec, Field, Form, Item, Kind, Leaf, Map, Presence, Schema, Text};

pub(crate) use types::{is_secret, source};
pub(crate) use value::value;

/// Parses the struct that derives `EtcdSchema`. Always returns a model, since the fallback for
/// errors needs one.
pub(crate) fn schema(ctxt: &Ctxt, input: &DeriveInput) -> Schema {
    let attrs = Attrs::read(ctxt, &input.attrs, Place::Struct);
    let case = case(ctxt, &attrs);
    let fields = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => fields.named.iter().filter_map(|it| field(ctxt, it, case, &input.ident)).collect(),
            Fields::Unit => Vec::new(),
            Fields::Unnamed(fields) => {
                ctxt.error(fields, "a schema needs named fields, one key each; for a newtype with one value derive `EtcdValue`");
                Vec::new()
            }
        },
        Data::Enum(data) => {
            ctxt.error(
                data.enum_token,
                "a schema is a struct with named fields; for an enum that is one value derive `EtcdValue`, or put `#[etcd(json)]` on the field",
            );
            Vec::new()
        }
        Data::Union(data) => {
            ctxt.error(data.union_token, "a schema is a struct with named fields");
            Vec::new()
        }
    };
    Schema {
        item: item(ctxt, input, &attrs),
        doc: doc(&input.attrs),
        prefix: attrs.text("prefix").map(|text| prefix::prefix(ctxt, text)),
        validate: attrs.path("validate").cloned(),
        change_derives: attrs.paths("change").to_vec(),
        fields,
    }
}

fn item(ctxt: &Ctxt, input: &DeriveInput, attrs: &Attrs) -> Item {
    for lifetime in input.generics.lifetimes() {
        ctxt.error(lifetime, "stored values are read into owned types: use `String` for `&str`, `Vec<u8>` for `&[u8]`, and no lifetime");
    }
    Item {
        krate: attrs.path("crate").cloned().unwrap_or_else(|| parse_quote!(::etcd_typed)),
        vis: input.vis.clone(),
        ident: input.ident.clone(),
        generics: input.generics.clone(),
    }
}

fn case(ctxt: &Ctxt, attrs: &Attrs) -> Option<Case> {
    let text = attrs.text("rename_all")?;
    let found = Case::ALL.iter().find(|(name, _)| *name == text.value());
    if found.is_none() {
        let names: Vec<_> = Case::ALL.iter().map(|(name, _)| format!("`{name}`")).collect();
        ctxt.error(text, format_args!("one of {} is needed here", names.join(", ")));
    }
    found.map(|(_, case)| *case)
}

/// Parses one field. Returns `None` if the field is too wrong to be used.
fn field(ctxt: &Ctxt, field: &syn::Field, case: Option<Case>, of: &Ident) -> Option<Field> {
    let ident = field.ident.clone()?;
    let attrs = Attrs::read(ctxt, &field.attrs, Place::Field);
    let mode = Mode::of(&attrs);
    refuse_what_does_not_go(ctxt, &attrs, mode);
    let kind = kind(ctxt, &attrs, mode, &field.ty)?;
    if matches!(&kind, Kind::Dir { ty, .. } | Kind::DirMap(Map { value: ty, .. }) | Kind::Flatten(ty) if types::is(ty, of)) {
        ctxt.error(
            &field.ty,
            format_args!("a schema cannot contain itself, since its keys are fixed; `#[etcd(json)]` stores `{of}` as one value"),
        );
        return None;
    }
    let name = ident.unraw().to_string();
    let segment = match (attrs.text("rename"), &kind) {
        (_, Kind::Flatten(_) | Kind::Skip) => Text { text: String::new(), span: ident.span() },
        (Some(rename), _) => segment(ctxt, rename.value(), rename.span(), ""),
        (None, _) => {
            let text = case.map_or_else(|| name.clone(), |case| case.of_field(&name));
            segment(ctxt, text, ident.span(), "; give it one with `#[etcd(rename = \"...\")]`")
        }
    };
    let variant = format_ident!("{}", case::variant_of_field(&name), span = ident.span());
    Some(Field { ty: field.ty.clone(), doc: doc(&field.attrs), variant, segment, kind, ident })
}

/// The kind of a field, chosen by attributes that exclude each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Leaf,
    Dir,
    Entries,
    Flatten,
    Skip,
}

impl Mode {
    fn of(attrs: &Attrs) -> Self {
        let first = [("skip", Self::Skip), ("flatten", Self::Flatten), ("dir", Self::Dir), ("entries", Self::Entries)];
        first.into_iter().find(|(name, _)| attrs.has(name)).map_or(Self::Leaf, |(_, mode)| mode)
    }

    /// Why an attribute is not allowed on a field of this kind. `None` if it is allowed.
    fn refuses(self, name: &str) -> Option<&'static str> {
        match (self, name) {
            (Self::Skip, "skip") | (Self::Flatten, "flatten") | (Self::Dir, "dir") | (Self::Entries, "entries") => None,
            (Self::Leaf, _) | (Self::Dir, "rename") | (Self::Entries, "rename" | "secret" | "allow_debug") => None,
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
            (Self::Dir, "default") => Some("put `#[etcd(default)]` on the fields of the nested struct, or make the field an `Option`"),
            (Self::Dir, "secret") => Some("put `#[etcd(secret)]` on the fields of the nested struct"),
            (Self::Entries, "default") => Some("a map without keys is empty and needs no default: remove this"),
            (Self::Dir | Self::Entries, "alias") => Some("only a field of one key can have an alias: remove this"),
            (Self::Dir | Self::Entries, _) => Some("this has no meaning here: remove it"),
        }
    }
}

fn refuse_what_does_not_go(ctxt: &Ctxt, attrs: &Attrs, mode: Mode) {
    for Given { name, .. } in attrs.iter() {
        if let Some(reason) = mode.refuses(&name.to_string()) {
            ctxt.error(name, reason);
        }
    }
    if let (Mode::Leaf | Mode::Entries, true, Some(with)) = (mode, attrs.has("json"), attrs.find("with")) {
        ctxt.error(&with.name, "a value has one stored form: remove `with`, or `json`");
    }
    limits::refuse_what_does_not_go(ctxt, attrs, mode == Mode::Leaf || mode == Mode::Entries);
}

fn kind(ctxt: &Ctxt, attrs: &Attrs, mode: Mode, ty: &Type) -> Option<Kind> {
    let map = types::map(ty);
    let option = types::option(ty);
    match mode {
        Mode::Skip => Some(Kind::Skip),
        Mode::Flatten => {
            if option.is_some() || map.is_some() {
                ctxt.error(ty, "`flatten` takes a struct; an `Option` or a map needs a directory of its own: `#[etcd(dir)]`");
                return None;
            }
            Some(Kind::Flatten(ty.clone()))
        }
        Mode::Dir => match (map, option) {
            (Some((key, value)), _) => Some(Kind::DirMap(Map { key: key.clone(), value: value.clone() })),
            (None, Some(inner)) if types::map(inner).is_some() => {
                ctxt.error(ty, "a map without keys is empty and is never `None`: write the map without `Option`");
                None
            }
            (None, Some(inner)) => Some(Kind::Dir { ty: inner.clone(), optional: true }),
            (None, None) => Some(Kind::Dir { ty: ty.clone(), optional: false }),
        },
        Mode::Entries => match map {
            Some((key, value)) => Some(Kind::Entries(Map { key: key.clone(), value: value.clone() }, codec(attrs))),
            None => {
                ctxt.error(ty, "`entries` is for a map: `BTreeMap<K, V>` or `HashMap<K, V>`");
                None
            }
        },
        Mode::Leaf => leaf(ctxt, attrs, ty, option, map.is_some()),
    }
}

fn leaf(ctxt: &Ctxt, attrs: &Attrs, ty: &Type, option: Option<&Type>, is_map: bool) -> Option<Kind> {
    let codec = codec(attrs);
    if is_map && matches!(codec.form, Form::Own) {
        ctxt.error(
            ty,
            "choose how the map is stored: `#[etcd(entries)]` for one key per value, `#[etcd(dir)]` for one directory per struct, \
             `#[etcd(json)]` for one key",
        );
        return None;
    }
    let presence = match (option, attrs.find("default"), attrs.expr("default")) {
        (Some(_), Some(default), _) => {
            ctxt.error(&default.name, "an `Option` without key is `None`: remove `default`, or the `Option`");
            Presence::Optional
        }
        (Some(_), None, _) => Presence::Optional,
        (None, Some(_), Some(expr)) => Presence::DefaultOf(Box::new(expr.clone()), source(expr)),
        (None, Some(_), None) => Presence::Default,
        (None, None, _) => Presence::Required,
    };
    let aliases = attrs.texts("alias").map(|alias| segment(ctxt, alias.value(), alias.span(), "")).collect();
    Some(Kind::Leaf(Leaf { ty: option.unwrap_or(ty).clone(), codec, presence, aliases }))
}

fn codec(attrs: &Attrs) -> Codec {
    let form = match attrs.path("with") {
        Some(module) => Form::With(module.clone()),
        None if attrs.has("json") => Form::Json,
        None if attrs.has("text") => Form::Text,
        None => Form::Own,
    };
    Codec {
        form,
        validate: attrs.path("validate").cloned(),
        limits: limits::limits(attrs),
        secret: attrs.has("secret"),
        allow_debug: attrs.has("allow_debug"),
    }
}

/// A segment of a key as it is stored. `otherwise` is appended to errors and says what to do.
fn segment(ctxt: &Ctxt, text: String, span: proc_macro2::Span, otherwise: &str) -> Text {
    let reason = match text.as_str() {
        "" => Some("a segment of a key cannot be empty"),
        "." | ".." => Some("`.` and `..` cannot be segments: servers would use another key"),
        _ if text.contains('/') => Some("this is one segment of a key, without `/`: for a directory nest a struct with `#[etcd(dir)]`"),
        _ if text.starts_with('_') => Some("a segment that starts with `_` is hidden on etcd v2"),
        _ if text.contains('%') => Some("`%` starts an escape in a segment: leave it out"),
        _ if text.chars().any(char::is_control) => Some("a segment cannot contain a control character"),
        _ => None,
    };
    if let Some(reason) = reason {
        ctxt.push(syn::Error::new(span, format_args!("{reason}{otherwise}")));
    }
    Text { text, span }
}

/// The text of a documentation comment.
fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> = lines.map(|line| line.strip_prefix(' ').map(str::to_owned).unwrap_or(line)).collect();
    lines.join("\n").trim().to_owned()
}
