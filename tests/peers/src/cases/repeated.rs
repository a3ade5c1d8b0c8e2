//! One or many callers repeat an operation at the same time. The rate and the time of each call are
//! measured.

use std::time::{Duration, Instant};

use super::{Better, Goal, Measured, Observed, Stage, quantile};
use crate::Result;
use crate::work::Meter;

/// A caller that repeats one operation.
pub(crate) trait Caller: Send + Sized + 'static {
    /// Does the operation once. Fails if its result is wrong.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Checks results that can be checked only after all calls.
    fn check(&mut self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
}

/// Lets all callers run at the same time for this duration, and reports the times. Each caller
/// makes one call after the other. Before that, the callers warm up for a fifth of the duration.
pub(super) async fn measure<C: Caller>(callers: Vec<C>, duration: Duration) -> Result<()> {
    let (callers, _) = call_all(callers, Instant::now() + duration / 5).await?;
    let meter = Meter::ready()?;
    let (callers, took) = call_all(callers, Instant::now() + duration).await?;
    meter.report(|| Ok(took.into()))?;
    for mut caller in callers {
        caller.check().await?;
    }
    Ok(())
}

/// Returns the callers, and the nanoseconds of each call in any order.
async fn call_all<C: Caller>(callers: Vec<C>, end: Instant) -> Result<(Vec<C>, Vec<u64>)> {
    let again_and_again = |mut caller: C| {
        tokio::spawn(async move {
            let mut took = Vec::new();
            let mut now = Instant::now();
            // At least once, because a call may take longer than the whole duration.
            while took.is_empty() || now < end {
                let began = now;
                caller.call().await?;
                now = Instant::now();
                took.push(u64::try_from((now - began).as_nanos())?);
            }
            Result::Ok((caller, took))
        })
    };
    let tasks: Vec<_> = callers.into_iter().map(again_and_again).collect();
    let (mut callers, mut all) = (Vec::new(), Vec::new());
    for task in tasks {
        let (caller, took) = task.await??;
        callers.push(caller);
        all.extend(took);
    }
    Ok((callers, all))
}

/// Creates a stage that evaluates these measurements. `check` gets the number of operations.
pub(super) fn stage(
    title: String,
    operation: &'static str,
    goals: Vec<Goal>,
    check: impl Fn(&Observed, f64) -> Result<()> + 'static,
) -> Stage {
    let rate = format!("{operation}s/s");
    let columns = [(rate.as_str(), Better::Higher), ("p50 µs", Better::Lower), ("p99 µs", Better::Lower)];
    Stage::new(title, operation, &columns, goals, move |observed| {
        let took = took(observed)?;
        let operations = took.len() as f64;
        check(observed, operations)?;
        let rate = operations / observed.report.elapsed.as_secs_f64();
        Ok(Measured { figures: vec![rate, quantile(took.clone(), 0.5), quantile(took, 0.99)], operations })
    })
}

/// Returns the microseconds of each call.
pub(super) fn took(observed: &Observed) -> Result<Vec<f64>> {
    Ok(observed.found::<Vec<u64>>()?.into_iter().map(|nanoseconds| nanoseconds as f64 / 1e3).collect())
}
