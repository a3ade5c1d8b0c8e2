//! Parses `prefix = "/{env}/checkout"` into literal segments and parameters.

use proc_macro2::{Ident, Span};
use syn::LitStr;

use crate::ctxt::Ctxt;
use crate::model::{Piece, Prefix};

/// Parses the prefix. Records an error for each wrong part and skips that part.
pub(super) fn prefix(ctxt: &Ctxt, literal: &LitStr) -> Prefix {
    let text = literal.value();
    let mut reader = Reader { ctxt, literal, parameters: Vec::new() };
    let segments = reader.segments(&text);
    Prefix { text, segments, parameters: reader.parameters }
}

struct Reader<'a> {
    ctxt: &'a Ctxt,
    literal: &'a LitStr,
    parameters: Vec<Ident>,
}

impl Reader<'_> {
    fn segments(&mut self, text: &str) -> Vec<Vec<Piece>> {
        let Some(path) = text.strip_prefix('/') else {
            self.error(format_args!("a prefix starts at the root: write `\"/{text}\"`"));
            return Vec::new();
        };
        if path.is_empty() {
            return Vec::new();
        }
        if let Some(shorter) = text.strip_suffix('/') {
            self.error(format_args!("a prefix ends without `/`: write `\"{shorter}\"`"));
        }
        path.trim_end_matches('/').split('/').map(|segment| self.segment(segment)).collect()
    }

    fn segment(&mut self, segment: &str) -> Vec<Piece> {
        match segment {
            "" => self.error("a segment between two `/` is empty: write one `/`"),
            "." | ".." => self.error(format_args!("`{segment}` cannot be a segment: servers would use another key")),
            _ if segment.chars().any(char::is_control) => self.error("a key cannot contain a control character"),
            _ => {}
        }
        let mut pieces = Vec::new();
        let mut rest = segment;
        while let Some(at) = rest.find(['{', '}']) {
            let (literal, bracket) = rest.split_at(at);
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            match bracket.strip_prefix('{').map(|inner| inner.split_once('}')) {
                Some(Some((name, after))) => {
                    pieces.extend(self.parameter(name).map(Piece::Parameter));
                    rest = after;
                }
                Some(None) => {
                    self.error(format_args!("`{bracket}` has no closing `}}`: a parameter is `{{name}}`, within one segment"));
                    return pieces;
                }
                None => {
                    self.error("a `}` has no opening `{`: a parameter is `{name}`, within one segment");
                    return pieces;
                }
            }
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        pieces
    }

    /// Returns the argument of `open` for this parameter, which is the same for every use of the
    /// name.
    fn parameter(&mut self, name: &str) -> Option<Ident> {
        let Some(ident) = identifier(name, self.literal.span()) else {
            self.error(format_args!(
                "`{{{name}}}` is not a parameter: the name becomes an argument of `open` and must be an identifier, as in `{{env}}`"
            ));
            return None;
        };
        if !self.parameters.contains(&ident) {
            self.parameters.push(ident.clone());
        }
        Some(ident)
    }

    fn error(&self, message: impl std::fmt::Display) {
        self.ctxt.error(self.literal, message);
    }
}

fn identifier(name: &str, span: Span) -> Option<Ident> {
    let mut ident: Ident = syn::parse_str(name).or_else(|_| syn::parse_str(&format!("r#{name}"))).ok()?;
    ident.set_span(span);
    Some(ident)
}
