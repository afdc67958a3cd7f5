//! Waiting for a receipt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zonal_process::Clock;

use crate::arguments::{Format, Wait, Waiting};
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::output::Terminal;
use crate::receipt::{Condition, Judgement, Receipt};

/// The longest single question; a wait asks again until its own deadline.
const QUESTION_MAX: Duration = Duration::from_secs(30);
/// How much later than asked an answer may come.
const GRACE: Duration = Duration::from_secs(15);
/// Between two questions when the first came back early or not at all.
const PAUSE: Duration = Duration::from_millis(250);

/// How far a revision got when the wait ended.
#[derive(Debug)]
pub(crate) struct Waited {
    receipt: Receipt,
    /// The same as it was answered.
    answer: Value,
    end: Judgement,
}

/// A write and its wait, if there is one, told together.
#[derive(Debug)]
pub(crate) struct Written {
    pub started: Instant,
    pub revision: Option<u64>,
    pub epoch: Value,
    /// `{type, mesh, name, outcome}` each.
    pub resources: Vec<Value>,
    /// The same for people.
    pub lines: Vec<String>,
}

/// `zonal wait`.
pub(crate) async fn run(
    options: &Wait,
    client: &Client,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let clock = Arc::clone(terminal.clock());
    let waited = wait(
        client,
        &*clock,
        options.revision,
        &options.condition,
        options.timeout,
    )
    .await?;
    let answer = waited.receipt.with_durations(waited.answer.clone(), None);
    terminal.print_as(options.output.format, &answer, || {
        waited.receipt.table(None).render()
    })?;
    conclude(&waited, &options.condition, options.timeout, terminal)
}

/// Prints what was written, waits if that was asked, and prints the receipt.
pub(crate) async fn finish(
    written: Written,
    waiting: &Waiting,
    format: Format,
    client: &Client,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let for_people = matches!(format, Format::Table | Format::Wide);
    if for_people {
        for line in &written.lines {
            terminal.print(line)?;
        }
        if let Some(revision) = written.revision {
            terminal.print(&format!("revision {revision}"))?;
        }
        terminal.flush()?;
    }
    let mut whole = json!({
        "revision": written.revision,
        "epoch": written.epoch,
        "resources": written.resources,
        "receipt": null,
    });
    let Some(condition) = &waiting.wait else {
        if !for_people {
            terminal.print_as(format, &whole, String::new)?;
        }
        return Ok(Exit::Done);
    };
    let clock = Arc::clone(terminal.clock());
    let waited = match written.revision {
        Some(revision) => wait(client, &*clock, revision, condition, waiting.timeout).await,
        None => Err(without_revisions(client)),
    };
    let waited = match waited {
        Ok(waited) => waited,
        Err(mut failure) => {
            if !for_people {
                terminal.print_as(format, &whole, String::new)?;
            }
            failure.sentence = format!("the change is kept, but {}", failure.sentence);
            return Err(failure);
        }
    };
    let measured = Some(clock.now().saturating_duration_since(written.started));
    if for_people {
        if !waited.receipt.zones.is_empty() {
            terminal.print(waited.receipt.table(measured).render().trim_end())?;
        }
    } else if let Some(receipt) = whole.get_mut("receipt") {
        *receipt = waited
            .receipt
            .with_durations(waited.answer.clone(), measured);
        terminal.print_as(format, &whole, String::new)?;
    }
    conclude(&waited, condition, waiting.timeout, terminal)
}

/// The failure of waiting at a control plane of another make.
pub(crate) fn without_revisions(client: &Client) -> Failure {
    Failure::new(format!(
        "the control plane at `{}` has no receipts to wait for",
        client.url()
    ))
    .hint("leave out `--wait`")
}

/// Says how the wait ended.
fn conclude(
    waited: &Waited,
    condition: &Condition,
    timeout: Duration,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let Waited { receipt, end, .. } = waited;
    let revision = receipt.revision;
    let failure = match end {
        Judgement::Met => {
            for zone in receipt.away() {
                terminal.note(&format!(
                    "note: zone `{zone}` is away; it gets revision {revision} when it returns"
                ));
            }
            return Ok(Exit::Done);
        }
        Judgement::Pending => Failure::new(format!(
            "revision {revision} is not in use as wanted after {}s",
            timeout.as_secs_f64()
        ))
        .hint(format!(
            "it stays kept and goes on spreading: `zonal wait {revision} --for {}`",
            condition.parameter()
        ))
        .exit(Exit::TimedOut),
        Judgement::Lost => Failure::new(format!("revision {revision} is refused"))
            .hint("correct the resource and apply it again; who refuses keeps using what it had"),
        Judgement::NoSuchZone => Failure::new(format!("nobody can tell about revision {revision}")),
    };
    Err(failure.details(receipt.missing(condition)))
}

/// Asks until the condition is decided, or time is up. A control plane that restarts meanwhile is asked again.
async fn wait(
    client: &Client,
    clock: &dyn Clock,
    revision: u64,
    condition: &Condition,
    timeout: Duration,
) -> Result<Waited, Failure> {
    // A timeout beyond what the clock can say is none.
    let deadline = clock.now().checked_add(timeout);
    let revision = revision.to_string();
    loop {
        let now = clock.now();
        let left = deadline.map_or(QUESTION_MAX, |deadline| {
            deadline.saturating_duration_since(now)
        });
        let question = left.min(QUESTION_MAX);
        let call = Call::get(["_receipts", revision.as_str()])
            .query("wait", condition.parameter())
            .query("timeout", format!("{}ms", question.as_millis()))
            .timeout(question + GRACE);
        let over = |clock: &dyn Clock| deadline.is_some_and(|deadline| clock.now() >= deadline);
        match client.send(call).await {
            Ok(answer) if answer.is_success() => {
                let waited = read(client, &answer.text, condition)?;
                if waited.end != Judgement::Pending || over(clock) {
                    return Ok(waited);
                }
            }
            Ok(answer) if answer.status == 503 => {
                if over(clock) {
                    return Err(client.refused(&answer).exit(Exit::TimedOut));
                }
            }
            Ok(answer) if answer.status == 404 && answer.value().is_none() => {
                return Err(without_revisions(client));
            }
            Ok(answer) => return Err(client.refused(&answer)),
            Err(failure) => {
                if over(clock) {
                    return Err(failure.exit(Exit::TimedOut));
                }
            }
        }
        if clock.now() < now + question {
            clock.sleep_until(Some(clock.now() + PAUSE)).await;
        }
    }
}

fn read(client: &Client, text: &str, condition: &Condition) -> Result<Waited, Failure> {
    let cannot = |error: serde_json::Error| {
        Failure::new(format!(
            "the receipt of `{}` cannot be read: {error}",
            client.url()
        ))
    };
    let answer: Value = serde_json::from_str(text).map_err(cannot)?;
    let receipt: Receipt = serde_json::from_value(answer.clone()).map_err(cannot)?;
    let end = condition.judge(&receipt);
    Ok(Waited {
        receipt,
        answer,
        end,
    })
}
