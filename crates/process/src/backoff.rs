//! How long to wait before trying again.

use std::time::Duration;

/// The shape of a back-off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffPolicy {
    /// The longest first wait; the real one lies between zero and this.
    pub first: Duration,
    /// By how much each wait may exceed the one before.
    pub growth: f64,
    /// No wait is longer.
    pub ceiling: Duration,
    /// What ran at least this long was healthy: the next wait is a first one again.
    pub healthy_after: Duration,
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            growth: 2.0,
            ceiling: Duration::from_secs(10),
            healthy_after: Duration::from_secs(10),
        }
    }
}

/// Waits that grow, have a ceiling and differ by chance, so that many peers do not return at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    attempt: u32,
    chance: fastrand::Rng,
}

impl Backoff {
    /// A back-off whose chance comes from `seed`.
    pub fn seeded(policy: BackoffPolicy, seed: u64) -> Self {
        Self {
            policy,
            attempt: 0,
            chance: fastrand::Rng::with_seed(seed),
        }
    }

    /// A back-off seeded by the machine.
    pub fn new(policy: BackoffPolicy) -> Self {
        Self {
            policy,
            attempt: 0,
            chance: fastrand::Rng::new(),
        }
    }

    /// How long to wait after something that lasted `ran_for` ended. A success that did not last is not a
    /// success: only a healthy while makes the wait short again.
    pub fn next_delay(&mut self, ran_for: Duration) -> Duration {
        if ran_for >= self.policy.healthy_after {
            self.attempt = 0;
        }
        let exponent = i32::try_from(self.attempt).unwrap_or(i32::MAX);
        let grown = self.policy.first.as_secs_f64() * self.policy.growth.powi(exponent);
        let longest = grown.min(self.policy.ceiling.as_secs_f64());
        // The first wait starts at zero; later ones keep half of their length.
        let shortest = if self.attempt == 0 {
            0.0
        } else {
            longest / 2.0
        };
        self.attempt = self.attempt.saturating_add(1);
        let seconds = shortest + (longest - shortest) * self.chance.f64();
        Duration::try_from_secs_f64(seconds).unwrap_or(self.policy.ceiling)
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> BackoffPolicy {
        BackoffPolicy {
            first: Duration::from_millis(100),
            growth: 2.0,
            ceiling: Duration::from_secs(2),
            healthy_after: Duration::from_secs(30),
        }
    }

    #[test]
    fn waits_grow_to_the_ceiling() {
        let mut backoff = Backoff::seeded(policy(), 7);
        let waits: Vec<Duration> = (0..40)
            .map(|_| backoff.next_delay(Duration::ZERO))
            .collect();
        assert!(waits[0] <= Duration::from_millis(100));
        for (attempt, wait) in waits.iter().enumerate().skip(1) {
            let longest = 0.1 * 2f64.powi(i32::try_from(attempt).unwrap());
            let longest = longest.min(2.0);
            assert!(
                wait.as_secs_f64() <= longest && wait.as_secs_f64() >= longest / 2.0,
                "{wait:?}"
            );
        }
    }

    #[test]
    fn only_a_healthy_while_makes_waits_short_again() {
        let mut backoff = Backoff::seeded(policy(), 7);
        for _ in 0..10 {
            backoff.next_delay(Duration::from_secs(29));
        }
        assert!(backoff.next_delay(Duration::from_secs(29)) >= Duration::from_secs(1));
        assert!(backoff.next_delay(Duration::from_secs(30)) <= Duration::from_millis(100));
    }

    #[test]
    fn same_seed_same_waits() {
        let (mut left, mut right) = (Backoff::seeded(policy(), 3), Backoff::seeded(policy(), 3));
        for _ in 0..10 {
            assert_eq!(
                left.next_delay(Duration::ZERO),
                right.next_delay(Duration::ZERO)
            );
        }
    }
}
