//! A zone's control plane for real, with proxies that hold what they are told and forward nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_debug_implementations
)]

mod global;
mod joining;
mod proxy;
mod zone;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use kds_proto::envoy::service::discovery::v3::DiscoveryRequest;
use serde_json::{Value, json};
use tonic::Code;
use zonal_xds::type_url;

use global::Global;
use proxy::{Proxy, Spec, client, everything, node, open};
use zone::Zone;

/// Of two policies that say the same of the same, the one whose name comes first wins: before the mesh's default.
fn timeout(connect: &str) -> Value {
    json!({
        "type": "MeshTimeout",
        "mesh": "default",
        "name": "a-slow",
        "labels": { "kuma.io/origin": "zone" },
        "spec": { "to": [{
            "targetRef": { "kind": "Mesh" },
            "default": { "connectionTimeout": connect },
        }]},
    })
}

const TIMEOUT: &str = "/meshes/default/meshtimeouts/a-slow";

fn identity() -> Value {
    json!({
        "type": "MeshIdentity",
        "mesh": "default",
        "name": "identity",
        "labels": { "kuma.io/origin": "zone" },
        "spec": {
            "selector": { "dataplane": { "matchLabels": {} } },
            "provider": { "type": "Bundled", "bundled": {
                "insecureAllowSelfSigned": true,
                "autogenerate": { "enabled": true },
            }},
        },
    })
}

