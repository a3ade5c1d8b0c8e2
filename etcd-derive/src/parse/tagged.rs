//! Parses an enum that derives `EtcdSchema`: the tag and the variants.

use proc_macro2::{Ident, Span};
use quote::format_ident;
use syn::ext::IdentExt;
use syn::{Attribute, DataEnum, DeriveInput, Fields};

use super::{Around, carried, case, doc, field, segment, types};
use crate::attr::{Attrs, Place, Source};
use crate::case::Case;
use crate::ctxt::Ctxt;
use crate::model::{Field, Item, Kind, Schema, Tagged, TaggedVariant, Text, Unknown, VariantShape};
use crate::serde_attrs;

/// The default segment of the tag.
const TAG: &str = "kind";

/// Parses the variants. Returns `None` if the enum cannot be a directory.
pub(super) fn choice(ctxt: &Ctxt, input: &DeriveInput, data: &DataEnum, attrs: &Attrs, item: &Item) -> Option<Tagged> {
    if let Some(given) = ["untagged", "content"].iter().find_map(|name| attrs.from(Source::Serde, name)) {
        ctxt.error(
            &given.name,
            "the keys of the fields are next to a tag that names the variant, and serde writes this enum in another form: take `EtcdSchema` off, \
             and put `#[etcd(json)]` on the fields of this type, which stores it in one key, as serde writes it",
        );
        return None;
    }
    let has_tag = attrs.has("tag");
    if data.variants.is_empty() {
        ctxt.error(data.enum_token, "an enum that is a directory needs at least one variant");
        return None;
    }
    if !has_tag && data.variants.iter().all(|variant| variant.fields.is_empty()) {
        ctxt.error(
            data.enum_token,
            "an enum without data is one value: derive `EtcdValue` for it; for a directory that only has a tag, add `#[etcd(tag = \"kind\")]`",
        );
        return None;
    }
    let tag = match attrs.text("tag") {
        Some(tag) => segment(ctxt, tag.value(), tag.span(), ""),
        None => Text { text: TAG.to_owned(), span: input.ident.span() },
    };
    // Serde writes the name of a variant unchanged. `EtcdValue` of this library writes the name in
    // `snake_case`.
    let otherwise = if attrs.from(Source::Serde, "tag").is_some() { Case::Pascal } else { Case::Snake };
    let of_tags = case(ctxt, attrs, "rename_all").unwrap_or(otherwise);
    let of_fields = case(ctxt, attrs, "rename_all_fields");
    let mut variants: Vec<_> = data.variants.iter().filter_map(|it| variant(ctxt, it, of_tags, of_fields, item)).collect();
    let mut first = 0;
    for fields in variants.iter_mut().map(|variant| &mut variant.fields) {
        fields.first = first;
        first += fields.fields.len();
    }
    Some(Tagged { tag, variants })
}

