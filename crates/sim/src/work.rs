//! People and workloads: what is made, changed and removed, at global and in the zones.

use serde_json::{Value, json};
use zonal_model::{Json, Key, Kind, Resource, hashed_name, labels, validate};
use zonal_store::{Batch, Store};

use crate::oracle::{Checked, NOTE, Place, copied, violation, zone_name};
use crate::proxy::POISON;
use crate::world::{Event, World};
use crate::zone::MESH;

/// A second mesh, which comes and goes with what is in it.
const EXTRA: &str = "extra";

/// So many policies come one by one.
const POLICIES_FEW: u32 = 20;

impl World {
    /// The first things there are.
    pub(crate) fn found(&mut self) -> Checked {
        let mut first = Batch::new().put(mesh(MESH));
        if self.size.policies > POLICIES_FEW {
            for policy in 0..self.size.policies {
                self.serial += 1;
                let key = Key::new(Kind::MeshTimeout, MESH, format!("t{policy}"));
                first = first.put(at_global(
                    key,
                    &timeout(&json!({"kind": "Mesh"}), "1h", self.serial),
                ));
            }
        }
        self.commit(Place::Global, first)?;
        for zone in 0..self.size.zones {
            self.start_zone(zone)?;
            for proxy in 0..self.size.proxies {
                self.start_proxy(zone, proxy);
            }
        }
        self.after(1_000, Event::Work);
        if self.faults_left > 0 {
            self.after(5_000, Event::Fault);
        }
        Ok(())
    }

    /// Somebody changes something; then it is somebody else's turn.
    pub(crate) fn work(&mut self) -> Checked {
        if self.work_left == 0 {
            return Ok(());
        }
        self.work_left -= 1;
        let wait = match self.rng.u32(0..10) {
            0..5 => self.between(10, 3_000),
            5..9 => self.between(3_000, 200_000),
            _ => self.between(200_000, 15_000_000),
        };
        self.after(wait, Event::Work);
        self.serial += 1;
        let zone = self.rng.usize(0..self.size.zones);
        match self.rng.u32(0..100) {
            0..34 => self.policy_at_global(),
            34..42 => self.multi_zone_service(),
            42..47 => self.extra_mesh(),
            47..50 => self.switch_zone(zone),
            50..52 => self.delete_zone(zone),
            52..76 => self.dataplane(zone),
            76..86 => self.zone_address(zone),
            86..89 => self.squatter(zone),
            _ => self.policy_in_zone(zone),
        }
    }

    /// A process that is down takes no changes.
    fn write(&mut self, place: Place, batch: Batch) -> Checked {
        let up = match place {
            Place::Global => self.global.up,
            Place::Zone(zone) => self.zones[zone].up,
        };
        if up && !batch.is_empty() {
            for op in &batch.ops {
                self.trace.note(
                    self.time.micros(),
                    format_args!("somebody at {place} changes {}", op.key()),
                );
            }
            self.commit(place, batch)?;
        }
        Ok(())
    }

    fn policy_at_global(&mut self) -> Checked {
        let count = if self.chance(15) {
            self.rng.usize(2..6)
        } else {
            1
        };
        let mut batch = Batch::new();
        for _ in 0..count {
            self.serial += 1;
            let snapshot = self.global.store.snapshot();
            let has_extra = snapshot.get(&Key::global(Kind::Mesh, EXTRA)).is_some();
            let mesh = if has_extra && self.chance(25) {
                EXTRA
            } else {
                MESH
            };
            let key = Key::new(
                Kind::MeshTimeout,
                mesh,
                format!("t{}", self.rng.u32(0..self.size.policies)),
            );
            batch = match self.rng.u32(0..100) {
                0..22 => batch.remove(key),
                sort => {
                    let spec = match sort {
                        22..28 => {
                            json!({"to": [{"targetRef": {"kind": "Nonsense"}, "serial": self.serial}]})
                        }
                        28..34 => timeout(&json!({"kind": "Mesh"}), POISON, self.serial),
                        _ => timeout(&json!({"kind": "Mesh"}), "1h", self.serial),
                    };
                    let mut policy = at_global(key, &spec);
                    self.decorate(&mut policy);
                    batch.put(policy)
                }
            };
        }
        self.write(Place::Global, batch)
    }

    /// Labels that matter, now and then.
    fn decorate(&mut self, resource: &mut Resource) {
        if self.chance(5) {
            resource
                .meta
                .labels
                .insert(labels::KDS_SYNC.to_owned(), "disabled".to_owned());
        }
        if self.chance(20) {
            resource
                .meta
                .labels
                .insert(NOTE.to_owned(), self.serial.to_string());
        }
    }

