//! The parsed struct: plain types that contain tokens. No parsing or code generation happens here.
//! The comments state the properties on which `expand` may rely.

use proc_macro2::Ident;
use syn::{Attribute, Expr, ExprArray, Generics, Member, Path, Type, Visibility};

/// A struct or an enum that derives `EtcdSchema`, or the fields of one variant of such an enum.
pub(crate) struct Schema {
    /// The name, the visibility, the generics and the path of `etcd-typed`.
    pub(crate) item: Item,
    /// The documentation comment, each line without its leading space.
    pub(crate) doc: String,
    /// The prefix of the struct's directory.
    pub(crate) prefix: Option<Prefix>,
    /// The validation of the struct as a whole.
    pub(crate) validate: Option<Path>,
    /// The treatment of keys in the struct's directory that the struct does not know.
    pub(crate) unknown: Unknown,
    /// True if fields without a key get their value from the `Default` of the struct.
    pub(crate) has_default: bool,
    /// The traits that the change enum derives in addition to `Debug`.
    pub(crate) change_derives: Vec<Path>,
    /// The fields, in the order of the struct. A field with a mistake may be missing; an error is
    /// then recorded. Empty for an enum.
    pub(crate) fields: Vec<Field>,
    /// The number of the first field. The fields of a variant are numbered after the fields of the
    /// variants before it; all other fields are numbered from zero.
    pub(crate) first: usize,
    /// The variants of an enum. `None` for a struct.
    pub(crate) choice: Option<Tagged>,
}

impl Schema {
    /// Returns the fields of the struct, or of all variants of the enum.
    pub(crate) fn all_fields(&self) -> impl Iterator<Item = &Field> {
        let variants = self.choice.iter().flat_map(|choice| &choice.variants);
        self.fields.iter().chain(variants.flat_map(|variant| &variant.fields.fields))
    }
}

/// An enum with data. One of its keys, the tag, says which variant is stored.
pub(crate) struct Tagged {
    /// The segment of the tag.
    pub(crate) tag: Text,
    /// The variants. There is at least one.
    pub(crate) variants: Vec<TaggedVariant>,
}

/// One variant of a tagged enum.
pub(crate) struct TaggedVariant {
    pub(crate) ident: Ident,
    /// The name of the variant's handle in the handle of the enum. It is unique in the enum.
    pub(crate) handle: Ident,
    /// The `deprecated` and lint attributes of the variant, converted as for a field.
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) doc: String,
    /// The tag values of the variant: first the value that is written, then the aliases. Each is
    /// unique in the enum.
    pub(crate) tags: Vec<Text>,
    /// True if the variant is used for every other tag value. Such a variant has no fields.
    pub(crate) other: bool,
    pub(crate) shape: VariantShape,
    /// The fields, with the item of the enum and without documentation. If the variant contains a
    /// struct, the only field is this struct, flattened.
    pub(crate) fields: Schema,
}

/// The Rust syntax of a variant's fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum VariantShape {
    Unit,
    Named,
    /// One unnamed field, which is a struct.
    Newtype,
}

/// The treatment of keys in a struct's directory that the struct does not know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    Ignored,
    /// A live view reports such keys once.
    Reported,
    /// The struct cannot be read while there is such a key.
    Refused,
}

/// The facts about a type that both derives need.
#[derive(Clone)]
pub(crate) struct Item {
    /// The path of the crate `etcd-typed`.
    pub(crate) krate: Path,
    pub(crate) vis: Visibility,
    pub(crate) ident: Ident,
    /// The generics. If they contain a lifetime, an error is recorded.
    pub(crate) generics: Generics,
}

/// The parsed `prefix = "/{env}/checkout"`.
pub(crate) struct Prefix {
    /// The text as the user wrote it.
    pub(crate) text: String,
    /// The segments, from the root down.
    pub(crate) segments: Vec<Vec<Piece>>,
    /// The parameters in the order of their first use, without duplicates.
    pub(crate) parameters: Vec<Ident>,
}

/// A part of a prefix segment.
pub(crate) enum Piece {
    Literal(String),
    /// One of the prefix's parameters.
    Parameter(Ident),
}

/// One field.
pub(crate) struct Field {
    pub(crate) ident: Ident,
    /// The type as the user wrote it.
    pub(crate) ty: Type,
    pub(crate) vis: Visibility,
    /// `deprecated` and the lint attributes. `expect` becomes `allow`, since generated code may not
    /// cause the lint that the user's own code causes.
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) doc: String,
    /// The name of the field's change variant. It is unique in the struct.
    pub(crate) variant: Ident,
    /// The segment of the field's key. It is unique in the struct, and empty only for fields
    /// without a key (`flatten`, `skip`).
    pub(crate) segment: Text,
    pub(crate) kind: Kind,
}

