//! The vendored part of the Envoy API: which files, from where, and how their names are written.
//!
//! ```text
//! envoy-types/proto/{data-plane-api,xds,googleapis,…}  ──closure of START──▶  kds-proto/proto/envoy/
//! ```
//!
//! The package is named in our manifest as an optional dependency that nobody switches on, so Cargo fetches
//! it, `cargo metadata` says where it lies, and nobody compiles it.

#![expect(clippy::print_stdout, reason = "the output of a command-line chore")]

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

/// The package whose `proto` folder is the source.
const PACKAGE: &str = "envoy-types";

/// The folder of the copies, seen from the workspace root.
const DESTINATION: &str = "kds-proto/proto/envoy";

/// Include roots inside the package's `proto` folder, searched in this order.
const ROOTS: [&str; 8] = [
    "data-plane-api",
    "xds",
    "googleapis",
    "protoc-gen-validate",
    "client_model",
    "cel-spec/proto",
    "opentelemetry-proto",
    "ratelimit",
];

/// Folders whose files are wanted for themselves; what they import follows. `envoy/` and `/v3` are left out.
const START: &str = "
    admin
    config/accesslog config/bootstrap config/cluster config/core config/endpoint config/grpc_credential
    config/listener config/metrics config/overload config/ratelimit config/rbac config/route config/trace
    data/accesslog data/core
    service/accesslog service/cluster service/discovery service/endpoint service/health service/listener
    service/load_stats service/metrics service/ratelimit service/route service/runtime service/secret service/status
    type type/matcher type/tracing
    extensions/access_loggers/file extensions/access_loggers/filters/cel extensions/access_loggers/grpc
    extensions/access_loggers/open_telemetry extensions/access_loggers/stream
    extensions/bootstrap/internal_listener
    extensions/common/matching
    extensions/filters/common/fault extensions/filters/common/matcher/action
    extensions/filters/common/set_filter_state
    extensions/filters/http/buffer extensions/filters/http/cors extensions/filters/http/dynamic_modules
    extensions/filters/http/ext_authz extensions/filters/http/fault extensions/filters/http/grpc_stats
    extensions/filters/http/header_mutation extensions/filters/http/health_check
    extensions/filters/http/local_ratelimit extensions/filters/http/lua extensions/filters/http/ratelimit
    extensions/filters/http/rbac extensions/filters/http/router extensions/filters/http/set_filter_state
    extensions/filters/http/tap extensions/filters/http/upstream_codec
    extensions/filters/listener/http_inspector extensions/filters/listener/original_dst
    extensions/filters/listener/proxy_protocol extensions/filters/listener/tls_inspector
    extensions/filters/network/connection_limit extensions/filters/network/direct_response
    extensions/filters/network/echo extensions/filters/network/http_connection_manager
    extensions/filters/network/local_ratelimit extensions/filters/network/rbac
    extensions/filters/network/set_filter_state extensions/filters/network/sni_cluster
    extensions/filters/network/tcp_proxy
    extensions/filters/udp/dns_filter
    extensions/formatter/req_without_query
    extensions/health_check/event_sinks/file
    extensions/http/original_ip_detection/xff
    extensions/internal_redirect/previous_routes
    extensions/key_value/file_based
    extensions/load_balancing_policies/least_request extensions/load_balancing_policies/maglev
    extensions/load_balancing_policies/random extensions/load_balancing_policies/ring_hash
    extensions/load_balancing_policies/round_robin extensions/load_balancing_policies/subset
    extensions/load_balancing_policies/wrr_locality
    extensions/matching/common_inputs/network extensions/matching/common_inputs/ssl
    extensions/regex_engines
    extensions/request_id/uuid
    extensions/resource_monitors/cgroup_memory extensions/resource_monitors/downstream_connections
    extensions/resource_monitors/fixed_heap
    extensions/retry/host/omit_host_metadata extensions/retry/host/previous_hosts
    extensions/retry/priority/previous_priorities
    extensions/tracers/opentelemetry/resource_detectors extensions/tracers/opentelemetry/samplers
    extensions/transport_sockets/internal_upstream extensions/transport_sockets/raw_buffer
    extensions/transport_sockets/tls
    extensions/upstreams/http
    extensions/wasm
";

/// Wanted folders outside `envoy/`, as they stand in an import.
const START_OTHER: [&str; 2] = ["xds/core/v3", "xds/type/matcher/v3"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Changes nothing; fails with a list when the copies differ from their source.
    #[arg(long)]
    check: bool,
}

