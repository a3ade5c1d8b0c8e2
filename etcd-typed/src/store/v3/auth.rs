//! Logs in with user and password, and gets a token. One login serves all calls that wait for a
//! token; a new login follows when the server refuses the token.
//!
//! A simple token expires after it was unused for `--auth-token-ttl` (300 s by default), a JWT at a
//! fixed time, and either kind after some changes of users and roles. If authentication was
//! switched off, the server answers a login with an error that says so. The client then sends no
//! token, because servers since 3.4 refuse every token while authentication is off.
//!
//! Each login costs the server a password check, about 70 ms of a core. So a pause follows each
//! failed login. After a refused login, the pause doubles up to
//! [`RetryPolicy::max_delay`](crate::RetryPolicy::max_delay). If the server does not accept the
//! token of a login, the pause is shorter. All calls that need a token wait for the same login, and
//! so for the same pause.

use std::sync::Arc;

use futures_util::FutureExt;
use http::HeaderValue;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::NAME;
use super::attempt::Core;
use super::how::How;
use super::session::{Auth, Login, Session, State};
use super::status::{Failure, Row};
use super::wire::{AUTHENTICATE, AuthenticateRequest};
use crate::runtime::current;
use crate::store::connect::Credentials;
use crate::telemetry;

impl Auth {
    /// Returns the current session. With credentials, the first call logs in.
    pub(super) async fn session(core: &Arc<Core>, deadline: Instant) -> Result<Arc<Session>, Failure> {
        let session = Arc::clone(&core.auth.state().session);
        if session.generation == 0 && core.auth.has_credentials() {
            return Self::renew(core, session.generation, Row::TokenRefused, deadline).await;
        }
        Ok(session)
    }

    /// Returns a session newer than the refused one: the current session if another caller has
    /// logged in meanwhile, else the session of a new login. `with` is the error with which the
    /// server refused the old session.
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
}

/// Logs in at `begin`, in a separate task, so that a caller that gives up does not cancel the login
/// for the other callers.
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
