//! Tokens from issuing to believing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Value, json};
use zonal_identity::token::{
    DataplaneClaims, KeyRing, SigningKey, TokenError, UserClaims, VerifyingKey, ZoneClaims,
    issue_dataplane, issue_user, issue_zone, parse_revocations, peek, verify_dataplane,
    verify_user, verify_zone,
};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate("1").unwrap());
const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn ring() -> KeyRing {
    KeyRing::new([KEY.verifying()])
}

fn zone() -> ZoneClaims {
    ZoneClaims {
        zone: "east".to_owned(),
        scope: vec!["cp".to_owned()],
    }
}

fn part(token: &str, index: usize) -> Value {
    let text = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

#[test]
fn token_has_the_agreed_form() {
    let token = issue_zone(&KEY, &zone(), HOUR, at(1000)).unwrap();
    assert_eq!(
        part(&token, 0),
        json!({"alg": "RS256", "typ": "JWT", "kid": "1"})
    );
    let mut claims = part(&token, 1);
    let id = claims["jti"].take();
    assert_eq!(id.as_str().unwrap().len(), 36);
    assert_eq!(
        claims,
        json!({"Zone": "east", "Scope": ["cp"], "iat": 995, "nbf": 995, "exp": 4600, "jti": null})
    );
}

#[test]
fn tokens_are_believed_while_they_are_good() {
    let user = UserClaims {
        name: "ann".to_owned(),
        groups: vec!["team-a".to_owned()],
    };
    let token = issue_user(&KEY, &user, HOUR, at(1000)).unwrap();
    let verified = verify_user(&token, &ring(), at(1000)).unwrap();
    assert_eq!(
        (verified.claims, verified.kid.as_str(), verified.expires),
        (user, "1", at(4600))
    );

    let dataplane = DataplaneClaims {
        name: "web-1".to_owned(),
        mesh: "default".to_owned(),
        tags: [("team".to_owned(), vec!["a".to_owned()])].into(),
        proxy_type: "dataplane".to_owned(),
        workload: "web".to_owned(),
    };
    let token = issue_dataplane(&KEY, &dataplane, HOUR, at(1000)).unwrap();
    assert_eq!(
        verify_dataplane(&token, &ring(), at(1000)).unwrap().claims,
        dataplane
    );
    assert_eq!(peek::<DataplaneClaims>(&token).unwrap(), dataplane);

    let token = issue_zone(&KEY, &zone(), HOUR, at(1000)).unwrap();
    assert_eq!(
        verify_zone(&token, &ring(), at(995)).unwrap().claims,
        zone()
    );
    assert_eq!(
        verify_zone(&token, &ring(), at(4600)).unwrap_err(),
        TokenError::Expired { at: at(4600) }
    );
    let early = verify_zone(&token, &ring(), at(994)).unwrap_err();
    assert!(early.to_string().starts_with(
        "token is not yet valid: 'valid_from' date is in the future. Check if the system clock"
    ));
}

#[test]
fn revoked_token_is_refused() {
    let token = issue_zone(&KEY, &zone(), HOUR, at(1000)).unwrap();
    let id = verify_zone(&token, &ring(), at(1000)).unwrap().id;
    let ring = ring().revoking(parse_revocations(&format!("other,{id}\n")));
    assert_eq!(
        verify_zone(&token, &ring, at(1000)).unwrap_err(),
        TokenError::Revoked
    );
}

#[test]
fn forged_tokens_are_refused_with_the_reason() {
    let token = issue_zone(&KEY, &zone(), HOUR, at(1000)).unwrap();
    let [header, claims, signature]: [&str; 3] =
        token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let check = |token: String, want: &str| {
        let got = verify_zone(&token, &ring(), at(1000))
            .unwrap_err()
            .to_string();
        assert_eq!(got, want, "{token}");
    };
    let other = encode(json!({"Zone": "west"}));
    check(
        format!("{header}.{other}.{signature}"),
        "could not parse token: the signature does not match the key 1",
    );
    let none = encode(json!({"alg": "none", "kid": "1"}));
    check(
        format!("{none}.{claims}."),
        "unsupported token alg none. Allowed algorithm is RS256",
    );
    let hmac = encode(json!({"alg": "HS256", "kid": "1"}));
    check(
        format!("{hmac}.{claims}.{signature}"),
        "unsupported token alg HS256. Allowed algorithm is RS256",
    );
    let anonymous = encode(json!({"alg": "RS256"}));
    check(
        format!("{anonymous}.{claims}.{signature}"),
        "JWT token must have kid header",
    );
    let number = encode(json!({"alg": "RS256", "kid": 1}));
    check(
        format!("{number}.{claims}.{signature}"),
        "JWT token kid header must be a string",
    );
    let unknown = encode(json!({"alg": "RS256", "kid": "9"}));
    check(
        format!("{unknown}.{claims}.{signature}"),
        "there is no signing key with KID 9",
    );
    check(
        "x".to_owned(),
        "could not parse token: it does not have three parts",
    );
    check(
        "?.?.?".to_owned(),
        "could not parse token: a part is not base64url",
    );

    let foreign = SigningKey::generate("1").unwrap();
    let token = issue_zone(&foreign, &zone(), HOUR, at(1000)).unwrap();
    check(
        token,
        "could not parse token: the signature does not match the key 1",
    );
}

#[test]
fn keys_survive_their_text() {
    let pem = KEY.to_pem().into_exposed();
    assert!(pem.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
    assert_eq!(SigningKey::from_bytes("1", pem.as_bytes()).unwrap(), *KEY);
    let public = KEY.verifying().to_pem();
    assert!(public.starts_with("-----BEGIN RSA PUBLIC KEY-----\n"));
    assert_eq!(
        VerifyingKey::from_bytes("1", public.as_bytes()).unwrap(),
        KEY.verifying()
    );
    assert_eq!(
        VerifyingKey::from_bytes("1", pem.as_bytes()).unwrap(),
        KEY.verifying()
    );
    assert!(SigningKey::from_bytes("1", public.as_bytes()).is_err());
    assert!(SigningKey::from_bytes("1", b"rubbish").is_err());
    assert!(VerifyingKey::from_bytes("1", b"rubbish").is_err());
    assert_eq!(format!("{:?}", *KEY), "SigningKey { kid: \"1\", .. }");
}

#[test]
fn newest_key_signs() {
    let old = SigningKey::from_bytes("9", KEY.to_pem().expose().as_bytes()).unwrap();
    let new = SigningKey::from_bytes("10", KEY.to_pem().expose().as_bytes()).unwrap();
    assert_eq!(
        KeyRing::newest([&old, &new, &KEY]).map(SigningKey::kid),
        Some("10")
    );
}
