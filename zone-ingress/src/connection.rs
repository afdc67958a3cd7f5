//! One routed connection as the admin page, the limits and the log see it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::hello::Sni;
use crate::routes::Traffic;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToService,
    ToCaller,
}

/// An open connection. Its counters are exact at every moment.
#[derive(Debug)]
pub struct Connection {
    pub id: u64,
    pub sni: Sni,
    pub caller: SocketAddr,
    pub endpoint: SocketAddr,
    /// Since the process's start, like every time in here.
    pub opened_at: Duration,
    traffic: Arc<Traffic>,
    to_service: AtomicU64,
    to_caller: AtomicU64,
    moved_at_millis: AtomicU64,
    half_closed: AtomicBool,
}

impl Connection {
    /// Bytes that were written to one side so far.
    pub fn bytes(&self, direction: Direction) -> u64 {
        match direction {
            Direction::ToService => self.to_service.load(Ordering::Relaxed),
            Direction::ToCaller => self.to_caller.load(Ordering::Relaxed),
        }
    }

    /// Counts bytes that were just written.
    pub fn moved(&self, direction: Direction, bytes: usize, at: Duration) {
        let bytes = bytes as u64;
        let (own, all) = match direction {
            Direction::ToService => (&self.to_service, &self.traffic.to_service),
            Direction::ToCaller => (&self.to_caller, &self.traffic.to_callers),
        };
        own.fetch_add(bytes, Ordering::Relaxed);
        all.fetch_add(bytes, Ordering::Relaxed);
        self.stirred(at);
    }

    /// Notes that one side has finished.
    pub fn half_closed(&self, at: Duration) {
        self.half_closed.store(true, Ordering::Relaxed);
        self.stirred(at);
    }

    /// Whether one side has finished and the other has not.
    pub fn is_half_closed(&self) -> bool {
        self.half_closed.load(Ordering::Relaxed)
    }

    /// When something happened last.
    pub fn stirred_at(&self) -> Duration {
        Duration::from_millis(self.moved_at_millis.load(Ordering::Relaxed))
    }

    fn stirred(&self, at: Duration) {
        self.moved_at_millis.store(millis(at), Ordering::Relaxed);
    }
}

fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

/// Every open connection.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    open: Arc<Mutex<BTreeMap<u64, Arc<Connection>>>>,
    count: Arc<AtomicUsize>,
}

/// Keeps a connection in the list until it is dropped.
#[derive(Debug)]
pub struct Listed {
    connection: Arc<Connection>,
    all: Connections,
}

impl Connections {
    /// Lists a connection that was just established.
    pub fn open(
        &self,
        id: u64,
        sni: Sni,
        (caller, endpoint): (SocketAddr, SocketAddr),
        traffic: Arc<Traffic>,
        at: Duration,
    ) -> Listed {
        traffic.open.fetch_add(1, Ordering::Relaxed);
        traffic.connections.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            id,
            sni,
            caller,
            endpoint,
            opened_at: at,
            traffic,
            to_service: AtomicU64::new(0),
            to_caller: AtomicU64::new(0),
            moved_at_millis: AtomicU64::new(millis(at)),
            half_closed: AtomicBool::new(false),
        });
        self.open.lock().insert(id, Arc::clone(&connection));
        self.count.fetch_add(1, Ordering::Relaxed);
        Listed {
            connection,
            all: self.clone(),
        }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The open connections, oldest first, at most `max` of them.
    pub fn list(&self, at: Duration, max: usize) -> Vec<ConnectionPage> {
        let open: Vec<_> = self.open.lock().values().take(max).cloned().collect();
        open.iter()
            .map(|connection| ConnectionPage {
                id: connection.id,
                sni: connection.sni.to_string(),
                caller: connection.caller,
                endpoint: connection.endpoint,
                open_seconds: at.saturating_sub(connection.opened_at).as_secs_f64(),
                idle_seconds: at.saturating_sub(connection.stirred_at()).as_secs_f64(),
                bytes_to_service: connection.bytes(Direction::ToService),
                bytes_to_caller: connection.bytes(Direction::ToCaller),
                half_closed: connection.is_half_closed(),
            })
            .collect()
    }
}

impl Listed {
    /// The connection itself.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connection.traffic.open.fetch_sub(1, Ordering::Relaxed);
        self.all.count.fetch_sub(1, Ordering::Relaxed);
        self.all.open.lock().remove(&self.connection.id);
    }
}

/// A connection on the admin page.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPage {
    pub id: u64,
    pub sni: String,
    pub caller: SocketAddr,
    pub endpoint: SocketAddr,
    pub open_seconds: f64,
    pub idle_seconds: f64,
    pub bytes_to_service: u64,
    pub bytes_to_caller: u64,
    pub half_closed: bool,
}
