//! The grammar of `#[etcd(...)]`: the attributes, the places where they are allowed, and the
//! argument of each. `parse.rs` interprets them together with the attributes of serde.

mod foreign;

use proc_macro2::{Ident, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, ExprPath, ExprRange, Lit, LitStr, Meta, Path, Token, Type};

use crate::ctxt::Ctxt;
use crate::serde_attrs;

/// The place where an attribute is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A struct that derives `EtcdSchema`.
    Struct,
    /// An enum that derives `EtcdSchema`.
    Enum,
    /// A variant of such an enum.
    Tagged,
    /// A field of such a struct or variant.
    Field,
    /// A type that derives `EtcdValue`.
    Value,
    /// A variant of such a type.
    Variant,
}

/// The argument of an attribute.
#[derive(Clone, Copy)]
enum Takes {
    Nothing,
    Text,
    Path,
    Paths,
    ExprOrNothing,
    /// A range expression.
    Range,
    /// An array expression.
    Array,
    /// The path of a type, or nothing.
    TypeOrNothing,
}

/// A supported attribute.
struct Known {
    name: &'static str,
    takes: Takes,
    /// An example for error messages.
    example: &'static str,
}

const fn known(name: &'static str, takes: Takes, example: &'static str) -> Known {
    Known { name, takes, example }
}

const STRUCT: &[Known] = &[
    known("prefix", Takes::Text, "prefix = \"/{env}/app\""),
    known("rename_all", Takes::Text, "rename_all = \"kebab-case\""),
    known("validate", Takes::Path, "validate = path::to::function"),
    known("change", Takes::Paths, "change(Clone, PartialEq)"),
    known("strict", Takes::Nothing, "strict"),
    known("crate", Takes::Path, "crate = path::to::etcd_typed"),
];

const ENUM: &[Known] = &[
    known("prefix", Takes::Text, "prefix = \"/{env}/app\""),
    known("tag", Takes::Text, "tag = \"kind\""),
    known("rename_all", Takes::Text, "rename_all = \"kebab-case\""),
    known("rename_all_fields", Takes::Text, "rename_all_fields = \"kebab-case\""),
    known("validate", Takes::Path, "validate = path::to::function"),
    known("change", Takes::Paths, "change(Clone, PartialEq)"),
    known("strict", Takes::Nothing, "strict"),
    known("crate", Takes::Path, "crate = path::to::etcd_typed"),
];

const TAGGED: &[Known] = &[
    known("rename", Takes::Text, "rename = \"text\""),
    known("alias", Takes::Text, "alias = \"old-text\""),
    known("rename_all", Takes::Text, "rename_all = \"kebab-case\""),
    known("other", Takes::Nothing, "other"),
];

const FIELD: &[Known] = &[
    known("rename", Takes::Text, "rename = \"segment\""),
    known("alias", Takes::Text, "alias = \"old-segment\""),
    known("default", Takes::ExprOrNothing, "default = 100"),
    known("json", Takes::Nothing, "json"),
    known("with", Takes::Path, "with = path::to::module"),
    known("text", Takes::Nothing, "text"),
    known("dir", Takes::Nothing, "dir"),
    known("entries", Takes::Nothing, "entries"),
    known("flatten", Takes::Nothing, "flatten"),
    known("skip", Takes::Nothing, "skip"),
    known("secret", Takes::Nothing, "secret"),
    known("allow_debug", Takes::Nothing, "allow_debug"),
    known("validate", Takes::Path, "validate = path::to::function"),
    known("range", Takes::Range, "range = 1..=100"),
    known("length", Takes::Range, "length = 1..=64"),
    known("one_of", Takes::Array, "one_of = [80, 443]"),
];

const VALUE: &[Known] = &[
    known("rename_all", Takes::Text, "rename_all = \"kebab-case\""),
    known("text", Takes::Nothing, "text"),
    known("try_from", Takes::TypeOrNothing, "try_from = u16"),
    known("validate", Takes::Path, "validate = path::to::function"),
    known("transparent", Takes::Nothing, "transparent"),
    known("crate", Takes::Path, "crate = path::to::etcd_typed"),
];

const VARIANT: &[Known] = &[known("rename", Takes::Text, "rename = \"text\""), known("alias", Takes::Text, "alias = \"old-text\"")];

