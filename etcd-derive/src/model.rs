//! A struct as the derive understood it: plain types with their tokens, no parsing and no quoting. What `expand` may rely on is said here.

use proc_macro2::Ident;
use syn::{Expr, Generics, Path, Type, Visibility};

/// A struct that derives `EtcdSchema`.
pub(crate) struct Schema {
    /// What everything and everybody calls it.
    pub(crate) item: Item,
    /// The documentation comment, lines without the space they start with.
    pub(crate) doc: String,
    /// Where its directory is.
    pub(crate) prefix: Option<Prefix>,
    /// The check of the whole.
    pub(crate) validate: Option<Path>,
    /// What its change enum derives beside `Debug`.
    pub(crate) change_derives: Vec<Path>,
    /// In the order of the struct. A field with a mistake may be left out: then there is an error.
    pub(crate) fields: Vec<Field>,
}

/// What both derives need to know of their type.
pub(crate) struct Item {
    /// How this crate's runtime is called.
    pub(crate) krate: Path,
    pub(crate) vis: Visibility,
    pub(crate) ident: Ident,
    /// Without lifetimes; with one there is an error.
    pub(crate) generics: Generics,
}

/// `prefix = "/{env}/checkout"`.
pub(crate) struct Prefix {
    /// As it was written.
    pub(crate) text: String,
    /// From the root down.
    pub(crate) segments: Vec<Vec<Piece>>,
    /// In the order of their first use, each once.
    pub(crate) parameters: Vec<Ident>,
}

/// A part of a segment of a prefix.
pub(crate) enum Piece {
    Literal(String),
    /// One of the prefix's parameters.
    Parameter(Ident),
}

/// One field.
pub(crate) struct Field {
    pub(crate) ident: Ident,
    /// As it was written.
    pub(crate) ty: Type,
    pub(crate) doc: String,
    /// What its changes are called. No two fields have the same.
    pub(crate) variant: Ident,
    /// The segment of its key; empty of a field without one (`flatten`, `skip`), and of no other. No two fields have the same.
    pub(crate) segment: Text,
    pub(crate) kind: Kind,
}

/// A text of the user's or made of an identifier of the user's, and where to report what is wrong with it.
#[derive(Clone)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) span: proc_macro2::Span,
}

/// What lies at a field's segment.
pub(crate) enum Kind {
    /// One value.
    Leaf(Leaf),
    /// A directory with a struct in it.
    Dir {
        /// The struct; never an `Option`.
        ty: Type,
        /// Whether the field is an `Option` of it.
        optional: bool,
    },
    /// A directory of structs.
    DirMap(Map),
    /// A directory of values.
    Entries(Map, Codec),
    /// A struct whose keys lie beside this struct's.
    Flatten(Type),
    /// Nothing.
    Skip,
}

/// A field of one value.
pub(crate) struct Leaf {
    /// The value; never an `Option` that stands for the presence of the key.
    pub(crate) ty: Type,
    pub(crate) codec: Codec,
    pub(crate) presence: Presence,
    pub(crate) aliases: Vec<Text>,
}

/// A field that is a map.
pub(crate) struct Map {
    pub(crate) key: Type,
    pub(crate) value: Type,
}

/// How a value is written, read, checked and shown.
pub(crate) struct Codec {
    pub(crate) form: Form,
    pub(crate) validate: Option<Path>,
    pub(crate) secret: bool,
}

/// The stored form of a value.
pub(crate) enum Form {
    /// Its `EtcdValue`.
    Own,
    Json,
    /// By `encode` and `decode` of this module.
    With(Path),
}

/// What it means that a leaf has no key.
pub(crate) enum Presence {
    Required,
    Optional,
    /// The type's own default.
    Default,
    /// This expression, and its text.
    DefaultOf(Box<Expr>, String),
}

/// A type that derives `EtcdValue`.
pub(crate) struct Value {
    pub(crate) item: Item,
    pub(crate) shape: Shape,
}

pub(crate) enum Shape {
    /// An enum without data; there is at least one variant.
    Choice(Vec<Variant>),
    /// A struct around one value.
    Newtype(Box<Type>),
    /// Neither: there is an error.
    Unknown,
}

/// One variant of an enum without data.
pub(crate) struct Variant {
    pub(crate) ident: Ident,
    /// What is written. No two texts of an enum are the same.
    pub(crate) text: Text,
    /// What is read as well.
    pub(crate) aliases: Vec<Text>,
}
