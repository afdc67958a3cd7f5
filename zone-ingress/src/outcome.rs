//! How a connection ended, in the words of metrics and logs.

/// Why a connection ended. Each is counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Both sides said that they were finished.
    Finished,
    /// The caller sent something that is not TLS.
    NotTls,
    /// A TLS hello without a server name.
    NoName,
    /// A server name that cannot be one.
    BadName,
    /// A TLS hello whose lengths contradict each other.
    MalformedHello,
    /// A hello beyond the size limit.
    HelloTooLong,
    /// No complete hello within the deadline.
    HelloTimeout,
    /// The caller left before its hello was complete.
    HelloAbandoned,
    /// Too many hellos were in progress, this one was the oldest.
    HelloEvicted,
    /// No route has this server name.
    NoRoute,
    /// The route has no usable endpoint.
    NoEndpoint,
    /// No endpoint took the connection.
    ConnectFailed,
    /// No endpoint answered in time.
    ConnectTimeout,
    /// This host has no local port left for connections to the endpoint.
    PortsExhausted,
    /// The caller broke the connection.
    CallerReset,
    /// The service broke the connection.
    ServiceReset,
    /// Nothing moved for the idle timeout.
    Idle,
    /// One side had finished, and the other did not move any more.
    HalfOpen,
    /// The process stopped and the drain time was over.
    Cut,
    /// No descriptor was left for the connection.
    NoDescriptor,
}

/// What a reason means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Bytes went both ways until the sides ended it.
    Served,
    /// We did not route it; no byte was sent to anybody.
    Refused,
    /// It should have been served and was not.
    Failed,
    /// It was ended by us for being idle or for stopping.
    Ended,
}

impl Reason {
    /// Every reason, for metrics that should exist before they rise.
    pub const ALL: [Self; 20] = [
        Self::Finished,
        Self::NotTls,
        Self::NoName,
        Self::BadName,
        Self::MalformedHello,
        Self::HelloTooLong,
        Self::HelloTimeout,
        Self::HelloAbandoned,
        Self::HelloEvicted,
        Self::NoRoute,
        Self::NoEndpoint,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::PortsExhausted,
        Self::CallerReset,
        Self::ServiceReset,
        Self::Idle,
        Self::HalfOpen,
        Self::Cut,
        Self::NoDescriptor,
    ];

    /// The word for it in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::NotTls => "not_tls",
            Self::NoName => "no_name",
            Self::BadName => "bad_name",
            Self::MalformedHello => "malformed_hello",
            Self::HelloTooLong => "hello_too_long",
            Self::HelloTimeout => "hello_timeout",
            Self::HelloAbandoned => "hello_abandoned",
            Self::HelloEvicted => "hello_evicted",
            Self::NoRoute => "no_route",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::PortsExhausted => "ports_exhausted",
            Self::CallerReset => "caller_reset",
            Self::ServiceReset => "service_reset",
            Self::Idle => "idle",
            Self::HalfOpen => "half_open",
            Self::Cut => "cut",
            Self::NoDescriptor => "no_descriptor",
        }
    }

    /// What it means for the caller.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Finished | Self::CallerReset | Self::ServiceReset => Outcome::Served,
            Self::NotTls
            | Self::NoName
            | Self::BadName
            | Self::MalformedHello
            | Self::HelloTooLong
            | Self::HelloTimeout
            | Self::HelloAbandoned
            | Self::HelloEvicted
            | Self::NoRoute => Outcome::Refused,
            Self::NoEndpoint
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::PortsExhausted
            | Self::NoDescriptor => Outcome::Failed,
            Self::Idle | Self::HalfOpen | Self::Cut => Outcome::Ended,
        }
    }
}

impl Outcome {
    /// The word for it in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Ended => "ended",
        }
    }
}
