use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zone_ingress::limits::Limits;
use zone_ingress::outcome::Reason;

use crate::harness::{
    Ingress, Pattern, Service, eventually, expect_reset, expect_through, handshake, hello, nobody,
    read_exactly, read_to_end, records, within,
};

const API: &str = "sni.msvc.default.west.api.http";

async fn pair(ingress: &Ingress, service: &Service) -> (TcpStream, TcpStream) {
    let caller = ingress.hail(API).await;
    (caller, service.greeted(API).await)
}

#[tokio::test]
async fn named_caller_reaches_its_service_with_every_byte() {
    let ingress = Ingress::start(Limits::default());
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let mut caller = ingress.call().await;
    let mut bytes = hello("SNI.msvc.Default.west.api.http.");
    bytes.extend(b"early data");
    caller.write_all(&bytes).await.unwrap();
    let mut stream = service.accept().await;
    assert_eq!(read_exactly(&mut stream, bytes.len()).await, bytes);
    expect_through(&mut stream, &mut caller, b"welcome").await;
    expect_through(&mut caller, &mut stream, b"thanks").await;

    let connections = ingress
        .proxy
        .connections
        .list(ingress.proxy.times.now(), 10);
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0].bytes_to_service, (bytes.len() + 6) as u64);
    assert_eq!(connections[0].bytes_to_caller, 7);
    drop(stream);
    assert_eq!(read_to_end(&mut caller).await, b"");
    drop(caller);
    ingress.ended(Reason::Finished, 1).await;
    assert!(ingress.proxy.connections.is_empty());
}

#[tokio::test]
async fn hello_may_come_in_any_pieces() {
    let ingress = Ingress::start(Limits::default());
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let cut = [
        records(&handshake(API), 3),
        records(&handshake(API), 100),
        hello(API),
    ];
    for (bytes, segment) in cut.iter().zip([1, 40, 90]) {
        let mut caller = ingress.call().await;
        caller.set_nodelay(true).unwrap();
        for piece in bytes.chunks(segment) {
            caller.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut stream = service.accept().await;
        assert_eq!(&read_exactly(&mut stream, bytes.len()).await, bytes);
    }
}

#[tokio::test]
async fn name_with_braces_is_routed() {
    let ingress = Ingress::start(Limits::default());
    let service = Service::start().await;
    let name = "backend{mesh=default,version=v1}";
    ingress.route(name, &[service.address]);
    let _caller = ingress.hail(name).await;
    service.greeted(name).await;
}

#[tokio::test]
async fn what_cannot_be_routed_is_reset_and_counted() {
    let ingress = Ingress::start(Limits::default());
    ingress.route("empty", &[]);
    expect_reset(&mut ingress.hail("unknown").await).await;
    ingress.ended(Reason::NoRoute, 1).await;
    expect_reset(&mut ingress.hail("empty").await).await;
    ingress.ended(Reason::NoEndpoint, 1).await;
    let mut caller = ingress.call().await;
    caller.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    expect_reset(&mut caller).await;
    ingress.ended(Reason::NotTls, 1).await;
    expect_reset(&mut ingress.hail("a\0b").await).await;
    ingress.ended(Reason::BadName, 1).await;
    let mut caller = ingress.call().await;
    caller
        .write_all(&[22, 3, 1, 0x40, 0, 1, 0, 0x80, 0])
        .await
        .unwrap();
    expect_reset(&mut caller).await;
    ingress.ended(Reason::HelloTooLong, 1).await;
    drop(ingress.call().await);
    ingress.ended(Reason::HelloAbandoned, 1).await;
}

#[tokio::test]
async fn half_close_of_the_caller_passes_and_the_answer_comes_back() {
    let ingress = Ingress::start(Limits::default());
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let (mut caller, mut stream) = pair(&ingress, &service).await;
    caller.write_all(b"question").await.unwrap();
    caller.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"question");
    stream.write_all(b"a long answer").await.unwrap();
    assert_eq!(read_exactly(&mut caller, 13).await, b"a long answer");
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut caller).await, b"");
    ingress.ended(Reason::Finished, 1).await;
}

#[tokio::test]
async fn half_close_of_the_service_passes_and_the_caller_goes_on() {
    let ingress = Ingress::start(Limits::default());
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let (mut caller, mut stream) = pair(&ingress, &service).await;
    stream.write_all(b"banner").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut caller).await, b"banner");
    expect_through(&mut caller, &mut stream, b"still here").await;
    caller.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"");
    ingress.ended(Reason::Finished, 1).await;
}

