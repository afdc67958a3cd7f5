use proptest::prelude::*;

use super::*;

/// What a test hello consists of; every field has a usual value.
struct Shape<'a> {
    names: &'a [(u8, &'a [u8])],
    before: &'a [(u16, &'a [u8])],
    version: [u8; 2],
    padding: usize,
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self {
            names: &[(0, b"sni.msvc.default.west.payments.http")],
            before: &[(0x0a0a, &[0]), (23, &[]), (65281, &[0])],
            version: [3, 3],
            padding: 0,
        }
    }
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.extend(vector16(content));
    out
}

/// The handshake message: header and body.
fn handshake(shape: &Shape<'_>) -> Vec<u8> {
    let mut body = shape.version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend(vector16(&[0x1a, 0x1a, 0xc0, 0x2f])); // one of GREASE
    body.extend([1, 0]);
    let mut extensions = Vec::new();
    for (kind, content) in shape.before {
        extensions.extend(extension(*kind, content));
    }
    if !shape.names.is_empty() {
        let mut list = Vec::new();
        for (kind, name) in shape.names {
            list.push(*kind);
            list.extend(vector16(name));
        }
        extensions.extend(extension(0, &vector16(&list)));
    }
    if shape.padding > 0 {
        extensions.extend(extension(21, &vec![0; shape.padding]));
    }
    body.extend(vector16(&extensions));
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = vec![CLIENT_HELLO];
    out.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    out.extend_from_slice(body);
    out
}

/// Cuts a handshake into records of the given sizes; the last size repeats.
fn records(handshake: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = handshake;
    let mut sizes = sizes.iter().copied();
    let mut size = sizes.next().unwrap();
    while !rest.is_empty() {
        let (fragment, after) = rest.split_at(size.min(rest.len()));
        out.extend([22, 3, 1]);
        out.extend(vector16(fragment));
        rest = after;
        size = sizes.next().unwrap_or(size);
    }
    out
}

fn named(name: &str) -> Hello {
    Hello::Named(Sni::new(name).unwrap())
}

/// Feeds the bytes whole and byte by byte: both must come to the same end.
#[track_caller]
fn check(bytes: &[u8], want: &Hello) {
    assert_eq!(&Parser::default().advance(bytes), want, "whole");
    let mut parser = Parser::default();
    for end in 1..=bytes.len() {
        let got = parser.advance(&bytes[..end]);
        if got != Hello::NeedMore {
            assert_eq!(&got, want, "byte by byte, decided after {end}");
            return;
        }
    }
    assert_eq!(&Hello::NeedMore, want, "byte by byte, never decided");
}

fn one(shape: &Shape<'_>) -> Vec<u8> {
    records(&handshake(shape), &[RECORD_BYTES_MAX])
}

#[test]
fn name_is_found_however_records_are_cut() {
    let message = handshake(&Shape::default());
    for sizes in [
        &[RECORD_BYTES_MAX][..],
        &[100],
        &[3, RECORD_BYTES_MAX],
        &[1],
        &[4],
        &[60, 7],
    ] {
        check(
            &records(&message, sizes),
            &named("sni.msvc.default.west.payments.http"),
        );
    }
}

#[test]
fn every_version_is_taken() {
    for version in [[3, 0], [3, 1], [3, 2], [3, 3], [3, 4]] {
        check(
            &one(&Shape {
                version,
                ..Shape::default()
            }),
            &named("sni.msvc.default.west.payments.http"),
        );
    }
}

#[test]
fn bytes_after_the_hello_do_not_matter() {
    let mut bytes = one(&Shape::default());
    bytes.extend([23, 3, 3, 0, 2, 9, 9]);
    check(&bytes, &named("sni.msvc.default.west.payments.http"));
}

#[test]
fn names_are_normalised() {
    for (sent, want) in [
        (&b"API.Example"[..], "api.example"),
        (b"api.example.", "api.example"),
        (
            b"backend{mesh=default,version=V1}",
            "backend{mesh=default,version=v1}",
        ),
        (
            b"a0123456789abcdef.web.80.default.ms",
            "a0123456789abcdef.web.80.default.ms",
        ),
    ] {
        check(
            &one(&Shape {
                names: &[(0, sent)],
                ..Shape::default()
            }),
            &named(want),
        );
    }
    check(
        &one(&Shape {
            names: &[(0, &[b'x'; 255])],
            ..Shape::default()
        }),
        &named(&"x".repeat(255)),
    );
}

#[test]
fn names_that_are_no_names_are_told_apart() {
    let long = [b'x'; 256];
    for bad in [&b""[..], b".", b"a\0b", &long, &[0xff, 0xfe]] {
        check(
            &one(&Shape {
                names: &[(0, bad)],
                ..Shape::default()
            }),
            &Hello::BadName,
        );
    }
}

#[test]
fn first_host_name_wins() {
    let names: &[(u8, &[u8])] = &[(9, b"other"), (0, b"first"), (0, b"second")];
    check(
        &one(&Shape {
            names,
            ..Shape::default()
        }),
        &named("first"),
    );
    check(
        &one(&Shape {
            names: &[(9, b"other")],
            ..Shape::default()
        }),
        &Hello::Unnamed,
    );
}

#[test]
fn hello_without_a_name_is_unnamed() {
    check(
        &one(&Shape {
            names: &[],
            ..Shape::default()
        }),
        &Hello::Unnamed,
    );
    let mut body = vec![3, 1];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0, 5, 1, 0]);
    check(
        &records(&framed(&body), &[RECORD_BYTES_MAX]),
        &Hello::Unnamed,
    );
}