    fn multi_zone_service(&mut self) -> Checked {
        let key = Key::new(
            Kind::MeshMultiZoneService,
            MESH,
            format!("m{}", self.rng.u32(0..2)),
        );
        let batch = if self.chance(40) {
            Batch::new().remove(key)
        } else {
            let spec = json!({
                "selector": {"meshService": {"matchLabels": {"kuma.io/display-name": "web"}}},
                "ports": [{"port": self.port(), "appProtocol": "http"}],
            });
            Batch::new().put(at_global(key, &spec))
        };
        self.write(Place::Global, batch)
    }

    /// The second mesh goes with everything in it, comes, or goes and comes again at once.
    fn extra_mesh(&mut self) -> Checked {
        let key = Key::global(Kind::Mesh, EXTRA);
        let snapshot = self.global.store.snapshot();
        if snapshot.get(&key).is_none() {
            return self.write(Place::Global, Batch::new().put(mesh(EXTRA)));
        }
        let within: Vec<Resource> = snapshot
            .list_in_mesh(Kind::MeshTimeout, EXTRA)
            .map(|stored| stored.resource.clone())
            .filter(|policy| copied(Place::Global, policy).is_none())
            .collect();
        self.write(Place::Global, Batch::new().remove(key))?;
        if self.chance(50) {
            let mut again = Batch::new().put(mesh(EXTRA));
            for policy in within {
                again = again.put(policy);
            }
            if self.chance(30) {
                return self.write(Place::Global, again);
            }
            // So soon that some of it may be on its way out while it comes again.
            self.again.push_back(again);
            let wait = self.between(500, 60_000);
            self.after(wait, Event::Again);
        }
        Ok(())
    }

    pub(crate) fn again(&mut self) -> Checked {
        match self.again.pop_front() {
            Some(batch) => self.write(Place::Global, batch),
            None => Ok(()),
        }
    }

    fn switch_zone(&mut self, zone: usize) -> Checked {
        let key = Key::global(Kind::Zone, zone_name(zone));
        let Some(stored) = self.global.store.snapshot().get(&key).cloned() else {
            return Ok(());
        };
        let enabled = stored.resource.spec.as_str() == r#"{"enabled":false}"#;
        let mut record = stored.resource.clone();
        record.spec = Json::from_value(&json!({"enabled": enabled}));
        self.write(Place::Global, Batch::new().put(record))
    }

    /// A zone that is alive comes back by itself.
    fn delete_zone(&mut self, zone: usize) -> Checked {
        let key = Key::global(Kind::Zone, zone_name(zone));
        self.write(Place::Global, Batch::new().remove(key))
    }

    fn port(&self) -> u64 {
        1024 + self.serial % 60_000
    }

    fn dataplane(&mut self, zone: usize) -> Checked {
        let number = self.rng.u32(0..6);
        let key = Key::new(Kind::Dataplane, MESH, format!("dp{number}"));
        let batch = if self.chance(30) {
            Batch::new().remove(key)
        } else {
            let broken = self.chance(6);
            let port = if broken { 0 } else { self.port() };
            let inbound = json!([{"name": "http", "port": port, "protocol": "http"}]);
            let spec = json!({"networking": {"address": "10.0.0.1", "inbound": inbound}});
            let mut dataplane = in_zone(zone, key, &spec);
            // A broken one stands for itself, so that what follows from it is nobody else's service.
            let workload = if broken {
                "Broken"
            } else {
                ["web", "api", "db"][number as usize % 3]
            };
            dataplane
                .meta
                .labels
                .insert(labels::WORKLOAD.to_owned(), workload.to_owned());
            Batch::new().put(dataplane)
        };
        self.write(Place::Zone(zone), batch)
    }

    fn zone_address(&mut self, zone: usize) -> Checked {
        let mesh = self.mesh_in(zone);
        let key = Key::new(
            Kind::MeshZoneAddress,
            mesh,
            format!("a{}", self.rng.u32(0..3)),
        );
        let batch = if self.chance(25) {
            Batch::new().remove(key)
        } else {
            let spec = if self.chance(10) {
                json!({"address": "", "port": self.port()})
            } else {
                json!({"address": "10.9.0.1", "port": self.port()})
            };
            let mut address = in_zone(zone, key, &spec);
            self.decorate(&mut address);
            Batch::new().put(address)
        };
        self.write(Place::Zone(zone), batch)
    }

    /// Somebody changes an address of a zone.
    pub(crate) fn touch(&mut self, zone: usize, number: u32) -> Checked {
        self.serial += 1;
        let key = Key::new(Kind::MeshZoneAddress, MESH, format!("a{number}"));
        let spec = json!({"address": "10.9.0.1", "port": self.port()});
        let address = in_zone(zone, key, &spec);
        self.write(Place::Zone(zone), Batch::new().put(address))
    }

