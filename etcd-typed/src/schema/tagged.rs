//! Enums. The tag is the first field of an enum's table. Its value selects the variant whose fields
//! are read.

use bytes::Bytes;

use super::{Change, Decoder, Delta, Encoder, Field, Kind, Table, Tree, split_first};
use crate::value::ValueError;

/// An enum whose directory contains a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EnumAround {
    /// The offset in the key at which the enum's directory ends: 0, or after a `/`.
    pub(crate) start: usize,
    pub(crate) table: &'static Table,
    /// True if the enum has its own directory. A flattened enum shares the directory with a struct.
    pub(crate) fills: bool,
}

impl EnumAround {
    /// Returns the key of the tag, if the enum's directory contains `key`.
    pub(crate) fn tag_at(&self, key: &str) -> String {
        [&key[..self.start], self.table.tag().map_or("", |tag| tag.segment)].concat()
    }

    /// Whether the key `key` belongs to this variant. The key of the tag belongs to every variant.
    pub(crate) fn variant_has(&self, variant: Option<usize>, key: &str) -> bool {
        let relative = &key[self.start..];
        let fields = self.table.fields.iter().enumerate();
        let mut those = fields.filter(|(at, field)| Some(*at) == variant || !matches!(field.kind, Kind::Variant { .. }));
        those.any(|(_, field)| match &field.kind {
            Kind::Variant { table, .. } => table.owns(relative),
            _ => field.segment == relative,
        })
    }
}

impl Table {
    /// Returns the tag field of an enum, or `None` for a struct.
    pub(crate) fn tag(&self) -> Option<&'static Field> {
        let is_enum = self.fields.iter().any(|field| matches!(field.kind, Kind::Variant { .. }));
        self.fields.first().filter(|_| is_enum)
    }

    /// Returns the index of the variant that a stored tag selects.
    pub(crate) fn variant(&self, stored: &[u8]) -> Option<usize> {
        let text = std::str::from_utf8(stored).ok().map(str::trim);
        let position = |is: &dyn Fn(&[&str], bool) -> bool| {
            self.fields.iter().position(|field| matches!(&field.kind, Kind::Variant { tags, other, .. } if is(tags, *other)))
        };
        position(&|tags, _| text.is_some_and(|text| tags.contains(&text))).or_else(|| position(&|_, other| other))
    }

    /// Returns the value of the tag that is written for a variant.
    pub(crate) fn tag_of(&self, variant: usize) -> Option<&'static str> {
        match self.fields.get(variant)?.kind {
            Kind::Variant { tags, .. } => tags.first().copied(),
            _ => None,
        }
    }

    /// Returns the name that a change reports for a stored tag: the tag value that is written for
    /// the variant, or the stored text if it selects only the `other` variant.
    fn tag_name(&self, stored: &[u8]) -> Result<String, ValueError> {
        let variant = self.variant(stored).and_then(|at| self.fields.get(at));
        match variant.map(|field| &field.kind) {
            Some(Kind::Variant { other: true, .. }) => Ok(String::from_utf8_lossy(stored).trim().to_owned()),
            Some(Kind::Variant { tags: [written, ..], .. }) => Ok((*written).to_owned()),
            _ => Err(self.no_variant()),
        }
    }

    /// Returns the error for a tag that selects no variant.
    pub(crate) fn no_variant(&self) -> ValueError {
        ValueError::new(format_args!("not {}", self.tag_type()))
    }

    /// Returns the list of valid tag values, for people.
    pub(crate) fn tag_type(&self) -> &'static str {
        match self.tag().map(|tag| &tag.kind) {
            Some(Kind::Leaf(type_name)) => type_name,
            _ => "",
        }
    }

    /// Whether the struct is an enum, or contains one at any depth.
    pub(crate) fn has_enums(&self) -> bool {
        self.fields.iter().any(|field| match &field.kind {
            Kind::Variant { .. } => true,
            Kind::Dir(table) | Kind::DirMap { table, .. } | Kind::Flatten(table) => table.has_enums(),
            Kind::Leaf(_) | Kind::Entries { .. } => false,
        })
    }

    /// Returns the enums whose directories contain a key, from the outermost to the innermost.
    /// `start` is the offset in the key at which this struct's directory ends.
    pub(crate) fn enums_around(&'static self, relative: &str, start: usize, fills: bool) -> Vec<EnumAround> {
        let mut found = Vec::new();
        self.add_enums(relative, start, fills, &mut found);
        found
    }

    fn add_enums(&'static self, relative: &str, start: usize, fills: bool, found: &mut Vec<EnumAround>) {
        if self.tag().is_some() {
            found.push(EnumAround { start, table: self, fills });
        }
        let (first, rest) = split_first(&relative[start..]);
        for field in self.fields {
            match (&field.kind, rest) {
                (Kind::Flatten(table) | Kind::Variant { table, .. }, _) => table.add_enums(relative, start, false, found),
                (Kind::Dir(table), Some(_)) if field.segment == first => table.add_enums(relative, start + first.len() + 1, true, found),
                (Kind::DirMap { table, .. }, Some(rest)) if field.segment == first => {
                    if let (child, Some(_)) = split_first(rest) {
                        table.add_enums(relative, start + first.len() + 1 + child.len() + 1, true, found);
                    }
                }
                _ => {}
            }
        }
    }
}