/// What `--check` does, for other chores.
pub(crate) fn check() -> Result<()> {
    run(&Args { check: true })
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = workspace_root()?;
    let Some(package) = find_package(&workspace, args.check)? else {
        println!("protos: skipped, package {PACKAGE} not present; `cargo fetch` brings it");
        return Ok(());
    };
    let wanted = wanted_files(&package)?;
    let destination = workspace.join(DESTINATION);
    let present = read_tree(&destination)?;
    let differences = differences(&present, &wanted);
    if args.check {
        if differences.is_empty() {
            println!(
                "protos: {} files, as in {PACKAGE} {}",
                wanted.len(),
                package.version
            );
            return Ok(());
        }
        for line in &differences {
            println!("{line}");
        }
        bail!(
            "{DESTINATION} differs from its source in {} files; run `cargo xtask protos`",
            differences.len()
        );
    }
    for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
        fs::remove_file(destination.join(name))
            .with_context(|| format!("could not remove {name}"))?;
    }
    for (name, text) in wanted
        .iter()
        .filter(|(name, text)| present.get(*name) != Some(*text))
    {
        let path = destination.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("could not create {}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    }
    println!(
        "protos: {} files, {} changed",
        wanted.len(),
        differences.len()
    );
    Ok(())
}

/// Where the source lies and which version it is.
struct Package {
    folder: PathBuf,
    version: String,
}

impl Package {
    fn protos(&self) -> PathBuf {
        self.folder.join("proto")
    }
}

fn workspace_root() -> Result<PathBuf> {
    let room = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    room.parent()
        .map(Path::to_path_buf)
        .context("the room of the chores lies inside the workspace")
}

/// Finds the source package. `None`: it is not on this machine, and asking for it was not allowed.
fn find_package(workspace: &Path, offline: bool) -> Result<Option<Package>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace)
        .args(["metadata", "--format-version", "1", "--all-features"]);
    if offline {
        command.args(["--offline", "--locked"]);
    }
    let output = command.output().context("could not start cargo")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        if offline {
            println!("protos: cargo metadata said: {}", why.trim());
            return Ok(None);
        }
        bail!("cargo metadata failed: {}", why.trim());
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata is no JSON")?;
    let packages = metadata
        .get("packages")
        .and_then(|packages| packages.as_array());
    let package = packages
        .into_iter()
        .flatten()
        .find(|package| package.get("name").is_some_and(|name| name == PACKAGE));
    let Some(package) = package else {
        return Ok(None);
    };
    let text = |member: &str| {
        package
            .get(member)
            .and_then(|value| value.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let manifest = PathBuf::from(text("manifest_path"));
    let found = manifest.parent().map(|folder| Package {
        folder: folder.to_path_buf(),
        version: text("version"),
    });
    Ok(found.filter(|package| package.protos().is_dir()))
}

/// Every file the destination should have: name inside it → text.
fn wanted_files(package: &Package) -> Result<BTreeMap<String, String>> {
    let roots: Vec<PathBuf> = ROOTS
        .iter()
        .map(|root| package.protos().join(root))
        .collect();
    let mut queue: VecDeque<String> = start_files(&roots)?.into();
    let mut files = BTreeMap::new();
    while let Some(name) = queue.pop_front() {
        if files.contains_key(&name) {
            continue;
        }
        let path = roots
            .iter()
            .map(|root| root.join(&name))
            .find(|path| path.is_file());
        let path = path.with_context(|| format!("{name} is imported but is in no include root"))?;
        let text = fs::read_to_string(&path)
            .with_context(|| format!("could not read {}", path.display()))?;
        queue.extend(imports(&text).filter(|import| !import.starts_with("google/protobuf/")));
        let text = if name.starts_with("envoy/extensions/") {
            qualify(&text)
        } else {
            text
        };
        files.insert(name, text);
    }
    let protos = files.len();
    let licence = package.folder.join("LICENSE");
    let licence = fs::read_to_string(&licence)
        .with_context(|| format!("could not read {}", licence.display()))?;
    files.insert("LICENSE".to_owned(), licence);
    files.insert("README.md".to_owned(), readme(&package.version, protos));
    Ok(files)
}

fn start_files(roots: &[PathBuf]) -> Result<Vec<String>> {
    let folders = START
        .split_whitespace()
        .map(|folder| format!("envoy/{folder}/v3"));
    let folders = folders.chain(START_OTHER.iter().map(ToString::to_string));
    let mut files = Vec::new();
    for folder in folders {
        let found = roots
            .iter()
            .map(|root| root.join(&folder))
            .find(|path| path.is_dir());
        let path = found.with_context(|| format!("no folder {folder} in the package"))?;
        for entry in
            fs::read_dir(&path).with_context(|| format!("could not read {}", path.display()))?
        {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".proto") {
                files.push(format!("{folder}/{name}"));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The names a file imports.
fn imports(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix("import ")?;
        let (_, rest) = rest.split_once('"')?;
        rest.split_once('"').map(|(name, _)| name.to_owned())
    })
}

/// Packages under `envoy.extensions.common` that files name without their first words.
const COMMON: [&str; 6] = [
    "dynamic_forward_proxy",
    "aws",
    "async_files",
    "tap",
    "ratelimit",
    "matching",
];

/// Writes relative names in full.
///
/// The compiler that the build script uses looks a relative name up in every file opened so far. From inside
/// `envoy.extensions…`, `config.core.v3.Address` then means a name under the package
/// `envoy.extensions.config`, which some other file has opened, and is not found there.
fn qualify(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 512);
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with("//") {
            out.push_str(line);
            continue;
        }
        let mut rest = line;
        let mut at_name_start = true;
        while let Some(first) = rest.chars().next() {
            if at_name_start {
                if starts_config_type(rest) {
                    out.push_str(".envoy.");
                } else if starts_common_type(rest) {
                    out.push_str(".envoy.extensions.");
                }
            }
            at_name_start = matches!(first, ' ' | '<' | ',' | '(');
            out.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        }
    }
    out
}

