//! Reads the maps of a struct before the struct itself, a few keys at a time, so that other tasks
//! can run in between.
//!
//! The derived `decode` reads a struct in one call and cannot pause, so it is called several times.
//! Each call but the last reads only maps, up to a number of keys, and stores the result here. The
//! last call takes the maps from here and reads the other fields, whose number is fixed by the
//! type.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::ops::Bound;

use super::{Decoder, Found};
use crate::key::Key;
use crate::schema::{AT_ONCE, Map, MapPath, Schema, Tree, Validation, with_prefix};
use crate::value::Codec;

/// The maps that were read, by their position in the tree.
#[derive(Debug, Default)]
pub(in crate::schema) struct Gathered<'a>(HashMap<String, Part<'a>>);

/// A map of which earlier steps have read some entries.
#[derive(Debug)]
struct Part<'a> {
    /// The entries that were read so far: a `Vec` of pairs of a map key and a value.
    pairs: Box<dyn Any + Send>,
    /// False if an entry has a problem.
    complete: bool,
    found: Found,
    /// The entries that are still to be read.
    rest: Rest<'a>,
}

#[derive(Debug)]
enum Rest<'a> {
    /// In a map of values, every key after this one is still to be read.
    After(Bound<&'a str>),
    /// In a map of structs, these subdirectories are still to be read.
    Children(VecDeque<&'a str>),
    Nothing,
}

impl<'a> Gathered<'a> {
    /// Reads some more keys. Returns true if nothing remains.
    pub(in crate::schema) fn more<T>(
        &mut self,
        directory: &'a Key,
        tree: &'a Tree,
        validation: Validation,
        read: impl Fn(&mut Decoder<'_>) -> Option<T>,
    ) -> bool {
        let mut decoder = Decoder::new(directory, tree, validation);
        decoder.take(std::mem::take(self));
        decoder.left = Some(AT_ONCE);
        // The result is always `None`, since only maps are read.
        read(&mut decoder);
        let is_all = decoder.left.is_some_and(|left| left > 0);
        *self = std::mem::take(&mut decoder.gathered);
        is_all
    }

    /// Takes a map that earlier steps have read: its metadata and its entries. The entries are
    /// `None` if one of them has a problem.
    #[expect(clippy::type_complexity, reason = "an alias would hide the two parts")]
    pub(super) fn take_map<M: Map>(&mut self, prefix: &str) -> Option<(Found, Option<Vec<(M::Key, M::Value)>>)> {
        if self.0.is_empty() {
            return None;
        }
        let Part { pairs, complete, found, .. } = self.0.remove(prefix)?;
        let pairs = pairs.downcast::<Vec<(M::Key, M::Value)>>().ok()?;
        Some((found, complete.then_some(*pairs)))
    }
}

impl<'a> Decoder<'a> {
    /// Reads more of the map of values at this position.
    pub(super) fn gather_entries<M: Map>(&mut self, codec: Codec<M::Value>) {
        let tree = self.tree;
        let prefix = self.prefix.clone();
        self.gather::<M>(
            |_| Rest::After(Bound::Unbounded),
            |decoder, rest| {
                let Rest::After(after) = rest else { return None };
                let from = if *after == Bound::Unbounded { Bound::Included(prefix.as_str()) } else { *after };
                let next = tree.range::<str, _>((from, Bound::Unbounded)).next().filter(|(relative, _)| relative.starts_with(&prefix));
                let Some((relative, stored)) = next else {
                    *rest = Rest::Nothing;
                    return None;
                };
                *after = Bound::Excluded(relative);
                Some((1, decoder.one_entry(&relative[prefix.len()..], stored, &codec)))
            },
        );
    }

    /// Reads more of the map of structs at this position.
    pub(super) fn gather_dirs<M: Map<Value: Schema>>(&mut self) {
        self.gather::<M>(
            |decoder| Rest::Children(decoder.children(M::Value::TABLE, M::Key::LEVELS).into()),
            |decoder, rest| {
                let Rest::Children(children) = rest else { return None };
                let Some(&child) = children.front() else {
                    *rest = Rest::Nothing;
                    return None;
                };
                let below = format!("{}{child}/", decoder.prefix);
                let keys = with_prefix(decoder.tree, &below).take(AT_ONCE + 1).count();
                if keys > AT_ONCE && !decoder.is_replaced(child, M::Value::TABLE) {
                    // The entry is large, so read its maps first, in several steps.
                    decoder.below(child, Self::whole::<M::Value>);
                    if decoder.left == Some(0) {
                        return None;
                    }
                }
                children.pop_front();
                let left = decoder.left.take();
                let pair = decoder.one_dir(child);
                decoder.left = left;
                Some((keys.clamp(1, AT_ONCE), pair))
            },
        );
    }

    /// Reads more of the map at this position. `one` reads the next entry and returns how many keys
    /// it read. It returns `None` at the end of the map, or if no more keys may be read in this
    /// step.
    fn gather<M: Map>(
        &mut self,
        begin: impl FnOnce(&Self) -> Rest<'a>,
        mut one: impl FnMut(&mut Self, &mut Rest<'a>) -> Option<(usize, Option<Option<(M::Key, M::Value)>>)>,
    ) {
        let prefix = self.prefix.clone();
        let mut part = self.gathered.0.remove(&prefix).unwrap_or_else(|| Part {
            pairs: Box::<Vec<(M::Key, M::Value)>>::default(),
            complete: true,
            found: Found::default(),
            rest: begin(self),
        });
        if let Some(pairs) = part.pairs.downcast_mut::<Vec<(M::Key, M::Value)>>() {
            std::mem::swap(&mut self.found, &mut part.found);
            while let Some(left) = self.left.filter(|left| *left > 0) {
                let Some((keys, pair)) = one(self, &mut part.rest) else { break };
                self.left = Some(left.saturating_sub(keys));
                match pair {
                    Some(Some(pair)) => pairs.push(pair),
                    Some(None) => part.complete = false,
                    None => {}
                }
            }
            std::mem::swap(&mut self.found, &mut part.found);
        }
        self.gathered.0.insert(prefix, part);
    }
}
