//! Parses the input of `#[derive(EtcdValue)]`: an enum without data, or a newtype.

use syn::ext::IdentExt;
use syn::{Data, DataEnum, DataStruct, DeriveInput, Fields};

use super::{case, item, refuse_conversions, tag};
use crate::attr::{Attrs, Place, Source};
use crate::case::Case;
use crate::ctxt::Ctxt;
use crate::model::{Shape, Text, Value, Variant};
use crate::serde_attrs;

/// Parses the type that derives `EtcdValue`. Always returns a model, since the fallback for errors
/// needs one.
pub(crate) fn value(ctxt: &Ctxt, input: &DeriveInput) -> Value {
    let attrs = Attrs::read(ctxt, &input.attrs, Place::Value);
    let case = case(ctxt, &attrs);
    refuse_other_forms(ctxt, &attrs);
    let shape = match &input.data {
        Data::Enum(data) => choice(ctxt, input, data, case.unwrap_or(Case::Snake)),
        Data::Struct(data) => {
            if let Some(given) = attrs.from(Source::Etcd, "rename_all") {
                ctxt.error(&given.name, "a newtype is stored like its value, so there is nothing to rename: remove this");
            }
            newtype(ctxt, input, data, attrs.has("transparent"))
        }
        Data::Union(data) => {
            ctxt.error(data.union_token, "a union has no stored form: derive `EtcdValue` for an enum without data or a newtype");
            Shape::Unknown
        }
    };
    Value { item: item(ctxt, input, &attrs), shape }
}

/// Refuses attributes of serde with which the value has another form than its text.
fn refuse_other_forms(ctxt: &Ctxt, attrs: &Attrs) {
    if let Some(tag) = tag(attrs) {
        ctxt.error(
            tag,
            "a tagged or untagged enum is more than one text: take `EtcdValue` off, and put `#[etcd(json)]` on the fields of this type, which stores \
             it as serde writes it",
        );
    }
    refuse_conversions(
        ctxt,
        attrs,
        "serde converts this type, and the derive would store it without: implement `EtcdValue` by hand, or take it off and put `#[etcd(json)]` on the \
         fields of this type",
    );
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
fn text(ctxt: &Ctxt, literal: &syn::LitStr) -> Text {
    let text = literal.value();
    if text.trim() != text || text.is_empty() {
        ctxt.error(literal, "reading removes surrounding white space, so a text cannot begin or end with it, and cannot be empty");
    }
    Text { text, span: literal.span() }
}

/// `is_transparent`: whether serde's `transparent` says that a field with a name is the value, too.
fn newtype(ctxt: &Ctxt, input: &DeriveInput, data: &DataStruct, is_transparent: bool) -> Shape {
    let fields = &data.fields;
    let is_newtype = fields.len() == 1 && (is_transparent || matches!(fields, Fields::Unnamed(_)));
    match fields.iter().next().filter(|_| is_newtype) {
        Some(inner) => {
            for attribute in inner.attrs.iter().filter(|attribute| attribute.path().is_ident("etcd")) {
                ctxt.error(attribute, "a newtype is stored like its value: remove this");
            }
            let serde = serde_attrs::read(ctxt, &inner.attrs, &[]);
            if let Some(given) = serde.iter().find(|given| given.name == "serialize_with" || given.name == "deserialize_with") {
                ctxt.error(&given.name, "a newtype is stored like its value: remove this, or write it on the fields of this type");
            }
            Shape::Newtype(Box::new(inner.ty.clone()), inner.ident.clone())
        }
        None => {
            const MESSAGE: &str = "only a newtype, `struct Name(Value);`, has a stored form of its own: take `EtcdValue` off, and put `#[etcd(json)]` on \
                                   the fields of this type, or derive `EtcdSchema` and put `#[etcd(dir)]` there";
            if fields.is_empty() {
                ctxt.error(&input.ident, MESSAGE)
            } else {
                ctxt.error(fields, MESSAGE)
            }
            Shape::Unknown
        }
    }
}
