//! A workload for the multizone example: an HTTP service that says who answered and who asked, or a TCP service that
//! echoes lines with its name in front.
//!
//! It knows nothing of meshes: the sidecar beside it does the rest.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use clap::Parser;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Serves one workload until it is killed.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to answer with, e.g. `api`.
    #[arg(long)]
    name: String,
    /// The zone it runs in, for the answer only.
    #[arg(long)]
    zone: String,
    /// `version` in the answer, to tell two of a kind apart.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Echo lines over plain TCP instead of answering HTTP.
    #[arg(long)]
    tcp: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on `{}`", arguments.listen))?;
    if arguments.tcp {
        serve_tcp(&listener, &format!("{}@{}", arguments.name, arguments.zone)).await
    } else {
        let router = axum::Router::new()
            .fallback(answer)
            .with_state(std::sync::Arc::new(arguments));
        axum::serve(listener, router)
            .await
            .context("the HTTP service ended")
    }
}

/// Answers any request with who answered and what the sidecar told about the caller.
async fn answer(
    State(arguments): State<std::sync::Arc<Arguments>>,
    uri: Uri,
    headers: HeaderMap,
) -> Json<serde_json::Value> {
    let caller = headers
        .get("x-forwarded-client-cert")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    Json(serde_json::json!({
        "service": arguments.name,
        "zone": arguments.zone,
        "version": arguments.version,
        "path": uri.path(),
        "clientCertificate": caller,
    }))
}

async fn serve_tcp(listener: &TcpListener, banner: &str) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        let banner = banner.to_owned();
        tokio::spawn(async move {
            // A caller that goes away ends its own connection only.
            drop(echo(stream, &banner).await);
        });
    }
}

async fn echo(mut stream: TcpStream, banner: &str) -> std::io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        writer
            .write_all(format!("{banner}: {line}\n").as_bytes())
            .await?;
    }
    writer.shutdown().await
}
