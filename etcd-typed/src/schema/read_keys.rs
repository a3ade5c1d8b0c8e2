//! Lists the keys that a schema reads, and finds the secrets that it needs. A snapshot file
//! contains no secrets, so it can replace a server only for a schema that needs none.

use super::{Field, Kind, Presence, Table};

/// The keys of one field, in the order in which a read tries them: the field's own key first, then
/// its aliases.
///
/// A key is relative to the view's directory. An empty segment matches any name in a map:
/// `pools//size`. The segments of a schema itself are never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) keys: Vec<String>,
    /// Whether the keys also decide which entries a map has.
    pub(crate) is_in_map: bool,
}

/// A secret that a view needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NeededSecret {
    /// The key of the secret, relative to the view's directory.
    pub(crate) place: String,
    /// True if this secret alone may decide whether a map entry or an optional struct exists.
    pub(crate) tells_existence: bool,
}

impl Table {
    /// Returns every key that a read uses, without secret fields. `prefix` is the position of the
    /// struct: empty, or with a final `/`.
    pub(crate) fn looks(&self, prefix: &str, is_in_map: bool) -> Vec<Look> {
        let within = |directory: String, table: &Self, is_in_map| table.looks(&directory, is_in_map);
        let of_field = |field: &Field| {
            let at = |segment: &str| format!("{prefix}{segment}");
            match &field.kind {
                Kind::Leaf(_) | Kind::Entries { .. } if field.secret => Vec::new(),
                Kind::Leaf(_) => vec![Look { keys: field.segments().map(at).collect(), is_in_map }],
                Kind::Entries { .. } => vec![Look { keys: vec![at(field.segment) + "/"], is_in_map: true }],
                Kind::Dir(table) => within(at(field.segment) + "/", table, is_in_map),
                Kind::DirMap { table, .. } => within(at(field.segment) + "//", table, true),
                Kind::Flatten(table) | Kind::Variant { table, .. } => within(prefix.to_owned(), table, is_in_map),
            }
        };
        self.fields.iter().flat_map(of_field).collect()
    }

    /// Returns the first secret that a read needs: without this secret, the struct could not be
    /// read, or would be read as another value. It is a required field, the values of a map, or a
    /// field that alone decides whether a map entry or an optional struct exists.
    pub(crate) fn needed_secret(&self) -> Option<NeededSecret> {
        self.fields.iter().find_map(|field| match &field.kind {
            Kind::Leaf(_) => (field.secret && field.presence == Presence::Required).then(|| NeededSecret::at(field.segment)),
            Kind::Entries { key, .. } => field.secret.then(|| NeededSecret::at(&format!("{}/<{key}>", field.segment))),
            Kind::Dir(table) if field.presence != Presence::Required => Some(table.entry_secret()?.below(field.segment)),
            Kind::Dir(table) => Some(table.needed_secret()?.below(field.segment)),
            Kind::DirMap { key, table } => Some(table.entry_secret()?.below(&format!("{}/<{key}>", field.segment))),
            Kind::Flatten(table) => table.needed_secret(),
            // A key that is secret in one variant is treated as secret in all variants.
            Kind::Variant { table, .. } => table.needed_secret().or_else(|| {
                let mut required = Vec::new();
                table.add_required("", &mut required);
                required.iter().find(|key| self.is_secret(key)).map(|key| NeededSecret::at(key))
            }),
        })
    }

    /// Like [`needed_secret`](Self::needed_secret), for a struct that exists only if one of its
    /// keys is stored.
    pub(crate) fn entry_secret(&self) -> Option<NeededSecret> {
        let alone = || Some(NeededSecret { place: self.first_secret()?, tells_existence: true });
        self.needed_secret().or_else(|| if self.always_shows() { None } else { alone() })
    }

    /// Whether the struct has a required key that is not a secret.
    fn always_shows(&self) -> bool {
        self.fields.iter().any(|field| match &field.kind {
            Kind::Leaf(_) => !field.secret && field.presence == Presence::Required,
            Kind::Dir(table) => field.presence == Presence::Required && table.always_shows(),
            Kind::Flatten(table) => table.always_shows(),
            Kind::Variant { .. } | Kind::DirMap { .. } | Kind::Entries { .. } => false,
        })
    }

    fn first_secret(&self) -> Option<String> {
        self.fields.iter().find_map(|field| match &field.kind {
            Kind::Leaf(_) => field.secret.then(|| field.segment.to_owned()),
            Kind::Entries { key, .. } => field.secret.then(|| format!("{}/<{key}>", field.segment)),
            Kind::Dir(table) => Some(format!("{}/{}", field.segment, table.first_secret()?)),
            Kind::DirMap { key, table } => Some(format!("{}/<{key}>/{}", field.segment, table.first_secret()?)),
            Kind::Flatten(table) | Kind::Variant { table, .. } => table.first_secret(),
        })
    }
}

impl NeededSecret {
    pub(crate) fn at(place: &str) -> Self {
        Self { place: place.to_owned(), tells_existence: false }
    }

    pub(crate) fn below(self, directory: &str) -> Self {
        Self { place: format!("{directory}/{}", self.place), ..self }
    }
}
