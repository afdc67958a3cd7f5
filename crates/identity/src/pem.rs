//! PEM text and the little DER that keys need.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One block: its label, e.g. `RSA PRIVATE KEY`, and its bytes.
pub(crate) type Block = (String, Vec<u8>);

/// Reads every block. Text between blocks is ignored, as comments often stand there. `None` for broken ones.
pub(crate) fn parse(text: &str) -> Option<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(label) = line
            .strip_prefix("-----BEGIN ")
            .and_then(|l| l.strip_suffix("-----"))
        {
            if open.is_some() {
                return None;
            }
            open = Some((label.to_owned(), String::new()));
        } else if let Some(label) = line
            .strip_prefix("-----END ")
            .and_then(|l| l.strip_suffix("-----"))
        {
            let (began, body) = open.take()?;
            if began != label {
                return None;
            }
            blocks.push((began, STANDARD.decode(body).ok()?));
        } else if let Some((_, body)) = &mut open
            && !line.contains(':')
        {
            body.push_str(line);
        }
    }
    if open.is_some() { None } else { Some(blocks) }
}

/// Writes one block, 64 characters a line.
pub(crate) fn write(label: &str, bytes: &[u8]) -> String {
    let body = STANDARD.encode(bytes);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    // Writing to a string cannot fail.
    let _written = writeln!(text, "-----END {label}-----");
    text
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;

/// The PKCS#1 key inside a PKCS#8 one.
pub(crate) fn pkcs1_of_pkcs8(der: &[u8]) -> Option<Vec<u8>> {
    let (body, _) = element(der, SEQUENCE)?;
    let (_version, rest) = element(body, INTEGER)?;
    let (_algorithm, rest) = element(rest, SEQUENCE)?;
    let (key, _) = element(rest, OCTET_STRING)?;
    Some(key.to_vec())
}

/// The PKCS#1 public key inside a SubjectPublicKeyInfo.
pub(crate) fn pkcs1_of_spki(der: &[u8]) -> Option<Vec<u8>> {
    let (body, _) = element(der, SEQUENCE)?;
    let (_algorithm, rest) = element(body, SEQUENCE)?;
    let (bits, _) = element(rest, BIT_STRING)?;
    let (unused, key) = bits.split_first()?;
    (*unused == 0).then(|| key.to_vec())
}

/// Splits off one element with the wanted tag: its content, and what follows.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (got, rest) = der.split_first()?;
    if *got != tag {
        return None;
    }
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let count = usize::from(long & 0x7f);
            if count == 0 || count > 4 {
                return None;
            }
            let (digits, rest) = rest.split_at_checked(count)?;
            (
                digits
                    .iter()
                    .fold(0usize, |sum, digit| sum << 8 | usize::from(*digit)),
                rest,
            )
        }
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_survive_their_text() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = format!("comment\n{}{}", write("A", &bytes), write("B C", b""));
        assert_eq!(
            parse(&text),
            Some(vec![
                ("A".to_owned(), bytes),
                ("B C".to_owned(), Vec::new())
            ])
        );
        assert!(text.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn broken_blocks_are_refused() {
        for text in [
            "-----BEGIN A-----\nAAAA\n",
            "-----BEGIN A-----\nAAAA\n-----END B-----\n",
            "-----BEGIN A-----\n???\n-----END A-----\n",
            "-----END A-----\n",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("nothing"), Some(Vec::new()));
    }

    #[test]
    fn rubbish_der_is_refused() {
        for der in [
            &b""[..],
            b"\x30",
            b"\x30\x80",
            b"\x30\x85\x01\x01\x01\x01\x01",
            b"\x30\x05\x02",
        ] {
            assert_eq!(pkcs1_of_pkcs8(der), None);
            assert_eq!(pkcs1_of_spki(der), None);
        }
    }
}
