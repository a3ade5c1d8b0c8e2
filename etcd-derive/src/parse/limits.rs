//! Parses `text`, `range`, `length`, `one_of` and `allow_debug` of a field.

use syn::Expr;

use crate::attr::{Attrs, Given};
use crate::ctxt::Ctxt;
use crate::model::Limits;

/// Records an error for each combination that has no meaning. `is_value`: true if the field is one
/// value or a map of values.
pub(super) fn refuse_what_does_not_go(ctxt: &Ctxt, attrs: &Attrs, is_value: bool) {
    if !is_value {
        return;
    }
    let other_form = ["json", "with"].into_iter().find(|form| attrs.has(form));
    if let (Some(text), Some(other)) = (attrs.find("text"), other_form) {
        ctxt.error(&text.name, format_args!("a value has one stored form: remove `text`, or `{other}`"));
    }
    for name in ["range", "one_of"] {
        if let (Some(given), Some(form)) = (attrs.find(name), other_form) {
            let message = format_args!(
                "`{name}` shows stored forms of values in errors, which `{form}` does not give: use `validate = path` for this field"
            );
            ctxt.error(&given.name, message);
        }
    }
    if let (Some(given), Some(_)) = (attrs.find("range"), attrs.find("one_of")) {
        ctxt.error(&given.name, "`one_of` lists every possible value: remove `range`, or `one_of`");
    }
    if let (Some(given), false) = (attrs.find("allow_debug"), attrs.has("secret")) {
        ctxt.error(&given.name, "`allow_debug` goes with `secret`: add it, or remove this");
    }
}

pub(super) fn limits(attrs: &Attrs) -> Limits {
    let expr = |name| attrs.find(name).and_then(Given::expr);
    let one_of = match expr("one_of") {
        Some(Expr::Array(values)) => Some(values.clone()),
        _ => None,
    };
    Limits { range: expr("range").cloned(), length: expr("length").cloned(), one_of }
}
