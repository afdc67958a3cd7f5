//! The story of a federation, from the first policy to a control plane that died and came back; each step is checked.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::calls::{self, Caller, Outcome};
use crate::federation::{Federation, PATIENCE, WorkloadSpec};
use crate::report::Report;
use crate::tools::wait_for;

/// Port of `web`'s outbound to `api` wherever it runs.
pub const TO_API: u16 = 10001;
/// Port of `web`'s outbound to `orders` in west.
pub(crate) const TO_ORDERS: u16 = 10002;
/// Port of `web`'s outbound to `billing` in west.
pub(crate) const TO_BILLING: u16 = 10003;
/// Port of `web`'s outbound to `api` in west.
pub const TO_API_WEST: u16 = 10004;
/// Host of `web` in east.
pub const WEB: u8 = 10;
/// The proxy of `api` in east.
pub(crate) const API_EAST: &str = "api-east";
/// The proxy of `billing` in west.
pub(crate) const BILLING_WEST: &str = "billing-west";

/// Sends `web`'s calls to `api` for `/v2` to west.
pub(crate) const ROUTE: &str = "type: MeshHTTPRoute
name: v2-in-west
mesh: default
spec:
  targetRef:
    kind: Dataplane
    labels: {kuma.io/workload: web}
  to:
    - targetRef:
        kind: MeshMultiZoneService
        labels: {kuma.io/display-name: api}
      rules:
        - matches:
            - path: {type: PathPrefix, value: /v2}
          default:
            backendRefs:
              - kind: MeshService
                labels: {kuma.io/display-name: api, kuma.io/zone: west}
                port: 8080
";

/// Denies `api` to `web` in east.
pub const DENY_WEB: &str = "type: MeshTrafficPermission
name: deny-web
mesh: default
spec:
  targetRef:
    kind: Dataplane
    labels: {kuma.io/workload: api}
  rules:
    - default:
        deny:
          - spiffeID: {type: Exact, value: spiffe://default.east.mesh.local/workload/web}
";

/// A timeout for every call.
pub(crate) fn timeout(name: &str, seconds: usize) -> String {
    format!(
        "type: MeshTimeout
name: {name}
mesh: default
spec:
  to:
    - targetRef: {{kind: Mesh}}
      default:
        http: {{requestTimeout: {seconds}s}}
"
    )
}

/// A timeout for every call of one zone, made there.
pub(crate) fn zone_timeout(name: &str, seconds: usize) -> String {
    timeout(name, seconds).replacen(
        "mesh: default\n",
        "mesh: default\nlabels: {kuma.io/origin: zone}\n",
        1,
    )
}

/// The workload that joins late, in west.
pub(crate) fn billing() -> WorkloadSpec {
    workload("billing", "west", 40, 8080)
}

/// The files of `examples/multizone`, in the order they are applied.
#[must_use]
pub fn examples() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/multizone")
}

/// A workload that answers HTTP and calls nobody.
#[must_use]
pub fn workload(name: &str, zone: &str, host: u8, port: u16) -> WorkloadSpec {
    WorkloadSpec {
        name: name.to_owned(),
        zone: zone.to_owned(),
        host,
        port,
        tcp: false,
        version: "v1".to_owned(),
        outbounds: Vec::new(),
        token_of: None,
    }
}

/// An outbound to the service of that name in one zone.
fn in_zone(name: &str, zone: &str, port: u16) -> String {
    format!(
        "{{kind: MeshService, port: {port}, labels: {{kuma.io/display-name: {name}, kuma.io/zone: {zone}}}}}"
    )
}

fn web() -> WorkloadSpec {
    WorkloadSpec {
        outbounds: vec![
            (
                TO_API,
                "{kind: MeshMultiZoneService, name: api, port: 8080}".to_owned(),
            ),
            (TO_ORDERS, in_zone("orders", "west", 5432)),
            (TO_BILLING, in_zone("billing", "west", 8080)),
            (TO_API_WEST, in_zone("api", "west", 8080)),
        ],
        ..workload("web", "east", WEB, 8080)
    }
}

/// Starts everything the story needs: global, zones, ingresses; the workloads follow after the first policies.
///
/// # Errors
/// Something does not start.
pub async fn set_up(federation: &mut Federation, report: &Report) -> anyhow::Result<()> {
    report.timed("global-cp answers after", federation.start_global().await?);
    for zone in federation.zone_names() {
        report.timed(
            &format!("zone-cp of {zone} answers after"),
            federation.start_zone(&zone).await?,
        );
    }
    Ok(())
}

