//! Checks rules that cover more than one field or variant.

use std::collections::HashMap;

use proc_macro2::Ident;

use crate::ctxt::Ctxt;
use crate::model::{Kind, Schema, Shape, Tagged, Text, Value};

/// Checks that no two fields have the same segment or the same change variant.
pub(crate) fn schema(ctxt: &Ctxt, schema: &mut Schema) {
    segments(ctxt, schema);
    variants(ctxt, schema);
    if let Some(choice) = &mut schema.choice {
        tagged(ctxt, choice);
    }
}

/// Checks the variants of an enum: each variant by itself, and that no two variants have the same
/// tag or handle.
fn tagged(ctxt: &Ctxt, choice: &mut Tagged) {
    choice.variants.iter_mut().for_each(|variant| schema(ctxt, &mut variant.fields));
    handles(ctxt, choice);
    keys_and_directories(ctxt, choice);
    let mut tags = HashMap::new();
    let mut other: Option<&Ident> = None;
    for variant in &choice.variants {
        for field in &variant.fields.fields {
            let aliases: &[Text] = if let Kind::Leaf(leaf) = &field.kind { &leaf.aliases } else { &[] };
            for Text { text, span } in std::iter::once(&field.segment).chain(aliases).filter(|text| text.text == choice.tag.text) {
                let message = format_args!(
                    "`{text}` is the key of the tag: rename this field, or name the tag with `#[etcd(tag = \"...\")]` on the enum"
                );
                ctxt.push(syn::Error::new(*span, message));
            }
        }
        for Text { text, span } in &variant.tags {
            if let Some(taken) = tags.insert(text, &variant.ident) {
                ctxt.push(syn::Error::new(*span, format_args!("`{text}` is already the tag of `{taken}`: rename one of them")));
            }
        }
        if let (true, Some(first)) = (variant.other, other) {
            ctxt.error(&variant.ident, format_args!("`{first}` already stands for every other tag: remove one `other`"));
        }
        other = other.or(variant.other.then_some(&variant.ident));
    }
}

/// Removes a variant whose handle has the same name as the handle of an earlier variant, so that
/// the generated handle is valid.
fn handles(ctxt: &Ctxt, choice: &mut Tagged) {
    let mut seen = HashMap::new();
    choice.variants.retain(|variant| {
        let (ident, handle) = (&variant.ident, &variant.handle);
        let Some(other) = seen.insert(handle.to_string(), ident.clone()) else { return true };
        let message = format_args!(
            "the handles of `{other}` and `{ident}` would both be `{handle}`: give one variant another name, and with `#[etcd(rename = \"...\")]` \
             the tag that it has now"
        );
        ctxt.error(ident, message);
        false
    });
}

/// Checks that no segment is a key in one variant and a directory in another one.
fn keys_and_directories(ctxt: &Ctxt, choice: &Tagged) {
    let mut seen: HashMap<&str, (&Ident, bool)> = HashMap::new();
    for variant in &choice.variants {
        for field in &variant.fields.fields {
            let (aliases, is_key): (&[Text], bool) = match &field.kind {
                Kind::Leaf(leaf) => (&leaf.aliases, true),
                Kind::Dir { .. } | Kind::DirMap(_) | Kind::Entries(..) => (&[], false),
                Kind::Flatten(_) | Kind::Skip(_) => continue,
            };
            for Text { text, span } in std::iter::once(&field.segment).chain(aliases) {
                let (other, other_is_key) = *seen.entry(text).or_insert((&variant.ident, is_key));
                if other_is_key != is_key {
                    let what = if is_key { "a key here, and a directory" } else { "a directory here, and a key" };
                    let message =
                        format_args!("`{text}` would be {what} in `{other}`, which etcd v2 cannot hold: rename one of the fields");
                    ctxt.push(syn::Error::new(*span, message));
                }
            }
        }
    }
}

fn segments(ctxt: &Ctxt, schema: &Schema) {
    let mut seen: HashMap<&str, (String, bool)> = HashMap::new();
    for field in &schema.fields {
        let (aliases, is_leaf): (&[Text], bool) = match &field.kind {
            Kind::Leaf(leaf) => (&leaf.aliases, true),
            Kind::Dir { .. } | Kind::DirMap(_) | Kind::Entries(..) => (&[], false),
            Kind::Flatten(_) | Kind::Skip(_) => continue,
        };
        for Text { text, span } in std::iter::once(&field.segment).chain(aliases) {
            let name = field.ident.to_string();
            match seen.get(text.as_str()) {
                None => {
                    seen.insert(text, (name, is_leaf));
                }
                Some((other, _)) if *other == name => {
                    ctxt.push(syn::Error::new(*span, format_args!("`{name}` is read from `{text}` already: remove this")));
                }
                Some((other, other_is_leaf)) => {
                    let both = match (is_leaf, other_is_leaf) {
                        (true, true) => "the same key",
                        (false, false) => "the same directory",
                        _ => "a key and a directory of the same name, which etcd v2 cannot hold",
                    };
                    let message = format_args!("`{name}` and `{other}` would be {both}, `{text}`: rename one of them");
                    ctxt.push(syn::Error::new(*span, message));
                }
            }
        }
    }
}

/// Removes a field that has the same change variant as an earlier field, so that the generated enum
/// is valid.
fn variants(ctxt: &Ctxt, schema: &mut Schema) {
    let of = &schema.item.ident;
    let mut seen = HashMap::new();
    schema.fields.retain(|field| {
        if matches!(field.kind, Kind::Skip(_)) {
            return true;
        }
        let (ident, variant) = (&field.ident, &field.variant);
        let Some(other) = seen.insert(variant.to_string(), ident.clone()) else { return true };
        let message = format_args!(
            "changes of `{ident}` and of `{other}` would both be `{of}Change::{variant}`: give one field another name, and with \
             `#[etcd(rename = \"...\")]` the key that it has now"
        );
        ctxt.error(ident, message);
        false
    });
}

/// Checks that no text is used for two variants.
pub(crate) fn value(ctxt: &Ctxt, value: &Value) {
    let Shape::Choice(variants) = &value.shape else { return };
    let mut seen = HashMap::new();
    for variant in variants {
        for Text { text, span } in std::iter::once(&variant.text).chain(&variant.aliases) {
            if let Some(other) = seen.insert(text, &variant.ident) {
                let message = format_args!("`{text}` is already the text of `{other}`: rename one of them");
                ctxt.push(syn::Error::new(*span, message));
            }
        }
    }
}
