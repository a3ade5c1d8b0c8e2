//! Converts a `DeriveInput` and its attributes to the model, one type and one field at a time.
//! Rules that cover several fields are in `check.rs`.

mod limits;
mod modes;
mod prefix;
mod tagged;
mod types;
mod value;

use proc_macro2::Ident;
use quote::format_ident;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Expr, ExprLit, Fields, Lit, LitStr, Meta, Type, parse_quote};

use crate::attr::{Attrs, Given, Place, Source};
use crate::case::{self, Case};
use crate::ctxt::Ctxt;
use crate::model::{Codec, DirDefault, Field, Form, Item, Kind, Leaf, Map, Module, Presence, Schema, Text, Unknown};

use modes::{Mode, refuse_what_does_not_go};
pub(crate) use types::{is_pointer, is_secret, source};
pub(crate) use value::value;

/// Parses the struct or enum that derives `EtcdSchema`. Always returns a model, since the fallback for
/// errors needs one.
pub(crate) fn schema(ctxt: &Ctxt, input: &DeriveInput) -> Schema {
    let place = if matches!(input.data, Data::Enum(_)) { Place::Enum } else { Place::Struct };
    let attrs = Attrs::read(ctxt, &input.attrs, place);
    let item = item(ctxt, input, &attrs);
    let around = Around { case: case(ctxt, &attrs, "rename_all"), of: &input.ident, default: container_default(&attrs, &input.ident) };
    refuse_other_forms(ctxt, &attrs, &input.data);
    let fields = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => fields.named.iter().filter_map(|it| field(ctxt, it, &around)).collect(),
            Fields::Unit => Vec::new(),
            Fields::Unnamed(fields) => {
                ctxt.error(fields, "a schema needs named fields, one key each; for a newtype with one value derive `EtcdValue`");
                Vec::new()
            }
        },
        Data::Enum(_) => Vec::new(),
        Data::Union(data) => {
            ctxt.error(data.union_token, "a schema is a struct with named fields");
            Vec::new()
        }
    };
    let choice = match &input.data {
        Data::Enum(data) => tagged::choice(ctxt, input, data, &attrs, &item),
        _ => None,
    };
    Schema {
        item,
        doc: doc(&input.attrs),
        prefix: attrs.text("prefix").map(|text| prefix::prefix(ctxt, text)),
        validate: attrs.path("validate").cloned(),
        unknown: match (attrs.has("strict"), attrs.has("deny_unknown_fields")) {
            (true, _) => Unknown::Refused,
            (false, true) => Unknown::Reported,
            (false, false) => Unknown::Ignored,
        },
        has_default: attrs.from(Source::Serde, "default").is_some_and(|given| given.expr().is_none()),
        change_derives: attrs.paths("change").to_vec(),
        fields,
        first: 0,
        choice,
    }
}

/// The facts about a struct that its fields need.
struct Around<'a> {
    case: Option<Case>,
    of: &'a Ident,
    /// An expression for the struct value from which the defaults of the fields are taken, and its
    /// source text.
    default: Option<(Expr, String)>,
}