/// Tells the whole story. `set_up` comes first.
///
/// # Errors
/// A step did not go as told; the error says which.
pub async fn tell(federation: &mut Federation, report: &Report) -> anyhow::Result<()> {
    first_policies(federation, report).await.context("step a")?;
    local_call(federation, report).await.context("step b")?;
    failover(federation, report).await.context("step c")?;
    tcp_across(federation, report).await.context("step d")?;
    route(federation, report).await.context("step e")?;
    permission(federation, report).await.context("step f")?;
    alone(federation, report).await.context("step g")?;
    together_again(federation, report).await.context("step h")?;
    bad_input(federation, report).await.context("step i")?;
    report.chapter('j', "what it cost");
    report.table(&["process", "memory", "CPU"], federation.usage());
    Ok(())
}

fn stopwatch() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "a story on a real machine has real time"
    )]
    Instant::now()
}

/// Applies the first policies and starts the ingresses and workloads of the story. `set_up` comes first.
///
/// # Errors
/// Something is refused, or does not start.
pub async fn first_policies(federation: &mut Federation, report: &Report) -> anyhow::Result<()> {
    report.chapter(
        'a',
        "policies go in at global, the receipt says where they arrived",
    );
    let folder = examples();
    let receipt = apply(
        federation,
        &folder.to_string_lossy(),
        report,
        "examples/multizone/*.yaml",
    )
    .await?;
    ensure!(
        receipt_zones(&receipt) >= 2,
        "the receipt names too few zones: {receipt}"
    );
    for zone in federation.zone_names() {
        report.timed(
            &format!("zone-ingress of {zone} is ready after"),
            federation.start_ingress(&zone).await?,
        );
    }
    federation.start_workload(web()).await?;
    federation
        .start_workload(workload("api", "east", 20, 8080))
        .await?;
    federation
        .start_workload(workload("api", "west", 20, 8080))
        .await?;
    federation
        .start_workload(WorkloadSpec {
            tcp: true,
            ..workload("orders", "west", 30, 5432)
        })
        .await?;
    for proxy in ["web-east", "api-east", "api-west", "orders-west"] {
        report.timed(
            &format!("sidecar {proxy} and its Envoy are ready after"),
            federation.workload_ready(proxy).await?,
        );
    }
    Ok(())
}

async fn local_call(federation: &mut Federation, report: &Report) -> anyhow::Result<()> {
    report.chapter('b', "web calls api: answered in its own zone, over mTLS");
    let address = federation.address("east", WEB, TO_API)?;
    let client = calls::client();
    let (answer, took) = wait_for("web → api to be answered in east", PATIENCE, async || {
        let answer = calls::http(&client, address, "/hello").await?;
        ensure!(
            answer.status == 200 && answer.zone == "east",
            "{} {}",
            answer.status,
            answer.body
        );
        Ok(answer)
    })
    .await?;
    report.timed("first answer after", took);
    let certificate = &answer.client_certificate;
    ensure!(
        certificate.contains("URI=spiffe://default.east.mesh.local/workload/web"),
        "api does not see web's identity: {certificate:?}"
    );
    ensure!(
        certificate.contains("By=spiffe://default.east.mesh.local/workload/api"),
        "api's own identity is not in {certificate:?}"
    );
    for _ in 0..20 {
        let answer = calls::http(&client, address, "/").await?;
        ensure!(
            answer.zone == "east",
            "a call left the zone: {}",
            answer.body
        );
    }
    report.fact(
        "20 of 20 calls stayed in east; caller spiffe://default.east.mesh.local/workload/web,",
    );
    report.fact("answered by spiffe://default.east.mesh.local/workload/api");
    // The other zone's api is there too, behind its ingress: the next chapter needs it.
    let west = federation.address("east", WEB, TO_API_WEST)?;
    let (answer, took) = wait_for("web → api in west", PATIENCE, async || {
        let answer = calls::http(&client, west, "/").await?;
        ensure!(
            answer.status == 200 && answer.zone == "west",
            "{} {}",
            answer.status,
            answer.body
        );
        Ok(answer)
    })
    .await?;
    ensure!(
        answer
            .client_certificate
            .contains("URI=spiffe://default.east.mesh.local/workload/web"),
        "across zones api does not see web's identity: {:?}",
        answer.client_certificate
    );
    report.timed(
        "web → api in west through west's ingress: mTLS end to end, after",
        took,
    );
    Ok(())
}

