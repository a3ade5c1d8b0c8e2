//! Turns user and password into a token. One login serves all calls that wait for a token; a new
//! login follows when the server refuses the token.
//!
//! A simple token expires after it was unused for `--auth-token-ttl` (300 s by default), a JWT at a
//! fixed time, and either kind after some changes of users and roles. If authentication was
//! switched off, the server says so to a login. There is no token then, because servers since 3.4
//! refuse every token while authentication is off.
//!
//! Each login costs the server a password check, about 70 ms of a core. So a pause follows each
//! failed login. After a refused login, the pause doubles up to
//! [`RetryPolicy::max_delay`](crate::RetryPolicy::max_delay). If the server does not accept the
//! token of a login, the pause is shorter. All calls that need a token wait for the same login, and
//! so for the same pause.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::HeaderValue;
use tokio::runtime::Id;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::call::{Core, How, NAME};
use super::status::{Failure, Repeat, Row};
use super::wire::{AUTHENTICATE, AuthenticateRequest};
use crate::retry::{Backoff, RetryPolicy};
use crate::runtime::current;
use crate::store::connect::Credentials;
use crate::telemetry;

/// The longest pause after a login whose token the server does not accept.
const LONGEST_TOKEN_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause after a login whose token belongs to an older state of users and roles. While
/// users and roles change all the time, a token is valid for milliseconds, and each login is
/// another chance. Under load, with changes every 10 ms and a `call_timeout` of 3 s, a call failed
/// in 4 of 10 runs with the pause above, and in 3 of 15 with this one.
const LONGEST_PAUSE_OF_CHANGES: Duration = Duration::from_millis(10);

/// The credentials and the current session.
pub(super) struct Auth {
    credentials: Option<Credentials>,
    state: Mutex<State>,
}

struct State {
    session: Arc<Session>,
    /// The login under way, with the runtime on which it runs.
    login: Option<(Option<Id>, Login)>,
    pause: Pause,
}

/// The token that calls are sent with.
pub(super) struct Session {
    /// The number of logins so far. It tells a refused token from one that was renewed since.
    pub(super) generation: u64,
    /// `None` without credentials, or if authentication is off.
    pub(super) token: Option<HeaderValue>,
    /// Whether the server has answered a call sent with this token.
    served: AtomicBool,
}

/// The pause before the next login.
struct Pause {
    backoff: Backoff,
    /// When the last login was answered. `None` if it failed because of an outage, after which no
    /// pause is needed.
    since: Option<Instant>,
    /// The refusal of the last login, if it was refused.
    refusal: Option<Failure>,
}

/// A login under way. All calls that need the token wait for the same login.
type Login = Shared<BoxFuture<'static, Result<Arc<Session>, Failure>>>;

impl Session {
    fn new(generation: u64, token: Option<HeaderValue>) -> Arc<Self> {
        Arc::new(Self { generation, token, served: AtomicBool::new(false) })
    }

    /// Records that the server has answered a call sent with this token.
    pub(super) fn has_served(&self) {
        if !self.served.load(Ordering::Relaxed) {
            self.served.store(true, Ordering::Relaxed);
        }
    }
}

impl Pause {
    /// Returns when the next login may begin, now that `session` is refused. A login must follow
    /// each call of this.
    fn end(&mut self, session: &Session, refused: Row) -> Instant {
        let now = Instant::now();
        let Some(since) = self.since else { return now };
        if self.refusal.is_none() && session.served.load(Ordering::Relaxed) {
            // The token was valid until now. It has expired, or users and roles were changed.
            self.backoff.reset();
            return now;
        }
        let delay = self.backoff.next_delay();
        since
            + match refused {
                _ if self.refusal.is_some() => delay,
                Row::AuthChanged => delay.min(LONGEST_PAUSE_OF_CHANGES),
                _ => delay.min(LONGEST_TOKEN_PAUSE),
            }
    }

    /// Records the end of a login.
    fn begin(&mut self, outcome: Result<(), &Failure>) {
        self.refusal = outcome.err().filter(|failure| failure.verdict().repeat == Repeat::Never).cloned();
        let answered = outcome.is_ok() || self.refusal.is_some();
        self.since = answered.then(Instant::now);
    }
}

impl Auth {
    pub(super) fn new(credentials: Option<Credentials>, retry: &RetryPolicy) -> Self {
        let pause = Pause { backoff: retry.backoff(), since: None, refusal: None };
        Self { credentials, state: Mutex::new(State { session: Session::new(0, None), login: None, pause }) }
    }

    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// Records that the server has created a watch with the token of this login.
    pub(super) fn has_served(&self, generation: u64) {
        let state = self.state();
        if state.session.generation == generation {
            state.session.has_served();
        }
    }