impl Place {
    fn knows(self) -> &'static [Known] {
        match self {
            Self::Struct => STRUCT,
            Self::Enum => ENUM,
            Self::Tagged => TAGGED,
            Self::Field => FIELD,
            Self::Value => VALUE,
            Self::Variant => VARIANT,
        }
    }

    /// Returns the other place in the same derive, where a misplaced attribute may belong.
    fn other(self) -> Self {
        match self {
            Self::Struct => Self::Field,
            Self::Enum => Self::Tagged,
            Self::Tagged => Self::Enum,
            Self::Field => Self::Struct,
            Self::Value => Self::Variant,
            Self::Variant => Self::Value,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Struct => "the struct",
            Self::Enum => "the enum",
            Self::Tagged => "a variant",
            Self::Field => "a field",
            Self::Value => "the type",
            Self::Variant => "a variant",
        }
    }
}

/// The attributes of one place: first those in `#[etcd(...)]`, then those in `#[serde(...)]`, each
/// in order. Wrong attributes in `#[etcd(...)]` are left out: all that remain are allowed at this
/// place, and each except `alias` occurs at most once.
pub(crate) struct Attrs(Vec<Given>);

/// One attribute as the user wrote it.
pub(crate) struct Given {
    pub(crate) name: Ident,
    pub(crate) source: Source,
    value: Value,
}

/// The attribute that contained a [`Given`]: `#[etcd(...)]` or `#[serde(...)]`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Etcd,
    Serde,
}

pub(crate) enum Value {
    Nothing,
    Text(LitStr),
    Path(Path),
    Paths(Vec<Path>),
    Expr(Expr),
    Type(Box<Type>),
}

impl Given {
    pub(crate) fn serde(name: Ident, value: Value) -> Self {
        Self { name, source: Source::Serde, value }
    }
}