/// Waits until the newest call was answered by `zone`.
///
/// # Errors
/// It does not come.
pub async fn moved_to(caller: &Caller, zone: &str) -> anyhow::Result<Duration> {
    let (_, took) = wait_for(
        &format!("calls to move to {zone}"),
        PATIENCE,
        async || match caller.latest() {
            Some(Outcome::Answered(by)) if by.starts_with(zone) => Ok(()),
            other => anyhow::bail!("the newest call: {other:?}"),
        },
    )
    .await?;
    Ok(took)
}

async fn failover(federation: &mut Federation, report: &Report) -> anyhow::Result<()> {
    report.chapter('c', "api in east dies, calls move to west and come back");
    let caller = Caller::start(federation.address("east", WEB, TO_API)?);
    moved_to(&caller, "east").await?;
    drop(caller.take());

    let mut application = federation
        .workload("api-east")?
        .application
        .take()
        .context("api-east has no application")?;
    application.kill().await?;
    let took = moved_to(&caller, "west").await?;
    let tally = caller.take();
    report.timed(
        "application killed, its sidecar stays: calls answered in west after",
        took,
    );
    report.fact(&format!("calls meanwhile: {tally}"));
    ensure!(tally.failures() <= 100, "too many calls failed: {tally}");

    federation.restart_application("api-east")?;
    let took = moved_to(&caller, "east").await?;
    let tally = caller.take();
    report.timed(
        "application is back: calls answered in east again after",
        took,
    );
    report.fact(&format!("calls meanwhile: {tally}"));
    ensure!(tally.failures() == 0, "coming back cost calls: {tally}");

    let workload = federation.workload("api-east")?;
    let mut sidecar = workload.sidecar.take().context("api-east has no sidecar")?;
    let mut application = workload
        .application
        .take()
        .context("api-east has no application")?;
    let started = stopwatch();
    sidecar.terminate(Duration::from_secs(60)).await?;
    let took = started.elapsed();
    application.kill().await?;
    moved_to(&caller, "west").await?;
    let tally = caller.take();
    report.timed(
        "whole workload stopped in order: drained and gone after",
        took,
    );
    report.fact(&format!("calls meanwhile: {tally}"));
    ensure!(tally.failures() == 0, "an orderly stop cost calls: {tally}");

    federation.start_workload(workload_api_east()).await?;
    federation.workload_ready("api-east").await?;
    moved_to(&caller, "east").await?;
    let tally = caller.take();
    report.fact(&format!("started again: {tally}"));
    ensure!(tally.failures() == 0, "starting again cost calls: {tally}");
    Ok(())
}

fn workload_api_east() -> WorkloadSpec {
    workload("api", "east", 20, 8080)
}

async fn tcp_across(federation: &mut Federation, report: &Report) -> anyhow::Result<()> {
    report.chapter('d', "web calls orders in west over TCP");
    let address = federation.address("east", WEB, TO_ORDERS)?;
    let (line, took) = wait_for("web → orders", PATIENCE, async || {
        let line = calls::tcp_line(address, "one tea").await?;
        ensure!(line == "orders@west: one tea", "got {line:?}");
        Ok(line)
    })
    .await?;
    report.timed(&format!("`{line}` after"), took);
    let sni = "sni.msvc.default.west.orders.main";
    let (bytes, _) = wait_for("the ingress to count bytes", PATIENCE, async || {
        let metrics = federation.ingress_page("west", "/metrics").await?;
        let bytes: Vec<f64> = metrics
            .lines()
            .filter(|row| row.starts_with("zonal_ingress_bytes_total") && row.contains(sni))
            .filter_map(|row| {
                row.rsplit_once(' ')
                    .and_then(|(_, number)| number.parse().ok())
            })
            .collect();
        ensure!(
            bytes.len() == 2 && bytes.iter().all(|count| *count > 0.0),
            "counted {bytes:?} under `{sni}`"
        );
        Ok(bytes)
    })
    .await?;
    report.fact(&format!(
        "west's ingress counted {bytes:?} bytes in and out under `{sni}`"
    ));
    Ok(())
}

