use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use zone_ingress::limits::Limits;
use zone_ingress::outcome::Reason;

use crate::harness::{Ingress, Service, eventually, expect_reset, expect_through, hello, within};

const API: &str = "sni.msvc.default.west.api.http";

#[tokio::test]
async fn stopping_keeps_who_is_inside_and_takes_nobody_new() {
    let ingress = Ingress::start(Limits::default());
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let mut caller = ingress.hail(API).await;
    let mut stream = service.greeted(API).await;
    let mut greeting = ingress.call().await;
    let metrics = ingress.proxy.metrics.clone();
    eventually("accepted", 2, || metrics.accepted.get()).await;

    ingress.stop.cancel();
    within("a refused connect", async {
        while TcpStream::connect(ingress.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    expect_through(&mut caller, &mut stream, b"still here").await;
    greeting.write_all(&hello(API)).await.unwrap();
    let mut late = service.greeted(API).await;
    expect_through(&mut late, &mut greeting, b"welcome").await;

    ingress.proxy.cut.cancel();
    expect_reset(&mut caller).await;
    expect_reset(&mut stream).await;
    ingress.ended(Reason::Cut, 2).await;
}

#[tokio::test]
async fn callers_in_the_queue_are_served_when_stopping() {
    // One thread: the worker cannot accept before this test waits.
    let ingress = Ingress::start(Limits::default());
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let mut queued = Vec::new();
    for _ in 0..5 {
        let caller = std::net::TcpStream::connect(ingress.address).unwrap();
        caller.set_nonblocking(true).unwrap();
        queued.push(TcpStream::from_std(caller).unwrap());
    }
    ingress.stop.cancel();
    for caller in &mut queued {
        caller.write_all(&hello(API)).await.unwrap();
        let mut stream = service.greeted(API).await;
        expect_through(&mut stream, caller, b"welcome").await;
    }
}