impl Attrs {
    /// Reads the attributes. Records an error for each wrong attribute and skips it.
    pub(crate) fn read(ctxt: &Ctxt, attributes: &[Attribute], place: Place) -> Self {
        let mut given = own(ctxt, attributes, place);
        let serde = serde_attrs::read(ctxt, attributes, &given);
        given.extend(serde);
        Self(given)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Given> {
        self.0.iter()
    }

    /// Finds an attribute by name. An attribute in `#[etcd(...)]` takes precedence over the
    /// attribute of serde.
    pub(crate) fn find(&self, name: &str) -> Option<&Given> {
        self.0.iter().find(|given| given.name == name)
    }

    /// Finds an attribute from one source.
    pub(crate) fn from(&self, source: Source, name: &str) -> Option<&Given> {
        self.0.iter().find(|given| given.source == source && given.name == name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub(crate) fn text(&self, name: &str) -> Option<&LitStr> {
        self.texts(name).next()
    }

    pub(crate) fn texts(&self, name: &str) -> impl Iterator<Item = &LitStr> {
        self.0.iter().filter(move |given| given.name == name).filter_map(Given::text)
    }

    /// Returns the aliases. An alias in both `#[etcd(...)]` and `#[serde(...)]` is returned only
    /// once.
    pub(crate) fn aliases(&self) -> Vec<&LitStr> {
        let own: Vec<String> =
            self.iter().filter(|given| given.source == Source::Etcd).filter_map(Given::alias).map(LitStr::value).collect();
        let is_new = |given: &&Given| given.source == Source::Etcd || given.alias().is_some_and(|alias| !own.contains(&alias.value()));
        self.iter().filter(is_new).filter_map(Given::alias).collect()
    }

    pub(crate) fn path(&self, name: &str) -> Option<&Path> {
        match &self.find(name)?.value {
            Value::Path(path) => Some(path),
            _ => None,
        }
    }

    pub(crate) fn paths(&self, name: &str) -> &[Path] {
        match self.find(name).map(|given| &given.value) {
            Some(Value::Paths(paths)) => paths,
            _ => &[],
        }
    }

    pub(crate) fn ty(&self, name: &str) -> Option<&Type> {
        match &self.find(name)?.value {
            Value::Type(ty) => Some(ty),
            _ => None,
        }
    }
}

impl Given {
    pub(crate) fn expr(&self) -> Option<&Expr> {
        match &self.value {
            Value::Expr(expr) => Some(expr),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&LitStr> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn alias(&self) -> Option<&LitStr> {
        self.text().filter(|_| self.name == "alias")
    }
}

/// Reads the attributes in `#[etcd(...)]`.
fn own(ctxt: &Ctxt, attributes: &[Attribute], place: Place) -> Vec<Given> {
    let mut given = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("etcd")) {
        if !matches!(attribute.meta, Meta::List(_)) {
            ctxt.error(attribute, "the attribute needs arguments in parentheses: `#[etcd(...)]`");
            continue;
        }
        let list = |input: ParseStream<'_>| {
            while !input.is_empty() {
                match one(input, place) {
                    Ok(one) if one.name != "alias" && given.iter().any(|given: &Given| given.name == one.name) => {
                        ctxt.error(&one.name, format_args!("`{}` is given twice: keep one", one.name));
                    }
                    Ok(one) => given.push(one),
                    Err(error) => {
                        ctxt.push(error);
                        skip_one(input)?;
                    }
                }
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        if let Err(error) = attribute.parse_args_with(list) {
            ctxt.push(error);
        }
    }
    given
}

/// Reads a range. Returns an error for a single number.
fn range(input: ParseStream<'_>) -> syn::Result<Expr> {
    let expr: Expr = input.parse()?;
    if let Expr::Lit(only) = &expr {
        let only = only.lit.to_token_stream();
        return Err(syn::Error::new_spanned(&expr, format_args!("a range is needed here: `{only}..={only}`, `{only}..` or `..={only}`")));
    }
    if let Expr::Range(ExprRange { start: Some(start), end: Some(end), .. }) = &expr
        && let (Some(start), Some(end)) = (integer(start), integer(end))
        && start > end
    {
        return Err(syn::Error::new_spanned(&expr, format_args!("this range is empty: {start} is above {end}")));
    }
    Ok(expr)
}

/// Returns the value of an integer literal.
fn integer(expr: &Expr) -> Option<u128> {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Int(integer), .. }) => integer.base10_parse().ok(),
        _ => None,
    }
}

/// Reads an array with at least one element.
fn array(input: ParseStream<'_>) -> syn::Result<Expr> {
    let expr: Expr = input.parse()?;
    match &expr {
        Expr::Array(array) if !array.elems.is_empty() => Ok(expr),
        Expr::Array(_) => Err(syn::Error::new_spanned(expr, "at least one value is needed here")),
        _ => Err(syn::Error::new_spanned(expr, "the possible values are needed here, in brackets: `one_of = [80, 443]`")),
    }
}

/// Reads one attribute, up to the next comma.
fn one(input: ParseStream<'_>, place: Place) -> syn::Result<Given> {
    let name = input.call(Ident::parse_any).map_err(|error| syn::Error::new(error.span(), names(place)))?;
    let Some(known) = place.knows().iter().find(|known| name == known.name) else {
        return Err(unknown(&name, place));
    };
    let value = match known.takes {
        Takes::Nothing if input.peek(Token![,]) || input.is_empty() => Value::Nothing,
        Takes::Nothing => return Err(input.error(format_args!("`{name}` takes no value: write `{name}`"))),
        Takes::Text => Value::Text(after_equals(input, &name, known, |input| {
            if input.peek(LitStr) {
                return input.parse();
            }
            let other: Expr = input.parse()?;
            Err(syn::Error::new_spanned(other, format_args!("a text in quotes is needed here: `{}`", known.example)))
        })?),
        Takes::Path => Value::Path(after_equals(input, &name, known, |input| {
            if input.peek(LitStr) {
                let text: LitStr = input.parse()?;
                return Err(syn::Error::new_spanned(&text, format_args!("write it without quotes: `{name} = {}`", text.value())));
            }
            path(input, &name, known)
        })?),
        Takes::Paths if input.peek(syn::token::Paren) => {
            let paths;
            syn::parenthesized!(paths in input);
            Value::Paths(Punctuated::<Path, Token![,]>::parse_terminated(&paths)?.into_iter().collect())
        }
        Takes::Paths => return Err(wrong(&name, known)),
        Takes::ExprOrNothing if input.peek(Token![,]) || input.is_empty() => Value::Nothing,
        Takes::ExprOrNothing => Value::Expr(after_equals(input, &name, known, |input| default(input, known))?),
        Takes::Range => Value::Expr(after_equals(input, &name, known, range)?),
        Takes::Array => Value::Expr(after_equals(input, &name, known, array)?),
        Takes::TypeOrNothing if input.peek(Token![,]) || input.is_empty() => Value::Nothing,
        Takes::TypeOrNothing => Value::Type(Box::new(after_equals(input, &name, known, |input| {
            if input.peek(LitStr) {
                let text: LitStr = input.parse()?;
                return Err(syn::Error::new_spanned(&text, format_args!("write it without quotes: `{name} = {}`", text.value())));
            }
            input.parse()
        })?)),
    };
    if !input.is_empty() && !input.peek(Token![,]) {
        return Err(input.error(format_args!("a `,` is needed here, or the end: `{}`", known.example)));
    }
    Ok(Given { name, source: Source::Etcd, value })
}

/// Reads the path of a function or a module.
fn path(input: ParseStream<'_>, name: &Ident, known: &Known) -> syn::Result<Path> {
    let expr: Expr = input.parse()?;
    match expr {
        Expr::Path(ExprPath { qself: None, path, .. }) => Ok(path),
        Expr::Closure(closure) => Err(syn::Error::new_spanned(
            closure,
            format_args!("a closure cannot be written here: make it a function, and write its path, `{}`", known.example),
        )),
        Expr::Call(call) => Err(syn::Error::new_spanned(
            &call,
            format_args!("the path is needed here, without a call: `{name} = {}`", crate::parse::source(&call.func)),
        )),
        other => Err(syn::Error::new_spanned(other, format_args!("a path is needed here: `{}`", known.example))),
    }
}

/// Reads the expression of a default. Refuses an expression that looks like a function that is not
/// called.
fn default(input: ParseStream<'_>, known: &Known) -> syn::Result<Expr> {
    let expr: Expr = input.parse()?;
    let refused = match &expr {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if text.value().contains("::") => {
            let text = text.value();
            let call = text.trim_matches(':');
            format!(
                "a text with `::` may be meant as a function: write `default = {call}()` to call it, or `default = String::from({text:?})` for the text"
            )
        }
        Expr::Path(path) if path.path.segments.last().is_some_and(is_function) => {
            format!("call the function: `default = {}()`", crate::parse::source(path))
        }
        Expr::Closure(_) => format!("a default is a value, not a closure: write the value, `{}`", known.example),
        _ => return Ok(expr),
    };
    Err(syn::Error::new_spanned(expr, refused))
}

/// Whether this is a name in `snake_case`, like the names of functions and unlike the names of
/// constants and variants.
fn is_function(segment: &syn::PathSegment) -> bool {
    segment.ident.unraw().to_string().chars().find(|c| *c != '_').is_some_and(char::is_lowercase)
}

fn after_equals<T>(
    input: ParseStream<'_>,
    name: &Ident,
    known: &Known,
    value: impl FnOnce(ParseStream<'_>) -> syn::Result<T>,
) -> syn::Result<T> {
    if !input.peek(Token![=]) {
        return Err(wrong(name, known));
    }
    input.parse::<Token![=]>()?;
    if input.is_empty() || input.peek(Token![,]) {
        return Err(wrong(name, known));
    }
    value(input)
}

fn wrong(on: &impl ToTokens, known: &Known) -> syn::Error {
    syn::Error::new_spanned(on, format_args!("write `{}`", known.example))
}

fn unknown(name: &Ident, place: Place) -> syn::Error {
    let text = name.to_string();
    let other = place.other();
    if other.knows().iter().any(|known| known.name == text) {
        return syn::Error::new_spanned(name, format_args!("`{text}` goes on {}, not on {}", other.words(), place.words()));
    }
    if let Some(instead) = foreign::counterpart(&text, place) {
        return syn::Error::new_spanned(name, instead);
    }
    let near = place.knows().iter().map(|known| (distance(known.name, &text), known.name)).min();
    let message = match near {
        Some((distance, near)) if distance <= 2 || near.starts_with(&text) => format!("there is no `{text}`; did you mean `{near}`?"),
        _ => format!("there is no `{text}`; {}", names(place)),
    };
    syn::Error::new_spanned(name, message)
}

/// Lists the attributes that are allowed at this place.
fn names(place: Place) -> String {
    let names: Vec<_> = place.knows().iter().map(|known| format!("`{}`", known.name)).collect();
    format!("{} accepts {}", place.words(), names.join(", "))
}

/// Skips the rest of a wrong attribute, up to the next comma.
fn skip_one(input: ParseStream<'_>) -> syn::Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<TokenTree>()?;
    }
    Ok(())
}

/// Returns the number of characters to insert, remove or replace to turn one text into the other
/// (Levenshtein distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn edit_distance_counts_changed_letters() {
        for (a, b, expected) in [("", "ab", 2), ("json", "json", 0), ("rename", "renam", 1), ("json", "jsno", 2), ("dir", "entries", 6)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