async fn route(federation: &mut Federation, report: &Report) -> anyhow::Result<()> {
    report.chapter(
        'e',
        "a MeshHTTPRoute at global sends web's calls for /v2 to west",
    );
    let address = federation.address("east", WEB, TO_API)?;
    let client = calls::client();
    let before = calls::http(&client, address, "/v2/hello").await?;
    ensure!(before.zone == "east", "before the route: {}", before.body);
    let file = write(federation, "route.yaml", ROUTE)?;
    let started = stopwatch();
    apply(federation, &file, report, "the route").await?;
    // A connection that was open keeps its routes for one more request, as Envoy drains it; each call is a new one here.
    let (_, took) = wait_for("the route to be in use", PATIENCE, async || {
        let answer = calls::http(&client, address, "/v2/hello").await?;
        ensure!(
            answer.status == 200 && answer.zone == "west",
            "{} {}",
            answer.status,
            answer.body
        );
        Ok(())
    })
    .await?;
    report.timed(
        "first changed answer, counted from the receipt, after",
        took,
    );
    let took = started.elapsed();
    report.timed(
        "first changed answer, counted from `zonal apply`, after",
        took,
    );
    let other = calls::http(&client, address, "/hello").await?;
    ensure!(
        other.zone == "east",
        "other paths moved too: {}",
        other.body
    );
    federation
        .at_global()
        .run(&["delete", "meshhttproute", "v2-in-west", "--mesh", "default"])
        .await?;
    wait_for("the route to be gone", PATIENCE, async || {
        let answer = calls::http(&client, address, "/v2/hello").await?;
        ensure!(answer.zone == "east", "{}", answer.body);
        Ok(())
    })
    .await?;
    Ok(())
}