/// Whether the text begins like `config.core.v3.Address`.
fn starts_config_type(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("config.") else {
        return false;
    };
    let mut after_version = false;
    for word in rest.split('.') {
        if after_version {
            return word.starts_with(|c: char| c.is_ascii_uppercase());
        }
        let is_plain = !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_plain {
            return false;
        }
        after_version = word
            .strip_prefix('v')
            .is_some_and(|digits| digits.starts_with(|c: char| c.is_ascii_digit()));
    }
    false
}

/// Whether the text begins like `common.matching.v3.`.
fn starts_common_type(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("common.") else {
        return false;
    };
    COMMON.iter().any(|package| {
        rest.strip_prefix(package)
            .is_some_and(|rest| rest.starts_with(".v3."))
    })
}

fn readme(version: &str, files: usize) -> String {
    format!(
        "# Envoy API files\n\n\
         {files} `.proto` files of the Envoy API and of what it imports, copied from the `proto` folder of the package\n\
         `{PACKAGE}` {version} (Apache License 2.0, see `LICENSE`). The files carry their own copyright notes.\n\n\
         Do not edit them. `cargo xtask protos` refreshes this folder, `cargo xtask protos --check` compares it with its\n\
         source. What is copied is the list `START` in `xtask/src/protos.rs`, and everything those files import except\n\
         `google/protobuf`, which the compiler brings itself.\n\n\
         One thing differs from the source: in `envoy/extensions/**`, relative names that begin with `config.` or\n\
         `common.` are written in full, because the compiler that our build script uses would look for them in the wrong\n\
         package.\n"
    )
}

/// Every file below a folder: name inside it, with `/` → text.
fn read_tree(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        for entry in
            fs::read_dir(&folder).with_context(|| format!("could not read {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(root).context("a file below the folder")?;
            let name = name
                .components()
                .map(|part| part.as_os_str().to_string_lossy())
                .collect::<Vec<_>>()
                .join("/");
            let bytes =
                fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
            files.insert(name, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Ok(files)
}

/// One line per file that would change.
fn differences(
    present: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> Vec<String> {
    let gone = present
        .keys()
        .filter(|name| !wanted.contains_key(*name))
        .map(|name| format!("only here: {name}"));
    let other = wanted
        .iter()
        .filter_map(|(name, text)| match present.get(name) {
            None => Some(format!("missing:   {name}")),
            Some(here) if here != text => Some(format!("differs:   {name}")),
            Some(_) => None,
        });
    gone.chain(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, want: &str) {
        assert_eq!(qualify(line), want);
    }

    #[test]
    fn relative_names_are_written_in_full() {
        check(
            "  config.core.v3.Address address = 1;\n",
            "  .envoy.config.core.v3.Address address = 1;\n",
        );
        check(
            "  map<string, config.core.v3.Metadata> m = 1;",
            "  map<string, .envoy.config.core.v3.Metadata> m = 1;",
        );
        check(
            "  repeated common.matching.v3.X x = 1;",
            "  repeated .envoy.extensions.common.matching.v3.X x = 1;",
        );
    }

    #[test]
    fn other_names_stay() {
        for line in [
            "package envoy.extensions.filters.network.tcp_proxy.v3;",
            "import \"envoy/config/core/v3/address.proto\";",
            "  // config.core.v3.Address in a comment",
            "  .envoy.config.core.v3.Address address = 1;",
            "  type.v3.Percent percent = 1;",
            "  common.other.v3.X x = 1;",
            "  string config = 1;",
        ] {
            check(line, line);
        }
    }

    #[test]
    fn imports_are_found() {
        let text = "syntax = \"proto3\";\nimport \"a/b.proto\";\nimport public \"c.proto\";\n// import nothing\n";
        assert_eq!(imports(text).collect::<Vec<_>>(), ["a/b.proto", "c.proto"]);
    }

    #[test]
    fn a_stale_folder_is_described() {
        let tree = |files: &[(&str, &str)]| {
            files
                .iter()
                .map(|(n, t)| (n.to_string(), t.to_string()))
                .collect()
        };
        let present = tree(&[("a", "1"), ("b", "1"), ("old", "1")]);
        let wanted = tree(&[("a", "1"), ("b", "2"), ("new", "1")]);
        assert_eq!(
            differences(&present, &wanted),
            ["only here: old", "differs:   b", "missing:   new"]
        );
    }
}
