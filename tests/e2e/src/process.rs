//! One child process, its log, and its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// A running program with its own process group; dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    name: String,
    /// How it was started, so that it can be started again.
    command: Command,
    child: Child,
    log: PathBuf,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident memory in KiB.
    pub resident_kib: u64,
    /// User and system time.
    pub cpu: Duration,
}

impl Process {
    /// Starts a program, its output going to `<logs>/<name>.log`.
    ///
    /// # Errors
    /// The log cannot be made or the program cannot be started.
    pub fn start(name: &str, command: std::process::Command, logs: &Path) -> anyhow::Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write the log `{}`", log.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let mut command = Command::from(command);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share the log file")?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start `{program}`"))?;
        Ok(Self {
            name: name.to_owned(),
            command,
            child,
            log,
        })
    }

    /// The name given at the start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    fn pid(&self) -> Option<Pid> {
        self.child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// The state of the process cannot be read.
    pub fn exited(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot look at `{}`", self.name))
    }

    /// Ends it at once with SIGKILL, its children in the same group too.
    ///
    /// # Errors
    /// The end cannot be awaited.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.pid() {
            // An already empty group is what we want.
            let _gone = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        self.child
            .wait()
            .await
            .with_context(|| format!("cannot await the end of `{}`", self.name))?;
        Ok(())
    }

    /// Ends only the process itself with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// The end cannot be awaited.
    pub async fn crash(&mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.pid() {
            let _gone = rustix::process::kill_process(pid, Signal::KILL);
        }
        self.child
            .wait()
            .await
            .with_context(|| format!("cannot await the end of `{}`", self.name))?;
        Ok(())
    }

    /// Starts it again after its end, as it was started before.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = self
            .command
            .spawn()
            .with_context(|| format!("cannot start `{}` again", self.name))?;
        Ok(())
    }

    /// Ends only its children with SIGKILL, and returns how many there were.
    ///
    /// # Errors
    /// One of them cannot be killed.
    pub fn crash_children(&self) -> anyhow::Result<usize> {
        let children = self.children();
        for child in &children {
            let pid = i32::try_from(*child)
                .ok()
                .and_then(Pid::from_raw)
                .context("a process id is a positive number")?;
            match rustix::process::kill_process(pid, Signal::KILL) {
                // It ended by itself meanwhile.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => {
                    return Err(anyhow::Error::from(error)
                        .context(format!("cannot kill a child of `{}`", self.name)));
                }
            }
        }
        Ok(children.len())
    }

    /// Asks it to end with SIGTERM and waits.
    ///
    /// # Errors
    /// It does not end within `limit`, or not with status 0.
    pub async fn terminate(&mut self, limit: Duration) -> anyhow::Result<()> {
        if let Some(pid) = self.pid() {
            let _gone = rustix::process::kill_process(pid, Signal::TERM);
        }
        let status = tokio::time::timeout(limit, self.child.wait())
            .await
            .with_context(|| format!("`{}` did not end within {limit:?}", self.name))?
            .with_context(|| format!("cannot await the end of `{}`", self.name))?;
        anyhow::ensure!(status.success(), "`{}` ended with {status}", self.name);
        Ok(())
    }

    /// The process ids of its children.
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        self.id().map(children_of).unwrap_or_default()
    }

    /// Memory and time used by the process and its children, read from `/proc`.
    #[must_use]
    pub fn usage(&self) -> Vec<(String, Usage)> {
        let Some(id) = self.id() else {
            return Vec::new();
        };
        let mut found = vec![(self.name.clone(), usage_of(id))];
        for child in children_of(id) {
            let program =
                std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            found.push((
                format!("{} └ {}", self.name, program.trim()),
                usage_of(child),
            ));
        }
        found
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _gone = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

fn children_of(id: u32) -> Vec<u32> {
    std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

fn usage_of(id: u32) -> Usage {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let resident_kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The command name in parentheses may contain anything; the numbers follow the last one. utime and stime are the
    // 12th and 13th after it, in ticks of 10 ms.
    let ticks: u64 = stat
        .rsplit_once(')')
        .map(|(_, rest)| {
            rest.split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|field| field.parse::<u64>().ok())
                .sum()
        })
        .unwrap_or(0);
    Usage {
        resident_kib,
        cpu: Duration::from_millis(ticks * 10),
    }
}
