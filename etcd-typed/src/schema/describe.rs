//! `Table`: a schema as data, for the code that traverses it, for people and for tools.

use std::fmt;

use serde::Serialize;

use super::{Encoded, split_first};
use crate::key;
use crate::value::{Limits, ValueError};

/// The fields of a struct, as the derive macro reads them. `Display` prints a table for people;
/// `Serialize` produces the same data for tools.
#[derive(Debug, Serialize)]
pub struct Table {
    /// The struct's name.
    pub name: &'static str,
    /// The documentation comment of the struct.
    pub doc: &'static str,
    /// The pattern of the struct's directory, such as `/{env}/checkout`, if the struct declares
    /// one.
    pub prefix: Option<&'static str>,
    /// The fields, in the order of the struct.
    pub fields: &'static [Field],
    /// The treatment of keys in the directory that are not in the schema.
    #[serde(skip_serializing_if = "UnknownKeys::is_ignored")]
    pub unknown: UnknownKeys,
}

/// The treatment of keys in a struct's directory that are not in the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnknownKeys {
    /// Only [`Dir::check`](crate::Dir::check) lists the key. This is the default.
    Ignored,
    /// A live view also logs the key, once (`#[serde(deny_unknown_fields)]`).
    Reported,
    /// The struct cannot be read while such a key exists (`#[etcd(strict)]`).
    Refused,
}

impl UnknownKeys {
    fn is_ignored(&self) -> bool {
        *self == Self::Ignored
    }
}

/// The keys whose lease shows when a struct expires, relative to its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Witnesses {
    /// The first of these keys that exists shows when the struct expires.
    First(Vec<&'static str>),
    /// All of these keys together show when the struct expires, if they all exist and agree.
    Every(Vec<&'static str>),
}

/// One field of a [`Table`].
#[derive(Debug, Serialize)]
pub struct Field {
    /// The field's name.
    pub name: &'static str,
    /// The segment of the field's key, below the struct's directory. Empty for a flattened field
    /// and for a variant.
    pub segment: &'static str,
    /// Alternative segments, which are read if `segment` does not exist.
    pub aliases: &'static [&'static str],
    /// The documentation comment of the field.
    pub doc: &'static str,
    /// The kind of data that is stored at the segment.
    pub kind: Kind,
    /// The effect on the field if its key does not exist.
    pub presence: Presence,
    /// Whether the field is marked `secret`, so that its value is never shown.
    pub secret: bool,
    /// Whether values of the field are validated before they are written.
    pub validated: bool,
    /// The limits of the field's values, from `range`, `length` and `one_of`.
    #[serde(skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
}