    /// A zone has something of its own where a copy of one of global's policies would be, and takes it away again.
    fn squatter(&mut self, zone: usize) -> Checked {
        let name = format!("t{}", self.rng.u32(0..8));
        let key = Key::new(Kind::MeshTimeout, MESH, hashed_name(MESH, &name, &[]));
        let batch = match self.zones[zone].store.snapshot().get(&key) {
            Some(held) if copied(Place::Zone(zone), &held.resource).is_some() => return Ok(()),
            Some(_) => Batch::new().remove(key),
            None => {
                let spec = timeout(&json!({"kind": "Mesh"}), "1h", self.serial);
                let mut squatter = in_zone(zone, key, &spec);
                let display = format!("s-{name}");
                let set = &mut squatter.meta.labels;
                set.insert(labels::DISPLAY_NAME.to_owned(), display);
                if self.zones[zone].up {
                    self.zones[zone].squatted.insert(name);
                }
                Batch::new().put(squatter)
            }
        };
        self.write(Place::Zone(zone), batch)
    }

    /// In the end nobody is in the way any more.
    pub(crate) fn clear_squatters(&mut self) -> Checked {
        for zone in 0..self.size.zones {
            let snapshot = self.zones[zone].store.snapshot();
            let batch = self.zones[zone]
                .squatted
                .iter()
                .map(|name| Key::new(Kind::MeshTimeout, MESH, hashed_name(MESH, name, &[])))
                .filter(|key| {
                    let held = snapshot.get(key);
                    held.is_some_and(|held| copied(Place::Zone(zone), &held.resource).is_none())
                })
                .fold(Batch::new(), Batch::remove);
            if !batch.is_empty() {
                self.commit(Place::Zone(zone), batch)?;
            }
        }
        Ok(())
    }

    /// Where a zone puts what it makes: now and then into the second mesh, if it knows it.
    fn mesh_in(&mut self, zone: usize) -> &'static str {
        let key = Key::global(Kind::Mesh, EXTRA);
        let known = self.zones[zone].store.snapshot().get(&key).is_some();
        if known && self.chance(30) {
            EXTRA
        } else {
            MESH
        }
    }

    fn policy_in_zone(&mut self, zone: usize) -> Checked {
        let producer = self.chance(40);
        let number = self.rng.u32(0..3);
        let name = if producer {
            format!("p{number}")
        } else {
            format!("z{number}")
        };
        let mesh = self.mesh_in(zone);
        let key = Key::new(Kind::MeshTimeout, mesh, name);
        if self.chance(25) {
            return self.write(Place::Zone(zone), Batch::new().remove(key));
        }
        let target = if producer {
            json!({"kind": "MeshService", "labels": {"kuma.io/display-name": "web"}})
        } else {
            json!({"kind": "Mesh"})
        };
        let mut policy = in_zone(zone, key, &timeout(&target, "1h", self.serial));
        if producer {
            let set = &mut policy.meta.labels;
            set.insert(labels::POLICY_ROLE.to_owned(), "producer".to_owned());
            set.insert(labels::NAMESPACE.to_owned(), "shop".to_owned());
        }
        self.write(Place::Zone(zone), Batch::new().put(policy))
    }

    /// What the world writes as good is good: else its runs would show nothing.
    pub(crate) fn check_work(&self) -> Checked {
        let mut places = vec![Place::Global];
        places.extend((0..self.size.zones).map(Place::Zone));
        for place in places {
            for stored in self.store(place).snapshot().all() {
                let resource = &stored.resource;
                let text = resource.spec.as_str();
                let broken = text.contains("Nonsense")
                    || text.contains(r#""address":"""#)
                    || text.contains(r#""port":0"#);
                let problems = validate(resource);
                if copied(place, resource).is_none() && problems.is_empty() == broken {
                    return Err(violation(
                        "the world itself",
                        format!(
                            "{} {text} is not what it should be: {problems}",
                            resource.key
                        ),
                    ));
                }
            }
        }
        Ok(())
    }
}

fn timeout(target: &Value, idle: &str, serial: u64) -> Value {
    let default = json!({"idleTimeout": idle, "connectionTimeout": format!("{serial}ms")});
    json!({"to": [{"targetRef": target, "default": default}]})
}

fn mesh(name: &str) -> Resource {
    at_global(Key::global(Kind::Mesh, name), &json!({}))
}

fn at_global(key: Key, spec: &Value) -> Resource {
    let mut resource = Resource::new(key, Json::from_value(spec));
    let name = resource.key.name.to_string();
    let set = &mut resource.meta.labels;
    set.insert(labels::ORIGIN.to_owned(), "global".to_owned());
    set.insert(labels::DISPLAY_NAME.to_owned(), name);
    resource
}

fn in_zone(zone: usize, key: Key, spec: &Value) -> Resource {
    let mut resource = at_global(key, spec);
    let set = &mut resource.meta.labels;
    set.insert(labels::ORIGIN.to_owned(), "zone".to_owned());
    set.insert(labels::ZONE.to_owned(), zone_name(zone));
    resource
}
