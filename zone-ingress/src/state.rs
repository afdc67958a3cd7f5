//! The file from which a restart without a control plane serves at once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tracing::{info, warn};
use zonal_delta::{Name, Version};

use crate::feed::{Feed, Saved};
use crate::hello::Sni;
use crate::routes::{Placed, Route};
use crate::times::Times;
use crate::wire::Type;

/// The shape of the file. A file of another shape is put aside, not guessed at.
const FORMAT: u32 = 1;

/// Changes that come within this time are written once.
const COALESCE: Duration = Duration::from_millis(5);

/// What is worth writing at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub saved: Saved,
    /// When the control plane last vouched for it.
    pub current_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    format: u32,
    /// `<mesh>.<name>`: the proxy whose routes these are.
    node: String,
    current_at: Option<Timestamp>,
    resources: Vec<FileResource>,
    endpoints: Vec<FileEndpoints>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileResource {
    #[serde(rename = "type")]
    kind: FileType,
    name: String,
    version: String,
    routes: Vec<FileRoute>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileRoute {
    sni: String,
    cluster: Arc<str>,
    service: Arc<str>,
    mesh: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle_timeout_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileEndpoints {
    cluster: Arc<str>,
    #[serde(rename = "type")]
    kind: FileType,
    version: String,
    endpoints: Vec<Placed>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum FileType {
    Route,
    Listener,
    Cluster,
    Endpoints,
}

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read the state file `{}`", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the state file `{}` is broken: {reason}", .path.display())]
    Broken { path: PathBuf, reason: String },
}

/// What a state file gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// There is no file, as usual at the first start.
    Nothing,
    /// The feed holds what an earlier run knew, last vouched for at that moment if ever.
    Routes { current_at: Option<Timestamp> },
}

/// Reads the file into an empty feed.
///
/// # Errors
/// When the file cannot be read or used. The feed is empty then; a broken file was put aside.
pub fn load(path: &Path, node: &str, feed: &mut Feed) -> Result<Loaded, StateError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Nothing),
        Err(cause) => {
            return Err(StateError::Read {
                path: path.to_owned(),
                cause,
            });
        }
    };
    let broken = |reason: String| {
        put_aside(path);
        StateError::Broken {
            path: path.to_owned(),
            reason,
        }
    };
    let file: File = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if file.format != FORMAT {
        return Err(broken(format!(
            "its format is {}, this program writes {FORMAT}",
            file.format
        )));
    }
    if file.node != node {
        return Err(broken(format!(
            "it belongs to `{}`, this is `{node}`",
            file.node
        )));
    }
    let mut resources = Vec::new();
    for resource in file.resources {
        let routes = resource
            .routes
            .into_iter()
            .map(FileRoute::parse)
            .collect::<Option<_>>();
        let routes =
            routes.ok_or_else(|| broken(format!("`{}`: no server name", resource.name)))?;
        let source = (resource.kind.into(), Name::from(resource.name));
        resources.push((source, Version::from(resource.version), routes));
    }
    let assignments = file.endpoints.into_iter().map(|endpoints| {
        let version = Version::from(endpoints.version);
        (
            endpoints.cluster,
            endpoints.kind.into(),
            version,
            endpoints.endpoints,
        )
    });
    feed.restore(resources, assignments);
    Ok(Loaded::Routes {
        current_at: file.current_at,
    })
}

fn put_aside(path: &Path) {
    let aside = path.with_extension("broken");
    match std::fs::rename(path, &aside) {
        Ok(()) => warn!(file = %aside.display(), "the state file was put aside"),
        Err(error) => {
            warn!(file = %path.display(), %error, "the state file could not be put aside");
        }
    }
}

/// Writes the newest snapshot whenever it changes, until nobody can change it any more.
///
/// Writes never pile up: what changes during a write is part of the next one.
pub async fn keep(
    path: PathBuf,
    node: String,
    mut newest: watch::Receiver<Snapshot>,
    times: Times,
) {
    let mut failing = false;
    while newest.changed().await.is_ok() {
        tokio::time::sleep(COALESCE).await;
        let snapshot = newest.borrow_and_update().clone();
        let started = times.now();
        match write(&path, &node, &snapshot).await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    info!(file = %path.display(), "the state file is written again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(
                        file = %path.display(), %error,
                        hint = "a restart without the control plane would serve older routes",
                        "the state file cannot be written",
                    );
                }
            }
        }
        // Large states under steady change use a fifth of the disk's time at most.
        tokio::time::sleep(times.now().saturating_sub(started) * 4).await;
    }
}

/// Replaces the file as one step: after a crash it is the old one or the new one.
async fn write(path: &Path, node: &str, snapshot: &Snapshot) -> io::Result<()> {
    let text = serde_json::to_vec(&File::of(node, snapshot))?;
    let beside = path.with_extension("new");
    let mut file = tokio::fs::File::create(&beside).await?;
    file.write_all(&text).await?;
    file.sync_all().await?;
    drop(file);
    tokio::fs::rename(&beside, path).await?;
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        tokio::fs::File::open(folder).await?.sync_all().await?;
    }
    Ok(())
}

impl File {
    fn of(node: &str, snapshot: &Snapshot) -> Self {
        let resources = snapshot
            .saved
            .resources
            .iter()
            .map(|((kind, name), resource)| {
                let routes = resource.routes.iter().map(|route| FileRoute::of(route));
                FileResource {
                    kind: (*kind).into(),
                    name: name.to_string(),
                    version: resource.version.to_string(),
                    routes: routes.collect(),
                }
            });
        let endpoints = snapshot
            .saved
            .assignments
            .iter()
            .filter_map(|(cluster, assignment)| {
                Some(FileEndpoints {
                    cluster: Arc::clone(cluster),
                    kind: assignment.source.into(),
                    version: assignment.version.as_ref()?.to_string(),
                    endpoints: assignment
                        .endpoints
                        .iter()
                        .map(|e| e.placed.clone())
                        .collect(),
                })
            });
        Self {
            format: FORMAT,
            node: node.to_owned(),
            current_at: snapshot.current_at,
            resources: resources.collect(),
            endpoints: endpoints.collect(),
        }
    }
}

impl FileRoute {
    fn of(route: &Route) -> Self {
        let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self {
            sni: route.sni.to_string(),
            cluster: Arc::clone(&route.cluster),
            service: Arc::clone(&route.service),
            mesh: Arc::clone(&route.mesh),
            idle_timeout_ms: route.idle_timeout.map(millis),
        }
    }

    fn parse(self) -> Option<Route> {
        Some(Route {
            sni: Sni::new(&self.sni)?,
            cluster: self.cluster,
            service: self.service,
            mesh: self.mesh,
            idle_timeout: self.idle_timeout_ms.map(Duration::from_millis),
        })
    }
}

impl From<Type> for FileType {
    fn from(kind: Type) -> Self {
        match kind {
            Type::Route => Self::Route,
            Type::Listener => Self::Listener,
            Type::Cluster => Self::Cluster,
            Type::Endpoints => Self::Endpoints,
        }
    }
}

impl From<FileType> for Type {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::Route => Self::Route,
            FileType::Listener => Self::Listener,
            FileType::Cluster => Self::Cluster,
            FileType::Endpoints => Self::Endpoints,
        }
    }
}
