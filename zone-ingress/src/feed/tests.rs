use kds_proto::envoy::config::core::v3::address::Address as AddressKind;
use kds_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use kds_proto::envoy::config::core::v3::{Address, SocketAddress};
use kds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use kds_proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use kds_proto::envoy::config::listener::v3::filter::ConfigType;
use kds_proto::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener};
use kds_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use kds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use kds_proto::zonal::ingress::v1::Route as WireRoute;
use prost::Message;
use zonal_delta::{Nonce, Upsert};

use super::*;

fn batch(kind: Type, upserts: Vec<(&str, Vec<u8>)>, removals: &[&str]) -> Batch {
    Batch {
        type_url: kind.url().into(),
        nonce: Nonce::from("1"),
        upserts: upserts
            .into_iter()
            .map(|(name, body)| Upsert {
                name: name.into(),
                version: "v1".into(),
                body_type: None,
                body: body.into(),
            })
            .collect(),
        removals: removals.iter().map(|name| Name::from(*name)).collect(),
        complete: None,
    }
}

fn route(sni: &str, cluster: &str) -> Vec<u8> {
    WireRoute {
        sni: sni.into(),
        cluster: cluster.into(),
        ..WireRoute::default()
    }
    .encode_to_vec()
}

fn endpoints(cluster: &str, ports: &[u32]) -> Vec<u8> {
    let lb_endpoints = ports.iter().map(|port| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address {
                address: Some(AddressKind::SocketAddress(SocketAddress {
                    address: "10.0.0.1".into(),
                    port_specifier: Some(PortSpecifier::PortValue(*port)),
                    ..SocketAddress::default()
                })),
            }),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    });
    ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: lb_endpoints.collect(),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
    .encode_to_vec()
}

fn chain(sni: &str, cluster: &str) -> FilterChain {
    let proxy = TcpProxy {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..TcpProxy::default()
    };
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            server_names: vec![sni.into()],
            transport_protocol: "tls".into(),
            ..FilterChainMatch::default()
        }),
        filters: vec![Filter {
            name: "envoy.filters.network.tcp_proxy".into(),
            config_type: Some(ConfigType::TypedConfig(kds_proto::pack(&proxy))),
        }],
        ..FilterChain::default()
    }
}

fn listener(chains: Vec<FilterChain>) -> Vec<u8> {
    Listener {
        name: "self_zoneingress_dp_main".into(),
        filter_chains: chains,
        ..Listener::default()
    }
    .encode_to_vec()
}

/// Where each name leads: cluster and ports, as text.
fn shown(feed: &Feed) -> Vec<String> {
    let table = feed.table();
    let ports = |cluster: &Arc<str>| match table.clusters.get(cluster) {
        None => "?".to_owned(),
        Some(endpoints) => {
            let ports = endpoints
                .iter()
                .map(|endpoint| endpoint.placed.address.port().to_string());
            ports.collect::<Vec<_>>().join(",")
        }
    };
    let routes = table.routes.values();
    routes
        .map(|route| format!("{}={}:{}", route.sni, route.cluster, ports(&route.cluster)))
        .collect()
}

fn names(feed: &mut Feed) -> Option<Vec<String>> {
    feed.changed_names()
        .map(|names| names.iter().map(Name::to_string).collect())
}

#[track_caller]
fn apply(feed: &mut Feed, batch: &Batch) {
    assert_eq!(feed.apply(batch), []);
}

