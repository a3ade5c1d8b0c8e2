//! `LeafTuple`: adjacent fields of a struct that each have one value, as one tuple. The derive
//! generates one call for the whole tuple instead of one per field. This makes derived structs
//! compile faster, since the compiler checks each call in each struct.

use super::{Change, Decoder, Delta, Encoder, Fallback, Field, Kind, Presence};
use crate::value::{Codec, Limits};

/// Adjacent fields with one value each: a tuple of `Leaf`, `LeafOpt` and `LeafOptOr`, and the index
/// of the first field in the table.
#[derive(Debug)]
pub struct LeafTuple<L> {
    pub(crate) first: usize,
    /// The fields. The derive reads their table rows from here.
    pub of: L,
}

impl<L> LeafTuple<L> {
    /// Combines adjacent fields, where the first one has the index `first` in the table.
    pub const fn new(first: usize, of: L) -> Self {
        Self { first, of }
    }
}

impl<L: Tuple> LeafTuple<L> {
    /// Reads every field and records every problem. Returns `None` if a field has a problem.
    // Without inlining, structs whose fields have the same types share this function.
    #[inline(never)]
    pub fn decode(&self, decoder: &mut Decoder<'_>) -> Option<L::Values> {
        self.of.decode(self.first, decoder)
    }

    /// Writes every field.
    pub fn encode(&self, encoder: &mut Encoder<'_>, values: L::Refs<'_>) {
        self.of.encode(self.first, encoder, values);
    }

    /// Adds the change of each changed field, converted by its function in `makers`.
    pub fn changes<C>(&self, delta: &mut Delta<'_>, makers: L::Makers<C>, out: &mut Vec<C>) {
        self.of.changes(self.first, delta, &makers, out);
    }
}

/// A required field, or a field with a default.
#[derive(Debug)]
pub struct Leaf<T> {
    pub(crate) codec: Codec<T>,
    default: Fallback<T>,
}

impl<T> Leaf<T> {
    /// Creates a required field.
    pub const fn new(codec: Codec<T>) -> Self {
        Self { codec, default: Fallback::None }
    }

    /// Creates a field with a default.
    pub const fn or(codec: Codec<T>, default: fn() -> T) -> Self {
        Self { codec, default: Fallback::Always(default) }
    }

    /// Returns the field's row in the table, without the parts that only the derive macro knows.
    pub const fn row(&self, name: &'static str, segment: &'static str) -> Field {
        row(name, segment, &self.codec, Presence::Required)
    }

    /// Returns the codec of the field's values.
    pub const fn codec(&self) -> &Codec<T> {
        &self.codec
    }

    /// Returns the presence of a field whose default has this source text. The text is hidden for a
    /// secret, since everyone who sets no other value uses the default.
    pub const fn presence(&self, default: &'static str) -> Presence {
        Presence::Default(if self.codec.is_secret() { "***" } else { default })
    }
}

/// An `Option` field.
#[derive(Debug)]
pub struct LeafOpt<T> {
    pub(crate) codec: Codec<T>,
}

impl<T> LeafOpt<T> {
    /// Creates an `Option` field.
    pub const fn new(codec: Codec<T>) -> Self {
        Self { codec }
    }

    /// Returns the field's row in the table, without the parts that only the derive macro knows.
    pub const fn row(&self, name: &'static str, segment: &'static str) -> Field {
        row(name, segment, &self.codec, Presence::Optional)
    }

    /// Returns the codec of the field's values.
    pub const fn codec(&self) -> &Codec<T> {
        &self.codec
    }
}

/// An `Option` field with a default, which may be `None`.
#[derive(Debug)]
pub struct LeafOptOr<T> {
    pub(crate) codec: Codec<T>,
    default: fn() -> Option<T>,
}

impl<T> LeafOptOr<T> {
    /// Creates an `Option` field with a default.
    pub const fn new(codec: Codec<T>, default: fn() -> Option<T>) -> Self {
        Self { codec, default }
    }

    /// Returns the field's row in the table, without the parts that only the derive macro knows.
    pub const fn row(&self, name: &'static str, segment: &'static str) -> Field {
        row(name, segment, &self.codec, Presence::Optional)
    }

    /// Returns the codec of the field's values.
    pub const fn codec(&self) -> &Codec<T> {
        &self.codec
    }

    /// Returns the presence of a field whose default has this source text. The text is hidden for a
    /// secret.
    pub const fn presence(&self, default: &'static str) -> Presence {
        Presence::OptionalOr(if self.codec.is_secret() { "***" } else { default })
    }
}

const fn row<T>(name: &'static str, segment: &'static str, codec: &Codec<T>, presence: Presence) -> Field {
    Field {
        name,
        segment,
        aliases: &[],
        doc: "",
        kind: Kind::Leaf(codec.type_name()),
        presence,
        secret: codec.is_secret(),
        validated: codec.is_validated(),
        limits: Limits::NONE,
    }
}

/// One leaf of a tuple.
pub trait OneLeaf {
    /// The type of the stored value.
    type Stored;
    /// The type of the struct's field.
    type Value: 'static;

    /// Returns the codec of the stored value.
    fn codec(&self) -> &Codec<Self::Stored>;

    /// Returns the value of the field if its key does not exist.
    fn default(&self) -> Fallback<Self::Stored>;