/// A text that the user wrote, or that is made from an identifier of the user, and the span at
/// which errors about it are reported.
#[derive(Clone)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) span: proc_macro2::Span,
}

/// The kind of data that is stored at the segment of a field.
pub(crate) enum Kind {
    /// One value.
    Leaf(Leaf),
    /// A directory with a struct.
    Dir {
        /// The type of the struct; never an `Option`.
        ty: Type,
        /// Whether the field is an `Option` of the struct.
        optional: bool,
        /// The value of the field if the struct does not exist.
        default: Option<Box<DirDefault>>,
    },
    /// A directory of structs.
    DirMap(Map),
    /// A directory of values.
    Entries(Map, Codec),
    /// A struct whose keys are in this struct's own directory.
    Flatten(Type),
    /// The field is not stored. A read sets it to the value of the expression, or to the `Default`
    /// of the type.
    Skip(Option<Box<Expr>>),
}

/// The default of a directory.
pub(crate) struct DirDefault {
    /// An expression of the field's type.
    pub(crate) expr: Expr,
    /// The source text of the expression.
    pub(crate) text: String,
    /// Whether the expression is the `Default` of the field's type.
    pub(crate) is_of_type: bool,
}

/// A field with one value.
pub(crate) struct Leaf {
    /// The type of the value. Never an `Option` that represents a missing key.
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

/// The settings by which a value is encoded, decoded, validated and shown.
pub(crate) struct Codec {
    pub(crate) form: Form,
    pub(crate) validate: Option<Path>,
    pub(crate) limits: Limits,
    pub(crate) secret: bool,
    /// Whether the struct may implement `Debug` although the value is secret.
    pub(crate) allow_debug: bool,
}

/// The limits of a value, as the user wrote them.
#[derive(Default)]
pub(crate) struct Limits {
    pub(crate) range: Option<Expr>,
    pub(crate) length: Option<Expr>,
    /// An array.
    pub(crate) one_of: Option<ExprArray>,
}

impl Limits {
    pub(crate) fn is_empty(&self) -> bool {
        self.range.is_none() && self.length.is_none() && self.one_of.is_none()
    }
}

/// The stored form of a value.
pub(crate) enum Form {
    /// The form of the type's `EtcdValue`.
    Own,
    Json,
    /// The functions `encode` and `decode` of this module.
    With(Path),
    /// The type's `Display` and `FromStr`.
    Text,
    /// The form that a serde module writes.
    Serde(Box<Module>),
}

/// The functions of a serde module.
#[derive(Clone)]
pub(crate) struct Module {
    /// The function that writes the value. `None` means the `Serialize` of the type.
    pub(crate) serialize: Option<Expr>,
    /// The function that reads the value. `None` means the `Deserialize` of the type.
    pub(crate) deserialize: Option<Expr>,
    /// Whether the functions take an `Option` of the value.
    pub(crate) optional: bool,
}

/// The value of a leaf without a key.
pub(crate) enum Presence {
    Required,
    Optional,
    /// The field is an `Option` and has the value of this expression. The text is the source of the
    /// expression.
    OptionalOr(Box<Expr>, String),
    /// The `Default` of the type.
    Default,
    /// The field has the value of this expression. The text is the source of the expression.
    DefaultOf(Box<Expr>, String),
}

/// A type that derives `EtcdValue`.
pub(crate) struct Value {
    pub(crate) item: Item,
    pub(crate) shape: Shape,
}

pub(crate) enum Shape {
    /// An enum without data, with at least one variant.
    Choice(Vec<Variant>),
    /// A struct around one value.
    Newtype(Inner),
    /// A type that is stored as another type.
    Converted {
        /// The type that is stored.
        stored: Box<Type>,
        validate: Option<Path>,
    },
    /// A type with its own `Display` and `FromStr`, or a struct around a type that has them.
    Text { inner: Option<Inner>, validate: Option<Path> },
    /// The type has another shape, for which an error is recorded.
    Unknown,
}

/// The field of a newtype.
pub(crate) struct Inner {
    pub(crate) member: Member,
    pub(crate) ty: Box<Type>,
    /// Whether a read creates the newtype with `TryFrom` from the value.
    pub(crate) try_from: bool,
    pub(crate) validate: Option<Path>,
}

/// One variant of an enum without data.
pub(crate) struct Variant {
    pub(crate) ident: Ident,
    /// The text that is stored for the variant. It is unique in the enum.
    pub(crate) text: Text,
    /// Other texts that are accepted when reading.
    pub(crate) aliases: Vec<Text>,
}
