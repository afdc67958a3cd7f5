//! How a source speaks to one sort of peer.

use std::time::Duration;

/// How a source speaks to one sort of peer.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of resources after which a response is cut and the rest follows after its answer. A single resource above
    /// it still travels alone.
    pub response_bytes_max: usize,
    /// The first response of each type is never cut: a Kuma peer takes it for the whole and deletes what it lacks.
    pub first_response_whole: bool,
    /// The peer understands that a set goes on in the next response.
    pub more_marked: bool,
    /// Upserts go out in the order of types, and one that the peer takes as a whole waits for those before it; what the
    /// peer asks for by name never waits, as it may need it in order to answer. Removals come after everything
    /// else in the opposite order: nothing is ever referred to before it is there or after it is gone.
    pub make_before_break: bool,
    /// An unanswered response is reported as a stall after this long.
    pub answer_timeout: Duration,
    /// How long a refused resource waits before it is offered again unchanged; doubles with each refusal.
    pub retry_delay_min: Duration,
    /// The ceiling of that wait.
    pub retry_delay_max: Duration,
}

/// Under Kuma's limit of 10 MiB for one decompressed message, with room for what surrounds the resources.
const KUMA_BYTES_MAX: usize = 8 << 20;
/// Small enough that a message never delays its neighbours on the connection for long.
const OWN_BYTES_MAX: usize = 1 << 20;

impl Settings {
    /// Towards a control plane of Kuma.
    #[must_use]
    pub const fn kuma_peer() -> Self {
        Self {
            response_bytes_max: KUMA_BYTES_MAX,
            first_response_whole: true,
            more_marked: false,
            make_before_break: false,
            answer_timeout: Duration::from_secs(10),
            retry_delay_min: Duration::from_secs(5),
            retry_delay_max: Duration::from_secs(300),
        }
    }

    /// Towards a control plane of ours.
    #[must_use]
    pub const fn own_peer() -> Self {
        Self {
            response_bytes_max: OWN_BYTES_MAX,
            first_response_whole: false,
            more_marked: true,
            ..Self::kuma_peer()
        }
    }

    /// Towards a proxy.
    #[must_use]
    pub const fn proxy() -> Self {
        Self {
            // Envoy has no limit of its own here; one message is one unit of work of its main thread.
            response_bytes_max: 4 << 20,
            first_response_whole: true,
            make_before_break: true,
            ..Self::kuma_peer()
        }
    }
}
