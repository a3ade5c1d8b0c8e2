//! A view and its model. The model consists of the results of all reads, and determines the states
//! that the view may show.

use super::*;

/// The result of a read: the state, or the problems.
type Seen<S> = Result<Read<S>, Vec<Said>>;

/// A state, with the revisions of its oldest and its newest key.
type Read<S> = (S, Revision, Revision);

/// A problem's key, kind and reason, and the revision that it reports, if any.
type Said = (String, ProblemKind, String, Option<Revision>);

fn said(problem: &Problem) -> Said {
    (problem.key.to_string(), problem.kind, problem.reason.clone(), problem.revision)
}

/// The result of a read at a revision.
struct Moment<S> {
    /// How often the server was wiped before this read.
    life: u32,
    revision: Revision,
    seen: Seen<S>,
}

/// A view with its model.
struct Tracked<T, S> {
    name: &'static str,
    view: Box<dyn Fn() -> Viewing<T>>,
    read: Box<dyn Fn() -> BoxFuture<'static, Seen<S>>>,
    show: fn(&T) -> S,
    /// Whether states of the view have the revisions of their keys, as reads do.
    versions: bool,
    live: Option<Live<T>>,
    log: Vec<Moment<S>>,
    /// The state that the view showed at the last comparison, and the length of the log then.
    shown: Option<Read<S>>,
    compared: usize,
}

/// The facts that decide how strict a comparison is.
#[derive(Clone, Copy)]
pub(super) struct Situation {
    pub(super) revision: Revision,
    /// True while no history was lost. Then the test knows which state a view shows when reads
    /// fail.
    pub(super) exact: bool,
}

pub(super) trait Track {
    fn observe(&mut self, life: u32, revision: Revision) -> LocalBoxFuture<'_, ()>;
    fn open(&mut self) -> LocalBoxFuture<'_, Result<(), TestCaseError>>;
    /// Waits until the view has noticed that the server was wiped.
    fn notice(&mut self) -> LocalBoxFuture<'_, Result<(), TestCaseError>>;
    /// Waits until the view has received everything up to this revision, or has found a problem
    /// there.
    fn reach(&self, revision: Revision) -> LocalBoxFuture<'_, ()>;
    fn compare(&mut self, situation: Situation) -> LocalBoxFuture<'_, Result<(), TestCaseError>>;
}

impl<T, S> Tracked<T, S>
where
    T: Send + Sync + 'static,
    S: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    fn boxed(
        name: &'static str,
        versions: bool,
        show: fn(&T) -> S,
        view: impl Fn() -> Viewing<T> + 'static,
        read: impl Fn() -> BoxFuture<'static, Seen<S>> + 'static,
    ) -> Box<dyn Track> {
        Box::new(Self {
            name,
            view: Box::new(view),
            read: Box::new(read),
            show,
            versions,
            live: None,
            log: Vec::new(),
            shown: None,
            compared: 0,
        })
    }

    fn shown(&self, state: &Versioned<T>) -> Read<S> {
        ((self.show)(state), state.created(), state.modified())
    }

    /// Returns true if a state of the view equals the result of a read.
    fn is(&self, shown: &Read<S>, read: &Read<S>) -> bool {
        shown.0 == read.0 && (!self.versions || shown == read)
    }

    fn now(&self) -> &Seen<S> {
        &self.log.last().expect("a first read was made").seen
    }

    /// Asserts that a read had returned each state in the view's history, at its revision.
    fn check_history(&self, live: &Live<T>) -> Result<(), TestCaseError> {
        for state in live.history() {
            let shown = self.shown(&state);
            let lives = self.log.last().map_or(0, |moment| moment.life);
            let was_there = (0..=lives).any(|life| {
                let at = self.log.iter().rfind(|moment| moment.life == life && moment.revision <= state.revision());
                at.is_some_and(|moment| moment.seen.as_ref().is_ok_and(|read| self.is(&shown, read)))
            });
            prop_assert!(was_there, "{}: {shown:?} was not stored at {:?}", self.name, state.revision());
            prop_assert!(state.modified() <= state.revision(), "{}: {shown:?} at {:?}", self.name, state.revision());
        }
        Ok(())
    }

    /// Asserts that the view shows what the last read returned.
    fn check_state(&self, live: &Live<T>, situation: Situation) -> Result<(), TestCaseError> {
        let shown = self.shown(&live.get());
        match self.now() {
            Ok(read) => {
                prop_assert!(self.is(&shown, read), "{} shows {shown:?}, a read returns {read:?}", self.name);
                prop_assert!(live.revision() >= situation.revision, "{} is at {:?}", self.name, live.revision());
                let status = live.status();
                prop_assert!(status.problems().is_empty(), "{} reports {status:?}, a read returns {read:?}", self.name);
            }
            Err(problems) => {
                let told: Vec<Said> = live.status().problems().iter().map(said).collect();
                prop_assert!(same(&told, problems), "{} reports {told:?}, a read {problems:?}", self.name);
                let newest = self.log.iter().rev().find_map(|moment| moment.seen.as_ref().ok());
                let shows_newest = newest.is_some_and(|read| self.is(&shown, read));
                let since = self.log.get(self.compared..).unwrap_or_default().iter().filter_map(|moment| moment.seen.as_ref().ok());
                let shows_one = shows_newest || !situation.exact && self.shown.iter().chain(since).any(|read| self.is(&shown, read));
                prop_assert!(shows_one, "{} shows {shown:?}, the last valid state was {:?}", self.name, newest);
            }
        }
        Ok(())
    }
}

