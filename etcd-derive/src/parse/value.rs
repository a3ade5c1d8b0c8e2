//! Parses the input of `#[derive(EtcdValue)]`: an enum without data, or a newtype.

use syn::ext::IdentExt;
use syn::{Data, DataEnum, DataStruct, DeriveInput, Fields, LitStr, Member};

use super::{case, item, only_masks, refuse_conversions, source, tag};
use crate::attr::{Attrs, Place, Source};
use crate::case::Case;
use crate::ctxt::Ctxt;
use crate::model::{Inner, Shape, Text, Value, Variant};
use crate::serde_attrs;

/// Parses the type that derives `EtcdValue`. Always returns a model, since the fallback for errors
/// needs one.
pub(crate) fn value(ctxt: &Ctxt, input: &DeriveInput) -> Value {
    let attrs = Attrs::read(ctxt, &input.attrs, Place::Value);
    let case = case(ctxt, &attrs, "rename_all");
    refuse_other_forms(ctxt, &attrs);
    let shape = match &input.data {
        Data::Union(data) => {
            ctxt.error(data.union_token, "a union has no stored form: derive `EtcdValue` for an enum without data or a newtype");
            Shape::Unknown
        }
        _ if is_converted(&attrs) => converted(ctxt, input, &attrs),
        Data::Enum(data) => {
            refuse(ctxt, &attrs, "validate", "an enum has only the values of its variants: remove this");
            refuse(ctxt, &attrs, "transparent", "`transparent` is for a struct with one field: remove this");
            choice(ctxt, input, data, case.unwrap_or(Case::Snake))
        }
        Data::Struct(data) => {
            refuse(ctxt, &attrs, "rename_all", "a newtype is stored like its value, so there is nothing to rename: remove this");
            match inner(ctxt, &attrs, data) {
                Some(inner) => Shape::Newtype(inner),
                None => {
                    not_a_newtype(ctxt, input, data);
                    Shape::Unknown
                }
            }
        }
    };
    Value { item: item(ctxt, input, &attrs), shape }
}

/// Refuses an attribute of `#[etcd(...)]`.
fn refuse(ctxt: &Ctxt, attrs: &Attrs, name: &str, reason: &str) {
    if let Some(given) = attrs.from(Source::Etcd, name) {
        ctxt.error(&given.name, reason);
    }
}

/// Whether `#[etcd(...)]` determines the stored form of the value. Then serde's form does not
/// matter.
fn is_converted(attrs: &Attrs) -> bool {
    ["text", "try_from"].iter().any(|name| attrs.from(Source::Etcd, name).is_some())
}

/// Refuses attributes of serde that give the value another form than its text.
fn refuse_other_forms(ctxt: &Ctxt, attrs: &Attrs) {
    if is_converted(attrs) {
        return;
    }
    if let Some(tag) = tag(attrs) {
        ctxt.error(
            tag,
            "a tagged or untagged enum is more than one text: take `EtcdValue` off, and put `#[etcd(json)]` on the fields of this type, which stores \
             it as serde writes it",
        );
    }
    refuse_conversions(ctxt, attrs, |other| {
        format!(
            "serde converts this type, and the derive stores it without that: add `#[etcd(try_from = {other})]`, which converts it in the same way, or \
             `#[etcd(text)]`, which uses its `Display` and `FromStr`"
        )
    });
}

/// Parses a type with `text` or `try_from`.
fn converted(ctxt: &Ctxt, input: &DeriveInput, attrs: &Attrs) -> Shape {
    refuse(ctxt, attrs, "rename_all", "the stored form comes from `text` or `try_from`, so there is nothing to rename: remove this");
    let inner = match &input.data {
        Data::Struct(data) => inner(ctxt, attrs, data),
        _ => {
            refuse(ctxt, attrs, "transparent", "`transparent` is for a struct with one field: remove this");
            None
        }
    };
    let validate = attrs.path("validate").cloned();
    let has_text = attrs.has("text");
    if let (true, Some(try_from)) = (has_text, attrs.from(Source::Etcd, "try_from")) {
        ctxt.error(&try_from.name, "a value is made in one way: remove `try_from`, or `text`");
        return Shape::Unknown;
    }
    if has_text {
        return Shape::Text { inner, validate };
    }
    match (attrs.ty("try_from"), inner) {
        (None, Some(inner)) => Shape::Newtype(inner),
        (Some(ty), Some(inner)) if source(ty) == source(&*inner.ty) => Shape::Newtype(inner),
        (Some(ty), _) => Shape::Converted { stored: Box::new(ty.clone()), validate },
        (None, None) => {
            refuse(ctxt, attrs, "try_from", "name the type that is stored, as in `try_from = String`: this type is not a newtype");
            Shape::Unknown
        }
    }
}