#[test]
fn route_and_endpoints_make_a_way() {
    let mut feed = Feed::new(Dialect::Zonal);
    apply(
        &mut feed,
        &batch(Type::Route, vec![("a", route("A.x.", "ca"))], &[]),
    );
    assert_eq!(shown(&feed), ["a.x=ca:?"]);
    assert_eq!(names(&mut feed), Some(vec!["ca".to_owned()]));
    assert!(!feed.is_settled());
    apply(
        &mut feed,
        &batch(Type::Endpoints, vec![("ca", endpoints("ca", &[1, 2]))], &[]),
    );
    assert_eq!(shown(&feed), ["a.x=ca:1,2"]);
    assert!(feed.is_settled());
    assert_eq!(names(&mut feed), None);

    apply(&mut feed, &batch(Type::Route, vec![], &["a"]));
    assert_eq!(shown(&feed), [""; 0]);
    assert_eq!(names(&mut feed), Some(vec![]));
    assert!(feed.table().clusters.is_empty() && feed.saved().assignments.is_empty());
}

#[test]
fn moved_route_is_served_from_the_old_cluster_until_the_new_one_is_known() {
    let mut feed = Feed::new(Dialect::Zonal);
    apply(
        &mut feed,
        &batch(Type::Route, vec![("a", route("a", "old"))], &[]),
    );
    apply(
        &mut feed,
        &batch(Type::Endpoints, vec![("old", endpoints("old", &[1]))], &[]),
    );
    apply(
        &mut feed,
        &batch(Type::Route, vec![("a", route("a", "new"))], &[]),
    );
    assert_eq!(shown(&feed), ["a=old:1"]);
    assert_eq!(
        names(&mut feed),
        Some(vec!["new".to_owned(), "old".to_owned()])
    );
    apply(
        &mut feed,
        &batch(Type::Endpoints, vec![("new", endpoints("new", &[2]))], &[]),
    );
    assert_eq!(shown(&feed), ["a=new:2"]);
    assert_eq!(names(&mut feed), Some(vec!["new".to_owned()]));
    assert_eq!(feed.saved().assignments.len(), 1);
}

#[test]
fn bad_resource_is_refused_by_name_and_harms_itself_only() {
    let mut feed = Feed::new(Dialect::Zonal);
    apply(
        &mut feed,
        &batch(Type::Route, vec![("a", route("a", "ca"))], &[]),
    );
    let upserts = vec![
        ("a", vec![0xff]),
        ("b", route("b", "cb")),
        ("c", route("", "cc")),
    ];
    let refused = feed.apply(&batch(Type::Route, upserts, &[]));
    let refused: Vec<_> = refused
        .iter()
        .map(|r| (r.name.as_str(), r.reason.as_str()))
        .collect();
    assert_eq!(refused[0].0, "a");
    assert_eq!(refused[1], ("c", "sni: `` is not a server name"));
    let packed = kds_proto::pack(&WireRoute {
        sni: "a".into(),
        cluster: "ca".into(),
        ..WireRoute::default()
    });
    let twice = feed.apply(&batch(
        Type::Route,
        vec![("d", packed.encode_to_vec())],
        &[],
    ));
    assert!(twice[0].reason.starts_with("cluster: `"), "{twice:?}");
    assert_eq!(shown(&feed), ["a=ca:?", "b=cb:?"], "the old `a` stays");

    let refused = feed.apply(&batch(
        Type::Endpoints,
        vec![("ca", endpoints("cb", &[1]))],
        &[],
    ));
    assert_eq!(
        refused[0].reason,
        "cluster_name: `cb` is not the resource's name"
    );
    let refused = feed.apply(&batch(
        Type::Endpoints,
        vec![("ca", endpoints("ca", &[70_000]))],
        &[],
    ));
    assert_eq!(
        refused[0].reason,
        "endpoints[0].lb_endpoints[0]: port_value: is not a port"
    );
}