/// Returns true if the problems are the same, in any order. For a missing key, a read reports no
/// revision, but a view reports the revision at which the view found the key missing. A failed read
/// of a single key has one problem, whose reason is not compared.
fn same(told: &[Said], read: &[Said]) -> bool {
    let (mut told, mut read) = (told.to_vec(), read.to_vec());
    told.sort_by(|a, b| (&a.0, &a.2).cmp(&(&b.0, &b.2)));
    read.sort_by(|a, b| (&a.0, &a.2).cmp(&(&b.0, &b.2)));
    let fits = |(told, read): (&Said, &Said)| {
        let revision = told.3.is_some() && read.3.is_none_or(|revision| told.3 == Some(revision));
        let reason = told.2 == read.2 || read.2.is_empty();
        revision && reason && (&told.0, told.1) == (&read.0, read.1)
    };
    told.len() == read.len() && told.iter().zip(&read).all(fits)
}

impl<T, S> Track for Tracked<T, S>
where
    T: Send + Sync + 'static,
    S: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    fn observe(&mut self, life: u32, revision: Revision) -> LocalBoxFuture<'_, ()> {
        let read = (self.read)();
        Box::pin(async move {
            let seen = read.await;
            self.log.push(Moment { life, revision, seen });
        })
    }

    fn open(&mut self) -> LocalBoxFuture<'_, Result<(), TestCaseError>> {
        Box::pin(async move {
            self.live = None;
            let opened = timeout(LIMIT, (self.view)().history(10_000)).await;
            let Ok(opened) = opened else { return Err(TestCaseError::fail(format!("{} does not open", self.name))) };
            match (opened, self.now()) {
                (Ok(live), Ok(read)) => {
                    let shown = self.shown(&live.get());
                    prop_assert!(self.is(&shown, read), "{} starts with {shown:?}, a read returns {read:?}", self.name);
                    self.live = Some(live);
                    (self.shown, self.compared) = (Some(shown), self.log.len());
                }
                (Err(error), Err(problems)) => {
                    let told: Vec<Said> = error.problems().iter().map(said).collect();
                    let read: Vec<Said> = problems.iter().map(|problem| (problem.0.clone(), problem.1, problem.2.clone(), None)).collect();
                    let told: Vec<Said> = told.into_iter().map(|said| (said.0, said.1, said.2, Some(Revision::ZERO))).collect();
                    prop_assert!(same(&told, &read), "{} is refused for {told:?}, a read for {problems:?}", self.name);
                }
                (Ok(live), Err(problems)) => {
                    prop_assert!(false, "{} starts with {:?} despite {problems:?}", self.name, self.shown(&live.get()))
                }
                (Err(error), Ok(_)) => prop_assert!(false, "{} does not start: {error}", self.name),
            }
            Ok(())
        })
    }

    fn notice(&mut self) -> LocalBoxFuture<'_, Result<(), TestCaseError>> {
        Box::pin(async move {
            let Some(live) = &self.live else { return Ok(()) };
            let noticed = async {
                while self.now().as_ref().is_ok_and(|read| !self.is(&self.shown(&live.get()), read)) {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            prop_assert!(timeout(LIMIT, noticed).await.is_ok(), "{}: {live:?} does not notice that the server was wiped", self.name);
            Ok(())
        })
    }

    fn reach(&self, revision: Revision) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(live) = &self.live {
                let _ = timeout(LIMIT, live.wait_for_revision(revision)).await;
            }
        })
    }

    fn compare(&mut self, situation: Situation) -> LocalBoxFuture<'_, Result<(), TestCaseError>> {
        Box::pin(async move {
            let Some(live) = self.live.clone() else { return Ok(()) };
            let reached = timeout(LIMIT, live.wait_for_revision(situation.revision)).await;
            let Ok(reached) = reached else { return Err(TestCaseError::fail(format!("{}: {live:?} does not catch up", self.name))) };
            match (&reached, self.now()) {
                (Ok(state), Ok(read)) => {
                    let shown = self.shown(state);
                    prop_assert!(self.is(&shown, read), "{} has {shown:?} at {:?}, a read returns {read:?}", self.name, situation.revision);
                }
                (Err(error), Err(_)) => prop_assert!(is_expected(error), "{error}"),
                (reached, read) => {
                    prop_assert!(false, "{} has {:?}, a read returns {read:?}", self.name, reached.as_ref().map(|state| self.shown(state)))
                }
            }
            self.check_state(&live, situation)?;
            self.check_history(&live)?;
            if self.now().is_ok() {
                let followed = async {
                    while !live.status().is_live() {
                        sleep(Duration::from_millis(10)).await;
                    }
                };
                prop_assert!(timeout(LIMIT, followed).await.is_ok(), "{}: {live:?} is not live again", self.name);
                self.check_state(&live, situation)?;
            }
            (self.shown, self.compared) = (Some(self.shown(&live.get())), self.log.len());
            Ok(())
        })
    }
}

