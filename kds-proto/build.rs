//! Generates messages, service stubs and JSON mapping from `proto/`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

/// Our own packages: they get a JSON mapping.
const OWN: [&str; 2] = ["kuma", "zonal"];

/// Messages for which a ready type with a JSON mapping is used. `Struct`, `Value` and `ListValue` are not among
/// them: the ready ones keep their members unordered, and then equal values have different bytes.
const READY: [&str; 13] = [
    "Any",
    "BoolValue",
    "BytesValue",
    "DoubleValue",
    "Duration",
    "Empty",
    "FloatValue",
    "Int32Value",
    "Int64Value",
    "StringValue",
    "Timestamp",
    "UInt32Value",
    "UInt64Value",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let own = Path::new("proto");
    let vendored = Path::new("proto/envoy");

    let mut roots = Vec::new();
    for folder in OWN {
        collect(&own.join(folder), own, &mut roots)?;
    }
    collect(vendored, vendored, &mut roots)?;
    roots.sort();

    let mut compiler = protox::Compiler::new([own, vendored])?;
    compiler
        .include_imports(true)
        .include_source_info(false)
        .open_files(&roots)?;
    // The raw set keeps the custom options, which reading it into messages would drop.
    let raw = compiler.encode_file_descriptor_set();
    fs::write(out.join("all.fds"), &raw)?;

    let mut set = compiler.file_descriptor_set();
    set.file.retain(|file| !is_annotation_only(file.name()));
    let mut config = tonic_prost_build::Config::new();
    config
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .bytes(["."])
        .btree_map(["."])
        .disable_comments(["."])
        .include_file("all.rs");
    for name in READY {
        config.extern_path(
            format!(".google.protobuf.{name}"),
            format!("::pbjson_types::{name}"),
        );
    }
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .build_transport(false)
        .compile_fds_with_config(set.clone(), config)?;

    // Without the pruned files: their extensions have no place in a JSON mapping.
    pbjson_build::Builder::new()
        .register_descriptors(&set.encode_to_vec())?
        .ignore_unknown_fields()
        .btree_map(["."])
        .build(&OWN.map(|package| format!(".{package}")))?;
    append_json_mapping(&out)
}

/// Collects the names, relative to `root`, of all proto files below `folder`.
fn collect(folder: &Path, root: &Path, names: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, root, names)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            names.push(path.strip_prefix(root)?.to_path_buf());
        }
    }
    Ok(())
}

/// Files that hold only options for other files: nobody needs their types.
fn is_annotation_only(name: &str) -> bool {
    name == "google/protobuf/descriptor.proto"
        || name.starts_with("validate/")
        || [
            "udpa/annotations/",
            "xds/annotations/",
            "envoy/annotations/",
        ]
        .iter()
        .any(|folder| name.starts_with(folder))
}

/// Puts each package's JSON mapping into the package's module.
fn append_json_mapping(out: &Path) -> Result<(), Box<dyn Error>> {
    let mut mappings = BTreeMap::new();
    for entry in fs::read_dir(out)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if let Some(package) = name.strip_suffix(".serde.rs") {
            mappings.insert(package.to_owned(), fs::read_to_string(&path)?);
        }
    }
    for (package, mapping) in mappings {
        let path = out.join(format!("{package}.rs"));
        if !path.is_file() {
            continue; // a mapping that an earlier build left here
        }
        let text = fs::read_to_string(&path)?;
        fs::write(&path, format!("{text}\n{mapping}"))?;
    }
    Ok(())
}