fn named(name: &str) -> Value {
    json!({ "mesh": "default", "name": name })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_needs_a_token_and_a_dataplane() {
    let zone = Zone::start().await;
    let token = zone.token("web").await;
    let ask = async |name: &str, token: Option<&str>, resource: Option<String>| {
        let request = json!({
            "mesh": "default",
            "name": name,
            "dataplaneToken": token,
            "dataplaneResource": resource,
        });
        zone.ask("/bootstrap", None, &request).await
    };
    let web = Spec::new("web", "127.0.0.2").dataplane().to_string();

    let (status, text) = ask("web", None, Some(web.clone())).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text.contains("token"), "{text}");
    // The process tries again by itself: the Dataplane may be on its way.
    let (status, text) = ask("web", Some(&token), None).await;
    assert_eq!((status, &*text), (StatusCode::NOT_FOUND, ""));
    // Of another name than the proxy.
    let (status, text) = ask("api", Some(&token), Some(web.clone())).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text.contains("web") && text.contains("api"), "{text}");
    // Not a Dataplane at all.
    let (status, text) = ask(
        "web",
        Some(&token),
        Some("type: Mesh\nname: web".to_owned()),
    )
    .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
    let (status, _) = zone.ask("/bootstrap", None, &json!("nonsense")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    let (status, text) = ask("web", Some(&token), Some(web)).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(text.contains("default.web"), "{text}");
    assert!(text.contains(&zone.proxies.port().to_string()), "{text}");
    // A bootstrap registers nothing: only the proxy itself does.
    let (status, _) = zone.get("/meshes/default/dataplanes/web").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

/// How a first message is answered when it is refused.
async fn refused(zone: &Zone, token: Option<&str>, first: &str, metadata: &Value) -> tonic::Status {
    let mut stream = open(zone, token).await.unwrap();
    let request = everything(type_url::CLUSTER, Some(node(first, metadata)));
    stream.requests.send(request).await.unwrap();
    stream.responses.message().await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_needs_a_token_for_its_own_dataplane() {
    let zone = Zone::start().await;
    let token = zone.token("web").await;
    let web = Spec::new("web", "127.0.0.2").metadata();
    let api = Spec::new("api", "127.0.0.3").metadata();

    let status = refused(&zone, None, "web", &web).await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let status = refused(&zone, Some("no.token.this"), "web", &web).await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let status = refused(&zone, Some(&token), "api", &api).await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let status = refused(&zone, Some(&token), "web", &json!({})).await;
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert!(status.message().contains("default.web"), "{status}");
    let status = refused(&zone, Some(&token), "web", &api).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");

    let mut stream = open(&zone, Some(&token)).await.unwrap();
    let no_node = everything(type_url::CLUSTER, None);
    stream.requests.send(no_node).await.unwrap();
    let status = stream.responses.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");

    // Somebody else's stream cannot become another proxy's.
    let mut stream = open(&zone, Some(&token)).await.unwrap();
    let first = everything(type_url::CLUSTER, Some(node("web", &web)));
    stream.requests.send(first).await.unwrap();
    let other = everything(type_url::LISTENER, Some(node("api", &api)));
    stream.requests.send(other).await.unwrap();
    let status = loop {
        match stream.responses.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended in order"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("default.api"), "{status}");

    let first = tokio_stream::once(DiscoveryRequest::default());
    let status = client(&zone)
        .await
        .stream_aggregated_resources(first)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_configuration_is_acked_seen_and_counted() {
    let zone = Zone::start().await;
    zone.put("/meshes/default/meshidentities/identity", &identity())
        .await;
    let _api = Proxy::start(&zone, &Spec::new("api", "127.0.0.3")).await;
    let web = Proxy::start(&zone, &Spec::new("web", "127.0.0.2").calling("api")).await;
    web.until("it may call api", |state| state.sends_to("127.0.0.3"))
        .await;
    web.until("it has listeners and a certificate", |state| {
        !state.names(type_url::LISTENER).is_empty() && !state.names(type_url::SECRET).is_empty()
    })
    .await;
    zone.settled().await;

    let revision = zone.put(TIMEOUT, &timeout("7s")).await;
    let receipt = zone.receipt(revision, "all").await;
    let east = &receipt["zones"]["east"];
    assert_eq!(receipt["complete"], true, "{receipt}");
    assert_eq!(east["proxies"]["total"], 2, "{receipt}");
    assert_eq!(east["proxies"]["affected"], 1, "only web calls: {receipt}");
    assert_eq!(east["proxies"]["acked"], 1, "{receipt}");

    // What the proxies said is kept beside their Dataplanes.
    let overview = zone
        .until("/meshes/default/dataplanes/web/_overview", |_, body| {
            body.pointer("/dataplaneInsight/mTLS").is_some()
                && body.to_string().contains("responsesAcknowledged")
        })
        .await;
    let insight = &overview["dataplaneInsight"];
    assert!(
        insight["mTLS"]["issuedBackend"]
            .as_str()
            .unwrap()
            .contains("identity"),
        "{insight}"
    );

    // The dump has the shape of Envoy's and no key.
    let (status, dump) = zone
        .get("/meshes/default/dataplanes/web/xds?include_eds=true")
        .await;
    assert_eq!(status, StatusCode::OK);
    let sections: Vec<&str> = dump["configs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|section| section["@type"].as_str().unwrap())
        .collect();
    assert_eq!(sections.len(), 4, "{sections:?}");
    let key = dump.pointer("/configs/2/dynamic_active_secrets").unwrap();
    assert!(key.to_string().contains("W3JlZGFjdGVkXQ=="), "{key}");
    assert!(
        !dump
            .to_string()
            .contains(&STANDARD.encode("-----BEGIN PRIVATE")),
        "{key}"
    );
    let (status, problem) = zone.get("/meshes/default/dataplanes/web/stats").await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("/run/web/admin.sock"), "{detail}");
    let (status, _) = zone.get("/meshes/default/dataplanes/none/xds").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = zone
        .get("/meshes/default/dataplanes/web/quitquitquit")
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // Measured by somebody who follows the receipts too.
    let metrics = zone
        .until_metrics(|text| {
            text.lines().any(|line| {
                line.strip_prefix("zone_commit_to_ack_seconds_count ")
                    .is_some_and(|count| count != "0")
            })
        })
        .await;
    assert!(metrics.contains("zone_proxies 2"), "{metrics}");
    assert!(
        metrics.contains("zone_xds_acks_total{type=\"Cluster\"}"),
        "{metrics}"
    );
    assert!(
        metrics.contains("zone_certificates_issued_total"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_who_and_why_and_the_others_go_on() {
    let zone = Zone::start().await;
    let api = Proxy::start(&zone, &Spec::new("api", "127.0.0.3").calling("web")).await;
    let web = Proxy::start(&zone, &Spec::new("web", "127.0.0.2").calling("api")).await;
    web.until("it may call api", |state| state.sends_to("127.0.0.3"))
        .await;
    api.until("it may call web", |state| state.sends_to("127.0.0.2"))
        .await;
    zone.settled().await;

    web.refuse(type_url::CLUSTER, "such a cluster is nothing for me");
    let revision = zone.put(TIMEOUT, &timeout("7s")).await;
    let receipt = zone.receipt(revision, "all").await;
    let east = &receipt["zones"]["east"];
    assert_eq!(east["state"], "refused", "{receipt}");
    assert_eq!(east["nacks"][0]["proxy"], "default/web", "{receipt}");
    let reason = east["nacks"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("nothing for me"), "{receipt}");
    // api uses it meanwhile.
    let receipt = zone.receipt(revision, "50%25").await;
    let east = &receipt["zones"]["east"];
    assert_eq!(east["proxies"]["affected"], 2, "{receipt}");
    assert_eq!(east["proxies"]["acked"], 1, "{receipt}");

    web.take_all();
    let revision = zone.put(TIMEOUT, &timeout("8s")).await;
    let receipt = zone.receipt(revision, "zone:east").await;
    // The older refusal is what a wait ends with, until the newer configuration is in use.
    let is_over = receipt["complete"] == true;
    if !is_over {
        zone.until(&format!("/_receipts/{revision}"), |_, receipt| {
            receipt["complete"] == true
        })
        .await;
    }
    let metrics = zone.metrics().await;
    assert!(
        metrics.contains("zone_xds_nacks_total{type=\"Cluster\"}"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_stream_takes_over() {
    let zone = Zone::start_with(|config| config.deregistration_delay = Duration::ZERO).await;
    let spec = Spec::new("web", "127.0.0.2");
    let older = Proxy::start(&zone, &spec).await;
    older
        .until("it has listeners", |state| {
            !state.names(type_url::LISTENER).is_empty()
        })
        .await;
    let newer = Proxy::start(&zone, &spec).await;
    newer
        .until("it has listeners", |state| {
            !state.names(type_url::LISTENER).is_empty()
        })
        .await;
    assert_eq!(older.ended().await.code(), Code::Aborted);
    zone.put(TIMEOUT, &timeout("7s")).await;
    zone.settled().await;
    assert!(newer.state().ended.is_none());
    // The end of the older stream is not the end of the proxy.
    let (status, _) = zone.get("/meshes/default/dataplanes/web").await;
    assert_eq!(status, StatusCode::OK);
    // That of the newer one is: the Dataplane came with it and goes with it.
    drop(newer);
    zone.until("/meshes/default/dataplanes/web", |status, _| {
        status == StatusCode::NOT_FOUND
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_follow_a_workloads_health_its_drain_and_its_end() {
    let zone = Zone::start().await;
    let spec = Spec::new("api", "127.0.0.3").reporting_health();
    let api = Proxy::start(&zone, &spec).await;
    let web = Proxy::start(&zone, &Spec::new("web", "127.0.0.2").calling("api")).await;
    web.until("it knows api", |state| {
        !state.names(type_url::ENDPOINTS).is_empty()
    })
    .await;
    zone.settled().await;
    let sends = |state: &proxy::State| state.sends_to("127.0.0.3");
    assert!(!sends(&web.state()), "nobody has said that it is ready");

    let health =
        |state: &str| json!({ "mesh": "default", "name": "api", "inbounds": { "8080": state } });
    let token = Some(api.token.as_str());
    let report = async |state: &str| zone.ask("/zonal/v1/health", token, &health(state)).await;
    assert_eq!(report("Ready").await.0, StatusCode::NO_CONTENT);
    web.until("it may call api", sends).await;
    assert_eq!(report("NotReady").await.0, StatusCode::NO_CONTENT);
    web.until("it leaves api", |state| !sends(state)).await;
    assert_eq!(report("Ready").await.0, StatusCode::NO_CONTENT);
    web.until("it may call api again", sends).await;

    // Nobody speaks for another's workload.
    let others = Some(web.token.as_str());
    for (path, body) in [
        ("/zonal/v1/health", health("NotReady")),
        ("/zonal/v1/drain", named("api")),
        ("/zonal/v1/gone", named("api")),
    ] {
        for token in [None, others] {
            let (status, text) = zone.ask(path, token, &body).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}: {text}");
        }
    }

    let (status, _) = zone.ask("/zonal/v1/drain", token, &named("api")).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert!(
        !sends(&web.state()),
        "the answer comes after the callers' ACKs"
    );
    // A report that was on its way does not bring it back.
    assert_eq!(report("Ready").await.0, StatusCode::NO_CONTENT);
    zone.settled().await;
    assert!(!sends(&web.state()));
    // A new start does.
    let request = json!({
        "mesh": "default",
        "name": "api",
        "dataplaneToken": api.token,
        "dataplaneResource": spec.dataplane().to_string(),
    });
    let (status, _) = zone.ask("/bootstrap", None, &request).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(report("Ready").await.0, StatusCode::NO_CONTENT);
    web.until("it may call api after the new start", sends)
        .await;

    let (status, _) = zone.ask("/zonal/v1/gone", token, &named("api")).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, _) = zone.get("/meshes/default/dataplanes/api").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    web.until("it leaves api for good", |state| !sends(state))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dataplane_at_a_host_name_is_found_at_its_address() {
    let zone = Zone::start().await;
    // What every machine resolves without asking anybody.
    let _api = Proxy::start(&zone, &Spec::new("api", "localhost")).await;
    let web = Proxy::start(&zone, &Spec::new("web", "127.0.0.2").calling("api")).await;
    web.until("it may call api", |state| {
        state.sends_to("127.0.0.1") || state.sends_to("::1")
    })
    .await;
    zone.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn global_asks_a_proxy_through_its_zone() {
    let global = Global::start().await;
    let zone = Zone::join(global.kds).await;
    zone.until("/meshes/default", |status, _| status == StatusCode::OK)
        .await;
    let web = Proxy::start(&zone, &Spec::new("web", "127.0.0.2")).await;
    web.until("it has listeners", |state| {
        !state.names(type_url::LISTENER).is_empty()
    })
    .await;
    let list = global
        .until("/meshes/default/dataplanes", |_, list| list["total"] == 1)
        .await;
    let name = list["items"][0]["name"].as_str().unwrap();
    assert!(
        name.starts_with("web-"),
        "on global it has another name: {name}"
    );
    let path = format!("/meshes/default/dataplanes/{name}");
    let dump = global
        .until(&format!("{path}/xds"), |status, _| status == StatusCode::OK)
        .await;
    assert!(dump.to_string().contains("ListenersConfigDump"), "{dump}");
    let (status, problem) = global.get(&format!("{path}/clusters")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("/run/web/admin.sock"), "{detail}");
}
