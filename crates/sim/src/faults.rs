//! What breaks: links, processes, and both at once.

use crate::link::{Between, ConnId, End};
use crate::oracle::{Checked, zone_name};
use crate::world::{Event, World};

impl World {
    /// Something breaks; after a while something else does.
    pub(crate) fn fault(&mut self) -> Checked {
        if self.faults_left == 0 || self.calm {
            return Ok(());
        }
        self.faults_left -= 1;
        let wait = match self.rng.u32(0..10) {
            0..4 => self.between(100, 50_000),
            4..8 => self.between(50_000, 2_000_000),
            _ => self.between(2_000_000, 40_000_000),
        };
        self.after(wait, Event::Fault);
        let zone = self.rng.usize(0..self.size.zones);
        let proxy = self.rng.usize(0..self.size.proxies.max(1));
        let tells = self.chance(70);
        match self.rng.u32(0..100) {
            0..20 => self.cut_zone(zone, 0),
            20..28 => {
                let micros = self.between(10_000, 20_000_000);
                self.cut_zone(zone, micros);
            }
            28..36 => self.freeze_one(self.zones[zone].conn()),
            36..42 => self.leave_one(zone)?,
            42..46 => self.end_one(zone)?,
            46..50 => self.swallow_one(zone),
            50..64 => self.crash_zone(zone, tells)?,
            64..74 => self.crash_global(tells)?,
            74..84 if self.size.proxies > 0 => self.crash_proxy(zone, proxy)?,
            84..92 if self.size.proxies > 0 => {
                if let Some(conn) = self.zones[zone].proxies[proxy].conn() {
                    self.cut(conn);
                }
            }
            _ if self.size.proxies > 0 => self.freeze_one(self.zones[zone].proxies[proxy].conn()),
            _ => {}
        }
        Ok(())
    }

    fn cut_zone(&mut self, zone: usize, away: u64) {
        let now = self.time.micros();
        self.trace.note(
            now,
            format_args!("the link of {} is cut for {away} us", zone_name(zone)),
        );
        self.zones[zone].cut_off_until = now + away;
        let conns: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.between == Between::Federation { zone })
            .map(|(id, _)| *id)
            .collect();
        for conn in conns {
            self.cut(conn);
        }
    }

    /// A zone goes another way, and what it said the old way arrives after what it says now.
    fn leave_one(&mut self, zone: usize) -> Checked {
        let Some(conn) = self.zones[zone].conn() else {
            return Ok(());
        };
        self.trace
            .note(self.time.micros(), format_args!("#{conn} will be left"));
        let stays = self.between(100_000, 15_000_000);
        self.freeze(conn, End::Listener, stays);
        let touches = self.rng.u32(0..3);
        self.touch(zone, touches)?;
        let leaves = self.between(1_000, 3_000_000).min(stays);
        self.after(
            leaves,
            Event::Leave {
                conn,
                zone,
                touches,
            },
        );
        Ok(())
    }

    /// The last thing that breaks, where anything does: nobody says so but the stream itself.
    pub(crate) fn end_some(&mut self) -> Checked {
        for zone in 0..self.size.zones {
            if self.size.faults > 0 && self.chance(20) {
                self.end_one(zone)?;
            }
        }
        Ok(())
    }

    /// A load balancer ends the streams of a zone in order.
    fn end_one(&mut self, zone: usize) -> Checked {
        let Some(conn) = self.zones[zone].conn() else {
            return Ok(());
        };
        self.trace
            .note(self.time.micros(), format_args!("#{conn} ends in order"));
        self.end_in_order(conn)
    }

    /// A load balancer forgets one direction of a connection that had been in step. Before that nobody would find out: a
    /// publisher knows that it waits, a subscriber does not.
    fn swallow_one(&mut self, zone: usize) {
        let Some(conn) = self.zones[zone]
            .conn()
            .filter(|_| self.zones[zone].has_met_global())
        else {
            return;
        };
        let to = if self.rng.bool() {
            End::Dialer
        } else {
            End::Listener
        };
        self.trace.note(
            self.time.micros(),
            format_args!("what #{conn} says to {to:?} is lost from now on"),
        );
        self.swallow(conn, to);
    }

    /// One direction of a connection stands still.
    fn freeze_one(&mut self, conn: Option<ConnId>) {
        let Some(conn) = conn else { return };
        let to = if self.rng.bool() {
            End::Dialer
        } else {
            End::Listener
        };
        let micros = if self.chance(60) {
            self.between(1_000, 3_000_000)
        } else {
            self.between(3_000_000, 40_000_000)
        };
        self.trace.note(
            self.time.micros(),
            format_args!("#{conn} to {to:?} freezes for {micros} us"),
        );
        self.freeze(conn, to, micros);
    }
}
