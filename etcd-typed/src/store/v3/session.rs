//! `Auth`: the credentials, the token of the current session, and the pause before the next login.
//! `auth.rs` logs in.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use http::HeaderValue;
use tokio::runtime::Id;
use tokio::time::Instant;

use super::status::{Failure, Repeat, Row};
use crate::retry::{Backoff, RetryPolicy};
use crate::store::connect::Credentials;

/// The longest pause after a login whose token the server does not accept.
const LONGEST_TOKEN_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause after a login whose token is refused because users or roles changed again.
/// While users and roles change all the time, a token is valid for milliseconds, and each login is
/// another chance. Under load, with changes every 10 ms and a `call_timeout` of 3 s, a call failed
/// in 4 of 10 runs with the pause above, and in 3 of 15 with this one.
const LONGEST_PAUSE_OF_CHANGES: Duration = Duration::from_millis(10);

/// The credentials and the current session.
pub(super) struct Auth {
    pub(super) credentials: Option<Credentials>,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) session: Arc<Session>,
    /// The login under way, with the runtime on which it runs.
    pub(super) login: Option<(Option<Id>, Login)>,
    pub(super) pause: Pause,
}

/// The result of a login: the token that calls are sent with.
pub(super) struct Session {
    /// The number of logins so far. A call whose token was refused uses this number to find out
    /// whether another call has logged in since.
    pub(super) generation: u64,
    /// `None` without credentials, or if authentication is off.
    pub(super) token: Option<HeaderValue>,
    /// Whether the server has answered a call sent with this token.
    served: AtomicBool,
}

/// The pause before the next login.
pub(super) struct Pause {
    backoff: Backoff,
    /// When the last login was answered. `None` before the first login, and after a login that
    /// failed because of an outage, which needs no pause.
    since: Option<Instant>,
    /// The refusal of the last login, if it was refused.
    pub(super) refusal: Option<Failure>,
}

/// A login under way. All calls that need the token wait for the same login.
pub(super) type Login = Shared<BoxFuture<'static, Result<Arc<Session>, Failure>>>;

impl Session {
    pub(super) fn new(generation: u64, token: Option<HeaderValue>) -> Arc<Self> {
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
    /// Returns when the next login may begin, after the server has refused `session`. Each call of
    /// this method may lengthen the pause, so a login must follow it.
    pub(super) fn end(&mut self, session: &Session, refused: Row) -> Instant {
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
    pub(super) fn begin(&mut self, outcome: Result<(), &Failure>) {
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

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Returns how long each of eight logins waits, if the server refuses every new token.
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
