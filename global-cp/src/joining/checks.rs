//! What is looked at before a zone may join: each with a sentence, whether it is well or not.

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use zonal_process::Clock;

/// How far apart clocks may be without a word: certificates are good from ten seconds before they are issued.
const CLOCK_WELL: i64 = 10;
/// How far apart they may be at all: beyond, certificates and tokens of one place are no good at the other.
const CLOCK_MAX: i64 = 300;
/// How long an ingress has to take a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// So many addresses of ingresses are tried.
const ADDRESSES_MAX: usize = 4;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// It may join, and somebody should look.
    Warning,
    /// It may not join.
    Refused,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Finding {
    /// What was looked at: `version`, `name`, `clock` or `ingress`.
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    pub(super) text: String,
}

impl Finding {
    const fn new(check: &'static str, verdict: Verdict, text: String) -> Self {
        Self {
            check,
            verdict,
            text,
        }
    }
}

/// Versions that differ in their first number, or before 1.0 in the second, do not speak with each other for sure.
pub(super) fn version(zone: &str, global: &str) -> Finding {
    let line = |version: &str| -> Option<(u64, u64)> {
        let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
        let (major, minor) = (parts.next()??, parts.next()??);
        Some((major, if major == 0 { minor } else { 0 }))
    };
    let (verdict, text) = match (line(zone), line(global)) {
        (Some(ours), Some(theirs)) if ours == theirs => (
            Verdict::Ok,
            format!("the zone has version {zone}, global has {global}: they speak with each other"),
        ),
        (Some(_), Some(_)) => (
            Verdict::Refused,
            format!(
                "the zone has version {zone}, global has {global}: bring the older one to the other's first number"
            ),
        ),
        _ => (
            Verdict::Warning,
            format!("the zone calls its version `{zone}`, which cannot be compared with {global}"),
        ),
    };
    Finding::new("version", verdict, text)
}

/// Whether the name is free: `elsewhere` says who has it.
pub(super) fn name(zone: &str, elsewhere: Option<String>) -> Finding {
    match elsewhere {
        None => {
            let text = format!("no other control plane is connected as zone `{zone}`");
            Finding::new("name", Verdict::Ok, text)
        }
        Some(told) => Finding::new("name", Verdict::Refused, told),
    }
}

/// How far the zone's clock is from ours; the way of the message is in it.
pub(super) fn clock(zone: Timestamp, here: Timestamp) -> Finding {
    let apart = zone.as_second() - here.as_second();
    let side = if apart < 0 { "behind" } else { "ahead of" };
    let seconds = apart.unsigned_abs();
    let text = format!("the zone's clock is {seconds} s {side} global's");
    let (verdict, text) = match i64::try_from(seconds).unwrap_or(i64::MAX) {
        0..=CLOCK_WELL => (Verdict::Ok, text),
        ..=CLOCK_MAX => (
            Verdict::Warning,
            format!("{text}: certificates will seem too young or too old; set both clocks by NTP"),
        ),
        _ => (
            Verdict::Refused,
            format!("{text}, and at most {CLOCK_MAX} s are taken: set both clocks by NTP"),
        ),
    };
    Finding::new("clock", verdict, text)
}

/// Whether global reaches the addresses that the zone says its ingresses have: where global does, other zones may.
pub(super) async fn ingresses(time: &dyn Clock, addresses: &[String]) -> Vec<Finding> {
    if addresses.is_empty() {
        let text = "the zone names no address of an ingress yet; other zones can call it when one is there";
        return vec![Finding::new("ingress", Verdict::Ok, text.to_owned())];
    }
    let tried = addresses.iter().take(ADDRESSES_MAX).map(async |address| {
        let dial = TcpStream::connect(address.as_str());
        let problem = tokio::select! {
            connected = dial => connected.err().map(|error| error.to_string()),
            () = time.sleep_until(Some(time.now() + DIAL_TIMEOUT)) => {
                Some(format!("no answer within {} s", DIAL_TIMEOUT.as_secs()))
            }
        };
        match problem {
            None => {
                let text = format!("the zone's ingress at {address} takes connections from global");
                Finding::new("ingress", Verdict::Ok, text)
            }
            Some(problem) => {
                let text = format!(
                    "global cannot reach the zone's ingress at {address}: {problem}; other zones may not either. Look \
                     at firewalls, and at the address in its MeshZoneAddress"
                );
                Finding::new("ingress", Verdict::Warning, text)
            }
        }
    });
    join_all(tried).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonal_process::RealClock;

    #[test]
    fn versions_of_one_line_speak_with_each_other() {
        let check = |zone: &str, global: &str, want| {
            assert_eq!(version(zone, global).verdict, want, "{zone} {global}");
        };
        check("1.2.3", "1.9.0", Verdict::Ok);
        check("1.2.3", "2.0.0", Verdict::Refused);
        check("0.3.1", "0.3.9", Verdict::Ok);
        check("0.3.1", "0.4.0", Verdict::Refused);
        check("main", "0.4.0", Verdict::Warning);
        check("", "0.4.0", Verdict::Warning);
    }

    #[test]
    fn clocks_may_differ_a_little() {
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        let check = |zone, verdict, text: &str| {
            let finding = clock(at(zone), at(0));
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.text.starts_with(text), "{finding:?}");
        };
        check(
            10,
            Verdict::Ok,
            "the zone's clock is 10 s ahead of global's",
        );
        check(
            -11,
            Verdict::Warning,
            "the zone's clock is 11 s behind global's: ",
        );
        check(300, Verdict::Warning, "the zone's clock is 300 s ahead");
        check(
            -301,
            Verdict::Refused,
            "the zone's clock is 301 s behind global's, and at most 300 s",
        );
    }

    #[tokio::test]
    async fn an_ingress_is_reached_or_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().to_string();
        let closed = {
            let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            gone.local_addr().unwrap().to_string()
        };
        let found = ingresses(&RealClock, &[open, closed]).await;
        let verdicts: Vec<Verdict> = found.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Warning], "{found:?}");
        assert_eq!(ingresses(&RealClock, &[]).await.len(), 1);
    }
}