fn variant(ctxt: &Ctxt, variant: &syn::Variant, of_tags: Case, of_fields: Option<Case>, item: &Item) -> Option<TaggedVariant> {
    let attrs = Attrs::read(ctxt, &variant.attrs, Place::Tagged);
    for name in ["skip", "skip_serializing", "skip_deserializing", "untagged"] {
        if let Some(given) = attrs.from(Source::Serde, name) {
            ctxt.error(
                &given.name,
                "every variant is read and written, and the tag names it: remove this, or put `#[etcd(json)]` on the fields of this type",
            );
        }
    }
    for name in ["serialize_with", "deserialize_with"] {
        if let Some(given) = attrs.from(Source::Serde, name) {
            ctxt.error(
                &given.name,
                "the fields of a variant have a key each: remove this, or put `#[etcd(json)]` on the fields of this type",
            );
            break;
        }
    }
    let name = variant.ident.unraw().to_string();
    let first = match attrs.text("rename") {
        Some(rename) => text(ctxt, rename.value(), rename.span()),
        None => Text { text: of_tags.of_variant(&name), span: variant.ident.span() },
    };
    let aliases = attrs.aliases().into_iter().map(|alias| text(ctxt, alias.value(), alias.span()));
    let tags = std::iter::once(first).chain(aliases).collect();
    let around = Around { case: case(ctxt, &attrs, "rename_all").or(of_fields), of: &item.ident, default: None };
    let (shape, fields) = match &variant.fields {
        Fields::Unit => (VariantShape::Unit, Vec::new()),
        Fields::Named(fields) => {
            let fields = fields.named.iter().filter_map(|it| field(ctxt, it, &around));
            (VariantShape::Named, fields.map(|field| Field { vis: item.vis.clone(), ..field }).collect())
        }
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
            (VariantShape::Newtype, vec![inner(ctxt, fields.unnamed.first()?, &variant.ident, item)?])
        }
        Fields::Unnamed(fields) => {
            ctxt.error(
                fields,
                "a variant has named fields, or one unnamed field that is a struct, or no data: name the fields, or put `#[etcd(json)]` on the \
                 fields of this type",
            );
            return None;
        }
    };
    let other = attrs.find("other").map(|given| &given.name);
    if let Some(other) = other.filter(|_| shape != VariantShape::Unit) {
        ctxt.error(other, "the fields of a variant that this program does not know are not read: `other` goes on a variant without data");
    }
    let fields = Schema {
        item: item.clone(),
        doc: String::new(),
        prefix: None,
        validate: None,
        unknown: Unknown::Ignored,
        has_default: false,
        change_derives: Vec::new(),
        fields,
        first: 0,
        choice: None,
    };
    let (handle, attrs) = (handle(&name, variant.ident.span()), carried(&variant.attrs));
    let doc = doc(&variant.attrs);
    Some(TaggedVariant { ident: variant.ident.clone(), handle, attrs, doc, tags, other: other.is_some(), shape, fields })
}

/// Returns the struct of a variant with one unnamed field, as a flattened field.
fn inner(ctxt: &Ctxt, inner: &syn::Field, variant: &Ident, item: &Item) -> Option<Field> {
    let ty = &inner.ty;
    let is_read = |attribute: &&Attribute| attribute.path().is_ident("etcd");
    let given = serde_attrs::read(ctxt, &inner.attrs, &[]);
    let decided = ["flatten", "skip", "skip_serializing", "skip_deserializing", "serialize_with", "deserialize_with"];
    if let Some(attribute) = inner.attrs.iter().find(is_read) {
        ctxt.error(attribute, "the keys of this struct are next to the tag: remove this, or name the field");
    } else if let Some(given) = given.iter().find(|given| decided.iter().any(|name| given.name == name)) {
        ctxt.error(&given.name, "the keys of this struct are next to the tag: remove this, or name the field");
    }
    if types::is(ty, &item.ident) {
        ctxt.error(
            ty,
            format_args!("a schema cannot contain itself, since its keys are fixed; `#[etcd(json)]` stores `{}` as one value", item.ident),
        );
        return None;
    }
    if types::option(ty).is_some() || types::map(ty).is_some() || types::list(ty).is_some() {
        let text = types::source(ty).replace(" < ", "<").replace(" >", ">");
        ctxt.error(
            ty,
            format_args!("the unnamed field of a variant is a struct; name it for another type: `{variant} {{ name: {text} }}`"),
        );
        return None;
    }
    Some(Field {
        ident: format_ident!("value", span = variant.span()),
        ty: ty.clone(),
        vis: item.vis.clone(),
        attrs: Vec::new(),
        doc: String::new(),
        variant: variant.clone(),
        segment: Text { text: String::new(), span: variant.span() },
        kind: Kind::Flatten(ty.clone()),
    })
}

/// Returns a tag value. Records an error if a read would not return the same text.
fn text(ctxt: &Ctxt, text: String, span: Span) -> Text {
    if text.trim() != text || text.is_empty() {
        ctxt.push(syn::Error::new(
            span,
            "reading removes surrounding white space, so a text cannot begin or end with it, and cannot be empty",
        ));
    }
    Text { text, span }
}

/// Returns the name of a variant's handle: its name in `snake_case`.
fn handle(variant: &str, span: Span) -> Ident {
    let name = Case::Snake.of_variant(variant);
    match syn::parse_str::<Ident>(&name) {
        Ok(_) => Ident::new(&name, span),
        Err(_) if ["crate", "self", "super"].contains(&name.as_str()) => Ident::new(&format!("{name}_"), span),
        Err(_) => Ident::new_raw(&name, span),
    }
}