impl Around<'_> {
    /// Returns the default of a field, if the struct has serde's `default`.
    fn default_of(&self, field: &Ident) -> Option<(Box<Expr>, String)> {
        let (value, text) = self.default.as_ref()?;
        Some((Box::new(parse_quote!(#value.#field)), format!("{text}.{field}")))
    }
}

fn container_default(attrs: &Attrs, of: &Ident) -> Option<(Expr, String)> {
    let given = attrs.from(Source::Serde, "default")?;
    Some(match given.expr() {
        Some(call) => (call.clone(), source(call)),
        None => (parse_quote!(<Self as ::core::default::Default>::default()), format!("{of}::default()")),
    })
}

/// Returns the attribute that makes a tagged or untagged enum.
fn tag(attrs: &Attrs) -> Option<&Ident> {
    ["tag", "untagged", "content"].iter().find_map(|name| Some(&attrs.from(Source::Serde, name)?.name))
}

/// Refuses attributes of serde with which serde would store something else than the struct's
/// fields.
fn refuse_other_forms(ctxt: &Ctxt, attrs: &Attrs, data: &Data) {
    if let (Some(tag), false) = (tag(attrs), matches!(data, Data::Enum(_))) {
        ctxt.error(tag, "the name of a struct is not stored: remove this, or put `#[etcd(json)]` on the fields of this type");
    }
    if let Some(given) = attrs.from(Source::Serde, "transparent") {
        ctxt.error(&given.name, "a transparent struct is one value and has no keys: derive `EtcdValue` for it, or remove this");
    }
    refuse_conversions(ctxt, attrs, |other| {
        format!(
            "the fields that are stored are those of this struct, and serde converts it first: derive `EtcdSchema` for the other type, or put \
             `#[etcd(json)]` on the fields of this type; if the other type is a value, derive `EtcdValue` for this one, with `#[etcd(try_from = {other})]`"
        )
    });
}

/// Refuses attributes of serde that convert the type. `reason` makes the error message from the
/// name of the other type.
fn refuse_conversions(ctxt: &Ctxt, attrs: &Attrs, reason: impl Fn(&str) -> String) {
    let conversion = ["try_from", "from", "into"].iter().find_map(|name| attrs.from(Source::Serde, name));
    if let Some(given) = conversion {
        let other = given.text().map(LitStr::value);
        ctxt.error(&given.name, reason(other.as_deref().unwrap_or("Type")));
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

/// Returns the case that the attribute `name` sets.
fn case(ctxt: &Ctxt, attrs: &Attrs, name: &str) -> Option<Case> {
    let text = attrs.text(name)?;
    let found = Case::ALL.iter().find(|(name, _)| *name == text.value());
    if found.is_none() {
        let names: Vec<_> = Case::ALL.iter().map(|(name, _)| format!("`{name}`")).collect();
        ctxt.error(text, format_args!("one of {} is needed here", names.join(", ")));
    }
    found.map(|(_, case)| *case)
}

/// Parses one field. Returns `None` if its errors make it unusable.
fn field(ctxt: &Ctxt, field: &syn::Field, around: &Around<'_>) -> Option<Field> {
    let of = around.of;
    let ident = field.ident.clone()?;
    let attrs = Attrs::read(ctxt, &field.attrs, Place::Field);
    let mode = Mode::of(&attrs);
    refuse_what_does_not_go(ctxt, &attrs, mode, &field.ty);
    let kind = kind(ctxt, &attrs, mode, field, around)?;
    if matches!(&kind, Kind::Dir { ty, .. } | Kind::DirMap(Map { value: ty, .. }) | Kind::Flatten(ty) if types::is(ty, of)) {
        ctxt.error(
            &field.ty,
            format_args!("a schema cannot contain itself, since its keys are fixed; `#[etcd(json)]` stores `{of}` as one value"),
        );
        return None;
    }
    let name = ident.unraw().to_string();
    let advice = "; give it one with `#[etcd(rename = \"...\")]`";
    let segment = match (attrs.text("rename"), &kind) {
        (_, Kind::Flatten(_) | Kind::Skip(_)) => Text { text: String::new(), span: ident.span() },
        (Some(rename), _) => {
            let is_own = attrs.from(Source::Etcd, "rename").is_some();
            segment(ctxt, rename.value(), rename.span(), if is_own { "" } else { advice })
        }
        (None, _) => {
            let text = around.case.map_or_else(|| name.clone(), |case| case.of_field(&name));
            segment(ctxt, text, ident.span(), advice)
        }
    };
    let variant = format_ident!("{}", case::variant_of_field(&name), span = ident.span());
    let (vis, carried) = (field.vis.clone(), carried(&field.attrs));
    Some(Field { ty: field.ty.clone(), vis, attrs: carried, doc: doc(&field.attrs), variant, segment, kind, ident })
}

fn kind(ctxt: &Ctxt, attrs: &Attrs, mode: Mode, field: &syn::Field, around: &Around<'_>) -> Option<Kind> {
    let ty = &field.ty;
    let map = types::map(ty);
    let option = types::option(ty);
    match mode {
        Mode::Skip => {
            let default = match attrs.from(Source::Serde, "default") {
                Some(given) => given.expr().cloned().map(Box::new),
                None => field.ident.as_ref().and_then(|ident| around.default_of(ident)).map(|(expr, _)| expr),
            };
            Some(Kind::Skip(default))
        }
        Mode::Flatten => {
            let is_serde = attrs.from(Source::Etcd, "flatten").is_none();
            if is_serde && (map.is_some() || types::is_map_like(ty)) {
                ctxt.error(
                    ty,
                    "a flattened map takes the keys that no field takes, and a schema knows its keys: leave it out with `#[etcd(skip)]`, or store it in \
                     one key with `#[etcd(json)]`",
                );
                return None;
            }
            if option.is_some() || map.is_some() {
                ctxt.error(ty, "`flatten` takes a struct; an `Option` or a map needs a directory of its own: `#[etcd(dir)]`");
                return None;
            }
            Some(Kind::Flatten(ty.clone()))
        }
        Mode::Dir => match (map, option) {
            (Some(_), _) if attrs.find("default").is_some_and(|given| given.source == Source::Etcd || given.expr().is_some()) => {
                if let Some(given) = attrs.find("default") {
                    ctxt.error(&given.name, "a map without keys is empty, so it has no other default: remove this");
                }
                None
            }
            (Some((key, value)), _) => Some(Kind::DirMap(Map { key: key.clone(), value: value.clone() })),
            (None, Some(inner)) if types::map(inner).is_some() => {
                ctxt.error(ty, "a map without keys is empty and is never `None`: write the map without `Option`");
                None
            }
            (None, _) if types::list(option.unwrap_or(ty)).is_some() => {
                let item = types::list(option.unwrap_or(ty)).map_or_else(String::new, source);
                ctxt.error(
                    ty,
                    format_args!(
                        "a list has no names for the directories of its structs: use a map by name, `BTreeMap<String, {item}>`, or store the list in one \
                         key with `#[etcd(json)]`"
                    ),
                );
                None
            }
            (None, _) => {
                let default = dir_default(attrs, field, option.is_some(), around).map(Box::new);
                Some(Kind::Dir { ty: option.unwrap_or(ty).clone(), optional: option.is_some(), default })
            }
        },
        Mode::Entries => match map {
            Some((key, value)) => Some(Kind::Entries(Map { key: key.clone(), value: value.clone() }, codec(ctxt, attrs, value, None))),
            None => {
                ctxt.error(ty, "`entries` is for a map: `BTreeMap<K, V>` or `HashMap<K, V>`");
                None
            }
        },
        Mode::Leaf => leaf(ctxt, attrs, field, option, map.is_some(), around),
    }
}

/// Returns the default of a directory. An `Option` with `default` but without an expression has no
/// default: it is `None` if the struct does not exist.
fn dir_default(attrs: &Attrs, field: &syn::Field, is_option: bool, around: &Around<'_>) -> Option<DirDefault> {
    let ty = &field.ty;
    match attrs.find("default").map(Given::expr) {
        Some(Some(expr)) => Some(DirDefault { expr: expr.clone(), text: source(expr), is_of_type: false }),
        Some(None) if is_option => None,
        Some(None) => {
            let expr = parse_quote!(<#ty as ::core::default::Default>::default());
            Some(DirDefault { expr, text: format!("{}::default()", source(ty)), is_of_type: true })
        }
        None => field.ident.as_ref().and_then(|ident| around.default_of(ident)).map(|(expr, text)| DirDefault {
            expr: *expr,
            text,
            is_of_type: false,
        }),
    }
}

fn leaf(ctxt: &Ctxt, attrs: &Attrs, field: &syn::Field, option: Option<&Type>, is_map: bool, around: &Around<'_>) -> Option<Kind> {
    let ty = &field.ty;
    let codec = codec(ctxt, attrs, option.unwrap_or(ty), Some(option.is_some()));
    if is_map && matches!(codec.form, Form::Own) {
        ctxt.error(
            ty,
            "choose how the map is stored: `#[etcd(entries)]` for one key per value, `#[etcd(dir)]` for one directory per struct, \
             `#[etcd(json)]` for one key",
        );
        return None;
    }
    let of_struct = || field.ident.as_ref().and_then(|ident| around.default_of(ident));
    let given = attrs.find("default");
    let is_refused = refuse_text_for_number(ctxt, given, ty);
    let default = given.and_then(|given| given.expr()).filter(|_| !is_refused).map(|expr| (Box::new(expr.clone()), source(expr)));
    let presence = match (option, given.map(|given| given.source), default) {
        (Some(_), Some(Source::Etcd), _) => {
            if let Some(given) = given {
                ctxt.error(&given.name, "an `Option` without key is `None`: remove `default`, or the `Option`");
            }
            Presence::Optional
        }
        (Some(_), Some(Source::Serde), Some((expr, text))) => Presence::OptionalOr(expr, text),
        (Some(_), Some(Source::Serde), None) => Presence::Optional,
        (Some(_), None, _) => of_struct().map_or(Presence::Optional, |(expr, text)| Presence::OptionalOr(expr, text)),
        (None, Some(_), Some((expr, text))) => Presence::DefaultOf(expr, text),
        (None, Some(_), None) => Presence::Default,
        (None, None, _) => of_struct().map_or(Presence::Required, |(expr, text)| Presence::DefaultOf(expr, text)),
    };
    let aliases = attrs.aliases().iter().map(|alias| segment(ctxt, alias.value(), alias.span(), "")).collect();
    Some(Kind::Leaf(Leaf { ty: option.unwrap_or(ty).clone(), codec, presence, aliases }))
}

/// Refuses a default in quotes for a number or a boolean. It may be meant as the path of a
/// function, as serde writes it. Returns true if an error was recorded.
fn refuse_text_for_number(ctxt: &Ctxt, given: Option<&Given>, ty: &Type) -> bool {
    let expr = given.filter(|given| given.source == Source::Etcd).and_then(Given::expr);
    let (Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })), Some(number)) = (expr, types::number(ty)) else { return false };
    let reason = match text.parse::<Ident>() {
        Ok(function) => format!("call the function: `default = {function}()`"),
        Err(_) => format!("a `{number}` is needed here, and this is a text: write the value without quotes"),
    };
    ctxt.error(text, reason);
    true
}

/// Returns the codec settings of a field. `optional`: true if the field is an `Option`, and `None`
/// if a serde module cannot apply because it is for the field as a whole.
fn codec(ctxt: &Ctxt, attrs: &Attrs, ty: &Type, optional: Option<bool>) -> Codec {
    let form = match attrs.path("with") {
        // If the field has more than one of these attributes, an error is already recorded.
        _ if attrs.has("json") => Form::Json,
        Some(module) => Form::With(module.clone()),
        None if attrs.has("text") => Form::Text,
        None => optional.and_then(|optional| module(ctxt, attrs, ty, optional)).map_or(Form::Own, |module| Form::Serde(Box::new(module))),
    };
    Codec {
        form,
        validate: attrs.path("validate").cloned(),
        limits: limits::limits(attrs),
        secret: attrs.has("secret"),
        allow_debug: attrs.has("allow_debug"),
    }
}

/// Returns the serde functions that determine the stored form of the field.
fn module(ctxt: &Ctxt, attrs: &Attrs, ty: &Type, optional: bool) -> Option<Module> {
    let given = |name| attrs.from(Source::Serde, name);
    let (write, read) = (given("serialize_with"), given("deserialize_with"));
    let is_mask = write.and_then(Given::expr).is_some_and(types::is_mask);
    match (write, read) {
        _ if only_masks(ty, write, read) => None,
        (_, Some(read)) if is_mask || is_secret(ty) && write.is_none() => {
            ctxt.error(
                &read.name,
                "serde reads this secret through a function and never writes it, which leaves its stored form open: choose one with \
                 `#[etcd(with = module)]`, a module with `encode` and `decode`",
            );
            None
        }
        (None, None) => None,
        _ => {
            let function = |given: Option<&Given>| given.and_then(Given::expr).cloned();
            Some(Module { serialize: function(write), deserialize: function(read), optional })
        }
    }
}

/// Returns true if serde's functions only hide the value from people, so that the stored value does
/// not use them. This applies to `serialize_masked`. A `Secret` has no `Serialize`, so any function
/// may mask a `Secret` in a struct that is shown to people. So for a `Secret`, a write function
/// without a read function counts as a mask.
fn only_masks(ty: &Type, write: Option<&Given>, read: Option<&Given>) -> bool {
    read.is_none() && write.and_then(Given::expr).is_some_and(|function| types::is_mask(function) || is_secret(ty))
}

/// Checks a segment of a key. `otherwise` is appended to error messages and says what to do.
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

/// Returns the attributes of a field that also apply to its handle and its change. The compiler
/// evaluates `cfg` before the derive runs, so `cfg` is not among them.
fn carried(attributes: &[Attribute]) -> Vec<Attribute> {
    let is_carried = |attr: &&Attribute| ["allow", "deny", "deprecated", "expect", "warn"].iter().any(|name| attr.path().is_ident(name));
    let mut carried: Vec<Attribute> = attributes.iter().filter(is_carried).cloned().collect();
    for attr in &mut carried {
        if let (true, Meta::List(list)) = (attr.path().is_ident("expect"), &mut attr.meta) {
            list.path = Ident::new("allow", list.path.span()).into();
        }
    }
    carried
}

/// Returns the text of a documentation comment.
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
