//! Small meshes and what one of their proxies is told. `UPDATE=1` writes what is generated into `want.yaml`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::{World, rendered};
use kds_proto::reflect::FieldNames;
use serde_json::Value;
use zonal_model::yaml;
use zonal_xds::Cache;

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut folders: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
}

/// Keeps the sections that the case's first document names, so that a case shows what it is about.
fn shown(input: &str, mut all: Value) -> Value {
    let head = yaml::documents(input).unwrap().remove(0);
    if let Some(show) = head["show"].as_array() {
        let wanted = |section: &str| show.iter().any(|name| name == section);
        all.as_object_mut()
            .unwrap()
            .retain(|section, _| section == "problems" || wanted(section));
    }
    all
}

#[test]
fn proxies_are_told_what_the_folders_say() {
    let mut wrong = Vec::new();
    for folder in folders() {
        let input = fs::read_to_string(folder.join("input.yaml")).unwrap();
        let generated = World::read(&input).generate(&Cache::default());
        let got =
            yaml::to_string(&shown(&input, rendered(&generated, FieldNames::CamelCase))).unwrap();
        let path = folder.join("want.yaml");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &got).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != got {
            wrong.push(format!("{}:\n{got}", folder.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "not as wanted (UPDATE=1 accepts it):\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_same_view_gives_the_same_bytes_in_whatever_order_it_was_learned() {
    for folder in folders() {
        let input = fs::read_to_string(folder.join("input.yaml")).unwrap();
        let cache = Cache::default();
        let once = World::read(&input).generate(&cache);
        let warm = World::read(&input).generate(&cache);
        let other = World::read(&input).reversed().generate(&Cache::default());
        assert!(once == warm && once == other, "{}", folder.display());
    }
}

#[test]
fn every_cluster_with_discovered_hosts_has_an_assignment_and_the_other_way_round() {
    for folder in folders() {
        let input = fs::read_to_string(folder.join("input.yaml")).unwrap();
        let generated = World::read(&input).generate(&Cache::default());
        let all = rendered(&generated, FieldNames::CamelCase);
        let mut discovered: Vec<&String> = all["clusters"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, cluster)| cluster["type"] == "EDS")
            .map(|(name, _)| name)
            .collect();
        discovered.sort();
        let assigned: Vec<&String> = all["endpoints"]
            .as_object()
            .into_iter()
            .flat_map(|m| m.keys())
            .collect();
        assert_eq!(discovered, assigned, "{}", folder.display());
    }
}