/// Combines the results of a read and a check. Problems take precedence over the state, except for
/// problems with unknown keys.
fn seen<T>(read: etcd_typed::Result<Versioned<T>>, check: etcd_typed::Result<Check>) -> Seen<T> {
    let problems = check.unwrap().problems;
    let wrong: Vec<Said> = problems.iter().filter(|problem| problem.kind != ProblemKind::Unknown).map(said).collect();
    match read {
        Ok(_) if !wrong.is_empty() => Err(wrong),
        Ok(read) => {
            let (created, modified) = (read.created(), read.modified());
            Ok((read.into_inner(), created, modified))
        }
        Err(error) => {
            assert!(is_expected(&error), "{error}");
            assert!(error.problems().iter().all(|problem| wrong.contains(&said(problem))), "{error} and {wrong:?}");
            Err(wrong)
        }
    }
}

/// Whether the error has the kind of an invalid struct, or that of an absent one, which only lacks
/// required keys.
fn is_expected(error: &Error) -> bool {
    let only_lacks_keys = error.problems().iter().all(|problem| problem.kind == ProblemKind::Missing);
    error.kind() == ErrorKind::Invalid || (error.kind() == ErrorKind::NotFound && only_lacks_keys)
}

pub(super) fn whole(view: &ShopDir, read: &ShopDir) -> Box<dyn Track> {
    let (view, read) = (view.clone(), read.clone());
    Tracked::boxed(
        "the shop",
        true,
        Shop::clone,
        move || view.live(),
        move || {
            let read = read.clone();
            Box::pin(async move { seen(read.get().await, read.check().await) })
        },
    )
}

pub(super) fn entries(view: &EntryMap<String, u32>, read: &EntryMap<String, u32>) -> Box<dyn Track> {
    let (view, read) = (view.clone(), read.clone());
    let show = |map: &LiveMap<String, u32>| map.iter().map(|(key, quota)| (key.clone(), *quota)).collect::<BTreeMap<_, _>>();
    Tracked::boxed(
        "the quotas",
        false,
        show,
        move || view.live(),
        move || {
            let read = read.clone();
            Box::pin(async move { seen(read.get().await, read.check().await) })
        },
    )
}

pub(super) fn dirs(view: &DirMap<String, Database>, read: &DirMap<String, Database>) -> Box<dyn Track> {
    let (view, read) = (view.clone(), read.clone());
    let show = |map: &LiveMap<String, Database>| map.iter().map(|(key, region)| (key.clone(), region.clone())).collect::<BTreeMap<_, _>>();
    Tracked::boxed(
        "the regions",
        false,
        show,
        move || view.live(),
        move || {
            let read = read.clone();
            Box::pin(async move { seen(read.get().await, read.check().await) })
        },
    )
}

/// Returns the view of an entry without an alias.
pub(super) fn high(view: &ShopDir, read: &ShopDir) -> Box<dyn Track> {
    let (view, read) = (view.high.clone(), read.high.clone());
    Tracked::boxed(
        "the entry `high`",
        true,
        Option::<u32>::clone,
        move || view.live(),
        move || {
            let read = read.clone();
            Box::pin(async move {
                let now = read.get().await;
                if let Ok(Some(now)) = &now
                    && let Err(reason) = small(now)
                {
                    return Err(vec![(read.key().to_string(), ProblemKind::Rejected, reason, Some(now.modified()))]);
                }
                seen_entry(now)
            })
        },
    )
}

/// Returns the view of an entry with an alias.
pub(super) fn name(view: &ShopDir, read: &ShopDir) -> Box<dyn Track> {
    let (view, read) = (view.name.clone(), read.name.clone());
    Tracked::boxed(
        "the entry `name`",
        true,
        Option::<String>::clone,
        move || view.live(),
        move || {
            let read = read.clone();
            Box::pin(async move { seen_entry(read.get().await) })
        },
    )
}

/// Converts the result of a read of an entry. A missing entry is a state, too.
fn seen_entry<T>(read: etcd_typed::Result<Option<Versioned<T>>>) -> Seen<Option<T>> {
    match read.transpose() {
        Some(Err(error)) if error.kind() == ErrorKind::Decode => {
            let key = error.key().expect("a decode error names the key").to_string();
            Err(vec![(key, ProblemKind::Undecodable, String::new(), None)])
        }
        Some(read) => {
            let read = read.unwrap();
            let (created, modified) = (read.created(), read.modified());
            Ok((Some(read.into_inner()), created, modified))
        }
        None => Ok((None, Revision::ZERO, Revision::ZERO)),
    }
}
