//! `Moment`: time for promises that bind others. A server counts a lease's time while this machine sleeps, so what is reckoned from it must as well.

use std::time::Duration;

use tokio::time::Instant;

/// The longest time that is reckoned with: 30 years. A moment that much later than now exists on every platform, and so does the sum of several.
pub(crate) const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A point in time on two clocks at once.
///
/// The later one counts: tokio's, which tests can move, stands still on Linux while the machine is suspended (`CLOCK_MONOTONIC`); the other
/// one does not, and is not moved by tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    steady: Instant,
    /// Since some point in the past, with suspended time.
    boot: Duration,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { steady: Instant::now(), boot: boot() }
    }

    /// The time on tokio's clock when so much has passed.
    pub(crate) fn after(self, time: Duration) -> Option<Instant> {
        self.steady.checked_add(time)
    }

    /// How long ago `earlier` was, by the clock on which it is longer.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.steady.saturating_duration_since(earlier.steady).max(self.boot.saturating_sub(earlier.boot))
    }
}

#[cfg(unix)]
fn boot() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    // Elsewhere than on Linux this clock counts suspended time by itself, where the system counts it at all.
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

/// Windows' `Instant` counts suspended time.
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
        /// How long the machine of this test was suspended.
        pub(crate) static SLEPT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// Suspends the machine of this thread's test.
    pub(crate) fn suspend(time: Duration) {
        SLEPT.set(SLEPT.get() + time);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_that_went_further_counts() {
        let start = Moment::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        let later = Moment::now();
        assert_eq!(later.since(start), Duration::from_secs(5));
        suspend(Duration::from_secs(3600));
        assert!(Moment::now().since(start) >= Duration::from_secs(3600));
        assert_eq!(start.since(later), Duration::ZERO);
    }
}
