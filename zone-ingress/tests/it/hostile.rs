use std::time::Duration;

use tokio::io::AsyncWriteExt;
use zone_ingress::limits::Limits;
use zone_ingress::metrics::Limit;
use zone_ingress::outcome::Reason;

use crate::harness::{
    Ingress, Service, eventually, expect_reset, expect_through, hello, read_exactly,
};

const API: &str = "sni.msvc.default.west.api.http";

#[tokio::test]
async fn silent_callers_are_given_up() {
    let limits = Limits {
        hello_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let ingress = Ingress::start(limits);
    let mut caller = ingress.call().await;
    caller.write_all(&hello(API)[..20]).await.unwrap();
    expect_reset(&mut caller).await;
    ingress.ended(Reason::HelloTimeout, 1).await;
}

#[tokio::test]
async fn oldest_hello_makes_room_for_the_newest() {
    let limits = Limits {
        hellos_max: Some(2),
        ..Limits::default()
    };
    let ingress = Ingress::start(limits);
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let metrics = ingress.proxy.metrics.clone();
    let inside = |count| eventually("hellos", count, || metrics.hellos_open.get());
    let mut oldest = ingress.call().await;
    inside(1).await;
    let mut second = ingress.call().await;
    inside(2).await;
    let mut third = ingress.call().await;
    expect_reset(&mut oldest).await;
    assert_eq!(metrics.reached_count(Limit::Hellos), 1);
    ingress.ended(Reason::HelloEvicted, 1).await;
    second.write_all(&hello(API)).await.unwrap();
    service.greeted(API).await;
    third.write_all(&hello(API)).await.unwrap();
    service.greeted(API).await;
}

#[tokio::test]
async fn one_source_evicts_its_own() {
    let limits = Limits {
        hellos_per_source_max: 3,
        ..Limits::default()
    };
    let ingress = Ingress::start(limits);
    let metrics = ingress.proxy.metrics.clone();
    let mut honest = ingress.call_from([127, 0, 0, 2]).await;
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(ingress.call_from([127, 0, 0, 3]).await);
    }
    ingress.ended(Reason::HelloEvicted, 17).await;
    assert_eq!(metrics.reached_count(Limit::HellosPerSource), 17);
    eventually("hellos", 4, || metrics.hellos_open.get()).await;
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    honest.write_all(&hello(API)).await.unwrap();
    let mut stream = service.greeted(API).await;
    expect_through(&mut honest, &mut stream, b"served").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_hellos_do_not_keep_honest_callers_out() {
    // Callers and ingress share this process's descriptors with the other tests.
    let descriptors = zone_ingress::socket::raise_descriptor_limit();
    let count = (descriptors.saturating_sub(2000) / 3).clamp(300, 5000) as u16;
    let ingress = Ingress::start(Limits {
        hellos_max: Some(200),
        ..Limits::default()
    });
    ingress.route(API, &[Service::start().await.echo()]);
    // Every stalled caller has its own share of sources, so both bounds are reached.
    let mut stalled = Vec::new();
    for number in 0..count {
        let source = [127, 1, 0, (number % 20) as u8 + 1];
        let mut caller = ingress.call_from(source).await;
        caller
            .write_all(&hello(API)[..(number % 60) as usize])
            .await
            .unwrap();
        stalled.push(caller);
        if number % 100 == 0 {
            let mut honest = ingress.hail(API).await;
            assert_eq!(
                read_exactly(&mut honest, hello(API).len()).await,
                hello(API)
            );
        }
    }
    let metrics = &ingress.proxy.metrics;
    assert!(metrics.hellos_open.get() <= 201);
    assert!(metrics.reached_count(Limit::Hellos) > 0);
    let mut honest = ingress.hail(API).await;
    assert_eq!(
        read_exactly(&mut honest, hello(API).len()).await,
        hello(API)
    );
}

#[tokio::test]
async fn callers_beyond_the_budget_wait_for_a_place() {
    let ingress = Ingress::start(Limits {
        connections_max: Some(2),
        ..Limits::default()
    });
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let first = ingress.hail(API).await;
    let _at_service = service.greeted(API).await;
    let _second = ingress.hail(API).await;
    let _at_service_too = service.greeted(API).await;
    let mut third = ingress.hail(API).await;
    let metrics = ingress.proxy.metrics.clone();
    eventually("bound reached", true, || {
        metrics.reached_count(Limit::Connections) > 0
    })
    .await;
    assert_eq!(metrics.accepted.get(), 2);
    drop((first, _at_service));
    let mut stream = service.greeted(API).await;
    expect_through(&mut stream, &mut third, b"your turn").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_harms_nobody() {
    let ingress = Ingress::start(Limits::default());
    ingress.route(API, &[Service::start().await.echo()]);
    let mut chance = fastrand::Rng::with_seed(3);
    for round in 0..200 {
        let mut caller = ingress.call().await;
        let mut junk = hello(API);
        for _ in 0..chance.usize(1..20) {
            let at = chance.usize(..junk.len());
            junk[at] = chance.u8(..);
        }
        junk.truncate(chance.usize(1..=junk.len()));
        // The ingress may have reset it already.
        let _sent = caller.write_all(&junk).await;
        drop(caller);
        if round % 20 == 0 {
            let mut honest = ingress.hail(API).await;
            assert_eq!(
                read_exactly(&mut honest, hello(API).len()).await,
                hello(API)
            );
        }
    }
    let metrics = ingress.proxy.metrics.clone();
    eventually("nobody left inside", 0, move || metrics.open.get()).await;
}
