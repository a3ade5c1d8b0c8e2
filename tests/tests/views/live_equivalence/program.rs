//! The steps of random programs.

use super::*;

/// One step of a program. Paths are relative to the shop's directory.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Put(&'static str, &'static str),
    Delete(&'static str),
    DeleteBelow(&'static str),
    /// Makes all changes in one transaction.
    Change(BTreeMap<&'static str, Option<&'static str>>),
    SetAll(Shop),
    SetQuotas(BTreeMap<&'static str, u32>),
    SetHigh(u32),
    PutElsewhere,
    /// Cuts the connections of the views.
    Cut,
    /// Prevents the views from watching until `Back`.
    Away,
    Back,
    Compact,
    /// Stops the server for a moment (only the embedded store).
    Restart,
    /// The server loses all data, and the seed is written again (only the embedded store).
    Wipe,
    Milliseconds(u64),
    /// Waits until the views have caught up, and compares everything.
    CatchUp,
    /// Drops all views and opens them again.
    Reopen,
}

/// The steps of one case. A failing program is printed with one line for each step.
#[derive(Clone)]
pub(super) struct Program {
    /// Whether everything is compared after each step, instead of only at `CatchUp` and at the end.
    pub(super) eager: bool,
    pub(super) steps: Vec<Step>,
}

impl Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.eager { "compared after each step:" } else { "compared at `CatchUp` and at the end:" })?;
        self.steps.iter().try_for_each(|step| write!(f, "\n    {step:?}"))
    }
}

const PATHS: [&str; 32] = [
    "low",
    "high",
    "name",
    "title",
    "note",
    "unknown",
    "_hidden",
    "deeper/unknown",
    "database/host",
    "database/pool",
    "database/unknown",
    "quotas/a",
    "quotas/b%2Fc",
    "quotas/%61",
    "quotas/50%",
    "quotas/_x",
    "quotas/%5Fx",
    "quotas/deeper/x",
    "regions/a/host",
    "regions/a/pool",
    "regions/a/unknown",
    "regions/b%2Fc/host",
    "regions/b%2Fc/pool",
    "regions/50%/host",
    "regions/_s/host",
    "regions/_s/pool",
    "regions/%5Fs/host",
    "regions/%5Fs/pool",
    "regions/leaf",
    "regions/a/tags/x",
    "regions/a/tags/50%",
    "regions/c/tags/50%",
];

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Memory,
    V3,
    V2,
}

pub(super) fn step(kind: Kind) -> impl Strategy<Value = Step> {
    let path = || select(&PATHS[..]);
    let text = || select(&["0", "5", "7", "20", "200", "x", ""][..]);
    let optional = || proptest::option::weighted(0.7, text());
    let database = || ("[a-b]", select(&[3_u32, 4][..])).prop_map(|(host, pool)| Database { host, pool, tags: BTreeMap::new() });
    let key = || select(&["a", "b/c"][..]);
    let owned = move || key().prop_map(str::to_owned);
    let shop = (0_u32..4, 5_u32..9, "[a-b]", proptest::option::of("[a-b]"), proptest::option::of(database()))
        .prop_flat_map(move |fields| (Just(fields), btree_map(owned(), 0_u32..9, 0..3), btree_map(owned(), database(), 0..3)))
        .prop_map(|((low, high, name, note, database), quotas, regions)| Shop { low, high, name, note, database, quotas, regions });
    let single = prop_oneof![
        8 => (path(), text()).prop_map(|(path, text)| Step::Put(path, text)),
        5 => path().prop_map(Step::Delete),
        1 => select(&["quotas", "regions/a", "regions", "database", "quotas/deeper", "none"][..]).prop_map(Step::DeleteBelow),
        1 => (0_u32..20).prop_map(Step::SetHigh),
        1 => Just(Step::PutElsewhere),
    ];
    let several = prop_oneof![
        2 => btree_map(path(), optional(), 1..6).prop_map(Step::Change),
        2 => shop.prop_map(Step::SetAll),
        1 => btree_map(key(), 0_u32..9, 0..3).prop_map(Step::SetQuotas),
    ];
    let fault = prop_oneof![
        2 => Just(Step::Cut),
        2 => Just(Step::Away),
        3 => Just(Step::Back),
        2 => (0_u64..200).prop_map(Step::Milliseconds),
        2 => Just(Step::CatchUp),
        1 => Just(Step::Reopen),
    ];
    let of_server = match kind {
        Kind::Memory => prop_oneof![4 => Just(Step::Compact), 2 => Just(Step::Restart), 1 => Just(Step::Wipe)].boxed(),
        Kind::V3 => Just(Step::Compact).boxed(),
        Kind::V2 => Just(Step::Cut).boxed(),
    };
    // On v2 a write of several keys takes several revisions, but the model reads only once after
    // the write.
    let write = if kind == Kind::V2 { single.boxed() } else { prop_oneof![2 => single, 1 => several].boxed() };
    prop_oneof![18 => write, 6 => fault, 2 => of_server]
}
