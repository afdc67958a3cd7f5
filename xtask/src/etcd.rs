//! A real etcd for the tests that want one: started where there is a binary, ended with the tests.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::command;

/// A running etcd of our own.
pub(crate) struct Etcd {
    child: Child,
    folder: PathBuf,
    /// Where it listens, as `http://host:port`.
    pub(crate) endpoint: String,
}

impl Etcd {
    /// Starts one on free ports; `None`, said aloud, where the tests cannot have one.
    ///
    /// # Errors
    /// There is an etcd and it does not start.
    pub(crate) fn start() -> anyhow::Result<Option<Self>> {
        for (program, package) in [("etcd", "etcd-server"), ("protoc", "protobuf-compiler")] {
            if !command::exists(program, "--version") {
                command::say(&format!(
                    "skipped: tests against a real etcd (no `{program}` on the PATH; Debian has it in `{package}`)"
                ));
                return Ok(None);
            }
        }
        let (clients, peers) = (free_port()?, free_port()?);
        let endpoint = format!("http://127.0.0.1:{clients}");
        let peer = format!("http://127.0.0.1:{peers}");
        let folder = std::env::temp_dir().join(format!("zonal-etcd-{}", std::process::id()));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(&folder)
            .args([
                "--listen-client-urls",
                &endpoint,
                "--advertise-client-urls",
                &endpoint,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start etcd")?;
        Ok(Some(Self {
            child,
            folder,
            endpoint,
        }))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself; its folder goes in any case.
        let _ended = self.child.kill();
        let _status = self.child.wait();
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port is free")?;
    Ok(listener
        .local_addr()
        .context("the listener has no address")?
        .port())
}
