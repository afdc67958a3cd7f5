//! Routes of an outbound listener: MeshHTTPRoute with the timeouts, retries and hash policies that hold for each.

use kds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use kds_proto::envoy::config::route::v3::{Route, RouteAction, route::Action};
use zonal_catalogue::Protocol;
use zonal_model::{Kind, Kri};
use zonal_policy::conf::{Filter, TimeoutConf};
use zonal_policy::routes::{HttpRoute, mirror_backend};

use crate::balance::Balance;
use crate::confs::Timeouts;
use crate::envoy::routes::{self, Half};
use crate::envoy::{duration, optional_duration, percent};
use crate::outbound::{self, Destination};
use crate::retry;
use crate::view::ProxyView;

/// Makes the routes of one listener.
pub(crate) struct Routing<'r, 'a> {
    view: &'r ProxyView<'a>,
    destination: &'r Destination<'a>,
    used: &'r mut Vec<Destination<'a>>,
}

impl<'r, 'a> Routing<'r, 'a> {
    pub(crate) fn new(
        view: &'r ProxyView<'a>,
        destination: &'r Destination<'a>,
        used: &'r mut Vec<Destination<'a>>,
    ) -> Self {
        Self {
            view,
            destination,
            used,
        }
    }

    /// The Envoy routes of one route: one or two, or twice as many where part of the requests has to fail.
    pub(crate) fn routes(&mut self, route: &HttpRoute) -> Vec<Route> {
        let shares = outbound::shares(
            self.view,
            self.destination,
            route.backends.clone(),
            self.used,
        );
        let to_external = route
            .backends
            .iter()
            .any(|backend| backend.kri.kind == Kind::MeshExternalService);
        let mut made = Vec::new();
        for (half, matched) in routes::matches(&route.matches) {
            let plain = Route {
                name: route.name.to_string(),
                r#match: Some(matched),
                ..Route::default()
            };
            if route.redirects() {
                let forwarding = routes::forward(&shares, to_external);
                made.push(self.filtered(plain, forwarding, route, half));
                continue;
            }
            if route.all_unresolved || shares.is_empty() {
                let mut failing = Route {
                    action: Some(routes::answer(500)),
                    ..plain
                };
                modify_headers(&mut failing, &route.filters);
                made.push(failing);
                continue;
            }
            if route.unresolved_weight > 0 {
                made.push(failing_share(&plain, route, &shares));
            }
            let forwarding = routes::forward(&shares, to_external);
            made.push(self.filtered(plain, forwarding, route, half));
        }
        made
    }

    fn filtered(
        &mut self,
        mut route: Route,
        mut action: RouteAction,
        of: &HttpRoute,
        half: Half,
    ) -> Route {
        self.set_limits(&mut action, of.origin.as_ref());
        let mut redirect = None;
        for filter in &of.filters {
            match filter {
                Filter::RequestHeaderModifier { modifier } => {
                    routes::modify_request(&mut route, modifier);
                }
                Filter::ResponseHeaderModifier { modifier } => {
                    routes::modify_response(&mut route, modifier);
                }
                Filter::RequestRedirect { redirect: conf } => {
                    redirect = Some(routes::redirect(conf, half));
                }
                // A redirected request goes nowhere from here, so there is nothing to rewrite or to copy.
                Filter::UrlRewrite { rewrite } => routes::rewrite(&mut action, rewrite, half),
                Filter::RequestMirror { mirror } => {
                    let origin = of.origin.as_ref().unwrap_or(&self.destination.kri);
                    let Some(copy) = mirror_backend(&mirror.backend_ref, self.view.targets, origin)
                        .and_then(|backend| {
                            outbound::resolve(self.view, self.destination, &backend.kri)
                        })
                    else {
                        continue;
                    };
                    let percentage = mirror
                        .percentage
                        .as_ref()
                        .and_then(|text| text.parse().ok());
                    routes::mirror(&mut action, &copy.cluster, percentage);
                    self.used.push(copy);
                }
            }
        }
        route.action = Some(match redirect {
            Some(redirect) => Action::Redirect(redirect),
            None => Action::Route(action),
        });
        route
    }

    /// Timeouts, retries and hash policies: the service's, and over them what is said about the route itself.
    fn set_limits(&self, action: &mut RouteAction, origin: Option<&Kri>) {
        let kri = &self.destination.kri;
        let policies = self.view.policies;
        let timeouts = Timeouts::of(&policies.timeout(kri, None));
        action.timeout = Some(duration(timeouts.request));
        action.idle_timeout = Some(duration(timeouts.stream_idle));
        if let Some(origin) = origin {
            let own: TimeoutConf = policies.timeout(kri, Some(origin));
            action.timeout = Some(duration(Timeouts::of(&own).request));
            if let Some(idle) = own.http.and_then(|http| http.stream_idle_timeout) {
                action.idle_timeout = optional_duration(Some(idle));
            }
        }
        let retry = |route| {
            let conf = policies.retry(kri, route);
            match self.destination.port.protocol {
                Protocol::Http => conf.http.as_ref().and_then(retry::http),
                Protocol::Grpc => conf.grpc.as_ref().and_then(retry::grpc),
                Protocol::Tcp | Protocol::Http2 => None,
            }
        };
        action.retry_policy = origin
            .and_then(|origin| retry(Some(origin)))
            .or_else(|| retry(None));
        let balance: Balance = policies
            .outbound(Kind::MeshLoadBalancingStrategy, kri, origin)
            .unwrap_or_default();
        action.hash_policy = balance.hash_policies();
    }
}

fn modify_headers(route: &mut Route, filters: &[Filter]) {
    for filter in filters {
        match filter {
            Filter::RequestHeaderModifier { modifier } => routes::modify_request(route, modifier),
            Filter::ResponseHeaderModifier { modifier } => routes::modify_response(route, modifier),
            Filter::RequestRedirect { .. }
            | Filter::UrlRewrite { .. }
            | Filter::RequestMirror { .. } => {}
        }
    }
}

/// The copy of a route that fails as many requests as go to backends that do not exist.
fn failing_share(plain: &Route, of: &HttpRoute, shares: &[crate::envoy::listener::Share]) -> Route {
    let missing = u32::try_from(of.unresolved_weight).unwrap_or(u32::MAX);
    let present = shares
        .iter()
        .fold(0_u32, |sum, share| sum.saturating_add(share.weight));
    let mut failing = plain.clone();
    if let Some(matched) = &mut failing.r#match {
        let fraction = percent::share(missing, missing.saturating_add(present));
        matched.runtime_fraction = Some(percent::runtime(fraction));
    }
    failing.action = Some(routes::answer(500));
    modify_headers(&mut failing, &of.filters);
    failing
}

/// The labels of the caller as a header, which fault injection elsewhere in the mesh matches; nothing where no such
/// policy exists.
pub(crate) fn headers_for_faults(view: &ProxyView<'_>) -> Vec<HeaderValueOption> {
    if !view.faults_exist {
        return Vec::new();
    }
    vec![labels_header(&view.dataplane.labels)]
}

/// A proxy's labels as a header.
pub(crate) fn labels_header(labels: &zonal_model::Labels) -> HeaderValueOption {
    let value: String = labels
        .iter()
        .map(|(key, value)| format!("&{key}={value}&"))
        .collect();
    HeaderValueOption {
        header: Some(HeaderValue {
            key: "x-kuma-tags".to_owned(),
            value,
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    }
}
