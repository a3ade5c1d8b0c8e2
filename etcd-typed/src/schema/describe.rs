//! `Table`: a schema as data, for the walks, for people and for tools.

use std::fmt;

use serde::Serialize;

use super::{Encoded, split_first};
use crate::key;
use crate::value::ValueError;

/// A struct's fields, as the derive found them. `Display` is a table for people, `Serialize` the same for tools.
#[derive(Debug, Serialize)]
pub struct Table {
    /// The struct's name.
    pub name: &'static str,
    /// Its documentation comment.
    pub doc: &'static str,
    /// The pattern of its directory, `/{env}/checkout`, where the struct names one.
    pub prefix: Option<&'static str>,
    /// In the order of the struct.
    pub fields: &'static [Field],
}

/// The keys that tell when a struct expires, relative to its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Witnesses {
    /// The first one that is there tells it.
    First(Vec<&'static str>),
    /// If all are there and agree they tell it.
    Every(Vec<&'static str>),
}

/// One field of a [`Table`].
#[derive(Debug, Serialize)]
pub struct Field {
    /// The field's name.
    pub name: &'static str,
    /// The segment below the struct's directory; empty of a flattened field.
    pub segment: &'static str,
    /// Segments that are read when the first is not there.
    pub aliases: &'static [&'static str],
    /// Its documentation comment.
    pub doc: &'static str,
    /// What lies there.
    pub kind: Kind,
    /// What its absence means.
    pub presence: Presence,
    /// Its value is never shown.
    pub secret: bool,
    /// Values are checked before they are written.
    pub validated: bool,
}