    /// Reads the field.
    fn decode(&self, field: usize, decoder: &mut Decoder<'_>) -> Option<Self::Value>;

    /// Writes the field.
    fn encode(&self, field: usize, encoder: &mut Encoder<'_>, value: &Self::Value);
}

impl<T: 'static> OneLeaf for Leaf<T> {
    type Stored = T;
    type Value = T;

    fn codec(&self) -> &Codec<T> {
        &self.codec
    }

    fn default(&self) -> Fallback<T> {
        self.default
    }

    fn decode(&self, field: usize, decoder: &mut Decoder<'_>) -> Option<T> {
        decoder.leaf(field, &self.codec, self.default)
    }

    fn encode(&self, field: usize, encoder: &mut Encoder<'_>, value: &T) {
        encoder.leaf(field, value, &self.codec);
    }
}

impl<T: 'static> OneLeaf for LeafOpt<T> {
    type Stored = T;
    type Value = Option<T>;

    fn codec(&self) -> &Codec<T> {
        &self.codec
    }

    fn default(&self) -> Fallback<T> {
        Fallback::None
    }

    fn decode(&self, field: usize, decoder: &mut Decoder<'_>) -> Option<Option<T>> {
        decoder.leaf_opt(field, &self.codec)
    }

    fn encode(&self, field: usize, encoder: &mut Encoder<'_>, value: &Option<T>) {
        if let Some(value) = value {
            encoder.leaf(field, value, &self.codec);
        }
    }
}

impl<T: 'static> OneLeaf for LeafOptOr<T> {
    type Stored = T;
    type Value = Option<T>;

    fn codec(&self) -> &Codec<T> {
        &self.codec
    }

    fn default(&self) -> Fallback<T> {
        Fallback::Maybe(self.default)
    }

    fn decode(&self, field: usize, decoder: &mut Decoder<'_>) -> Option<Option<T>> {
        decoder.leaf_opt_or(field, &self.codec, self.default)
    }

    fn encode(&self, field: usize, encoder: &mut Encoder<'_>, value: &Option<T>) {
        match value {
            Some(value) => encoder.leaf(field, value, &self.codec),
            None => encoder.leaf_none(field, &self.codec, self.default),
        }
    }
}

/// A tuple of up to twelve adjacent leaves.
pub trait Tuple {
    /// The values of the struct's fields.
    type Values;
    /// References to these values, for writing.
    type Refs<'a>;
    /// The functions that create the variants of the change enum.
    type Makers<C>;

    /// Reads every field.
    fn decode(&self, first: usize, decoder: &mut Decoder<'_>) -> Option<Self::Values>;

    /// Writes every field.
    fn encode(&self, first: usize, encoder: &mut Encoder<'_>, values: Self::Refs<'_>);

    /// Adds the change of each changed field.
    fn changes<C>(&self, first: usize, delta: &mut Delta<'_>, makers: &Self::Makers<C>, out: &mut Vec<C>);
}

macro_rules! tuple {
    ($($leaf:ident $value:ident $at:tt),+) => {
        impl<$($leaf: OneLeaf),+> Tuple for ($($leaf,)+) {
            type Values = ($($leaf::Value,)+);
            type Refs<'a> = ($(&'a $leaf::Value,)+);
            type Makers<C> = ($(fn(Change<$leaf::Stored>) -> C,)+);

            fn decode(&self, first: usize, decoder: &mut Decoder<'_>) -> Option<Self::Values> {
                $(let $value = self.$at.decode(first + $at, decoder);)+
                Some(($($value?,)+))
            }

            fn encode(&self, first: usize, encoder: &mut Encoder<'_>, values: Self::Refs<'_>) {
                $(self.$at.encode(first + $at, encoder, values.$at);)+
            }

            fn changes<C>(&self, first: usize, delta: &mut Delta<'_>, makers: &Self::Makers<C>, out: &mut Vec<C>) {
                $(if let Some(change) = delta.leaf(first + $at, self.$at.codec(), self.$at.default()) {
                    push(out, makers.$at(change));
                })+
            }
        }
    };
}

tuple!(A a 0);
tuple!(A a 0, B b 1);
tuple!(A a 0, B b 1, X c 2);
tuple!(A a 0, B b 1, X c 2, D d 3);
tuple!(A a 0, B b 1, X c 2, D d 3, E e 4);
tuple!(A a 0, B b 1, X c 2, D d 3, E e 4, F f 5);
tuple!(A a 0, B b 1, X c 2, D d 3, E e 4, F f 5, G g 6);
tuple!(A a 0, B b 1, X c 2, D d 3, E e 4, F f 5, G g 6, H h 7);
tuple!(A a 0, B b 1, X c 2, D d 3, E e 4, F f 5, G g 6, H h 7, I i 8);
tuple!(A a 0, B b 1, X c 2, D d 3, E e 4, F f 5, G g 6, H h 7, I i 8, J j 9);
tuple!(A a 0, B b 1, X c 2, D d 3, E e 4, F f 5, G g 6, H h 7, I i 8, J j 9, K k 10);
tuple!(A a 0, B b 1, X c 2, D d 3, E e 4, F f 5, G g 6, H h 7, I i 8, J j 9, K k 10, L l 11);

/// Adds a change. As a separate function it is compiled once per change enum instead of once per
/// variant.
#[inline(never)]
fn push<C>(out: &mut Vec<C>, change: C) {
    out.push(change);
}
