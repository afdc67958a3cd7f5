//! A zone joins: a token that is good once, a certificate that renews itself, and who is refused.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use zonal_identity::join::{JoinToken, ZoneKey};

use crate::global::Global;
use crate::zone::{PATIENCE, Zone};

async fn token(global: &Global, zone: &str) -> String {
    let asked = json!({ "zone": zone, "global": "127.0.0.1" });
    let (status, answer) = global.ask(Method::POST, "/tokens/zone-join", &asked).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["token"].as_str().unwrap().to_owned()
}

async fn start(work_dir: TempDir, zone: Value) -> anyhow::Result<Zone> {
    Zone::start_in(work_dir, "file", zone, |_| {}).await
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

async fn refused(zone: Value) -> String {
    match start(folder(), zone).await {
        Ok(_) => panic!("it started"),
        Err(error) => format!("{error:#}"),
    }
}

/// The zone is connected and has answered for everything.
async fn in_sync(global: &Global, zone: &str) {
    let path = format!("/zones/{zone}/_overview");
    global
        .until(&path, |_, overview| overview["sync"]["state"] == "in-sync")
        .await;
}

fn kept(zone: &Zone) -> Value {
    let file = zone.work_dir().join("federation.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[tokio::test]
async fn one_token_lets_one_zone_in_and_its_certificate_renews_itself() {
    let global = Global::start_with(true, |config| {
        config.zone_certificate_lifetime = Duration::from_secs(3);
    })
    .await;
    let token = token(&global, "east").await;
    let zone = start(folder(), json!({ "joinToken": token }))
        .await
        .unwrap();
    in_sync(&global, "east").await;

    let file = zone.work_dir().join("federation.json");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!zone.work_dir().join("federation-joining.json").exists());
    let first = kept(&zone);
    let renewed = async {
        while kept(&zone)["certificate"] == first["certificate"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.unwrap();
    assert_ne!(kept(&zone)["key"], first["key"], "the key is a new one too");

    // The token is used up: another place does not get in with it, and is told who did.
    let told = refused(json!({ "joinToken": token })).await;
    assert!(
        told.contains("the join token of zone `east` was used at ")
            && told.contains("`zonal zone join-token east`"),
        "{told}"
    );
    // The zone itself starts again, with the used token or without any.
    let again = start(zone.stop().await, json!({ "joinToken": token }))
        .await
        .unwrap();
    in_sync(&global, "east").await;
    let again = start(again.stop().await, json!({})).await.unwrap();
    in_sync(&global, "east").await;
    // It stays the zone that it is.
    let folder = again.stop().await;
    let Err(renamed) = start(folder, json!({ "name": "west" })).await else {
        panic!("it started");
    };
    assert!(
        renamed
            .to_string()
            .contains("says that this is zone `east`"),
        "{renamed}"
    );
}

#[tokio::test]
async fn who_shows_nothing_good_is_refused_with_a_sentence() {
    let global = Global::start_with(true, |_| {}).await;
    let (status, answer) = global
        .ask(
            Method::POST,
            "/tokens/zone-join",
            &json!({"zone": "East 1", "global": "g"}),
        )
        .await;
    assert_eq!(
        (status, &answer["invalid_parameters"][0]["field"]),
        (StatusCode::BAD_REQUEST, &json!("zone"))
    );

    let good: JoinToken = token(&global, "east").await.parse().unwrap();
    let trade = |zone: &str, id: &str, secret: &str, time: &str| {
        json!({
            "zone": zone, "tokenId": id, "tokenSecret": secret, "request": ZoneKey::generate().unwrap().request().unwrap(),
            "store": "s", "instance": "i", "softwareVersion": env!("CARGO_PKG_VERSION"), "time": time,
        })
    };
    let secret = good.secret.expose();
    let now = jiff::Timestamp::now().to_string();
    let long_ago = "2020-01-01T00:00:00Z";
    for (body, status, want) in [
        (
            trade("east", &good.id, "guessed", &now),
            403,
            "this join token is not known here",
        ),
        (
            trade("east", "unknown", secret, &now),
            403,
            "this join token is not known here",
        ),
        (
            trade("west", &good.id, secret, &now),
            403,
            "this join token is for zone `east`",
        ),
        (
            trade("east", &good.id, secret, long_ago),
            409,
            "it does not pass the checks; the token stays good",
        ),
        (json!({}), 400, "the request: missing field `zone`"),
    ] {
        let (got, answer) = global.ask_as_stranger("/zonal/v1/join", &body).await;
        assert_eq!(got, status, "{answer}");
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.starts_with(want), "{detail}");
    }
    // Nothing of that used the token up.
    let (status, answer) = global
        .ask_as_stranger("/zonal/v1/join", &trade("east", &good.id, secret, &now))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let checks: Vec<&str> = answer["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["check"].as_str().unwrap())
        .collect();
    assert_eq!(checks, ["version", "name", "clock", "ingress"]);
    let (status, answer) = global
        .ask_as_stranger("/zonal/v1/renew", &json!({"zone": "east", "request": ""}))
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(answer["detail"], "the caller shows no certificate");
}

#[tokio::test]
async fn a_zone_that_was_deleted_does_not_come_back_with_its_certificate() {
    let global = Global::start_with(true, |_| {}).await;
    let first = token(&global, "east").await;
    let unused = token(&global, "east").await;
    let zone = start(folder(), json!({ "joinToken": first }))
        .await
        .unwrap();
    in_sync(&global, "east").await;
    let (status, answer) = global
        .ask(Method::DELETE, "/zones/east", &Value::Null)
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "as in Kuma: {answer}");
    let (status, answer) = global
        .ask(Method::DELETE, "/zones/east?force=true", &Value::Null)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    // With the zone went every token for it.
    let told = refused(json!({ "joinToken": unused })).await;
    assert!(told.contains("this join token is not known here"), "{told}");
    let (status, _) = global.get("/zones/east").await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // It works alone, and starts alone.
    let zone = start(zone.stop().await, json!({})).await.unwrap();
    let (status, _) = zone.get("/meshes/default").await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = global.get("/zones/east").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // A new token lets it in again.
    let again = token(&global, "east").await;
    let _zone = start(zone.stop().await, json!({ "joinToken": again }))
        .await
        .unwrap();
    in_sync(&global, "east").await;
}

fn policy(name: &str, origin: Option<&str>) -> Value {
    let mut policy = json!({
        "type": "MeshTimeout", "mesh": "default", "name": name,
        "spec": {"to": [{"targetRef": {"kind": "Mesh"}, "default": {"connectionTimeout": "3s"}}]},
    });
    if let Some(origin) = origin {
        policy["labels"] = json!({ "kuma.io/origin": origin });
    }
    policy
}

/// The policies whose name begins so, as the control plane lists them.
fn named<'a>(list: &'a Value, start: &str) -> Vec<&'a Value> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .filter(|item| item["name"].as_str().unwrap().starts_with(start))
        .collect()
}

#[tokio::test]
async fn a_zone_comes_with_what_it_has_and_leaves_with_what_it_got() {
    const LIST: &str = "/meshes/default/meshtimeouts";
    let global = Global::start_with(true, |_| {}).await;
    // Alone: a mesh of its own, a policy of its own.
    let alone = json!({ "name": "east" });
    let zone = start(folder(), alone.clone()).await.unwrap();
    zone.put(&format!("{LIST}/own"), &policy("own", None)).await;
    let shop = json!({"type": "Mesh", "name": "shop"});
    zone.put("/meshes/shop", &shop).await;

    // In the federation: both are still there, and go up as far as Kuma's protocol takes them.
    let token = token(&global, "east").await;
    let zone = start(zone.stop().await, json!({ "joinToken": token }))
        .await
        .unwrap();
    in_sync(&global, "east").await;
    global
        .until(LIST, |_, list| named(list, "own-").len() == 1)
        .await;
    for path in [format!("{LIST}/own"), "/meshes/shop".to_owned()] {
        assert_eq!(zone.get(&path).await.0, StatusCode::OK, "{path}");
    }
    let (status, answer) = global
        .ask(
            Method::PUT,
            &format!("{LIST}/theirs"),
            &policy("theirs", None),
        )
        .await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    zone.until(LIST, |_, list| named(list, "theirs").len() == 1)
        .await;

    // Alone again: what came from global is the zone's, and can be changed here.
    let leaving = json!({ "name": "east", "leave": true });
    let zone = start(zone.stop().await, leaving).await.unwrap();
    assert!(!zone.work_dir().join("federation.json").exists());
    let (_, list) = zone.get(LIST).await;
    let theirs = named(&list, "theirs");
    assert_eq!(theirs[0]["labels"]["kuma.io/origin"], "zone", "{list}");
    let path = format!("{LIST}/{}", theirs[0]["name"].as_str().unwrap());
    let mut changed = theirs[0].clone();
    changed["spec"]["to"][0]["default"]["connectionTimeout"] = json!("9s");
    zone.put(&path, &changed).await;
    zone.put(
        "/meshes/default",
        &json!({"type": "Mesh", "name": "default"}),
    )
    .await;
    // Without the setting it stays alone, with all that it has.
    let zone = start(zone.stop().await, alone).await.unwrap();
    let (status, kept) = zone.get(&path).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        kept["spec"]["to"][0]["default"]["connectionTimeout"], "9s",
        "{kept}"
    );
    assert_eq!(zone.get(&format!("{LIST}/own")).await.0, StatusCode::OK);
}
