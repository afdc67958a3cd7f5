//! Which path is served by whom.

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use zonal_model::{Kind, Scope};

use crate::call::Call;
use crate::problem::{Problem, plain};
use crate::resources::Place;
use crate::state::RestState;
use crate::{backup, batch, index, insight, layers, overview, receipts, resources, watch};

type Shared = Arc<RestState>;

/// The whole resource API. Token endpoints and inspection are merged in by the control plane that has them; they are
/// behind the same authentication when they are given to [`router`]'s result as part of `extra`.
pub fn router(state: RestState) -> Router {
    router_with(state, Router::new())
}

/// As [`router`], with further routes behind the same layers: they find the caller as a [`User`](crate::User) in the
/// request's extensions.
pub fn router_with(state: RestState, extra: Router) -> Router {
    let state = Arc::new(state);
    let mut short = Router::new()
        .route("/", get(handler(&state, index::root)))
        .route("/config", get(handler(&state, index::config)))
        .route("/who-am-i", get(handler(&state, index::who_am_i)))
        .route("/policies", get(handler(&state, index::policies)))
        .route("/_resources", get(handler(&state, index::kinds)))
        .route("/global-insight", get(handler(&state, insight::global)))
        .route("/global-insights", get(handler(&state, insight::counts)))
        .route("/_kri/{kri}", get(handler(&state, resources::by_kri)))
        .route("/_batch", post(async_handler(&state, batch::post)));
    for kind in Kind::ALL {
        short = add_kind(short, &state, *kind);
    }
    let short = short.layer(from_fn_with_state(Arc::clone(&state), layers::deadline));
    Router::new()
        .route("/_watch", get(async_handler(&state, watch::get)))
        .route("/_backup", get(handler(&state, backup::get)))
        .route(
            "/_receipts/{revision}",
            get(async_handler(&state, receipts::get)),
        )
        .merge(short)
        .merge(extra)
        .fallback(async || plain(StatusCode::NOT_FOUND, "404: Page Not Found"))
        .method_not_allowed_fallback(async || {
            plain(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed")
        })
        .layer(from_fn(layers::accept))
        .layer(from_fn_with_state(Arc::clone(&state), layers::authenticate))
        .layer(from_fn(layers::catch_panic))
}

fn add_kind(mut router: Router, state: &Shared, kind: Kind) -> Router {
    let descriptor = kind.descriptor();
    let mut paths = Vec::new();
    if !descriptor.path.is_empty() {
        paths.push(descriptor.path);
    }
    if kind == Kind::GlobalSecret {
        paths.push("global-secrets");
    }
    for path in paths {
        let one = match descriptor.scope {
            Scope::Global => format!("/{path}"),
            Scope::Mesh => {
                router = router.route(
                    &format!("/{path}"),
                    get(kind_handler(state, kind, resources::list_all)),
                );
                format!("/meshes/{{mesh}}/{path}")
            }
        };
        router = router
            .route(&one, get(kind_handler(state, kind, resources::list)))
            .route(
                &format!("{one}/{{name}}"),
                get(kind_handler(state, kind, resources::get))
                    .put(async_kind_handler(state, kind, resources::put))
                    .delete(async_kind_handler(state, kind, resources::delete)),
            );
        if kind.insight().is_some() {
            router = router
                .route(
                    &format!("{one}/_overview"),
                    get(kind_handler(state, kind, overview::list)),
                )
                .route(
                    &format!("{one}+insights"),
                    get(kind_handler(state, kind, overview::list)),
                )
                .route(
                    &format!("{one}/{{name}}/_overview"),
                    get(kind_handler(state, kind, overview::get)),
                )
                .route(
                    &format!("{one}+insights/{{name}}"),
                    get(kind_handler(state, kind, overview::get)),
                );
            if descriptor.scope == Scope::Mesh {
                let all = || get(kind_handler(state, kind, overview::list_all));
                router = router
                    .route(&format!("/{path}/_overview"), all())
                    .route(&format!("/{path}+insights"), all());
            }
        }
    }
    router
}

/// The resource that a call is about.
pub(crate) fn place(kind: Kind, call: &Call) -> Place {
    let mesh = match kind.descriptor().scope {
        Scope::Mesh => call.param("mesh"),
        Scope::Global => "",
    };
    Place {
        kind,
        mesh: mesh.to_owned(),
        name: call.param("name").to_owned(),
    }
}

type Answer = Result<Response, Problem>;

/// A handler that only looks.
fn handler(
    state: &Shared,
    run: fn(&RestState, &Call) -> Answer,
) -> impl Fn(axum::extract::Request) -> futures::future::BoxFuture<'static, Answer>
+ Clone
+ Send
+ Sync
+ 'static {
    let state = Arc::clone(state);
    move |request| {
        let state = Arc::clone(&state);
        Box::pin(async move { run(&state, &take_apart(request, &state).await) })
    }
}

fn kind_handler(
    state: &Shared,
    kind: Kind,
    run: fn(&RestState, Kind, &Call) -> Answer,
) -> impl Fn(axum::extract::Request) -> futures::future::BoxFuture<'static, Answer>
+ Clone
+ Send
+ Sync
+ 'static {
    let state = Arc::clone(state);
    move |request| {
        let state = Arc::clone(&state);
        Box::pin(async move { run(&state, kind, &take_apart(request, &state).await) })
    }
}

fn async_handler<F>(
    state: &Shared,
    run: fn(Shared, Call) -> F,
) -> impl Fn(axum::extract::Request) -> futures::future::BoxFuture<'static, Answer>
+ Clone
+ Send
+ Sync
+ 'static
where
    F: Future<Output = Answer> + Send + 'static,
{
    let state = Arc::clone(state);
    move |request| {
        let state = Arc::clone(&state);
        Box::pin(async move {
            let call = take_apart(request, &state).await;
            run(state, call).await
        })
    }
}

fn async_kind_handler<F>(
    state: &Shared,
    kind: Kind,
    run: fn(Shared, Kind, Call) -> F,
) -> impl Fn(axum::extract::Request) -> futures::future::BoxFuture<'static, Answer>
+ Clone
+ Send
+ Sync
+ 'static
where
    F: Future<Output = Answer> + Send + 'static,
{
    let state = Arc::clone(state);
    move |request| {
        let state = Arc::clone(&state);
        Box::pin(async move {
            let call = take_apart(request, &state).await;
            run(state, kind, call).await
        })
    }
}

async fn take_apart(request: axum::extract::Request, state: &Shared) -> Call {
    use axum::extract::FromRequest;
    match Call::from_request(request, state).await {
        Ok(call) => call,
        Err(never) => match never {},
    }
}
