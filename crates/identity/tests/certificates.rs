//! Authorities and certificates, judged by another implementation.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use zonal_identity::{
    Authority, AuthorityError, Bundle, KeyType, Leaf, SpiffeId, TrustDomain, summarize,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> Timestamp {
    "2026-05-01T12:00:00Z".parse().unwrap()
}

fn later(by: Duration) -> Timestamp {
    now() + by
}

fn domain() -> TrustDomain {
    "default.east.mesh.local".parse().unwrap()
}

fn web() -> SpiffeId {
    domain().with_path("/workload/web").unwrap()
}

/// Whether a verifier that trusts `bundle` believes the leaf at `at`.
fn believed(bundle: &Bundle, leaf: &Leaf, at: Timestamp) -> bool {
    let mut roots = RootCertStore::empty();
    for der in bundle.certificates() {
        roots.add(CertificateDer::from(der.to_vec())).unwrap();
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap();
    let chain = CertificateDer::from_pem_slice(leaf.chain_pem.as_bytes()).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().cast_unsigned()));
    verifier.verify_client_cert(&chain, &[], at).is_ok()
}

#[test]
fn issued_certificates_are_believed_by_their_authority_only() {
    for key_type in [KeyType::EcdsaP256, KeyType::Rsa2048] {
        let authority = Authority::generate(&domain(), key_type, now()).unwrap();
        let leaf = authority.issue(&web(), DAY, now()).unwrap();
        let bundle = Bundle::parse(&authority.certificate_pem()).unwrap();
        assert!(believed(&bundle, &leaf, now()), "{key_type:?}");
        assert!(!believed(&bundle, &leaf, later(2 * DAY)), "expired");
        let other = Authority::generate(&domain(), KeyType::EcdsaP256, now()).unwrap();
        let other = Bundle::parse(&other.certificate_pem()).unwrap();
        assert!(
            !believed(&other, &leaf, now()),
            "another authority of the same name"
        );
        let mut both = other;
        assert!(both.append(&bundle));
        assert!(
            believed(&both, &leaf, now()),
            "old and new authority are trusted together"
        );

        // The key belongs to the certificate and is of a form that TLS stacks read.
        let chain = CertificateDer::from_pem_slice(leaf.chain_pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.expose().as_bytes()).unwrap();
        let provider = aws_lc_rs::default_provider();
        rustls::sign::CertifiedKey::from_der(vec![chain], key, &provider).unwrap();
    }
}

#[test]
fn certificate_says_who_it_is_and_how_long() {
    let authority = Authority::generate(&domain(), KeyType::default(), now()).unwrap();
    let leaf = authority.issue(&web(), 5 * DAY, now()).unwrap();
    let der = CertificateDer::from_pem_slice(leaf.chain_pem.as_bytes()).unwrap();
    let summary = summarize(&der).unwrap();
    assert_eq!(summary.spiffe_ids, [web()]);
    assert_eq!(summary.not_before, now() - Duration::from_secs(10));
    assert_eq!(summary.not_after, later(5 * DAY));
    assert!(!summary.is_authority);
    assert_eq!(summary.subject, "");
    assert_eq!(leaf.expires, later(5 * DAY));
    assert_eq!(leaf.renew_at(), later(4 * DAY));
    assert!(!leaf.needs_renewal(later(4 * DAY - Duration::from_secs(1))));
    assert!(leaf.needs_renewal(later(4 * DAY)));
    assert!(!format!("{leaf:?}{authority:?}").contains("PRIVATE"));

    let root = Bundle::parse(&authority.certificate_pem()).unwrap();
    let root = summarize(root.certificates().next().unwrap()).unwrap();
    assert_eq!(root.spiffe_ids, [domain().id()]);
    assert!(root.is_authority);
    assert_eq!(root.subject, "O=Kuma, OU=Mesh, CN=default.east.mesh.local");
}

#[test]
fn certificate_never_outlives_its_authority() {
    let authority = Authority::generate(&domain(), KeyType::default(), now()).unwrap();
    let late = authority.not_after() - DAY;
    let leaf = authority.issue(&web(), 5 * DAY, late).unwrap();
    assert_eq!(leaf.expires, authority.not_after());
    assert!(matches!(
        authority.issue(&web(), DAY, authority.not_after()),
        Err(AuthorityError::Lifetime(_))
    ));
}

#[test]
fn authority_survives_its_text_and_bad_text_is_refused() {
    let authority = Authority::generate(&domain(), KeyType::Rsa2048, now()).unwrap();
    let (certificate, key) = (
        authority.certificate_pem(),
        authority.key_pem().expose().clone(),
    );
    let again = Authority::from_pem(&certificate, &key, now()).unwrap();
    let bundle = Bundle::parse(&certificate).unwrap();
    assert!(believed(
        &bundle,
        &again.issue(&web(), DAY, now()).unwrap(),
        now()
    ));

    let other = Authority::generate(&domain(), KeyType::EcdsaP256, now()).unwrap();
    let check = |certificate: &str, key: &str, at: Timestamp, want: &str| {
        let got = Authority::from_pem(certificate, key, at)
            .unwrap_err()
            .to_string();
        assert!(got.contains(want), "{got}");
    };
    check(
        &certificate,
        other.key_pem().expose(),
        now(),
        "does not belong",
    );
    check(&certificate, "rubbish", now(), "key cannot be read");
    check("rubbish", &key, now(), "no certificate");
    check(&certificate, &key, authority.not_after(), "expired");
    let leaf = authority.issue(&web(), DAY, now()).unwrap();
    check(
        &leaf.chain_pem,
        leaf.key_pem.expose(),
        now(),
        "not an authority",
    );
}

#[test]
fn bundles_hold_each_certificate_once_in_order() {
    let first = Authority::generate(&domain(), KeyType::default(), now())
        .unwrap()
        .certificate_pem();
    let second = Authority::generate(&domain(), KeyType::default(), now())
        .unwrap()
        .certificate_pem();
    let bundle = Bundle::parse(&format!("{first}{second}# comment\n{first}")).unwrap();
    assert_eq!(bundle.certificates().count(), 2);
    assert_eq!(bundle.fingerprints().len(), 2);
    assert_eq!(bundle.to_pem(), format!("{first}{second}"));
    assert!(Bundle::parse("").is_err());
    assert!(Bundle::parse("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----").is_err());
    assert!(Bundle::parse("-----BEGIN KEY-----\nAAAA\n-----END KEY-----").is_err());
}