async fn permission(federation: &mut Federation, report: &Report) -> anyhow::Result<()> {
    report.chapter(
        'f',
        "a MeshTrafficPermission denies web → api, then allows it again",
    );
    let address = federation.address("east", WEB, TO_API)?;
    let client = calls::client();
    let file = write(federation, "deny.yaml", DENY_WEB)?;
    apply(federation, &file, report, "the denial").await?;
    let (_, took) = wait_for("the denial to be in use", PATIENCE, async || {
        let answer = calls::http(&client, address, "/").await?;
        ensure!(answer.status == 403, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .await?;
    report.timed("web → api: 403, counted from the receipt, after", took);
    federation
        .at_global()
        .run(&[
            "delete",
            "meshtrafficpermission",
            "deny-web",
            "--mesh",
            "default",
        ])
        .await?;
    let (_, took) = wait_for("the denial to be gone", PATIENCE, async || {
        let answer = calls::http(&client, address, "/").await?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    })
    .await?;
    report.timed("denial deleted: 200 again after", took);
    Ok(())
}

async fn alone(federation: &mut Federation, report: &Report) -> anyhow::Result<()> {
    report.chapter('g', "global-cp is killed with SIGKILL: the zones go on");
    let address = federation.address("east", WEB, TO_API)?;
    let west = federation.address("east", WEB, TO_API_WEST)?;
    let client = calls::client();
    federation.crash_global().await?;
    for target in [address, west] {
        for _ in 0..10 {
            let answer = calls::http(&client, target, "/").await?;
            ensure!(
                answer.status == 200,
                "without global a call got {}: {}",
                answer.status,
                answer.body
            );
        }
    }
    report.fact("20 of 20 calls answered, in the zone and across");

    federation.start_workload(billing()).await?;
    let caller_spec = WorkloadSpec {
        outbounds: vec![(TO_BILLING, in_zone("billing", "west", 8080))],
        ..workload("shop", "west", 50, 8080)
    };
    federation.start_workload(caller_spec).await?;
    federation.workload_ready("billing-west").await?;
    let from = federation.address("west", 50, TO_BILLING)?;
    let (_, took) = wait_for(
        "the new workload to be reachable in west",
        PATIENCE,
        async || {
            let answer = calls::http(&client, from, "/").await?;
            ensure!(
                answer.status == 200 && answer.service == "billing",
                "{} {}",
                answer.status,
                answer.body
            );
            Ok(())
        },
    )
    .await?;
    report.timed(
        "new workloads billing and shop joined in west; shop → billing answered after",
        took,
    );

    let file = write(
        federation,
        "zone-policy.yaml",
        "type: MeshTrafficPermission\nname: deny-shop\nmesh: default\nlabels:\n  kuma.io/origin: zone\nspec:\n  targetRef:\n    \
         kind: Dataplane\n    labels:\n      kuma.io/workload: billing\n  rules:\n    - default:\n        deny:\n          - spiffeID:\n              \
         type: Exact\n              value: spiffe://default.west.mesh.local/workload/shop\n",
    )?;
    let zonal = federation.at_zone("west")?;
    let started = stopwatch();
    zonal.run(&["apply", "-f", &file, "--wait"]).await?;
    wait_for("the zone's own policy to be in use", PATIENCE, async || {
        let answer = calls::http(&client, from, "/").await?;
        ensure!(answer.status == 403, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .await?;
    report.timed("a policy made in west works there after", started.elapsed());
    zonal
        .run(&[
            "delete",
            "meshtrafficpermission",
            "deny-shop",
            "--mesh",
            "default",
        ])
        .await?;

    let services = zonal
        .run(&["get", "meshservices", "--mesh", "default"])
        .await?;
    ensure!(
        services.contains("billing"),
        "`zonal get` at the zone: {services}"
    );
    let proxies = zonal
        .run(&["inspect", "dataplanes", "--mesh", "default"])
        .await?;
    ensure!(
        proxies.contains("billing-west"),
        "`zonal inspect` at the zone: {proxies}"
    );
    report.fact("`zonal get` and `zonal inspect` work at the zone");
    Ok(())
}

async fn together_again(federation: &mut Federation, report: &Report) -> anyhow::Result<()> {
    report.chapter('h', "global-cp returns: the zones are in sync again");
    let client = calls::client();
    let took = federation.start_global().await?;
    report.timed("global-cp answers after", took);
    let started = stopwatch();
    let names = federation.zone_names();
    let (overview, _) = wait_for("every zone to be in sync", PATIENCE, async || {
        let overview = federation.zones_overview().await?;
        for name in &names {
            let state = zone_member(&overview, name, "state");
            ensure!(state == "in-sync", "zone `{name}` is {state}");
        }
        Ok(overview)
    })
    .await?;
    report.timed("both zones in sync after", started.elapsed());
    report.table(
        &[
            "zone",
            "state",
            "revision",
            "resync bytes down",
            "resync bytes up",
            "resync",
        ],
        names
            .iter()
            .map(|name| {
                [
                    "state",
                    "revision",
                    "resyncBytesDown",
                    "resyncBytesUp",
                    "resyncMillis",
                ]
                .iter()
                .fold(vec![name.clone()], |mut row, member| {
                    row.push(zone_member(&overview, name, member));
                    row
                })
            })
            .collect(),
    );
    let address: SocketAddr = federation.address("east", WEB, TO_BILLING)?;
    let (_, took) = wait_for(
        "the new service to be callable from east",
        PATIENCE,
        async || {
            let answer = calls::http(&client, address, "/").await?;
            ensure!(
                answer.status == 200 && answer.service == "billing",
                "{} {}",
                answer.status,
                answer.body
            );
            Ok(())
        },
    )
    .await?;
    report.timed("web in east → billing in west answered after", took);
    Ok(())
}

async fn bad_input(federation: &mut Federation, report: &Report) -> anyhow::Result<()> {
    report.chapter(
        'i',
        "bad input is refused with every violation, and harms only itself",
    );
    let file = write(
        federation,
        "bad.yaml",
        "type: MeshTimeout\nname: bad\nmesh: default\nspec:\n  to:\n    - targetRef:\n        kind: Nobody\n      default:\n        \
         connectionTimeout: 5 parsecs\n        http:\n          requestTimeout: -1s\n",
    )?;
    let (succeeded, stdout, stderr) = federation
        .at_global()
        .run_any(&["apply", "-f", &file])
        .await?;
    let said = format!("{stdout}{stderr}");
    ensure!(!succeeded, "a bad policy was taken: {said}");
    ensure!(
        said.contains("spec.to[0]"),
        "the refusal has no field path: {said}"
    );
    for line in said.lines().filter(|line| line.contains("spec.")) {
        report.fact(line.trim());
    }

    // Selects api and is well formed, but no Envoy takes a certificate that is none: only its own trust domain suffers.
    let file = write(
        federation,
        "bad-trust.yaml",
        "type: MeshTrust\nname: broken\nmesh: default\nspec:\n  trustDomain: broken.mesh.local\n  caBundles:\n    - type: Pem\n      \
         pem:\n        value: not a certificate\n",
    )?;
    let (taken, ..) = federation
        .at_global()
        .run_any(&["apply", "-f", &file])
        .await?;
    let client = calls::client();
    let file = write(
        federation,
        "good.yaml",
        "type: MeshTimeout\nname: good\nmesh: default\nspec:\n  to:\n    - targetRef:\n        kind: Mesh\n      default:\n        http:\n          \
         requestTimeout: 14s\n",
    )?;
    apply(
        federation,
        &file,
        report,
        "a good policy beside a broken MeshTrust",
    )
    .await?;
    for port in [TO_API, TO_API_WEST] {
        let answer = calls::http(&client, federation.address("east", WEB, port)?, "/").await?;
        ensure!(
            answer.status == 200,
            "a broken MeshTrust broke others: {} {}",
            answer.status,
            answer.body
        );
    }
    if taken {
        federation
            .at_global()
            .run(&["delete", "meshtrust", "broken", "--mesh", "default"])
            .await?;
    }
    report.fact("a MeshTrust without a certificate in it stops nobody: calls within and across zones are answered");
    Ok(())
}

/// Applies a file or folder at global with `--wait`, prints the receipt and returns it.
///
/// # Errors
/// It is refused, or the receipt is not complete.
pub async fn apply(
    federation: &Federation,
    path: &str,
    report: &Report,
    what: &str,
) -> anyhow::Result<Value> {
    let started = stopwatch();
    let answer = federation
        .at_global()
        .json(&["apply", "-f", path, "--wait"])
        .await?;
    let took = started.elapsed();
    let receipt = answer.get("receipt").cloned().unwrap_or(Value::Null);
    ensure!(
        receipt.get("complete").and_then(Value::as_bool) == Some(true),
        "the receipt of {what} is not complete: {answer}"
    );
    let revision = answer
        .get("revision")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    report.timed(
        &format!("`zonal apply --wait` of {what}: revision {revision}, in use everywhere after"),
        took,
    );
    if let Some(zones) = receipt.get("zones").and_then(Value::as_object) {
        let rows = zones
            .iter()
            .map(|(name, zone)| {
                let number = |pointer: &str| {
                    zone.pointer(pointer)
                        .map(Value::to_string)
                        .unwrap_or_default()
                };
                vec![
                    name.clone(),
                    number("/keptAfterMillis"),
                    number("/proxies/total"),
                    number("/proxies/affected"),
                    number("/proxies/acked"),
                    number("/convergedAfterMillis"),
                ]
            })
            .collect();
        report.table(
            &[
                "zone",
                "kept after ms",
                "proxies",
                "affected",
                "acked",
                "in use after ms",
            ],
            rows,
        );
    }
    Ok(receipt)
}

fn receipt_zones(receipt: &Value) -> usize {
    receipt
        .get("zones")
        .and_then(Value::as_object)
        .map_or(0, serde_json::Map::len)
}

/// A member of a zone's entry in `inspect zones -o json`, as text.
pub(crate) fn zone_member(overview: &Value, zone: &str, member: &str) -> String {
    let items = overview.get("items").unwrap_or(overview);
    items
        .as_array()
        .into_iter()
        .flatten()
        .find(|item| item.get("name").and_then(Value::as_str) == Some(zone))
        .and_then(|item| item.get(member))
        .map(|value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        })
        .unwrap_or_default()
}

/// Writes a file into the federation's folder and returns its path.
///
/// # Errors
/// It cannot be written.
pub fn write(federation: &Federation, name: &str, text: &str) -> anyhow::Result<String> {
    let path = federation.folder().join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Addresses and commands to try by hand while the federation stays up.
///
/// # Errors
/// The story's zones are missing.
pub fn by_hand(federation: &Federation) -> anyhow::Result<Vec<String>> {
    let global = federation.at_global();
    let east = federation.at_zone("east")?;
    Ok(vec![
        format!("web → api (local first)   curl http://{}/", federation.address("east", WEB, TO_API)?),
        format!("web → api in west         curl http://{}/", federation.address("east", WEB, TO_API_WEST)?),
        format!("web → billing in west     curl http://{}/", federation.address("east", WEB, TO_BILLING)?),
        format!("web → orders over TCP     nc {}", federation.address("east", WEB, TO_ORDERS)?.to_string().replace(':', " ")),
        format!("global                    export ZONAL_ADDRESS={} ZONAL_CA_FILE={}", global.address, global.ca.display()),
        format!("zone east                 export ZONAL_ADDRESS={} ZONAL_CA_FILE={}", east.address, east.ca.display()),
        "then                      zonal inspect zones; zonal inspect dataplanes; zonal get meshservices".to_owned(),
    ])
}
