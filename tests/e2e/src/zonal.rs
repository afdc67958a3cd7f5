//! The command-line client as a person uses it.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context as _;
use serde_json::Value;
use tokio::process::Command;

/// `zonal` against one control plane.
#[derive(Clone, Debug)]
pub struct Zonal {
    pub(crate) program: PathBuf,
    /// `https://…` of the control plane's REST API.
    pub address: String,
    /// The certificate to trust.
    pub ca: PathBuf,
}

impl Zonal {
    /// Runs `zonal <arguments>` and returns what it printed.
    ///
    /// # Errors
    /// It ends with another status than 0; the error has what it said.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let (succeeded, stdout, stderr) = self.run_any(arguments).await?;
        anyhow::ensure!(
            succeeded,
            "`zonal {}` failed: {}{}",
            arguments.join(" "),
            stderr,
            stdout
        );
        Ok(stdout)
    }

    /// Runs `zonal <arguments>`: whether it succeeded, what it printed, what it complained.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn run_any(&self, arguments: &[&str]) -> anyhow::Result<(bool, String, String)> {
        let output = Command::new(&self.program)
            .args(arguments)
            .env("ZONAL_ADDRESS", &self.address)
            .env("ZONAL_CA_FILE", &self.ca)
            .env_remove("ZONAL_CONTEXT")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run `zonal`")?;
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    }

    /// Runs `zonal <arguments> -o json` and reads the answer.
    ///
    /// # Errors
    /// It fails, or does not print JSON.
    pub async fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        let text = self.run(&arguments).await?;
        serde_json::from_str(&text)
            .with_context(|| format!("`zonal {}` printed no JSON: {text}", arguments.join(" ")))
    }
}
