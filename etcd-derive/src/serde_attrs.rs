//! Reads `#[serde(...)]`. Serde's attributes for the names and the presence of fields are converted
//! to the same attributes as those of `#[etcd(...)]`, and marked with
//! [`Source::Serde`](crate::attr::Source). Attributes that only serde's own code needs, such as
//! `bound`, are ignored. Unknown attributes are ignored too, since serde reports them.

use proc_macro2::Ident;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Expr, ExprPath, LitStr, PathSegment, Token, parse_quote};

use crate::attr::{Given, Value};
use crate::ctxt::Ctxt;

/// The attributes without an argument.
const FLAGS: [&str; 9] =
    ["flatten", "skip", "skip_serializing", "skip_deserializing", "deny_unknown_fields", "transparent", "untagged", "other", "default"];

/// The attributes whose argument is a text, or one text for each direction.
const TEXTS: [&str; 9] = ["rename", "rename_all", "rename_all_fields", "alias", "tag", "content", "from", "try_from", "into"];

/// Reads serde's attributes of a struct, an enum, a field or a variant, in order. `own` are the
/// attributes of `#[etcd(...)]`, which take precedence.
pub(crate) fn read(ctxt: &Ctxt, attributes: &[Attribute], own: &[Given]) -> Vec<Given> {
    let mut given = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        if let Err(error) = attribute.parse_nested_meta(|meta| one(ctxt, &meta, own, &mut given)) {
            ctxt.push(error);
        }
    }
    let is_given = |name: &str| given.iter().find(|given| given.name == name).map(|given| given.name.clone());
    if let (Some(_), Some(at)) = (is_given("skip_serializing"), is_given("skip_deserializing")) {
        given.retain(|given| given.name != "skip_serializing" && given.name != "skip_deserializing");
        given.push(Given::serde(Ident::new("skip", at.span()), Value::Nothing));
    }
    given
}

fn one(ctxt: &Ctxt, meta: &ParseNestedMeta<'_>, own: &[Given], given: &mut Vec<Given>) -> syn::Result<()> {
    let Some(name) = meta.path.get_ident().cloned() else { return ignore(meta) };
    let text = name.to_string();
    let has_value = meta.input.peek(Token![=]);
    match text.as_str() {
        "default" if has_value => {
            let path = path(meta)?;
            given.push(Given::serde(name, Value::Expr(parse_quote!(#path()))));
        }
        "with" => {
            let module = path(meta)?;
            given.push(function(&name, "serialize_with", below(&module, "serialize")));
            given.push(function(&name, "deserialize_with", below(&module, "deserialize")));
        }
        "serialize_with" | "deserialize_with" => given.push(function(&name, &text, path(meta)?)),
        flag if FLAGS.contains(&flag) && !has_value => given.push(Given::serde(name, Value::Nothing)),
        known if TEXTS.contains(&known) => {
            let is_overridden = own.iter().any(|own| own.name == name);
            if let Some(value) = text_of(ctxt, meta, &name, is_overridden)? {
                given.push(Given::serde(name, Value::Text(value)));
            }
        }
        _ => return ignore(meta),
    }
    Ok(())
}

/// Returns the text of an attribute. Returns `None` if an error was recorded, or if `#[etcd(...)]`
/// sets another text.
fn text_of(ctxt: &Ctxt, meta: &ParseNestedMeta<'_>, name: &Ident, is_overridden: bool) -> syn::Result<Option<LitStr>> {
    if !meta.input.peek(syn::token::Paren) {
        return meta.value()?.parse().map(Some);
    }
    let mut directions: [Vec<LitStr>; 2] = [Vec::new(), Vec::new()];
    meta.parse_nested_meta(|meta| {
        let at = usize::from(meta.path.is_ident("deserialize"));
        directions[at].push(meta.value()?.parse()?);
        Ok(())
    })?;
    let [written, read] = directions.each_ref().map(|direction| direction.first());
    match (written, read) {
        (Some(written), Some(read)) if written.value() == read.value() => Ok(Some(written.clone())),
        (None, None) => Ok(None),
        _ if is_overridden => Ok(None),
        _ => {
            ctxt.error(
                name,
                format_args!(
                    "a key has one name, and this gives another one for each direction: write one name, or set it with `#[etcd({name} = \"...\")]`"
                ),
            );
            Ok(None)
        }
    }
}

/// Reads a path in quotes, which is serde's form of a path.
fn path(meta: &ParseNestedMeta<'_>) -> syn::Result<ExprPath> {
    let text: LitStr = meta.value()?.parse()?;
    text.parse().map_err(|_| syn::Error::new_spanned(&text, "serde takes the path of a function or module here"))
}

fn below(module: &ExprPath, function: &str) -> ExprPath {
    let mut path = module.clone();
    let span = module.path.segments.last().map_or_else(proc_macro2::Span::call_site, |last| last.ident.span());
    path.path.segments.push(PathSegment::from(Ident::new(function, span)));
    path
}

fn function(at: &Ident, name: &str, path: ExprPath) -> Given {
    Given::serde(Ident::new(name, at.span()), Value::Expr(Expr::Path(path)))
}

/// Skips the argument of an attribute that is not read.
fn ignore(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if meta.input.peek(Token![=]) {
        meta.value()?.parse::<Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        let content;
        syn::parenthesized!(content in meta.input);
        content.parse::<proc_macro2::TokenStream>()?;
    }
    Ok(())
}
