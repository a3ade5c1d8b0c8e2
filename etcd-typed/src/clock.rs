//! `Moment`: a clock for leases. On the server a lease's time passes while this machine is
//! suspended, so a deadline that depends on a lease must also count that time.

use std::time::Duration;

use tokio::time::Instant;

/// The longest duration in use: 30 years. Every platform can represent the present time plus
/// several such durations.
pub(crate) const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A point in time on two clocks at once.
///
/// The time between two moments is measured on both clocks, and the longer result counts. Tests can
/// advance tokio's clock, but on Linux that clock stops while the machine is suspended
/// (`CLOCK_MONOTONIC`). The other clock counts suspended time, and tests cannot advance it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    steady: Instant,
    /// The time since some point in the past, including suspended time.
    boot: Duration,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { steady: Instant::now(), boot: boot() }
    }

    /// Returns the time on tokio's clock that is `time` after this moment.
    pub(crate) fn after(self, time: Duration) -> Option<Instant> {
        self.steady.checked_add(time)
    }

    /// Returns the time since `earlier`, on the clock that has advanced further.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.steady.saturating_duration_since(earlier.steady).max(self.boot.saturating_sub(earlier.boot))
    }
}

#[cfg(unix)]
fn boot() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    // On other systems the monotonic clock already counts suspended time, if the system counts it
    // at all.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let read = clock_gettime(CLOCK);
    let read = Duration::new(u64::try_from(read.tv_sec).unwrap_or(0), u32::try_from(read.tv_nsec).unwrap_or(0));
    #[cfg(test)]
    let read = read + tests::SLEPT.get();
    read
}

/// Uses `Instant`, which counts suspended time on Windows.
#[cfg(not(unix))]
fn boot() -> Duration {
    use std::sync::OnceLock;
    static FIRST: OnceLock<std::time::Instant> = OnceLock::new();
    FIRST.get_or_init(std::time::Instant::now).elapsed()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// The total suspended time of the machine that this test simulates.
        pub(crate) static SLEPT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// Simulates a suspended machine, for the test on this thread.
    pub(crate) fn suspend(time: Duration) {
        SLEPT.set(SLEPT.get() + time);
    }

    #[tokio::test(start_paused = true)]
    async fn elapsed_time_includes_suspended_time() {
        let start = Moment::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        let later = Moment::now();
        assert_eq!(later.since(start), Duration::from_secs(5));
        suspend(Duration::from_secs(3600));
        assert!(Moment::now().since(start) >= Duration::from_secs(3600));
        assert_eq!(start.since(later), Duration::ZERO);
    }
}
