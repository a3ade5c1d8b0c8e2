//! The same done again and again, by one or by many at the same time: how often, and how long each took.

use std::time::{Duration, Instant};

use super::{Better, Goal, Measured, Observed, Stage, quantile};
use crate::Result;
use crate::work::Meter;

/// One of those who do it.
pub(crate) trait Caller: Send + Sized + 'static {
    /// Fails if it did not do what it should have done.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Checks, when all is done, what can only be checked then.
    fn check(&mut self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
}

/// Has them all call for so long, each one call after the other, after a fifth of it to warm up; and reports.
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

/// Nanoseconds of each call, in any order.
async fn call_all<C: Caller>(callers: Vec<C>, end: Instant) -> Result<(Vec<C>, Vec<u64>)> {
    let again_and_again = |mut caller: C| {
        tokio::spawn(async move {
            let mut took = Vec::new();
            let mut now = Instant::now();
            // At least once: it may take longer than all of the time.
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

/// A stage in which this was measured; `check` is given how often it was done.
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

/// Microseconds of each call.
pub(super) fn took(observed: &Observed) -> Result<Vec<f64>> {
    Ok(observed.found::<Vec<u64>>()?.into_iter().map(|nanoseconds| nanoseconds as f64 / 1e3).collect())
}
