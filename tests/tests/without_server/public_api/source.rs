//! Reads the public items of a crate from its sources.
//!
//! Items that a macro of the crate generates (such as `EtcdValue` for each integer) and items with
//! `#[doc(hidden)]` are not listed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::{Attribute, Field, Fields, File, ImplItem, Item, Meta, Signature, Type, UseTree, Visibility};

/// A module and a name in it.
type Place = (String, String);

/// The modules of a crate with their items. The root is the module `""`.
pub(super) struct Source(BTreeMap<String, Vec<Item>>);

impl Source {
    /// Reads a crate from its root file.
    pub(super) fn read(root: &Path) -> Self {
        let mut source = Self(BTreeMap::new());
        source.read_file(root, root.parent().unwrap(), "");
        source
    }

    /// Creates a crate from the names and the texts of its modules.
    pub(super) fn of(modules: &[(&str, &str)]) -> Self {
        let mut source = Self(BTreeMap::new());
        for (module, text) in modules {
            source.add(module, syn::parse_file(text).unwrap().items);
        }
        source
    }

    /// Reads a module and the files below it, which are in `directory`.
    fn read_file(&mut self, file: &Path, directory: &Path, module: &str) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let items = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())).items;
        for item in &items {
            // A module with `#[path]` replaces another module, which has the same public items.
            if let Item::Mod(child) = item
                && child.content.is_none()
                && !is_test(&child.attrs)
                && !child.attrs.iter().any(|attr| attr.path().is_ident("path"))
            {
                let name = child.ident.to_string();
                let files = [directory.join(format!("{name}.rs")), directory.join(&name).join("mod.rs")];
                let file = files.iter().find(|file| file.exists()).unwrap_or_else(|| panic!("no file for `{module}::{name}`"));
                self.read_file(file, &directory.join(&name), &join(module, &name));
            }
        }
        self.add(module, items);
    }

    fn add(&mut self, module: &str, items: Vec<Item>) {
        for item in &items {
            if let Item::Mod(child) = item
                && let Some((_, items)) = &child.content
            {
                self.add(&join(module, &child.ident.to_string()), items.clone());
            }
        }
        self.0.insert(module.to_owned(), items);
    }

    /// Returns one line for each public item that can be reached from the root, sorted.
    pub(super) fn public_items(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let named = self.named();
        for (place, (path, _)) in &named {
            let external = || vec![format!("{path}: pub use {}", join(&place.0, &place.1))];
            lines.extend(self.item(place).map_or_else(external, |item| described(path, item)));
        }
        for (module, items) in &self.0 {
            for item in items {
                let Item::Impl(implementation) = item else { continue };
                let Some((path, _)) = self.target(module, &implementation.self_ty).and_then(|place| named.get(&place)) else { continue };
                if is_test(&implementation.attrs) || is_hidden(&implementation.attrs) {
                    continue;
                }
                let Some((of, _)) = &implementation.trait_ else {
                    lines.extend(implementation.items.iter().filter_map(|item| method(path, item, &implementation.attrs)));
                    continue;
                };
                if is_hidden_trait(self, module, of) {
                    continue;
                }
                let mut implementation = implementation.clone();
                implementation.items.retain(|item| matches!(item, ImplItem::Type(_)));
                implementation.attrs = kept(&implementation.attrs);
                let text = printed(Item::Impl(implementation));
                lines.push(format!("{path}: {}", text.trim_end_matches(" {}")));
            }
        }
        lines.sort();
        lines.dedup();
        lines
    }

    /// Returns the names of the public structs and enums, as they are declared.
    pub(super) fn public_types(&self) -> BTreeSet<String> {
        let places = self.named().into_keys();
        places.filter(|place| matches!(self.item(place), Some(Item::Struct(_) | Item::Enum(_)))).map(|(_, name)| name).collect()
    }

    /// Returns every public item by its place, with its shortest public path and the number of
    /// segments in this path.
    fn named(&self) -> BTreeMap<Place, (String, usize)> {
        let mut named = BTreeMap::new();
        self.collect("", "", 1, &mut named);
        named
    }

    fn collect(&self, module: &str, path: &str, depth: usize, named: &mut BTreeMap<Place, (String, usize)>) {
        let mut note = |place: Place, name: &str| {
            let found = named.entry(place).or_insert_with(|| (join(path, name), depth));
            if depth < found.1 {
                *found = (join(path, name), depth);
            }
        };
        let mut children = Vec::new();
        for item in self.0.get(module).into_iter().flatten() {
            let Some((visibility, attrs)) = head(item) else { continue };
            if !matches!(visibility, Visibility::Public(_)) || is_hidden(attrs) || is_test(attrs) {
                continue;
            }
            if let Item::Use(import) = item {
                for (name, place) in imports(&import.tree, &[]) {
                    // A name of another crate is not declared in this crate.
                    let external = || Some((place[..place.len() - 1].join("::"), place.last()?.clone()));
                    if let Some(place) = self.resolve_path(module, &place).or_else(external) {
                        note(place, &name);
                    }
                }
            } else if let Some(name) = name(item) {
                note((module.to_owned(), name.clone()), &name);
                if let Item::Mod(_) = item {
                    children.push(name);
                }
            }
        }
        for child in children {
            self.collect(&join(module, &child), &join(path, &child), depth + 1, named);
        }
    }

    fn item(&self, (module, wanted): &Place) -> Option<&Item> {
        self.0.get(module)?.iter().find(|item| !matches!(item, Item::Use(_)) && name(item).as_ref() == Some(wanted))
    }

    /// Returns where the type of an `impl` is declared.
    fn target(&self, module: &str, of: &Type) -> Option<Place> {
        let Type::Path(path) = of else { return None };
        self.resolve_path(module, &segments(&path.path))
    }

    /// Returns where a name that a module uses is declared. Returns `None` for names of other
    /// crates.
    fn resolve(&self, module: &str, wanted: &str) -> Option<Place> {
        let place = (module.to_owned(), wanted.to_owned());
        if self.item(&place).is_some() {
            return Some(place);
        }
        let uses = self.0.get(module)?.iter().filter_map(|item| if let Item::Use(import) = item { Some(import) } else { None });
        let mut imported = uses.flat_map(|import| imports(&import.tree, &[]));
        let (_, path) = imported.find(|(name, path)| name == wanted && path.len() > 1)?;
        self.resolve_path(module, &path)
    }

    fn resolve_path(&self, module: &str, path: &[String]) -> Option<Place> {
        let (last, modules) = path.split_last()?;
        let mut at = module.to_owned();
        for segment in modules {
            at = match segment.as_str() {
                "crate" => String::new(),
                "self" => at,
                "super" => at.rsplit_once("::").map_or_else(String::new, |(parent, _)| parent.to_owned()),
                child if self.0.contains_key(&join(&at, child)) => join(&at, child),
                _ => return None,
            };
        }
        self.resolve(&at, last)
    }
}

