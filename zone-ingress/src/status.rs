//! How current the routes are, and why they are not newer.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

use crate::times::Times;

/// The state of the control path, shared by the stream, the admin page and metrics.
#[derive(Clone, Debug)]
pub struct Status {
    inside: Arc<Mutex<Inside>>,
    times: Times,
}

#[derive(Debug, Default)]
struct Inside {
    link: Link,
    /// When the control plane last vouched for what we hold; not used while it does.
    current_at: Option<Timestamp>,
    from_file: bool,
    connects: u64,
    refused: u64,
    last_refusal: Option<String>,
}

#[derive(Debug, Default)]
enum Link {
    /// The first connect is not through.
    #[default]
    Starting,
    /// The stream is open and not everything has come yet.
    Syncing {
        since: Timestamp,
    },
    /// What we hold is what the control plane has.
    Live {
        since: Timestamp,
    },
    Away {
        since: Timestamp,
        reason: String,
    },
}

/// The control path as the admin page shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusPage {
    /// `starting`, `syncing`, `live` or `away`.
    pub control_plane: &'static str,
    pub since: Option<Timestamp>,
    /// Why the control plane is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How old the routes may be; absent when there never were any.
    pub age_seconds: Option<f64>,
    /// The same in a sentence.
    pub summary: String,
    /// Whether what we hold was read from the state file and not confirmed yet.
    pub from_state_file: bool,
    pub connects: u64,
    pub refused_resources: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<String>,
}

impl Status {
    /// Nothing is known yet.
    pub fn new(times: Times) -> Self {
        Self {
            inside: Arc::default(),
            times,
        }
    }

    /// Routes were read from the state file.
    pub fn restored(&self, current_at: Option<Timestamp>) {
        let mut inside = self.inside.lock();
        inside.current_at = current_at;
        inside.from_file = true;
    }

    /// A stream was opened.
    pub fn connected(&self) {
        let mut inside = self.inside.lock();
        inside.connects += 1;
        inside.link = Link::Syncing {
            since: self.times.wall(),
        };
    }

    /// Everything the control plane has is here. Returns whether that is news.
    pub fn live(&self) -> bool {
        let mut inside = self.inside.lock();
        inside.from_file = false;
        inside.current_at = Some(self.times.wall());
        if matches!(inside.link, Link::Live { .. }) {
            return false;
        }
        inside.link = Link::Live {
            since: self.times.wall(),
        };
        true
    }

    /// The stream ended or could not be opened. Returns whether the reason is a new one.
    pub fn away(&self, reason: &str) -> bool {
        let now = self.times.wall();
        let mut inside = self.inside.lock();
        let (since, news) = match &inside.link {
            Link::Away {
                since,
                reason: before,
            } => (*since, before != reason),
            Link::Live { .. } => {
                inside.current_at = Some(now);
                (now, true)
            }
            Link::Starting | Link::Syncing { .. } => (now, true),
        };
        inside.link = Link::Away {
            since,
            reason: reason.to_owned(),
        };
        news
    }

    /// Resources were refused.
    pub fn refused(&self, count: usize, last: &str) {
        let mut inside = self.inside.lock();
        inside.refused += count as u64;
        inside.last_refusal = Some(last.to_owned());
    }

    /// Since when the routes may be old; now while they are current.
    pub fn current_at(&self) -> Option<Timestamp> {
        let inside = self.inside.lock();
        match inside.link {
            Link::Live { .. } => Some(self.times.wall()),
            Link::Starting | Link::Syncing { .. } | Link::Away { .. } => inside.current_at,
        }
    }

    /// What people want to know.
    pub fn page(&self) -> StatusPage {
        let current_at = self.current_at();
        let now = self.times.wall();
        let inside = self.inside.lock();
        let live = matches!(inside.link, Link::Live { .. });
        let age = match current_at {
            Some(_) if live => Some(0.0),
            Some(at) => Some(now.duration_since(at).as_secs_f64().max(0.0)),
            None => None,
        };
        let (word, since, reason) = match &inside.link {
            Link::Starting => ("starting", None, None),
            Link::Syncing { since } => ("syncing", Some(*since), None),
            Link::Live { since } => ("live", Some(*since), None),
            Link::Away { since, reason } => ("away", Some(*since), Some(reason.clone())),
        };
        let age_words = match age {
            _ if live => "routes are current".to_owned(),
            Some(seconds) => format!("routes are {seconds:.0} s old"),
            None if inside.from_file => "routes are of unknown age".to_owned(),
            None => "there are no routes yet".to_owned(),
        };
        let link_words = match (&inside.link, since) {
            (Link::Away { reason, .. }, Some(since)) => {
                format!(", control plane unreachable since {since:.0}: {reason}")
            }
            _ => String::new(),
        };
        StatusPage {
            control_plane: word,
            since,
            reason,
            age_seconds: age,
            summary: age_words + &link_words,
            from_state_file: inside.from_file,
            connects: inside.connects,
            refused_resources: inside.refused,
            last_refusal: inside.last_refusal.clone(),
        }
    }
}

impl Collector for Status {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let page = self.page();
        let connected = ConstGauge::new(i64::from(page.control_plane == "live"));
        let metric = encoder.encode_descriptor(
            "zonal_ingress_control_plane_live",
            "1 while the control plane vouches for the routes",
            None,
            connected.metric_type(),
        )?;
        connected.encode(metric)?;
        let age = ConstGauge::new(page.age_seconds.unwrap_or(0.0));
        let metric = encoder.encode_descriptor(
            "zonal_ingress_state_age_seconds",
            "How old the routes may be; a rise means that the control plane is away",
            None,
            age.metric_type(),
        )?;
        age.encode(metric)?;
        for (name, help, count) in [
            (
                "zonal_ingress_control_plane_connects",
                "Streams opened to the control plane; a rise means a bad path or restarts",
                page.connects,
            ),
            (
                "zonal_ingress_refused_resources",
                "Resources that could not be used; the admin page has the last reason",
                page.refused_resources,
            ),
        ] {
            let counter = ConstCounter::new(count);
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zonal_process::ManualClock;

    use super::*;

    #[test]
    fn age_counts_from_the_moment_the_control_plane_went() {
        let clock = ManualClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        let status = Status::new(Times::new(Arc::new(clock.clone())));
        assert_eq!(status.page().summary, "there are no routes yet");
        status.restored(None);
        assert_eq!(status.page().summary, "routes are of unknown age");
        status.restored(Some("2025-12-31T23:00:00Z".parse().unwrap()));
        assert_eq!(status.page().summary, "routes are 3600 s old");
        status.connected();
        assert!(status.live() && !status.live());
        clock.advance(Duration::from_secs(50));
        assert_eq!(status.page().summary, "routes are current");
        assert!(status.away("connection refused"));
        clock.advance(Duration::from_secs(10));
        assert!(!status.away("connection refused"));
        assert_eq!(
            status.page().summary,
            "routes are 10 s old, control plane unreachable since 2026-01-01T00:00:50Z: \
             connection refused"
        );
        assert!(status.away("certificate expired"));
    }
}
