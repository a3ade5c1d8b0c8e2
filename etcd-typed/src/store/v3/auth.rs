//! User and password become a token, once for all calls that wait for one, and again when the server does not take it any more.
//!
//! A simple token ends when it was not used for `--auth-token-ttl` (300 s by default), a JWT at a fixed time, both with some changes of users
//! and roles. A server whose authentication was switched off says so to a login; then there is no token, since 3.4 refuses
//! every token while it is off.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::HeaderValue;
use tokio::runtime::Id;
use tokio::time::{Instant, timeout_at};

use super::call::{Core, How};
use super::status::{Failure, Row};
use super::wire::{AUTHENTICATE, AuthenticateRequest};
use crate::runtime::current;
use crate::store::connect::Credentials;

/// The credentials, and the session they gave.
pub(super) struct Auth {
    credentials: Option<Credentials>,
    state: Mutex<State>,
}

struct State {
    session: Arc<Session>,
    /// With the runtime that it is made on.
    login: Option<(Option<Id>, Login)>,
}

/// What a call is sent with.
#[derive(Clone)]
pub(super) struct Session {
    /// How many logins there were. Tells a token that was refused from one that was renewed since.
    pub(super) generation: u64,
    /// None where there are no credentials or nothing to log in to.
    pub(super) token: Option<HeaderValue>,
}

/// A login under way; all who need the token wait for the same.
type Login = Shared<BoxFuture<'static, Result<Arc<Session>, Failure>>>;

impl Auth {
    pub(super) fn new(credentials: Option<Credentials>) -> Self {
        let session = Arc::new(Session { generation: 0, token: None });
        Self { credentials, state: Mutex::new(State { session, login: None }) }
    }

    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// The session as it is; the first one that has credentials logs in.
    pub(super) async fn session(core: &Arc<Core>, deadline: Instant) -> Result<Arc<Session>, Failure> {
        let session = Arc::clone(&core.auth.state().session);
        if session.generation == 0 && core.auth.has_credentials() {
            return Self::renew(core, &session, deadline).await;
        }
        Ok(session)
    }

    /// A session newer than `refused`: the one that somebody else has had by now, or a new one.
    pub(super) async fn renew(core: &Arc<Core>, refused: &Session, deadline: Instant) -> Result<Arc<Session>, Failure> {
        let login = {
            let mut state = core.auth.state();
            if state.session.generation > refused.generation {
                return Ok(Arc::clone(&state.session));
            }
            match &state.login {
                // One on another runtime may never end: that runtime may not be driven.
                Some((runtime, login)) if *runtime == current() && login.peek().is_none() => login.clone(),
                _ => state.login.insert((current(), log_in(Arc::clone(core), refused.generation))).1.clone(),
            }
        };
        match timeout_at(deadline, login).await {
            Ok(outcome) => outcome,
            // Nothing of the caller's was sent yet.
            Err(_) => Err(Failure::new(Row::TimedOut, "no answer to the login in time")),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs in, in a task of its own: a caller that gives up does not take it from the others.
fn log_in(core: Arc<Core>, generation: u64) -> Login {
    let task = tokio::spawn(async move {
        let token = authenticate(&core).await?;
        let session = Arc::new(Session { generation: generation.saturating_add(1), token });
        core.auth.state().session = Arc::clone(&session);
        Ok(session)
    });
    async move { task.await.unwrap_or_else(|_| Err(Failure::new(Row::NotSent, "the runtime is shutting down"))) }.boxed().shared()
}

async fn authenticate(core: &Core) -> Result<Option<HeaderValue>, Failure> {
    let Some(Credentials { user, password }) = core.auth.credentials.clone() else {
        return Ok(None);
    };
    let request = AuthenticateRequest { name: user, password };
    let deadline = Instant::now() + core.retry.call_timeout;
    match core.attempts(&AUTHENTICATE, How::READ, None, &request, deadline).await {
        Ok(answer) => match HeaderValue::try_from(answer.token) {
            Ok(mut token) => {
                token.set_sensitive(true);
                Ok(Some(token))
            }
            Err(_) => Err(Failure::new(Row::CorruptCluster, "the login gave a token that no request can carry")),
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
