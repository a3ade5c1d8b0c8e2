//! Recognizes types and expressions by their tokens.

use proc_macro2::{Delimiter, Ident, Spacing, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Expr, GenericArgument, PathArguments, PathSegment, Type};

/// Returns the `T` of an `Option<T>`.
pub(super) fn option(ty: &Type) -> Option<&Type> {
    let last = last(ty)?;
    match (last.ident == "Option", arguments(last).as_slice()) {
        (true, [inner]) => Some(inner),
        _ => None,
    }
}

/// Returns the `K` and `V` of a `BTreeMap<K, V>` or `HashMap<K, V>`. A `HashMap` may name its
/// hasher.
pub(super) fn map(ty: &Type) -> Option<(&Type, &Type)> {
    let last = last(ty)?;
    match (last.ident == "HashMap", last.ident == "BTreeMap", arguments(last).as_slice()) {
        (true, _, [key, value] | [key, value, _]) | (_, true, [key, value]) => Some((key, value)),
        _ => None,
    }
}

/// Returns the `T` of a `Box<T>` or `Arc<T>`.
fn pointed(ty: &Type) -> Option<&Type> {
    let last = last(ty)?;
    match (last.ident == "Box" || last.ident == "Arc", arguments(last).as_slice()) {
        (true, [inner]) => Some(inner),
        _ => None,
    }
}

/// Returns the `T` of a list or a set of `T`.
pub(super) fn list(ty: &Type) -> Option<&Type> {
    const LISTS: [&str; 6] = ["Vec", "VecDeque", "LinkedList", "BTreeSet", "HashSet", "BinaryHeap"];
    match plain(ty) {
        Type::Array(array) => return Some(&array.elem),
        Type::Slice(slice) => return Some(&slice.elem),
        _ => {}
    }
    if let Some(inner) = pointed(ty) {
        return list(inner);
    }
    let last = last(ty)?;
    let is_list = LISTS.iter().any(|name| last.ident == name);
    match (is_list, arguments(last).as_slice()) {
        (true, [item, ..]) => Some(item),
        _ => None,
    }
}

/// Whether the type looks like a map type of another crate, or like a type for arbitrary data, such
/// as `serde_json::Value`.
pub(super) fn is_map_like(ty: &Type) -> bool {
    let Some(last) = last(ty) else { return false };
    let name = last.ident.to_string();
    (name.ends_with("Map") && arguments(last).len() >= 2) || ["Value", "Table", "Mapping"].contains(&name.as_str())
}

/// Whether the type has exactly this name, or is a pointer to such a type.
pub(super) fn is(ty: &Type, ident: &Ident) -> bool {
    if let Some(inner) = pointed(ty) {
        return is(inner, ident);
    }
    matches!(plain(ty), Type::Path(path) if path.qself.is_none() && path.path.segments.len() == 1)
        && last(ty).is_some_and(|last| last.ident == *ident || last.ident == "Self")
}

/// Whether the type is named `Secret`, or has a type argument for which this is true, such as a
/// list or a pointer.
pub(crate) fn is_secret(ty: &Type) -> bool {
    last(ty).is_some_and(|last| last.ident == "Secret" || arguments(last).into_iter().any(is_secret))
}

/// Returns the name of the type, if it is a number or a boolean.
pub(super) fn number(ty: &Type) -> Option<&Ident> {
    const NUMBERS: [&str; 15] =
        ["bool", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16", "u32", "u64", "u128", "usize"];
    last(ty).map(|last| &last.ident).filter(|ident| NUMBERS.iter().any(|number| ident == number))
}

/// Whether the type is named `Box` or `Arc`.
pub(crate) fn is_pointer(ty: &Type) -> bool {
    last(ty).is_some_and(|last| last.ident == "Box" || last.ident == "Arc")
}

/// Whether this is the path of `etcd_typed::serialize_masked`.
pub(super) fn is_mask(function: &Expr) -> bool {
    matches!(function, Expr::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "serialize_masked"))
}

fn last(ty: &Type) -> Option<&PathSegment> {
    match plain(ty) {
        Type::Path(path) if path.qself.is_none() => path.path.segments.last(),
        _ => None,
    }
}

/// Removes parentheses, and the invisible delimiters that a macro puts around its `$t:ty`.
fn plain(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => plain(&group.elem),
        Type::Paren(paren) => plain(&paren.elem),
        _ => ty,
    }
}

fn arguments(segment: &PathSegment) -> Vec<&Type> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return Vec::new() };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    types.collect()
}

/// Returns the source text of an expression, with approximate spacing, since tokens do not record
/// the spaces between them.
pub(crate) fn source(expr: &impl ToTokens) -> String {
    let mut out = String::new();
    write(expr.to_token_stream(), &mut out);
    out
}

fn write(tokens: TokenStream, out: &mut String) {
    /// The kind of the previous token, which decides whether a space follows.
    #[derive(PartialEq)]
    enum Before {
        Start,
        Word,
        /// An operator before or inside its operand. No space follows.
        Tight,
        /// An operator between two operands.
        Between,
        Comma,
    }
    let mut before = Before::Start;
    let mut operator = String::new();
    for token in tokens {
        let space = matches!(before, Before::Between | Before::Comma);
        match token {
            TokenTree::Punct(punct) => {
                operator.push(punct.as_char());
                if punct.spacing() == Spacing::Joint {
                    continue;
                }
                let operator = std::mem::take(&mut operator);
                let after_operand = before == Before::Word;
                before = match operator.as_str() {
                    "," | ";" => {
                        out.push_str(&operator);
                        Before::Comma
                    }
                    "." | "::" | "?" | ":" => {
                        out.push_str(&operator);
                        if operator == "?" { Before::Word } else { Before::Tight }
                    }
                    "!" if after_operand => {
                        out.push('!');
                        Before::Tight
                    }
                    _ if after_operand => {
                        out.push(' ');
                        out.push_str(&operator);
                        Before::Between
                    }
                    _ => {
                        if space {
                            out.push(' ');
                        }
                        out.push_str(&operator);
                        Before::Tight
                    }
                };
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{ ", " }"),
                    Delimiter::None => ("", ""),
                };
                if space || (before == Before::Word && group.delimiter() == Delimiter::Brace) {
                    out.push(' ');
                }
                out.push_str(open);
                write(group.stream(), out);
                out.push_str(close);
                before = Before::Word;
            }
            word => {
                if space || before == Before::Word {
                    out.push(' ');
                }
                out.push_str(&word.to_string());
                before = Before::Word;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn expressions_are_shown_as_written() {
        for source in [
            "100",
            "-1",
            "\"EUR\"",
            "Duration::from_secs(30)",
            "1 << 20",
            "a + b * -c",
            "vec![1, 2]",
            "Limits { low: 1, high: 2 }",
            "[0; 4]",
            "&NAME[1]",
            "10 as u64",
            "\"a\".to_owned()",
            "crate::defaults::limit()",
        ] {
            let expr: syn::Expr = syn::parse_str(source).expect("an expression");
            assert_eq!(super::source(&expr), source.replace(": ", ":"));
        }
    }
}