#[test]
fn names_move_between_resources_of_one_batch() {
    let mut feed = Feed::new(Dialect::Zonal);
    let both = vec![("a", route("x", "c1")), ("b", route("y", "c2"))];
    apply(&mut feed, &batch(Type::Route, both, &[]));
    let swapped = vec![("a", route("y", "c1")), ("b", route("x", "c2"))];
    for cluster in ["c1", "c2"] {
        apply(
            &mut feed,
            &batch(
                Type::Endpoints,
                vec![(cluster, endpoints(cluster, &[1]))],
                &[],
            ),
        );
    }
    apply(&mut feed, &batch(Type::Route, swapped, &[]));
    assert_eq!(shown(&feed), ["x=c2:1", "y=c1:1"]);
    apply(
        &mut feed,
        &batch(Type::Route, vec![("c", route("x", "c1"))], &["b"]),
    );
    assert_eq!(shown(&feed), ["x=c1:1", "y=c1:1"]);
}

#[test]
fn second_resource_for_a_name_is_refused() {
    let mut feed = Feed::new(Dialect::Zonal);
    apply(
        &mut feed,
        &batch(Type::Route, vec![("a", route("x", "c1"))], &[]),
    );
    let refused = feed.apply(&batch(Type::Route, vec![("b", route("x", "c2"))], &[]));
    assert_eq!(refused[0].reason, "sni: `x` is routed by `a` already");
    assert_eq!(shown(&feed), ["x=c1:?"]);
    // A resource that turns into a conflict keeps what it had.
    apply(
        &mut feed,
        &batch(Type::Route, vec![("b", route("y", "c2"))], &[]),
    );
    assert_eq!(
        feed.apply(&batch(Type::Route, vec![("b", route("x", "c2"))], &[]))
            .len(),
        1
    );
    assert_eq!(shown(&feed), ["x=c1:?", "y=c2:?"]);
}

#[test]
fn complete_set_ends_what_it_lacks() {
    let mut feed = Feed::new(Dialect::Zonal);
    let both = vec![("a", route("x", "c1")), ("b", route("y", "c2"))];
    apply(&mut feed, &batch(Type::Route, both, &[]));
    let mut first = batch(Type::Route, vec![("b", route("y", "c2"))], &[]);
    first.complete = Some([Name::from("b")].into());
    apply(&mut feed, &first);
    assert_eq!(shown(&feed), ["y=c2:?"]);
}

#[test]
fn endpoints_that_do_not_exist_are_known_to_be_none() {
    let mut feed = Feed::new(Dialect::Zonal);
    apply(
        &mut feed,
        &batch(Type::Route, vec![("a", route("a", "ca"))], &[]),
    );
    apply(
        &mut feed,
        &batch(Type::Endpoints, vec![], &["ca", "unheard"]),
    );
    assert!(feed.is_settled());
    assert_eq!(shown(&feed), ["a=ca:"]);
    let interests = feed.interests();
    assert!(
        interests[1].held.is_empty(),
        "there is no version of what does not exist"
    );
}

#[test]
fn restored_feed_serves_and_resumes() {
    let mut feed = Feed::new(Dialect::Zonal);
    apply(
        &mut feed,
        &batch(Type::Route, vec![("a", route("a", "ca"))], &[]),
    );
    apply(
        &mut feed,
        &batch(Type::Endpoints, vec![("ca", endpoints("ca", &[1]))], &[]),
    );
    let saved = feed.saved();
    let mut again = Feed::new(Dialect::Zonal);
    again.restore(
        saved.resources.iter().map(|(source, resource)| {
            let routes = resource
                .routes
                .iter()
                .map(|route| Route::clone(route))
                .collect();
            (source.clone(), resource.version.clone(), routes)
        }),
        saved.assignments.iter().map(|(cluster, assignment)| {
            let placed = assignment
                .endpoints
                .iter()
                .map(|e| e.placed.clone())
                .collect();
            (cluster.clone(), assignment.source, "v1".into(), placed)
        }),
    );
    assert_eq!(shown(&again), shown(&feed));
    let interests = again.interests();
    assert_eq!(interests[0].held.len(), 1);
    assert_eq!(interests[1].held.len(), 1);
    assert_eq!(
        interests[1].wanted,
        Wanted::Names([Name::from("ca")].into())
    );
}

