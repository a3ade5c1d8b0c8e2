//! Makes calls with the token of the current session, and logs in again when the server refuses the
//! token.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::NAME;
use super::attempt::Core;
use super::connection::Sent;
use super::how::How;
use super::session::Auth;
use super::status::{Failure, Repeat, Row};
use super::wire::{Answer, Method, Untyped};
use crate::telemetry;

impl Core {
    /// Makes a call with the token of the session. If the token is refused, logs in and repeats the
    /// call while there is time.
    pub(super) async fn call<Q, A>(self: &Arc<Self>, method: &Method<Q, A>, how: How, request: Q) -> Result<A, Failure>
    where
        Q: prost::Message,
        A: Answer + Default,
    {
        self.call_until(method, how, request, self.retry.deadline()).await
    }

    /// Like [`call`](Self::call), but ends at `deadline`.
    pub(super) async fn call_until<Q, A>(
        self: &Arc<Self>,
        method: &Method<Q, A>,
        how: How,
        request: Q,
        deadline: Instant,
    ) -> Result<A, Failure>
    where
        Q: prost::Message,
        A: Answer + Default,
    {
        let mut answer = A::default();
        self.call_into(&method.untyped(), how, &request, &mut answer, deadline).await?;
        Ok(answer)
    }

    /// Does the work of [`call`](Self::call). Does not depend on the message types, so that its
    /// code is compiled once.
    async fn call_into(
        self: &Arc<Self>,
        method: &Untyped,
        how: How,
        request: &dyn Sent,
        answer: &mut dyn Answer,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut backoff = self.retry.backoff();
        let mut may_have_applied = false;
        loop {
            let session = Auth::session(self, deadline).await.map_err(|failure| failure.after(may_have_applied))?;
            let failure = match self.attempts_into(method, how, session.token.as_ref(), request, answer, deadline).await {
                Ok(()) => {
                    session.has_served();
                    return Ok(());
                }
                Err(failure) => failure.after(may_have_applied),
            };
            if failure.row.verdict().repeat != Repeat::AfterLogin {
                return Err(failure);
            }
            // A new token may be refused too: with JWT, each change of users and roles invalidates
            // all tokens. So the call is repeated until its time is over. The pause between logins
            // prevents a busy loop.
            may_have_applied = failure.may_have_applied;
            if self.auth.has_credentials() {
                Auth::renew(self, session.generation, failure.row, deadline).await.map_err(|failure| failure.after(may_have_applied))?;
            } else {
                let next = Instant::now() + backoff.next_delay();
                if failure.row != Row::AuthChanged || next >= deadline {
                    return Err(failure);
                }
                sleep_until(next).await;
            }
            telemetry::repeated(NAME, method.name(), failure.row.verdict().kind, failure.words());
        }
    }
}
