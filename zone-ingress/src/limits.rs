//! Every bound of the data path, with its usual value and the reason for it.

use std::time::Duration;

use serde::Serialize;

use crate::hello::HANDSHAKE_BYTES_MAX;

/// What one process takes on. Each has a metric for when it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// From accepting a caller to its complete hello.
    #[serde(serialize_with = "seconds")]
    pub hello_timeout: Duration,
    /// A handshake message, without its header. Hellos in use have up to about 2 KB.
    pub hello_bytes_max: usize,
    /// Hellos in progress; `None` takes a tenth of the connections that fit.
    pub hellos_max: Option<usize>,
    /// Hellos in progress from one address.
    pub hellos_per_source_max: usize,
    /// Until an endpoint takes a connection; then one other endpoint is tried.
    #[serde(serialize_with = "seconds")]
    pub connect_timeout: Duration,
    /// Without a byte in either direction.
    #[serde(serialize_with = "seconds")]
    pub idle_timeout: Duration,
    /// Without a byte, after one side has finished.
    #[serde(serialize_with = "seconds")]
    pub half_open_timeout: Duration,
    /// Until the kernel gives up on a peer that confirms nothing. It counts a reader whose window
    /// stays shut as such, too. Zero leaves it to the kernel's own patience.
    #[serde(serialize_with = "seconds")]
    pub user_timeout: Duration,
    /// Silence after which the kernel asks whether the peer is still there.
    #[serde(serialize_with = "seconds")]
    pub keep_alive: Duration,
    /// Open connections, hellos included; `None` takes what the descriptor limit allows.
    pub connections_max: Option<usize>,
    /// One buffer; a direction holds one while bytes are on their way.
    pub buffer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello_timeout: Duration::from_secs(10),
            hello_bytes_max: HANDSHAKE_BYTES_MAX,
            hellos_max: None,
            hellos_per_source_max: 64,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(3600),
            half_open_timeout: Duration::from_secs(300),
            user_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(60),
            connections_max: None,
            buffer_bytes: 64 * 1024,
        }
    }
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