    /// Returns the current session. With credentials, the first call logs in.
    pub(super) async fn session(core: &Arc<Core>, deadline: Instant) -> Result<Arc<Session>, Failure> {
        let session = Arc::clone(&core.auth.state().session);
        if session.generation == 0 && core.auth.has_credentials() {
            return Self::renew(core, session.generation, Row::TokenRefused, deadline).await;
        }
        Ok(session)
    }

    /// Returns a session newer than the refused one. This is the current one if another caller has
    /// logged in since, otherwise that of a new login. `with` is the error that refused the old
    /// one.
    ///
    /// # Errors
    ///
    /// The error of the login. If the login is not answered by `deadline`: `TimedOut`, or the last
    /// refusal while logins are refused.
    pub(super) async fn renew(core: &Arc<Core>, refused: u64, with: Row, deadline: Instant) -> Result<Arc<Session>, Failure> {
        let login = {
            let mut state = core.auth.state();
            let State { session, login, pause } = &mut *state;
            if session.generation > refused {
                return Ok(Arc::clone(session));
            }
            match login {
                // A login on another runtime may never end, because that runtime may not be driven.
                Some((runtime, login)) if *runtime == current() && login.peek().is_none() => login.clone(),
                _ => login.insert((current(), log_in(Arc::clone(core), session.generation, pause.end(session, with)))).1.clone(),
            }
        };
        let began = Instant::now();
        match timeout_at(deadline, login).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let refusal = core.auth.state().pause.refusal.clone();
                // The caller's own request was not sent yet.
                Err(refusal.unwrap_or_else(|| core.out_of_time(began, "no answer to the login")))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs in at `begin`, in its own task, so that a caller that gives up does not cancel the login
/// for the others.
fn log_in(core: Arc<Core>, generation: u64, begin: Instant) -> Login {
    let task = tokio::spawn(async move {
        sleep_until(begin).await;
        let outcome = authenticate(&core).await;
        let mut state = core.auth.state();
        state.pause.begin(outcome.as_ref().map(drop));
        if let Some(refusal) = &state.pause.refusal {
            telemetry::login_refused(NAME, refusal.row.verdict().kind, refusal.words());
        }
        let session = Session::new(generation.saturating_add(1), outcome?);
        state.session = Arc::clone(&session);
        Ok(session)
    });
    async move { task.await.unwrap_or_else(|_| Err(Failure::new(Row::NotSent, "the runtime is shutting down"))) }.boxed().shared()
}

async fn authenticate(core: &Core) -> Result<Option<HeaderValue>, Failure> {
    let Some(Credentials { user, password }) = core.auth.credentials.clone() else {
        return Ok(None);
    };
    let request = AuthenticateRequest { name: user, password };
    let deadline = core.retry.deadline();
    match core.attempts(&AUTHENTICATE, How::READ, None, &request, deadline).await {
        Ok(answer) => match HeaderValue::try_from(answer.token) {
            Ok(mut token) => {
                token.set_sensitive(true);
                Ok(Some(token))
            }
            Err(_) => Err(Failure::new(Row::CorruptCluster, "the login returned a token that is invalid as a header value")),
        },
        Err(Failure { row: Row::AuthDisabled, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;

    /// How long the login after each of eight refusals of a new token waits.
    async fn pauses(refused: Row, has_served: bool) -> Vec<Duration> {
        let mut pause = Pause { backoff: RetryPolicy::default().backoff(), since: None, refusal: None };
        let mut pauses = Vec::new();
        for generation in 0..8 {
            let session = Session::new(generation, None);
            pause.begin(Ok(()));
            if has_served {
                session.has_served();
            }
            pauses.push(pause.end(&session, refused) - Instant::now());
            advance(Duration::from_secs(1)).await;
        }
        pauses
    }

    #[tokio::test]
    async fn login_pause_is_short_while_users_change() {
        pause();
        let changed = pauses(Row::AuthChanged, false).await;
        assert!(changed.iter().all(|pause| *pause <= LONGEST_PAUSE_OF_CHANGES), "{changed:?}");
        let refused = pauses(Row::TokenRefused, false).await;
        assert!(refused.iter().all(|pause| *pause <= LONGEST_TOKEN_PAUSE), "{refused:?}");
        assert_eq!(refused.last(), Some(&LONGEST_TOKEN_PAUSE));
        assert_eq!(pauses(Row::AuthChanged, true).await, [Duration::ZERO; 8], "a token that served needs no pause");
    }
}