/// Returns whether a trait is declared in this crate and is not public.
fn is_hidden_trait(source: &Source, module: &str, of: &syn::Path) -> bool {
    let place = source.resolve_path(module, &segments(of));
    place.is_some_and(|place| source.item(&place).is_some() && !source.named().contains_key(&place))
}

/// Returns the lines of an item, without its methods.
fn described(path: &str, item: &Item) -> Vec<String> {
    let mut item = item.clone();
    let mut lines = Vec::new();
    match &mut item {
        Item::Struct(of) => {
            lines.extend(of.fields.iter().enumerate().filter_map(|(at, field)| public_field(path, at, field)));
            of.fields = Fields::Unit;
            of.attrs = kept(&of.attrs);
        }
        Item::Enum(of) => {
            for mut variant in std::mem::take(&mut of.variants) {
                if !is_hidden(&variant.attrs) {
                    variant.attrs = kept(&variant.attrs);
                    variant.fields.iter_mut().for_each(|field| field.attrs = kept(&field.attrs));
                    let text = printed(syn::parse_quote!(enum E { #variant }));
                    let text = text.trim_start_matches("enum E { ").trim_end_matches(" }").trim_end_matches(',');
                    lines.push(format!("{path}::{}: {text}", variant.ident));
                }
            }
            of.attrs = kept(&of.attrs);
        }
        Item::Trait(of) => {
            for item in std::mem::take(&mut of.items) {
                let (name, attrs, line) = match item {
                    syn::TraitItem::Fn(item) => {
                        let provided = if item.default.is_some() { " { … }" } else { "" };
                        (item.sig.ident.to_string(), item.attrs, signature(item.sig) + provided)
                    }
                    syn::TraitItem::Type(item) => (item.ident.to_string(), item.attrs.clone(), {
                        let (name, bounds) = (item.ident, item.bounds);
                        if bounds.is_empty() {
                            format!("type {name}")
                        } else {
                            printed(syn::parse_quote!(trait T { type #name: #bounds; }))
                        }
                    }),
                    syn::TraitItem::Const(item) => {
                        let (name, of) = (item.ident, item.ty);
                        (name.to_string(), item.attrs, printed(syn::parse_quote!(trait T { const #name: #of; })))
                    }
                    _ => continue,
                };
                if !is_hidden(&attrs) {
                    let line = line.trim_start_matches("trait T { ").trim_end_matches("; }").to_owned();
                    lines.push(format!("{path}::{name}: {line}"));
                }
            }
            of.attrs = kept(&of.attrs);
        }
        Item::Fn(of) => {
            lines.push(format!("{path}: {}pub {}", prefix(&of.attrs), signature(of.sig.clone())));
            return lines;
        }
        Item::Const(of) => {
            lines.push(format!("{path}: {}pub const {}: {}", prefix(&of.attrs), of.ident, type_text(&of.ty)));
            return lines;
        }
        Item::Mod(of) => {
            lines.push(format!("{path}: {}pub mod {}", prefix(&of.attrs), of.ident));
            return lines;
        }
        Item::Type(of) => of.attrs = kept(&of.attrs),
        Item::Macro(of) => {
            lines.push(format!("{path}: macro {}!", of.ident.as_ref().unwrap()));
            return lines;
        }
        _ => return lines,
    }
    let text = printed(item);
    lines.push(format!("{path}: {}", text.trim_end_matches(" {}").trim_end_matches(';')));
    lines
}

fn public_field(path: &str, at: usize, field: &Field) -> Option<String> {
    let public = matches!(field.vis, Visibility::Public(_)) && !is_hidden(&field.attrs);
    let name = field.ident.as_ref().map_or_else(|| at.to_string(), ToString::to_string);
    public.then(|| format!("{path}::{name}: {}pub {}", prefix(&field.attrs), type_text(&field.ty)))
}

/// Returns the line of a public method or constant. `attrs` are the attributes of the `impl`.
fn method(path: &str, item: &ImplItem, attrs: &[Attribute]) -> Option<String> {
    let (visibility, own, name, text) = match item {
        ImplItem::Fn(item) => (&item.vis, &item.attrs, &item.sig.ident, signature(item.sig.clone())),
        ImplItem::Const(item) => (&item.vis, &item.attrs, &item.ident, format!("const {}: {}", item.ident, type_text(&item.ty))),
        _ => return None,
    };
    let public = matches!(visibility, Visibility::Public(_)) && !is_hidden(own) && !is_test(own);
    public.then(|| format!("{path}::{name}: {}{}pub {text}", prefix(attrs), prefix(own)))
}

fn signature(sig: Signature) -> String {
    printed(syn::parse_quote!(#sig {})).trim_end_matches(" {}").to_owned()
}

fn type_text(of: &Type) -> String {
    printed(syn::parse_quote!(type T = #of;)).trim_start_matches("type T = ").trim_end_matches(';').to_owned()
}

fn prefix(attrs: &[Attribute]) -> String {
    let attrs = kept(attrs);
    printed(syn::parse_quote!(#(#attrs)* struct S;)).trim_end_matches("struct S;").to_owned()
}

/// Formats an item in one line.
fn printed(item: Item) -> String {
    let text = prettyplease::unparse(&File { shebang: None, frontmatter: None, attrs: Vec::new(), items: vec![item] });
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for (from, to) in [("( ", "("), (", )", ")"), ("< ", "<"), (", >", ">"), (",>", ">"), (", {", " {")] {
        line = line.replace(from, to);
    }
    line
}

/// Returns the attributes that belong to the API.
fn kept(attrs: &[Attribute]) -> Vec<Attribute> {
    let known = ["cfg", "deprecated", "derive", "non_exhaustive"];
    let mut kept: Vec<_> = attrs.iter().filter(|attr| known.iter().any(|known| attr.path().is_ident(known))).cloned().collect();
    kept.sort_by_key(|attr| attr.path().get_ident().map(ToString::to_string));
    kept
}

fn is_hidden(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attr| attr.path().is_ident("doc") && matches!(&attr.meta, Meta::List(list) if list.tokens.to_string() == "hidden"))
}

fn is_test(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attr| attr.path().is_ident("cfg") && matches!(&attr.meta, Meta::List(list) if list.tokens.to_string() == "test"))
}

fn head(item: &Item) -> Option<(&Visibility, &[Attribute])> {
    Some(match item {
        Item::Const(item) => (&item.vis, &item.attrs),
        Item::Enum(item) => (&item.vis, &item.attrs),
        Item::Fn(item) => (&item.vis, &item.attrs),
        Item::Mod(item) => (&item.vis, &item.attrs),
        Item::Struct(item) => (&item.vis, &item.attrs),
        Item::Trait(item) => (&item.vis, &item.attrs),
        Item::Type(item) => (&item.vis, &item.attrs),
        Item::Use(item) => (&item.vis, &item.attrs),
        _ => return None,
    })
}

fn name(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Mod(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        _ => return None,
    })
}

/// Returns the names that a `use` imports, each with its path.
fn imports(tree: &UseTree, before: &[String]) -> Vec<(String, Vec<String>)> {
    let with = |name: &syn::Ident| before.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
    match tree {
        UseTree::Path(path) => imports(&path.tree, &with(&path.ident)),
        UseTree::Group(group) => group.items.iter().flat_map(|tree| imports(tree, before)).collect(),
        UseTree::Name(name) if name.ident == "self" => before.last().map(|name| (name.clone(), before.to_vec())).into_iter().collect(),
        UseTree::Name(name) => vec![(name.ident.to_string(), with(&name.ident))],
        UseTree::Rename(rename) => vec![(rename.rename.to_string(), with(&rename.ident))],
        UseTree::Glob(_) => Vec::new(),
    }
}

fn segments(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}::{name}") }
}
