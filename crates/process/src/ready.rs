//! Ready means useful: each part that must be warm holds a guard.

use std::collections::BTreeMap;

use tokio::sync::watch;

/// The guards still held. The process is ready while there are none.
#[derive(Clone, Debug)]
pub struct Readiness {
    held: watch::Sender<BTreeMap<String, u32>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            held: watch::Sender::new(BTreeMap::new()),
        }
    }
}

/// Keeps the process from being ready until it is dropped.
#[derive(Debug)]
#[must_use = "a dropped guard makes the process ready"]
pub struct Guard {
    readiness: Readiness,
    name: String,
}

impl Readiness {
    /// A process that waits for nothing yet. Take the guards before the admin page is served.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a guard. The same name may be held several times.
    pub fn hold(&self, name: impl Into<String>) -> Guard {
        let name = name.into();
        self.held
            .send_modify(|held| *held.entry(name.clone()).or_default() += 1);
        Guard {
            readiness: self.clone(),
            name,
        }
    }

    /// The names of the guards still held, in order.
    pub fn held(&self) -> Vec<String> {
        self.held.borrow().keys().cloned().collect()
    }

    /// Whether no guard is held.
    pub fn is_ready(&self) -> bool {
        self.held.borrow().is_empty()
    }

    /// Completes when no guard is held.
    pub async fn wait(&self) {
        let mut held = self.held.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ready = held.wait_for(BTreeMap::is_empty).await;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.readiness.held.send_modify(|held| {
            if let Some(count) = held.get_mut(&self.name) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    held.remove(&self.name);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropping_the_last_guard_makes_ready() {
        let readiness = Readiness::new();
        let store = readiness.hold("store");
        let again = readiness.hold("store");
        let xds = readiness.hold("xds");
        assert_eq!(readiness.held(), ["store", "xds"]);
        drop(store);
        drop(xds);
        assert_eq!(readiness.held(), ["store"]);
        drop(again);
        readiness.wait().await;
        assert!(readiness.is_ready());
    }
}