/// Returns the field of a newtype: the only field of a tuple struct, or of any struct if it has
/// `transparent`.
fn inner(ctxt: &Ctxt, attrs: &Attrs, data: &DataStruct) -> Option<Inner> {
    let is_newtype = data.fields.len() == 1 && (matches!(data.fields, Fields::Unnamed(_)) || attrs.has("transparent"));
    let field = data.fields.iter().next().filter(|_| is_newtype)?;
    for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("etcd")) {
        ctxt.error(attribute, "a newtype is stored like its value: remove this; `text`, `try_from` and `validate` go on the type");
    }
    let serde = serde_attrs::read(ctxt, &field.attrs, &[]);
    let given = |name: &str| serde.iter().find(|given| given.name == name);
    let (write, read) = (given("serialize_with"), given("deserialize_with"));
    if let Some(given) = write.or(read).filter(|_| !is_converted(attrs) && !only_masks(&field.ty, write, read)) {
        ctxt.error(&given.name, "a newtype is stored like its value: remove this, or write it on the fields of this type");
    }
    let member = field.ident.clone().map_or(Member::from(0), Member::Named);
    let (try_from, validate) = (attrs.from(Source::Etcd, "try_from").is_some(), attrs.path("validate").cloned());
    Some(Inner { member, ty: Box::new(field.ty.clone()), try_from, validate })
}

fn choice(ctxt: &Ctxt, input: &DeriveInput, data: &DataEnum, case: Case) -> Shape {
    if data.variants.is_empty() {
        ctxt.error(&input.ident, "a stored enum needs at least one variant");
        return Shape::Unknown;
    }
    let variants = data.variants.iter().map(|variant| {
        let attrs = Attrs::read(ctxt, &variant.attrs, Place::Variant);
        if !matches!(variant.fields, Fields::Unit) {
            ctxt.error(
                &variant.fields,
                "a variant with data has no text of its own: take `EtcdValue` off, and put `#[etcd(json)]` on the fields of this type",
            );
        }
        for name in ["skip", "skip_serializing", "skip_deserializing", "other", "untagged"] {
            if let Some(given) = attrs.from(Source::Serde, name).filter(|_| attrs.from(Source::Etcd, "rename").is_none()) {
                ctxt.error(
                    &given.name,
                    format_args!("every variant is stored as its text, and no other text is read: remove `{name}`, or set the text with `#[etcd(rename = \"text\")]`"),
                );
            }
        }
        let name = variant.ident.unraw().to_string();
        let text = match attrs.text("rename") {
            Some(rename) => text(ctxt, rename),
            None => Text { text: case.of_variant(&name), span: variant.ident.span() },
        };
        let aliases = attrs.aliases().into_iter().map(|alias| self::text(ctxt, alias)).collect();
        Variant { ident: variant.ident.clone(), text, aliases }
    });
    Shape::Choice(variants.collect())
}

/// Reads the text of a variant.
fn text(ctxt: &Ctxt, literal: &LitStr) -> Text {
    let text = literal.value();
    if text.trim() != text || text.is_empty() {
        ctxt.error(literal, "reading removes surrounding white space, so a text cannot begin or end with it, and cannot be empty");
    }
    Text { text, span: literal.span() }
}

fn not_a_newtype(ctxt: &Ctxt, input: &DeriveInput, data: &DataStruct) {
    const MESSAGE: &str = "only a newtype, `struct Name(Value);`, has a stored form of its own: take `EtcdValue` off, and put `#[etcd(json)]` on \
                           the fields of this type, or derive `EtcdSchema` and put `#[etcd(dir)]` there";
    match &data.fields {
        fields if fields.is_empty() => ctxt.error(&input.ident, MESSAGE),
        fields if fields.len() == 1 => {
            ctxt.error(fields, format_args!("{MESSAGE}; with `#[etcd(transparent)]` on it, a struct with one field is a newtype"))
        }
        fields => ctxt.error(fields, MESSAGE),
    }
}