#[tokio::test]
async fn broken_stream_does_not_look_complete() {
    let ingress = Ingress::start(Limits::default());
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let (mut caller, stream) = pair(&ingress, &service).await;
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    expect_reset(&mut caller).await;
    ingress.ended(Reason::ServiceReset, 1).await;

    let (caller, mut stream) = pair(&ingress, &service).await;
    socket2::SockRef::from(&caller)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(caller);
    expect_reset(&mut stream).await;
    ingress.ended(Reason::CallerReset, 1).await;
}

/// Writes the pattern in pieces of random size, pausing at random.
async fn send(mut to: impl AsyncWriteExt + Unpin, pattern: &Pattern, total: usize, seed: u64) {
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut position = 0;
    while position < total {
        let max = chance.usize(1..200_000).min(total - position);
        let piece = pattern.piece(position, max);
        within("a write", to.write_all(piece)).await.unwrap();
        position += piece.len();
        stall(&mut chance).await;
    }
    to.shutdown().await.unwrap();
}

/// Reads the pattern in pieces of random size, pausing at random.
async fn receive(mut from: impl AsyncReadExt + Unpin, pattern: &Pattern, total: usize, seed: u64) {
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut buffer = vec![0; 300_000];
    let mut position = 0;
    loop {
        let max = chance.usize(1..buffer.len());
        let count = within("a read", from.read(&mut buffer[..max]))
            .await
            .unwrap();
        if count == 0 {
            break;
        }
        pattern.expect(position, &buffer[..count]);
        position += count;
        stall(&mut chance).await;
    }
    assert_eq!(position, total);
}

