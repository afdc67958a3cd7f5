//! A real Envoy accepts what is generated. Looked for in `ZONAL_ENVOY`, in `target/envoy` and on the path; without one
//! the test says that it was skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::{World, rendered};
use kds_proto::reflect::FieldNames;
use serde_json::{Value, json};
use zonal_model::{Json, Labels};
use zonal_xds::bootstrap::{self, Request, Settings};
use zonal_xds::{Cache, Dataplane};

fn envoy() -> Option<PathBuf> {
    let named = std::env::var_os("ZONAL_ENVOY").map(PathBuf::from);
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/envoy/envoy");
    let path = std::env::var_os("PATH").unwrap_or_default();
    named
        .into_iter()
        .chain([fetched])
        .chain(std::env::split_paths(&path).map(|folder| folder.join("envoy")))
        .find(|candidate| candidate.is_file())
}

/// The bootstrap of a proxy with generated resources as if it had been started with them.
fn with_static(generated: &Value) -> Value {
    let spec = Json::parse(r#"{"networking":{"address":"10.0.0.1"}}"#).unwrap();
    let dataplane = Dataplane::from_spec(&spec, &Labels::new()).unwrap();
    let request = Request {
        mesh: "default".into(),
        name: "web".into(),
        workdir: "/run/zonal".into(),
        ca_cert: CA_PEM.into(),
        dataplane_token: Some("token".into()),
        readiness_port: 9902,
        ..Request::default()
    };
    let settings = Settings {
        health_discovery: true,
        ..Settings::default()
    };
    let mut made = bootstrap::generate(&request, &dataplane, None, &settings).unwrap();
    for section in ["clusters", "listeners"] {
        let resources = generated[section]
            .as_object()
            .into_iter()
            .flat_map(|m| m.values().cloned());
        let list = &mut made["staticResources"][section];
        if list.is_null() {
            *list = json!([]);
        }
        list.as_array_mut().unwrap().extend(resources);
    }
    made
}

#[test]
fn a_real_envoy_accepts_every_golden_configuration() {
    let Some(envoy) = envoy() else {
        println!("skipped: no Envoy here; set ZONAL_ENVOY to one");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    for case in cases {
        let input = fs::read_to_string(case.join("input.yaml")).unwrap();
        let generated = World::read(&input).generate(&Cache::default());
        let made = with_static(&rendered(&generated, FieldNames::CamelCase));
        let file = folder.path().join("bootstrap.json");
        // Envoy opens the logs it is told of, also when it only validates.
        let text = made
            .to_string()
            .replace("/run/zonal", &folder.path().display().to_string());
        fs::write(&file, text).unwrap();
        let output = Command::new(&envoy)
            .args([
                "--mode",
                "validate",
                "--log-level",
                "error",
                "--config-path",
            ])
            .arg(&file)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}: {}{}",
            case.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Some authority; only its form matters.
const CA_PEM: &str = include_str!("ca.pem");