#[test]
fn listener_of_an_envoy_ingress_is_understood() {
    let mut feed = Feed::new(Dialect::Kuma);
    let cluster = "kri_msvc_default_west__payments_http";
    let chains = vec![
        chain("sni.msvc.default.west.payments.http", cluster),
        chain("b", "cb"),
    ];
    apply(
        &mut feed,
        &batch(Type::Listener, vec![("l", listener(chains))], &[]),
    );
    apply(
        &mut feed,
        &batch(
            Type::Endpoints,
            vec![(cluster, endpoints(cluster, &[1]))],
            &[],
        ),
    );
    assert_eq!(
        shown(&feed),
        [
            "b=cb:?",
            "sni.msvc.default.west.payments.http=kri_msvc_default_west__payments_http:1"
        ]
    );
    assert_eq!(
        &*feed.table().routes["sni.msvc.default.west.payments.http"].mesh,
        "default"
    );
    apply(
        &mut feed,
        &batch(
            Type::Listener,
            vec![("l", listener(vec![chain("b", "cb")]))],
            &[],
        ),
    );
    assert_eq!(shown(&feed), ["b=cb:?"]);
    // Nothing with names in it: no listener of ours.
    apply(
        &mut feed,
        &batch(
            Type::Listener,
            vec![("system_envoy_admin", listener(vec![]))],
            &[],
        ),
    );
}

#[test]
fn what_would_change_traffic_is_refused() {
    let refused = |change: &dyn Fn(&mut Listener)| {
        let mut message = Listener {
            filter_chains: vec![chain("a", "ca")],
            ..Listener::default()
        };
        change(&mut message);
        let mut feed = Feed::new(Dialect::Kuma);
        let refused = feed.apply(&batch(
            Type::Listener,
            vec![("l", message.encode_to_vec())],
            &[],
        ));
        refused
            .into_iter()
            .map(|refused| refused.reason)
            .collect::<String>()
    };
    assert_eq!(refused(&|_| {}), "");
    assert_eq!(
        refused(&|l| l.default_filter_chain = Some(FilterChain::default())),
        "default_filter_chain: callers without a known name are refused"
    );
    assert_eq!(
        refused(&|l| l.filter_chains[0].transport_socket = Some(Default::default())),
        "filter_chains[0].transport_socket: an ingress passes TLS through"
    );
    assert_eq!(
        refused(&|l| l.filter_chains[0].filters.insert(
            0,
            Filter {
                name: "rbac".into(),
                config_type: Some(ConfigType::TypedConfig(kds_proto::Any {
                    type_url: "type.googleapis.com/other".into(),
                    value: Default::default(),
                })),
            }
        )),
        "filter_chains[0].filters: `rbac` (`type.googleapis.com/other`) is not known"
    );
    assert_eq!(
        refused(&|l| l.filter_chains[0]
            .filter_chain_match
            .as_mut()
            .unwrap()
            .source_ports = vec![1]),
        "filter_chains[0].filter_chain_match: only `server_names` of TLS can be matched"
    );
    assert_eq!(
        refused(&|l| l.filter_chains[0].filters.clear()),
        "filter_chains[0].filters: there is no tcp_proxy"
    );
}