/// The kind of data that is stored at the segment of a field.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// One value. Contains the name of the value type, for people.
    Leaf(&'static str),
    /// A directory with a struct.
    Dir(&'static Table),
    /// A struct whose keys are in the enclosing struct's own directory.
    Flatten(&'static Table),
    /// The fields of one variant of an enum. Their keys are in the enum's own directory. These
    /// fields are read while the tag selects this variant. The tag is the first field of the enum's
    /// table.
    Variant {
        /// The tag values that select this variant. The first is written; the others are its
        /// aliases.
        tags: &'static [&'static str],
        /// Whether this variant is also used for every unknown tag value (`#[etcd(other)]`).
        other: bool,
        /// The fields of the variant.
        table: &'static Table,
    },
    /// A directory with one subdirectory per struct.
    DirMap {
        /// The name of the map's key type, for people.
        key: &'static str,
        /// The struct.
        table: &'static Table,
    },
    /// A directory with one key per value.
    Entries {
        /// The name of the map's key type, for people.
        key: &'static str,
        /// The name of the map's value type, for people.
        value: &'static str,
    },
}

/// The effect on a field if its key does not exist.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Presence {
    /// The struct cannot be read.
    Required,
    /// The field is `None` or an empty map.
    Optional,
    /// The field has the value of this expression.
    Default(&'static str),
    /// The field is an `Option` and has the value of this expression, which may be `None`.
    OptionalOr(&'static str),
}

impl Table {
    pub(crate) const EMPTY: &'static Self = &Self { name: "", doc: "", prefix: None, fields: &[], unknown: UnknownKeys::Ignored };

    /// Returns the name of the struct's directory in metrics and events. The name is the same for
    /// all directories of the type.
    pub(crate) fn pattern(&self) -> &'static str {
        self.prefix.unwrap_or(self.name)
    }

    /// Whether a key, relative to the struct's directory, is in the schema.
    pub(crate) fn owns(&self, relative: &str) -> bool {
        self.has(relative, |name| key::unescape(name).is_some())
    }

    /// True if a key, relative to the struct's directory, affects a read. Every key of the schema
    /// does. In a map, keys with invalid names do too, since they make the read fail.
    pub(crate) fn reads(&self, relative: &str) -> bool {
        self.has(relative, |name| !key::is_reserved(name))
    }

    /// True if a key, relative to the struct's directory, is unknown and belongs to this struct
    /// itself. False for a key in the directory of a nested struct: the nested struct decides about
    /// that key.
    pub(crate) fn is_unknown_here(&'static self, relative: &str) -> bool {
        !self.owns(relative) && self.struct_within(relative).is_none() && !relative.split('/').any(key::is_reserved)
    }

    /// True if the innermost struct around the key is strict and does not know the key.
    pub(crate) fn refuses(&'static self, relative: &str) -> bool {
        self.has_unknown(relative, UnknownKeys::Refused)
    }

    /// True if the innermost struct around the key reports unknown keys and does not know the key.
    pub(crate) fn reports(&'static self, relative: &str) -> bool {
        self.has_unknown(relative, UnknownKeys::Reported)
    }

    /// Whether this struct or a struct below it reports unknown keys.
    pub(crate) fn has_reports(&self) -> bool {
        self.unknown == UnknownKeys::Reported
            || self.fields.iter().any(|field| match &field.kind {
                Kind::Leaf(_) | Kind::Entries { .. } => false,
                Kind::Dir(table) | Kind::DirMap { table, .. } | Kind::Flatten(table) | Kind::Variant { table, .. } => table.has_reports(),
            })
    }

    fn has_unknown(&'static self, relative: &str, unknown: UnknownKeys) -> bool {
        self.structs_around(relative)
            .last()
            .is_some_and(|(prefix, table)| table.unknown == unknown && table.is_unknown_here(&relative[prefix.len()..]))
    }

    /// Whether a key is in the schema. `is_name` decides whether a segment is accepted as a name in
    /// a map.
    fn has(&self, relative: &str, is_name: fn(&str) -> bool) -> bool {
        let (first, rest) = split_first(relative);
        self.fields.iter().any(|field| match (&field.kind, rest) {
            (Kind::Flatten(table) | Kind::Variant { table, .. }, _) => table.has(relative, is_name),
            (Kind::Leaf(_), None) => field.segments().any(|segment| segment == first),
            (Kind::Dir(table), Some(rest)) => field.segment == first && table.has(rest, is_name),
            (Kind::Entries { .. }, Some(rest)) => field.segment == first && !rest.contains('/') && is_name(rest),
            (Kind::DirMap { table, .. }, Some(rest)) => {
                let (child, rest) = split_first(rest);
                field.segment == first && is_name(child) && rest.is_some_and(|rest| table.has(rest, is_name))
            }
            _ => false,
        })
    }

    /// True if the value at a key of the schema must not be shown. The key is relative to the
    /// struct's directory.
    pub(crate) fn is_secret(&self, relative: &str) -> bool {
        let (first, rest) = split_first(relative);
        self.fields.iter().any(|field| match (&field.kind, rest) {
            (Kind::Flatten(table) | Kind::Variant { table, .. }, _) => table.is_secret(relative),
            (Kind::Leaf(_), None) => field.secret && field.segments().any(|segment| segment == first),
            (Kind::Entries { .. }, Some(_)) => field.secret && field.segment == first,
            (Kind::Dir(table), Some(rest)) => field.segment == first && table.is_secret(rest),
            (Kind::DirMap { table, .. }, Some(rest)) => {
                field.segment == first && rest.split_once('/').is_some_and(|(_, rest)| table.is_secret(rest))
            }
            _ => false,
        })
    }

    /// True if the field with this key is required: the field is no `Option` and has no default.
    /// The key is relative to the struct's directory.
    pub(crate) fn is_required(&'static self, relative: &str) -> bool {
        self.structs_around(relative).pop().is_some_and(|(prefix, table)| {
            let mut is_required = false;
            table.each_own_leaf(true, &mut |field| {
                let is_it = field.segments().any(|segment| relative.strip_prefix(&prefix) == Some(segment));
                is_required |= is_it && field.presence == Presence::Required;
            });
            is_required
        })
    }

    /// Returns every key outside of maps, including aliases, relative to the struct's directory.
    pub(crate) fn fixed_keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        self.each_leaf("", &mut |prefix, field| keys.extend(field.segments().map(|segment| format!("{prefix}{segment}"))));
        if self.has_enums() {
            // Several variants may have the same key.
            keys.sort_unstable();
            keys.dedup();
        }
        keys
    }

    /// Returns the keys of fields without a value in `encoded`, including their aliases. If a field
    /// has a value, its aliases are not read, so they may remain in the store for older readers.
    pub(crate) fn absent_keys(&self, encoded: &Encoded) -> Vec<String> {
        let mut keys = Vec::new();
        self.each_leaf("", &mut |prefix, field| {
            if !encoded.contains_key(&format!("{prefix}{}", field.segment)) {
                keys.extend(field.segments().map(|segment| format!("{prefix}{segment}")));
            }
        });
        // The alias of one variant's field may be the key of another variant's field.
        keys.retain(|key| !encoded.contains_key(key));
        keys
    }

    /// Returns the directories of the maps, relative to the struct's directory.
    pub(crate) fn map_directories(&self) -> Vec<String> {
        let mut directories = Vec::new();
        self.add_map_directories("", &mut directories);
        directories
    }

    /// Returns the reason why the validation of the whole struct failed, or a mask if the reason
    /// may contain a secret.
    pub(crate) fn masked(&self, reason: ValueError) -> ValueError {
        if self.has_secret() { ValueError::new("*** (the struct has a secret in it: the reason is not shown)") } else { reason }
    }

    fn has_secret(&self) -> bool {
        self.fields.iter().any(|field| match &field.kind {
            Kind::Leaf(_) | Kind::Entries { .. } => field.secret,
            Kind::Dir(table) | Kind::Flatten(table) | Kind::Variant { table, .. } | Kind::DirMap { table, .. } => table.has_secret(),
        })
    }

    /// Returns the keys that show when the struct expires, since they are written together with it.
    /// These are the required keys. If the struct has no required key, they are all keys that a
    /// write of the whole struct writes, since each of them alone may be a temporary override.
    ///
    /// Considers only the struct's own fields, not nested structs, maps, the fields of variants and
    /// the field at `except`.
    pub(crate) fn witnesses(&self, except: &str) -> Witnesses {
        // One request accepts only a limited number of conditions. Four required keys are enough,
        // since all required keys expire together.
        const REQUIRED: usize = 4;
        const EVERY: usize = 32;
        let mut required = Vec::new();
        let mut every = Vec::new();
        self.each_own_leaf(false, &mut |field| {
            if field.segments().any(|segment| segment == except) {
                return;
            }
            match field.presence {
                Presence::Required if required.len() < REQUIRED => required.extend(field.segments()),
                Presence::Default(_) => every.push(field.segment),
                Presence::Required | Presence::Optional | Presence::OptionalOr(_) => {}
            }
        });
        if !required.is_empty() {
            Witnesses::First(required)
        } else if every.len() <= EVERY {
            Witnesses::Every(every)
        } else {
            Witnesses::Every(Vec::new())
        }
    }

    /// Calls `visit` with each field of the struct that has one value. `variants`: true to visit
    /// the fields of an enum's variants too.
    fn each_own_leaf(&self, variants: bool, visit: &mut impl FnMut(&Field)) {
        for field in self.fields {
            match &field.kind {
                Kind::Leaf(_) => visit(field),
                Kind::Flatten(table) => table.each_own_leaf(variants, visit),
                Kind::Variant { table, .. } if variants => table.each_own_leaf(variants, visit),
                Kind::Variant { .. } | Kind::Dir(_) | Kind::DirMap { .. } | Kind::Entries { .. } => {}
            }
        }
    }

    /// Returns the structs that contain a key of the schema, from the outermost to the innermost,
    /// each with its relative directory (empty, or with a final `/`) and its table.
    pub(crate) fn structs_around(&'static self, relative: &str) -> Vec<(String, &'static Self)> {
        let mut found = vec![(String::new(), self)];
        let mut at = (0, self);
        while let Some((length, table)) = at.1.struct_within(relative.get(at.0..).unwrap_or_default()) {
            at = (at.0 + length, table);
            found.push((relative[..at.0].to_owned(), table));
        }
        found
    }

    /// Returns the aliases of the field with this key, relative to the struct's directory.
    pub(crate) fn aliases_of(&'static self, relative: &str) -> Vec<String> {
        let mut aliases = Vec::new();
        if let Some((prefix, table)) = self.structs_around(relative).pop() {
            table.each_own_leaf(true, &mut |field| {
                if relative.strip_prefix(&prefix) == Some(field.segment) {
                    aliases.extend(field.aliases.iter().map(|alias| format!("{prefix}{alias}")));
                }
            });
        }
        aliases
    }

    /// Returns the nested struct, or the struct in a map, that contains the key. Also returns the
    /// length of the part of the key up to that struct's directory.
    fn struct_within(&self, relative: &str) -> Option<(usize, &'static Self)> {
        let (first, rest) = split_first(relative);
        let rest = rest?;
        self.fields.iter().find_map(|field| match &field.kind {
            Kind::Dir(table) if field.segment == first => Some((first.len() + 1, *table)),
            Kind::DirMap { table, .. } if field.segment == first => {
                let (child, rest) = split_first(rest);
                rest.map(|_| (first.len() + 1 + child.len() + 1, *table))
            }
            Kind::Flatten(table) | Kind::Variant { table, .. } => table.struct_within(relative),
            _ => None,
        })
    }

    fn add_map_directories(&self, prefix: &str, directories: &mut Vec<String>) {
        for field in self.fields {
            match &field.kind {
                Kind::Leaf(_) => {}
                Kind::Dir(table) => table.add_map_directories(&format!("{prefix}{}/", field.segment), directories),
                Kind::Flatten(table) | Kind::Variant { table, .. } => table.add_map_directories(prefix, directories),
                Kind::DirMap { .. } | Kind::Entries { .. } => directories.push(format!("{prefix}{}", field.segment)),
            }
        }
    }

    /// Visits every field with one value that is not in a map, with the directory of its struct.
    pub(super) fn each_leaf(&self, prefix: &str, visit: &mut impl FnMut(&str, &Field)) {
        for field in self.fields {
            match &field.kind {
                Kind::Leaf(_) => visit(prefix, field),
                Kind::Dir(table) => table.each_leaf(&format!("{prefix}{}/", field.segment), visit),
                Kind::Flatten(table) | Kind::Variant { table, .. } => table.each_leaf(prefix, visit),
                Kind::DirMap { .. } | Kind::Entries { .. } => {}
            }
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, prefix: &str) -> fmt::Result {
        for field in self.fields {
            let place = format!("{prefix}{}", field.segment);
            match &field.kind {
                Kind::Leaf(of) => field.write(f, &place, format_args!("{of}"))?,
                Kind::Entries { key, value } => field.write(f, &format!("{place}/<{key}>"), format_args!("{value}"))?,
                Kind::Dir(table) => {
                    field.write(f, &format!("{place}/"), format_args!("{}", table.name))?;
                    table.write(f, &format!("{place}/"))?;
                }
                Kind::DirMap { key, table } => {
                    let place = format!("{place}/<{key}>/");
                    field.write(f, &place, format_args!("{}", table.name))?;
                    table.write(f, &place)?;
                }
                Kind::Flatten(table) => table.write(f, prefix)?,
                Kind::Variant { tags, other, table } => {
                    write_variant(f, prefix, field, tags, *other)?;
                    table.write(f, prefix)?;
                }
            }
        }
        Ok(())
    }
}

impl Field {
    /// Returns the segments that the field is read from, in order of preference.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.segment).chain(self.aliases.iter().copied())
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, place: &str, of: fmt::Arguments<'_>) -> fmt::Result {
        write!(f, "{place}  {of}")?;
        match self.presence {
            Presence::Required => {}
            Presence::Optional => f.write_str(", optional")?,
            Presence::Default(default) => write!(f, ", default {default}")?,
            Presence::OptionalOr(default) => write!(f, ", optional, default {default}")?,
        }
        if self.secret {
            f.write_str(", secret")?;
        }
        if self.validated {
            f.write_str(", validated")?;
        }
        write!(f, "{}", self.limits)?;
        for alias in self.aliases {
            write!(f, ", or `{alias}`")?;
        }
        writeln!(f)?;
        for line in self.doc.lines() {
            writeln!(f, "    {}", line.trim())?;
        }
        Ok(())
    }
}

/// Writes the line above the fields of a variant.
fn write_variant(f: &mut fmt::Formatter<'_>, prefix: &str, field: &Field, tags: &[&str], other: bool) -> fmt::Result {
    let names: Vec<_> = tags.iter().map(|tag| format!("`{tag}`")).collect();
    let more = if other { " or any other value" } else { "" };
    writeln!(f, "{prefix}  variant {}: {}{more}", field.name, names.join(" or "))?;
    field.doc.lines().try_for_each(|line| writeln!(f, "    {}", line.trim()))
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(prefix) => writeln!(f, "{} in {prefix}", self.name)?,
            None => writeln!(f, "{}", self.name)?,
        }
        for line in self.doc.lines() {
            writeln!(f, "    {}", line.trim())?;
        }
        self.write(f, "")
    }
}