/// What lies at a field's segment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One value of this type, for a person.
    Leaf(&'static str),
    /// A directory with a struct in it.
    Dir(&'static Table),
    /// A struct whose keys lie beside this struct's own.
    Flatten(&'static Table),
    /// A directory of directories, each with a struct in it.
    DirMap {
        /// The type of the map's keys, for a person.
        key: &'static str,
        /// The struct.
        table: &'static Table,
    },
    /// A directory of values.
    Entries {
        /// The type of the map's keys, for a person.
        key: &'static str,
        /// The type of the values, for a person.
        value: &'static str,
    },
}

/// What it means that a field has no key.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// The struct cannot be read.
    Required,
    /// None, or an empty map.
    Optional,
    /// This expression.
    Default(&'static str),
}

impl Table {
    pub(crate) const EMPTY: &'static Self = &Self { name: "", doc: "", prefix: None, fields: &[] };

    /// What stands for the struct's directory, wherever it is, in metrics and events.
    pub(crate) fn pattern(&self) -> &'static str {
        self.prefix.unwrap_or(self.name)
    }

    /// Whether a key relative to the struct's directory is one of the schema's.
    pub(crate) fn owns(&self, relative: &str) -> bool {
        self.has(relative, |name| key::unescape(name).is_some())
    }

    /// Whether what is stored at a key relative to the struct's directory has a say in what is read: those of the schema, and in maps the names
    /// that are not ours, which make a read fail.
    pub(crate) fn reads(&self, relative: &str) -> bool {
        self.has(relative, |name| !key::is_hidden(name))
    }

    /// `is_name` says which segments are names in a map.
    fn has(&self, relative: &str, is_name: fn(&str) -> bool) -> bool {
        let (first, rest) = split_first(relative);
        self.fields.iter().any(|field| match (&field.kind, rest) {
            (Kind::Flatten(table), _) => table.has(relative, is_name),
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

    /// Whether the value at a key of the schema, relative to the struct's directory, is not to be shown.
    pub(crate) fn is_secret(&self, relative: &str) -> bool {
        let (first, rest) = split_first(relative);
        self.fields.iter().any(|field| match (&field.kind, rest) {
            (Kind::Flatten(table), _) => table.is_secret(relative),
            (Kind::Leaf(_), None) => field.secret && field.segments().any(|segment| segment == first),
            (Kind::Entries { .. }, Some(_)) => field.secret && field.segment == first,
            (Kind::Dir(table), Some(rest)) => field.segment == first && table.is_secret(rest),
            (Kind::DirMap { table, .. }, Some(rest)) => {
                field.segment == first && rest.split_once('/').is_some_and(|(_, rest)| table.is_secret(rest))
            }
            _ => false,
        })
    }

    /// Every key that is not in a map, relative to the struct's directory, with the aliases.
    pub(crate) fn fixed_keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        self.each_leaf("", &mut |prefix, field| keys.extend(field.segments().map(|segment| format!("{prefix}{segment}"))));
        keys
    }

    /// The keys of fields that have no value in `encoded`, with their aliases. (Of a field that has one the aliases are not read, so
    /// they may stay for older readers.)
    pub(crate) fn absent_keys(&self, encoded: &Encoded) -> Vec<String> {
        let mut keys = Vec::new();
        self.each_leaf("", &mut |prefix, field| {
            if !encoded.contains_key(&format!("{prefix}{}", field.segment)) {
                keys.extend(field.segments().map(|segment| format!("{prefix}{segment}")));
            }
        });
        keys
    }

    /// The directories of its maps, relative to the struct's directory.
    pub(crate) fn map_directories(&self) -> Vec<String> {
        let mut directories = Vec::new();
        self.add_map_directories("", &mut directories);
        directories
    }

    /// What a validation of the whole struct said, unless it could have said a secret.
    pub(crate) fn masked(&self, reason: ValueError) -> ValueError {
        if self.has_secret() { ValueError::new("*** (the struct has a secret in it: the reason is not shown)") } else { reason }
    }

    fn has_secret(&self) -> bool {
        self.fields.iter().any(|field| match &field.kind {
            Kind::Leaf(_) | Kind::Entries { .. } => field.secret,
            Kind::Dir(table) | Kind::Flatten(table) | Kind::DirMap { table, .. } => table.has_secret(),
        })
    }

    /// What is written as one with the struct, and so tells when the struct expires: a key that it cannot be read without. In a struct that
    /// can be read without any, it takes all the keys that writing the whole struct writes, since each of them alone may be an override for a time.
    ///
    /// Of the struct's own fields, not of those in nested structs and maps; without the field at `except`.
    pub(crate) fn witnesses(&self, except: &str) -> Witnesses {
        // One request takes a limited number of conditions, and it is the same end wherever one looks.
        const REQUIRED: usize = 4;
        const EVERY: usize = 32;
        let mut required = Vec::new();
        let mut every = Vec::new();
        self.each_own_leaf(&mut |field| {
            if field.segments().any(|segment| segment == except) {
                return;
            }
            match field.presence {
                Presence::Required if required.len() < REQUIRED => required.extend(field.segments()),
                Presence::Default(_) => every.push(field.segment),
                Presence::Required | Presence::Optional => {}
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

    fn each_own_leaf(&self, visit: &mut impl FnMut(&Field)) {
        for field in self.fields {
            match &field.kind {
                Kind::Leaf(_) => visit(field),
                Kind::Flatten(table) => table.each_own_leaf(visit),
                Kind::Dir(_) | Kind::DirMap { .. } | Kind::Entries { .. } => {}
            }
        }
    }

    /// The structs that a key of the schema is in, from the outermost to the innermost: where each lies (empty, or with a `/` at the end), and its
    /// table.
    pub(crate) fn structs_around(&'static self, relative: &str) -> Vec<(String, &'static Self)> {
        let mut found = vec![(String::new(), self)];
        let mut at = (0, self);
        while let Some((length, table)) = at.1.struct_within(relative.get(at.0..).unwrap_or_default()) {
            at = (at.0 + length, table);
            found.push((relative[..at.0].to_owned(), table));
        }
        found
    }

    /// The aliases of the field whose own key this is, relative to the struct's directory.
    pub(crate) fn aliases_of(&'static self, relative: &str) -> Vec<String> {
        let mut aliases = Vec::new();
        if let Some((prefix, table)) = self.structs_around(relative).pop() {
            table.each_own_leaf(&mut |field| {
                if relative.strip_prefix(&prefix) == Some(field.segment) {
                    aliases.extend(field.aliases.iter().map(|alias| format!("{prefix}{alias}")));
                }
            });
        }
        aliases
    }

    /// The nested struct, or the struct in a map, that a key is in, and how much of the key is its directory.
    fn struct_within(&self, relative: &str) -> Option<(usize, &'static Self)> {
        let (first, rest) = split_first(relative);
        let rest = rest?;
        self.fields.iter().find_map(|field| match &field.kind {
            Kind::Dir(table) if field.segment == first => Some((first.len() + 1, *table)),
            Kind::DirMap { table, .. } if field.segment == first => {
                let (child, rest) = split_first(rest);
                rest.map(|_| (first.len() + 1 + child.len() + 1, *table))
            }
            Kind::Flatten(table) => table.struct_within(relative),
            _ => None,
        })
    }

    fn add_map_directories(&self, prefix: &str, directories: &mut Vec<String>) {
        for field in self.fields {
            match &field.kind {
                Kind::Leaf(_) => {}
                Kind::Dir(table) => table.add_map_directories(&format!("{prefix}{}/", field.segment), directories),
                Kind::Flatten(table) => table.add_map_directories(prefix, directories),
                Kind::DirMap { .. } | Kind::Entries { .. } => directories.push(format!("{prefix}{}", field.segment)),
            }
        }
    }

    /// Every leaf that is not in a map, with where its struct lies.
    fn each_leaf(&self, prefix: &str, visit: &mut impl FnMut(&str, &Field)) {
        for field in self.fields {
            match &field.kind {
                Kind::Leaf(_) => visit(prefix, field),
                Kind::Dir(table) => table.each_leaf(&format!("{prefix}{}/", field.segment), visit),
                Kind::Flatten(table) => table.each_leaf(prefix, visit),
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
            }
        }
        Ok(())
    }
}

impl Field {
    /// The segments it is read from, in order of preference.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.segment).chain(self.aliases.iter().copied())
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, place: &str, of: fmt::Arguments<'_>) -> fmt::Result {
        write!(f, "{place}  {of}")?;
        match self.presence {
            Presence::Required => {}
            Presence::Optional => f.write_str(", optional")?,
            Presence::Default(default) => write!(f, ", default {default}")?,
        }
        if self.secret {
            f.write_str(", secret")?;
        }
        if self.validated {
            f.write_str(", validated")?;
        }
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
