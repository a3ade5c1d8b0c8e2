//! Parses the input of `#[derive(EtcdValue)]`: an enum without data, or a newtype.

use syn::ext::IdentExt;
use syn::{Data, DataEnum, DataStruct, DeriveInput, Fields};

use super::{case, item};
use crate::attr::{Attrs, Place};
use crate::case::Case;
use crate::ctxt::Ctxt;
use crate::model::{Shape, Text, Value, Variant};

/// Parses the type that derives `EtcdValue`. Always returns a model, since the fallback for errors
/// needs one.
pub(crate) fn value(ctxt: &Ctxt, input: &DeriveInput) -> Value {
    let attrs = Attrs::read(ctxt, &input.attrs, Place::Value);
    let case = case(ctxt, &attrs);
    let shape = match &input.data {
        Data::Enum(data) => choice(ctxt, input, data, case.unwrap_or(Case::Snake)),
        Data::Struct(data) => {
            if let Some(given) = attrs.find("rename_all") {
                ctxt.error(&given.name, "a newtype is stored like its value, so there is nothing to rename: remove this");
            }
            newtype(ctxt, input, data)
        }
        Data::Union(data) => {
            ctxt.error(data.union_token, "a union has no stored form: derive `EtcdValue` for an enum without data or a newtype");
            Shape::Unknown
        }
    };
    Value { item: item(ctxt, input, &attrs), shape }
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
        let name = variant.ident.unraw().to_string();
        let text = match attrs.text("rename") {
            Some(rename) => text(ctxt, rename),
            None => Text { text: case.of_variant(&name), span: variant.ident.span() },
        };
        let aliases = attrs.texts("alias").map(|alias| self::text(ctxt, alias)).collect();
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

fn newtype(ctxt: &Ctxt, input: &DeriveInput, data: &DataStruct) -> Shape {
    match &data.fields {
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => match fields.unnamed.first() {
            Some(inner) => {
                for attribute in inner.attrs.iter().filter(|attribute| attribute.path().is_ident("etcd")) {
                    ctxt.error(attribute, "a newtype is stored like its value: remove this");
                }
                Shape::Newtype(Box::new(inner.ty.clone()))
            }
            None => Shape::Unknown,
        },
        fields => {
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
