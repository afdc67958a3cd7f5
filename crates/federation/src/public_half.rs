//! The public half of an RSA signing key, as Kuma's zones expect it: PKCS#1 in PEM.
//!
//! This is a matter of taking two numbers out of one list and putting them into another, so no cryptography is needed,
//! and none of it sees the secret numbers' meaning.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Why there is no public half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64.
    #[error("the data is not base64")]
    Base64,
    /// No private key in PEM.
    #[error("the data is no `RSA PRIVATE KEY` in PEM")]
    Pem,
    /// The PEM's content is not what its title says.
    #[error("the private key is damaged")]
    Der,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;

/// Base64 of a private key's PEM to base64 of the public half's PEM.
pub(crate) fn of_base64_pem(data: &str) -> Result<String, KeyError> {
    let pem = STANDARD
        .decode(data.trim())
        .map_err(|_cause| KeyError::Base64)?;
    let pem = String::from_utf8(pem).map_err(|_cause| KeyError::Pem)?;
    let der = match body(&pem, "RSA PRIVATE KEY") {
        Some(pkcs1) => decode(&pkcs1)?,
        None => {
            let pkcs8 = decode(&body(&pem, "PRIVATE KEY").ok_or(KeyError::Pem)?)?;
            unwrap_pkcs8(&pkcs8).ok_or(KeyError::Der)?
        }
    };
    let public = public_of(&der).ok_or(KeyError::Der)?;
    let mut text = String::from("-----BEGIN RSA PUBLIC KEY-----\n");
    let encoded = STANDARD.encode(public);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END RSA PUBLIC KEY-----\n");
    Ok(STANDARD.encode(text))
}

fn decode(base64: &str) -> Result<Vec<u8>, KeyError> {
    STANDARD.decode(base64).map_err(|_cause| KeyError::Pem)
}

/// The base64 text between the lines of a PEM block, in one piece.
fn body(pem: &str, title: &str) -> Option<String> {
    let (_, rest) = pem.split_once(&format!("-----BEGIN {title}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {title}-----"))?;
    Some(body.split_whitespace().collect())
}

/// Version, algorithm, key in octets.
fn unwrap_pkcs8(der: &[u8]) -> Option<Vec<u8>> {
    let (list, _) = element(der, SEQUENCE)?;
    let (_, list) = element(list, INTEGER)?;
    let (_, list) = element(list, SEQUENCE)?;
    let (key, _) = element(list, OCTETS)?;
    Some(key.to_vec())
}

/// Version, modulus, public exponent, then the secret numbers.
fn public_of(der: &[u8]) -> Option<Vec<u8>> {
    let (list, _) = element(der, SEQUENCE)?;
    let (_, list) = element(list, INTEGER)?;
    let (modulus, list) = element(list, INTEGER)?;
    let (exponent, _) = element(list, INTEGER)?;
    let mut content = wrapped(INTEGER, modulus)?;
    content.extend(wrapped(INTEGER, exponent)?);
    wrapped(SEQUENCE, &content)
}

/// The content of the element at the front, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    if first < 0x80 {
        return rest.split_at_checked(usize::from(first));
    }
    let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
    if bytes.len() > 4 {
        return None;
    }
    let len = bytes
        .iter()
        .fold(0_usize, |len, byte| (len << 8) | usize::from(*byte));
    rest.split_at_checked(len)
}

fn wrapped(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let len = content.len();
    let mut der = vec![tag];
    match u8::try_from(len) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let bytes = u32::try_from(len).ok()?.to_be_bytes();
            let bytes: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            der.push(0x80 | u8::try_from(bytes.len()).ok()?);
            der.extend(bytes);
        }
    }
    der.extend(content);
    Some(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_modulus_and_exponent() {
        // Version 0, modulus of 200 bytes, exponent 65537, one secret number.
        let mut list = wrapped(INTEGER, &[0]).unwrap();
        list.extend(wrapped(INTEGER, &[7; 200]).unwrap());
        list.extend(wrapped(INTEGER, &[1, 0, 1]).unwrap());
        list.extend(wrapped(INTEGER, &[9; 200]).unwrap());
        let private = wrapped(SEQUENCE, &list).unwrap();
        let pem = |title: &str, der: &[u8]| {
            let text = STANDARD.encode(der);
            STANDARD.encode(format!(
                "-----BEGIN {title}-----\n{text}\n-----END {title}-----\n"
            ))
        };
        let public = of_base64_pem(&pem("RSA PRIVATE KEY", &private)).unwrap();
        let text = String::from_utf8(STANDARD.decode(&public).unwrap()).unwrap();
        let der = STANDARD
            .decode(body(&text, "RSA PUBLIC KEY").unwrap())
            .unwrap();
        let (numbers, rest) = element(&der, SEQUENCE).unwrap();
        assert!(rest.is_empty());
        let (modulus, rest) = element(numbers, INTEGER).unwrap();
        let (exponent, rest) = element(rest, INTEGER).unwrap();
        assert_eq!(
            (modulus, exponent, rest),
            (&[7_u8; 200][..], &[1_u8, 0, 1][..], &[][..])
        );

        let mut outer = wrapped(INTEGER, &[0]).unwrap();
        outer.extend(wrapped(SEQUENCE, &[]).unwrap());
        outer.extend(wrapped(OCTETS, &private).unwrap());
        let pkcs8 = wrapped(SEQUENCE, &outer).unwrap();
        assert_eq!(of_base64_pem(&pem("PRIVATE KEY", &pkcs8)).unwrap(), public);

        assert_eq!(of_base64_pem("%"), Err(KeyError::Base64));
        assert_eq!(of_base64_pem(&STANDARD.encode("hello")), Err(KeyError::Pem));
        assert_eq!(
            of_base64_pem(&pem("RSA PRIVATE KEY", &[1, 2])),
            Err(KeyError::Der)
        );
    }
}
