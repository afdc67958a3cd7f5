//! A proxy: takes what its zone offers, refuses what it cannot use, and keeps what it has while nobody feeds it.

use std::collections::BTreeMap;

use zonal_delta::{
    Held, Interest, Name, Refused, Sink, TypeUrl, Version, Wanted, wire as delta_wire,
};

use crate::link::{Between, ConnId, End, Frame};
use crate::oracle::{Checked, violation, zone_name};
use crate::views::{SERVICE, TIMEOUT, sees};
use crate::world::{Event, World};
use crate::zone::node;

/// A proxy process.
#[derive(Debug)]
pub(crate) struct Proxy {
    number: usize,
    pub(crate) running: bool,
    /// Counts its starts.
    pub(crate) life: u64,
    session: Option<(ConnId, Sink)>,
    interests: Vec<Interest>,
    /// What it really uses.
    pub(crate) used: BTreeMap<(&'static str, Name), Version>,
}

/// What no proxy can use.
pub(crate) const POISON: &str = "666h";

impl Proxy {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            number,
            running: true,
            life: 0,
            session: None,
            interests: interests(number),
            used: BTreeMap::new(),
        }
    }

    pub(crate) fn conn(&self) -> Option<ConnId> {
        self.session.as_ref().map(|(conn, _)| *conn)
    }
}

fn interests(proxy: usize) -> Vec<Interest> {
    [SERVICE, TIMEOUT]
        .into_iter()
        .filter(|type_url| sees(proxy, type_url))
        .map(|type_url| Interest {
            type_url: TypeUrl::from(type_url),
            wanted: Wanted::All,
            held: Held::new(),
        })
        .collect()
}

impl World {
    pub(crate) fn dial_proxy(&mut self, zone: usize, proxy: usize) -> Checked {
        let running = self.zones[zone].proxies[proxy].running;
        if !running || self.zones[zone].proxies[proxy].session.is_some() {
            return Ok(());
        }
        if !self.zones[zone].up {
            self.dial_proxy_later(zone, proxy);
            return Ok(());
        }
        let conn = self.open(Between::Xds { zone, proxy });
        let dialer = &mut self.zones[zone].proxies[proxy];
        let interests = std::mem::take(&mut dialer.interests);
        dialer.session = Some((conn, Sink::new(interests)));
        self.proxy_answers(zone, proxy)
    }

    pub(crate) fn dial_proxy_later(&mut self, zone: usize, proxy: usize) {
        let life = self.zones[zone].proxies[proxy].life;
        let wait = self.between(1_000, 2_000_000);
        self.after(wait, Event::DialProxy { zone, proxy, life });
    }

    pub(crate) fn proxy_disconnected(&mut self, conn: ConnId, zone: usize, proxy: usize) {
        let gone = &mut self.zones[zone].proxies[proxy];
        if let Some((_, sink)) = gone.session.take_if(|(of, _)| *of == conn) {
            gone.interests = sink.into_interests();
            if gone.running {
                self.dial_proxy_later(zone, proxy);
            }
        }
    }

    /// The process ends; what it had is lost.
    pub(crate) fn crash_proxy(&mut self, zone: usize, proxy: usize) -> Checked {
        let crashed = &mut self.zones[zone].proxies[proxy];
        if !crashed.running {
            return Ok(());
        }
        crashed.running = false;
        crashed.life += 1;
        let conn = crashed.conn();
        self.trace.note(
            self.time.micros(),
            format_args!("proxy {proxy} of {} crashes", zone_name(zone)),
        );
        if let Some(conn) = conn {
            self.close(conn, End::Dialer, true)?;
        }
        let crashed = &mut self.zones[zone].proxies[proxy];
        crashed.used.clear();
        crashed.interests = interests(crashed.number);
        let away = self.between(1_000, 5_000_000);
        self.after(away, Event::StartProxy { zone, proxy });
        Ok(())
    }

    pub(crate) fn start_proxy(&mut self, zone: usize, proxy: usize) {
        self.zones[zone].proxies[proxy].running = true;
        self.dial_proxy_later(zone, proxy);
    }

    pub(crate) fn proxy_receives(
        &mut self,
        conn: ConnId,
        zone: usize,
        proxy: usize,
        frame: Frame,
    ) -> Checked {
        let Frame::DownResponse(message) = frame else {
            return Ok(());
        };
        let response = delta_wire::parse_response(*message)
            .map_err(|error| violation("wire", error.to_string()))?;
        let at = &mut self.zones[zone].proxies[proxy];
        let Some((_, sink)) = at.session.as_mut().filter(|(of, _)| *of == conn) else {
            return Ok(());
        };
        let batch = sink
            .handle_response(response)
            .map_err(|error| violation("wire", error.to_string()))?;
        let Some(type_url) = [SERVICE, TIMEOUT]
            .into_iter()
            .find(|name| *name == batch.type_url.as_str())
        else {
            return Ok(());
        };
        let mut refused = Vec::new();
        for upsert in &batch.upserts {
            if upsert
                .body
                .windows(POISON.len())
                .any(|part| part == POISON.as_bytes())
            {
                refused.push(Refused {
                    name: upsert.name.clone(),
                    reason: "cannot be used".to_owned(),
                });
            } else {
                at.used
                    .insert((type_url, upsert.name.clone()), upsert.version.clone());
            }
        }
        for name in &batch.removals {
            at.used.remove(&(type_url, name.clone()));
        }
        if let Some(complete) = &batch.complete {
            at.used
                .retain(|(of, name), _| *of != type_url || complete.contains(name));
        }
        sink.applied(&batch.type_url, &batch.nonce, refused);
        self.note_used(zone, proxy);
        self.proxy_answers(zone, proxy)
    }

    fn proxy_answers(&mut self, zone: usize, proxy: usize) -> Checked {
        loop {
            let Some((conn, sink)) = &mut self.zones[zone].proxies[proxy].session else {
                return Ok(());
            };
            let conn = *conn;
            let Some(request) = sink.poll_request() else {
                return Ok(());
            };
            let mut message = delta_wire::request(request, node("proxy"));
            if proxy.is_multiple_of(2)
                && let Some(error) = &mut message.error_detail
            {
                // Envoy says that something is wrong and not with which resource.
                error.details.clear();
            }
            self.send(conn, End::Listener, Frame::DownRequest(Box::new(message)))?;
        }
    }
}