impl Decoder<'_> {
    /// Reads the tag of an enum. Returns the index of the variant in the table.
    pub fn tag(&mut self) -> Option<usize> {
        self.tag_value(|table, stored| table.variant(stored).ok_or_else(|| table.no_variant()))
    }

    /// Reads the fields of a variant.
    pub fn variant<T>(&mut self, field: usize, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let table = variant_table(self.table, field)?;
        let outer = std::mem::replace(&mut self.table, table);
        let value = read(self);
        self.table = outer;
        value
    }
}

impl Encoder<'_> {
    /// Writes the tag of a variant, and its fields.
    pub fn variant(&mut self, field: usize, write: impl FnOnce(&mut Self)) {
        let (Some(tag), Some(table)) = (self.table.tag_of(field), variant_table(self.table, field)) else { return };
        let other = matches!(self.table.fields.get(field), Some(Field { kind: Kind::Variant { other: true, .. }, .. }));
        self.tag(Bytes::from_static(tag.as_bytes()), other);
        let outer = std::mem::replace(&mut self.table, table);
        write(self);
        self.table = outer;
    }
}

/// Returns the reason why no read uses this key of the schema, if the tag of an enum around the key
/// selects another variant.
pub(super) fn of_other_variant(around: &[EnumAround], key: &str, tree: &Tree) -> Option<String> {
    around.iter().find_map(|of| {
        let tag = of.tag_at(key);
        let now = of.table.variant(&tree.get(&tag)?.value).filter(|now| !of.variant_has(Some(*now), key))?;
        let now = of.table.tag_of(now).unwrap_or_default();
        let has = |at: &usize| of.table.tag_of(*at).is_some() && of.variant_has(Some(*at), key);
        let theirs: Vec<_> = (0..of.table.fields.len()).filter(has).filter_map(|at| of.table.tag_of(at)).collect();
        let theirs = theirs.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ");
        Some(format!("not read: it is a key of the variant {theirs}, and `{tag}` is `{now}`; delete the key"))
    })
}

fn variant_table(table: &'static Table, field: usize) -> Option<&'static Table> {
    match table.fields.get(field)?.kind {
        Kind::Variant { table, .. } => Some(table),
        _ => None,
    }
}

impl Delta<'_> {
    /// Adds the change of an enum's tag.
    pub fn tag<C>(&mut self, make: fn(Change<String>) -> C, out: &mut Vec<C>) {
        let table = self.table;
        out.extend(self.leaf_with(0, |bytes| table.tag_name(bytes)).map(make));
    }

    /// Adds the changes of a variant's fields. While the tag selects another variant, the keys of
    /// this variant are not read, and their changes are not reported. When the tag changes to or
    /// from this variant, all of its fields are reported as created or deleted.
    pub fn variant<I, C>(&mut self, field: usize, read: impl FnOnce(&mut Delta<'_>, &mut Vec<I>), make: fn(I) -> C, out: &mut Vec<C>) {
        let Some(table) = variant_table(self.table, field) else { return };
        let (of, (was, is)) = (self.table, self.tags());
        let names = |tag: Option<&[u8]>| tag.is_some_and(|tag| of.variant(tag) == Some(field));
        // If the tag is unknown, a change cannot be attributed to one variant, so it is reported
        // for each.
        let is_untold = self.is_partial() && was.is_none() && is.is_none();
        let (was, is) = (names(was) || is_untold, names(is) || is_untold);
        let mut changes = Vec::new();
        self.between(was, is, |delta| {
            let outer = std::mem::replace(&mut delta.table, table);
            read(delta, &mut changes);
            delta.table = outer;
        });
        out.extend(changes.into_iter().map(make));
    }
}