/// What may happen to a feed, in few names so that things meet.
#[derive(Clone, Debug)]
enum Step {
    Route { resource: u8, sni: u8, cluster: u8 },
    Bad { resource: u8 },
    Remove { resource: u8 },
    Endpoints { cluster: u8, port: u16 },
    NoEndpoints { cluster: u8 },
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Vec<Step>>> {
    use proptest::prelude::*;
    let step = prop_oneof![
        4 => (0u8..5, 0u8..4, 0u8..4)
            .prop_map(|(resource, sni, cluster)| Step::Route { resource, sni, cluster }),
        1 => (0u8..5).prop_map(|resource| Step::Bad { resource }),
        2 => (0u8..5).prop_map(|resource| Step::Remove { resource }),
        3 => (0u8..4, 1u16..100).prop_map(|(cluster, port)| Step::Endpoints { cluster, port }),
        1 => (0u8..4).prop_map(|cluster| Step::NoEndpoints { cluster }),
    ];
    prop::collection::vec(prop::collection::vec(step, 1..6), 1..30)
}

/// Applies the steps of one message per type, as a control plane would send them.
fn play(feed: &mut Feed, steps: &[Step]) {
    let mut routes: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    let mut assignments: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Route {
                resource,
                sni,
                cluster,
            } => {
                let body = route(&format!("s{sni}"), &format!("c{cluster}"));
                routes.insert(format!("r{resource}"), Some(body));
            }
            Step::Bad { resource } => {
                routes.insert(format!("r{resource}"), Some(vec![0xff]));
            }
            Step::Remove { resource } => {
                routes.insert(format!("r{resource}"), None);
            }
            Step::Endpoints { cluster, port } => {
                let name = format!("c{cluster}");
                let body = endpoints(&name, &[u32::from(*port)]);
                assignments.insert(name, Some(body));
            }
            Step::NoEndpoints { cluster } => {
                assignments.insert(format!("c{cluster}"), None);
            }
        }
    }
    for (kind, changes) in [(Type::Route, routes), (Type::Endpoints, assignments)] {
        let upserts = changes
            .iter()
            .filter_map(|(name, body)| Some((name.as_str(), body.clone()?)))
            .collect();
        let gone: Vec<_> = changes
            .iter()
            .filter(|(_, body)| body.is_none())
            .map(|(n, _)| n.as_str())
            .collect();
        feed.apply(&batch(kind, upserts, &gone));
    }
}

proptest::proptest! {
    #[test]
    fn whatever_happens_the_table_follows_what_is_held(messages in steps()) {
        let mut feed = Feed::new(Dialect::Zonal);
        let mut subscribed = BTreeSet::new();
        for steps in &messages {
            let before = feed.table().clone();
            play(&mut feed, steps);
            if let Some(names) = feed.changed_names() {
                subscribed = names;
            }
            let table = feed.table();
            // Each wanted name is served: by its own route, or by an older one while it waits.
            let wanted: BTreeSet<_> = feed.wanted.keys().cloned().collect();
            let served: BTreeSet<_> = table.routes.keys().cloned().collect();
            proptest::prop_assert_eq!(&wanted, &served);
            for (sni, (source, wanted)) in &feed.wanted {
                let held = &feed.saved.resources[source];
                proptest::prop_assert!(held.routes.iter().any(|route| route == wanted));
                let route = &table.routes[sni];
                if route != wanted {
                    proptest::prop_assert_eq!(Some(route), before.routes.get(sni));
                    proptest::prop_assert!(!table.clusters.contains_key(&wanted.cluster));
                }
            }
            // Exactly the clusters that somebody names are known or asked for.
            let routes = feed.wanted.values().map(|(_, route)| route).chain(table.routes.values());
            let used: BTreeSet<_> = routes.map(|route| Name::from(route.cluster.clone())).collect();
            proptest::prop_assert_eq!(&subscribed, &used);
            for cluster in table.clusters.keys() {
                proptest::prop_assert!(used.contains(&**cluster), "{} is not used", cluster);
            }
            proptest::prop_assert_eq!(table.clusters.len(), feed.saved.assignments.len());
        }
        // Once all endpoints are told, nothing waits any more.
        let all = (0..4).map(|cluster| Step::Endpoints { cluster, port: 7 }).collect::<Vec<_>>();
        play(&mut feed, &all);
        for (sni, (_, wanted)) in &feed.wanted {
            proptest::prop_assert_eq!(&feed.table().routes[sni], wanted);
        }
        proptest::prop_assert!(feed.waiting.is_empty() && feed.is_settled());
    }
}