async fn stall(chance: &mut fastrand::Rng) {
    if chance.u8(..) < 8 {
        for _ in 0..chance.usize(1..200) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_streams_arrive_whole_both_ways_under_random_stalls() {
    const TOTAL: usize = 64 << 20;
    let ingress = Ingress::start(Limits {
        buffer_bytes: 48 * 1024,
        ..Limits::default()
    });
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let (mut caller, mut stream) = pair(&ingress, &service).await;
    let (there, back) = (Pattern::new(1), Pattern::new(2));
    let (from_service, to_service) = caller.split();
    let (from_caller, to_caller) = stream.split();
    tokio::join!(
        send(to_service, &there, TOTAL, 11),
        receive(from_caller, &there, TOTAL, 12),
        send(to_caller, &back, TOTAL / 2, 13),
        receive(from_service, &back, TOTAL / 2, 14),
    );
    ingress.ended(Reason::Finished, 1).await;
    let ledger = ingress.proxy.ledger.all();
    let traffic = &ledger[API];
    assert_eq!(
        traffic.to_service.load(Ordering::Relaxed),
        (TOTAL + hello(API).len()) as u64
    );
    assert_eq!(
        traffic.to_callers.load(Ordering::Relaxed),
        (TOTAL / 2) as u64
    );
}

#[tokio::test]
async fn slow_reader_stops_its_sender_and_nobody_else() {
    let ingress = Ingress::start(Limits::default());
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let (caller, _deaf) = pair(&ingress, &service).await;
    // Fills the kernel's buffers until nothing more goes in.
    let chunk = [0_u8; 65_536];
    let mut sent = 0;
    let mut refused = 0;
    while refused < 50 {
        match caller.try_write(&chunk) {
            Ok(count) => (sent, refused) = (sent + count, 0),
            Err(_full) => refused += 1,
        }
        assert!(
            sent < 256 << 20,
            "a reader that reads nothing has to stop its sender"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (mut other, mut stream) = pair(&ingress, &service).await;
    expect_through(&mut other, &mut stream, b"unhindered").await;
    expect_through(&mut stream, &mut other, b"indeed").await;
}

#[tokio::test]
async fn route_changes_touch_no_open_connection() {
    let ingress = Ingress::start(Limits::default());
    let (old, new) = (Service::start().await, Service::start().await);
    ingress.route(API, &[old.address]);
    let mut open = Vec::new();
    for _ in 0..50 {
        open.push(pair(&ingress, &old).await);
    }
    for change in 0..1000_u16 {
        ingress.route(&format!("other-{change}"), &[new.address]);
        if change % 3 == 0 {
            ingress.unroute(API);
        }
        ingress.route(API, &[new.address]);
        if change % 100 == 0 {
            for (caller, stream) in &mut open {
                expect_through(caller, stream, &change.to_be_bytes()).await;
                expect_through(stream, caller, b"ok").await;
            }
        }
    }
    pair(&ingress, &new).await;
    let (mut caller, mut stream) = open.pop().unwrap();
    expect_through(&mut caller, &mut stream, b"the old connection stays").await;
}

#[tokio::test]
async fn another_endpoint_gets_the_connection_when_one_refuses_it() {
    let ingress = Ingress::start(Limits::default());
    let service = Service::start().await;
    let gone = nobody().await;
    ingress.route(API, &[gone, service.address]);
    for _ in 0..20 {
        pair(&ingress, &service).await;
    }
    assert!(
        ingress.proxy.metrics.connect_retries.get() < 10,
        "a refusal is remembered"
    );
    ingress.route(API, &[gone, nobody().await]);
    expect_reset(&mut ingress.hail(API).await).await;
    ingress.ended(Reason::ConnectFailed, 1).await;
}

#[tokio::test]
async fn callers_spread_over_endpoints() {
    let ingress = Ingress::start(Limits::default());
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for _ in 0..3 {
        addresses.push(Service::start().await.echo());
    }
    ingress.route(API, &addresses);
    let mut callers = Vec::new();
    for _ in 0..30 {
        let mut caller = ingress.hail(API).await;
        assert_eq!(
            read_exactly(&mut caller, hello(API).len()).await,
            hello(API)
        );
        callers.push(caller);
    }
    let connections = ingress
        .proxy
        .connections
        .list(ingress.proxy.times.now(), 100);
    for address in addresses {
        let count = connections
            .iter()
            .filter(|open| open.endpoint == address)
            .count();
        assert_eq!(count, 10, "fewest connections first");
    }
}

#[tokio::test]
async fn idle_connections_end() {
    let limits = Limits {
        idle_timeout: Duration::from_millis(1500),
        ..Limits::default()
    };
    let ingress = Ingress::start(limits);
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let (mut caller, mut stream) = pair(&ingress, &service).await;
    expect_reset(&mut caller).await;
    expect_reset(&mut stream).await;
    ingress.ended(Reason::Idle, 1).await;
}

#[tokio::test]
async fn half_open_connections_end_sooner_than_idle_ones() {
    let limits = Limits {
        half_open_timeout: Duration::from_millis(1500),
        ..Limits::default()
    };
    let ingress = Ingress::start(limits);
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let (mut caller, mut stream) = pair(&ingress, &service).await;
    caller.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"");
    expect_reset(&mut caller).await;
    ingress.ended(Reason::HalfOpen, 1).await;
}

#[tokio::test]
async fn counters_are_exact_while_bytes_move() {
    let ingress = Ingress::start(Limits::default());
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let (mut caller, mut stream) = pair(&ingress, &service).await;
    let mut total = hello(API).len() as u64;
    for size in [1_usize, 1000, 70_000] {
        within("a write", async {
            tokio::join!(
                async { caller.write_all(&vec![5; size]).await.unwrap() },
                read_exactly(&mut stream, size)
            )
        })
        .await;
        total += size as u64;
        let connections = ingress.proxy.connections.clone();
        let times = ingress.proxy.times.clone();
        eventually("bytes counted", total, move || {
            connections.list(times.now(), 1)[0].bytes_to_service
        })
        .await;
    }
}

#[tokio::test]
async fn callers_may_come_over_ipv6() {
    let Ok(listener) = zone_ingress::socket::listen("[::1]:0".parse().unwrap(), false) else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let ingress = Ingress::on(listener, Limits::default());
    let service = Service::start().await;
    ingress.route(API, &[service.address]);
    let (mut caller, mut stream) = pair(&ingress, &service).await;
    expect_through(&mut caller, &mut stream, b"over both").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_connections_outlive_ten_thousand_changes() {
    // Three descriptors per connection in this process: caller, both legs of the ingress, service.
    let descriptors = zone_ingress::socket::raise_descriptor_limit();
    let count = (descriptors.saturating_sub(4000) / 8).clamp(50, 1000);
    let ingress = Ingress::start(Limits::default());
    let old = Service::start().await.echo();
    let new = Service::start().await.echo();
    ingress.route(API, &[old]);
    let mut callers = Vec::new();
    for _ in 0..count {
        let mut caller = ingress.hail(API).await;
        read_exactly(&mut caller, hello(API).len()).await;
        callers.push(caller);
    }
    for change in 0..10_000_u32 {
        ingress.route(&format!("other-{}", change % 500), &[new]);
        ingress.route(API, &[if change % 2 == 0 { new } else { old }]);
        let index = change as usize % callers.len();
        if change % 7 == 0 {
            callers[index]
                .write_all(&change.to_be_bytes())
                .await
                .unwrap();
            assert_eq!(
                read_exactly(&mut callers[index], 4).await,
                change.to_be_bytes()
            );
        }
    }
    assert_eq!(ingress.proxy.connections.len() as u64, count);
    for caller in &mut callers {
        caller.write_all(b"unbroken").await.unwrap();
        assert_eq!(read_exactly(caller, 8).await, b"unbroken");
    }
}