#[test]
fn other_protocols_are_not_tls() {
    check(b"GET / HTTP/1.1\r\n\r\n", &Hello::NotTls);
    check(b"SSH-2.0-x\r\n", &Hello::NotTls);
    check(&[22, 2, 0, 0, 10, 1], &Hello::NotTls);
    check(&[22, 3, 1, 0, 0, 1], &Hello::NotTls);
    check(&[22, 3, 1, 0x40, 1, 1], &Hello::NotTls);
    check(&[22, 3, 1, 0, 4, 2, 0, 0, 0], &Hello::NotTls); // a ServerHello
    check(&[21, 3, 1, 0, 2, 1, 0], &Hello::NotTls); // an alert
    let message = handshake(&Shape::default());
    let mut mixed = records(&message[..50], &[50]);
    mixed.extend([23, 3, 3, 0, 1, 0]);
    check(&mixed, &Hello::NotTls);
    check(&[], &Hello::NeedMore);
    check(&[22, 3], &Hello::NeedMore);
}

#[test]
fn too_long_is_said_before_it_is_held() {
    let just = handshake(&Shape {
        padding: HANDSHAKE_BYTES_MAX - 200,
        ..Shape::default()
    });
    check(
        &records(&just, &[RECORD_BYTES_MAX]),
        &named("sni.msvc.default.west.payments.http"),
    );
    check(&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 1], &Hello::TooLong);
    // One byte per record: the frame around it is what is too long.
    let crumbs = records(&just, &[1]);
    let mut parser = Parser::default();
    let bound = parser.prefix_bytes_max();
    assert_eq!(parser.advance(&crumbs[..bound - 1]), Hello::NeedMore);
    assert_eq!(parser.advance(&crumbs[..bound]), Hello::TooLong);
    let larger = Parser::new(HANDSHAKE_BYTES_CEILING).advance(&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 1]);
    assert_eq!(larger, Hello::NeedMore);
}

#[test]
fn contradicting_lengths_are_malformed() {
    let whole = handshake(&Shape::default());
    let body = &whole[HANDSHAKE_HEADER..];
    // Every shorter body that claims to be whole lacks something, apart from the one that stops
    // where extensions may be absent.
    for end in 0..body.len() {
        let got = Parser::default().advance(&records(&framed(&body[..end]), &[RECORD_BYTES_MAX]));
        let want = if end == 2 + 32 + 1 + 6 + 2 {
            Hello::Unnamed
        } else {
            Hello::Malformed
        };
        assert_eq!(got, want, "cut at {end}");
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_name(
        name in "[a-z0-9.{}=,-]{1,120}[a-z]",
        padding in 0usize..2000,
        records_of in prop::collection::vec(1usize..600, 1..6),
        segments in prop::collection::vec(1usize..400, 1..40),
        tail in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let shape = Shape { names: &[(0, name.as_bytes())], padding, ..Shape::default() };
        let message = handshake(&shape);
        let mut bytes = records(&message, &records_of);
        let hello = bytes.len();
        prop_assume!(hello < Parser::default().prefix_bytes_max());
        bytes.extend(tail);
        let mut parser = Parser::default();
        let mut end = 0;
        let mut sizes = segments.iter().copied().cycle();
        let got = loop {
            end = (end + sizes.next().unwrap()).min(bytes.len());
            match parser.advance(&bytes[..end]) {
                Hello::NeedMore => prop_assert!(end < hello, "undecided after all of it"),
                other => break other,
            }
        };
        prop_assert_eq!(got, named(&name));
        prop_assert!(end >= hello);
    }

    #[test]
    fn rubbish_is_decided_the_same_whole_and_in_parts(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        like_tls in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        if like_tls {
            for (slot, byte) in bytes.iter_mut().zip([22, 3, 1, 1, 0, 1, 0, 0]) {
                *slot = byte;
            }
        }
        let whole = Parser::default().advance(&bytes);
        let mut parser = Parser::default();
        let first = parser.advance(&bytes[..cut.index(bytes.len() + 1)]);
        let parts = if first == Hello::NeedMore { parser.advance(&bytes) } else { first };
        prop_assert_eq!(whole, parts);
    }

    #[test]
    fn a_flipped_byte_never_panics(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = one(&Shape::default());
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _decided = Parser::default().advance(&bytes);
    }
}

/// Real hellos, as the TLS library of our sidecars' neighbours writes them.
#[test]
fn hellos_of_a_tls_library_are_named() {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let post_quantum = provider.kx_groups[0].name();
    assert_eq!(post_quantum, rustls::NamedGroup::X25519MLKEM768);
    for versions in [
        &[&rustls::version::TLS12][..],
        &[&rustls::version::TLS13],
        rustls::ALL_VERSIONS,
    ] {
        let mut config = rustls::ClientConfig::builder_with_provider(provider.clone().into())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"kuma".to_vec()];
        let name = "sni.mzsvc.default.global-svc.http".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        let tls13 = versions
            .iter()
            .any(|version| version.version == rustls::ProtocolVersion::TLSv1_3);
        assert_eq!(
            bytes.len() > 1200,
            tls13,
            "a post-quantum share makes the hello long"
        );
        check(&bytes, &named("sni.mzsvc.default.global-svc.http"));
        let message = &bytes[RECORD_HEADER..];
        check(
            &records(message, &[512]),
            &named("sni.mzsvc.default.global-svc.http"),
        );
    }
}
