//! The name of a proxy.

use std::fmt;
use std::sync::Arc;

/// Mesh and name of a proxy's Dataplane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyId {
    /// The mesh.
    pub mesh: Arc<str>,
    /// The Dataplane's name.
    pub name: Arc<str>,
}

impl ProxyId {
    /// Puts the two parts together.
    pub fn new(mesh: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self {
            mesh: mesh.as_ref().into(),
            name: name.as_ref().into(),
        }
    }
}

impl fmt::Display for ProxyId {
    /// `<mesh>.<name>`, as in the id of an xDS node.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.mesh, self.name)
    }
}
