//! Reads the server name out of the first bytes of a TLS connection.
//!
//! The parser is our own and tolerant on purpose: names of Kuma 2.x contain braces, which TLS
//! libraries refuse, and nothing but the record layer, the handshake header and the way to the
//! `server_name` extension has to make sense for routing.

use std::fmt;
use std::sync::Arc;

/// The largest handshake message taken by default, in bytes without its header.
pub const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;

/// The ceiling for a configured handshake limit.
pub const HANDSHAKE_BYTES_CEILING: usize = 64 * 1024;

const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
/// RFC 8446, 5.1: a plaintext record carries at most 2^14 bytes.
const RECORD_BYTES_MAX: usize = 1 << 14;
const CONTENT_HANDSHAKE: u8 = 22;
const LEGACY_MAJOR: u8 = 3;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;
/// The field could say 65,535; no name in use is longer than this.
const NAME_BYTES_MAX: usize = 255;

/// A server name in the form routes are looked up by: lower case, no trailing dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sni(Arc<str>);

impl Sni {
    /// Normalises a name: lower case, one trailing dot stripped.
    ///
    /// Returns `None` for a name that can stand in no hello we route: empty, over 255 bytes, or
    /// with a NUL in it.
    pub fn new(name: &str) -> Option<Self> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
            return None;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() {
            return None;
        }
        Some(if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Self(name.to_ascii_lowercase().into())
        } else {
            Self(name.into())
        })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Sni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::borrow::Borrow<str> for Sni {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What the first bytes of a connection tell us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// Not decided yet; call again with a longer prefix.
    NeedMore,
    /// A TLS ClientHello that names its server.
    Named(Sni),
    /// A TLS ClientHello without a server name: we cannot route it.
    Unnamed,
    /// A TLS ClientHello whose server name is empty, too long, or not text.
    BadName,
    /// Starts like a TLS ClientHello, and then its lengths contradict each other.
    Malformed,
    /// A handshake larger than the limit, or cut into so many records that it amounts to the same.
    TooLong,
    /// Something else.
    NotTls,
}

/// Follows one connection's first bytes until they are decided.
///
/// Each byte is looked at once while records are followed, however the bytes arrive, and the
/// handshake is read once when it is complete; so a peer that sends single bytes costs no more
/// than one that sends all at once. Holds no copy of the bytes: the caller keeps the prefix,
/// because it is what goes upstream.
#[derive(Debug)]
pub struct Parser {
    handshake_bytes_max: usize,
    /// How much of the prefix was followed.
    position: usize,
    /// Bytes of the current record still to come; 0 between records.
    record_left: usize,
    /// Handshake bytes seen, header included.
    seen: usize,
    header: [u8; HANDSHAKE_HEADER],
    records: usize,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new(HANDSHAKE_BYTES_MAX)
    }
}

impl Parser {
    /// A parser that takes handshakes up to `handshake_bytes_max` (at most 64 KiB).
    pub fn new(handshake_bytes_max: usize) -> Self {
        Self {
            handshake_bytes_max: handshake_bytes_max.min(HANDSHAKE_BYTES_CEILING),
            position: 0,
            record_left: 0,
            seen: 0,
            header: [0; HANDSHAKE_HEADER],
            records: 0,
        }
    }

    /// The longest prefix that can still be undecided. A caller never has to hold more.
    pub fn prefix_bytes_max(&self) -> usize {
        // Twice the handshake leaves room for hellos cut into records of a few bytes.
        2 * self.handshake_bytes_max + RECORD_HEADER + HANDSHAKE_HEADER
    }

    /// Looks at `prefix`, all bytes received so far, which begins with what the last call saw.
    pub fn advance(&mut self, prefix: &[u8]) -> Hello {
        loop {
            let rest = prefix.get(self.position..).unwrap_or_default();
            if self.record_left == 0 {
                match record_header(rest) {
                    Record::Payload(length) => {
                        self.position += RECORD_HEADER;
                        self.record_left = length;
                        self.records += 1;
                    }
                    Record::NeedMore if prefix.len() >= self.prefix_bytes_max() => {
                        return Hello::TooLong;
                    }
                    Record::NeedMore => return Hello::NeedMore,
                    Record::Other => return Hello::NotTls,
                }
                continue;
            }
            let fragment = rest.get(..self.record_left).unwrap_or(rest);
            if fragment.is_empty() {
                return if prefix.len() >= self.prefix_bytes_max() {
                    Hello::TooLong
                } else {
                    Hello::NeedMore
                };
            }
            if let Some(hello) = self.follow(fragment, prefix) {
                return hello;
            }
        }
    }

    /// Takes the next bytes of the handshake; decides when they complete or refute it.
    fn follow(&mut self, fragment: &[u8], prefix: &[u8]) -> Option<Hello> {
        if let Some(missing) = self.header.get_mut(self.seen..) {
            for (slot, byte) in missing.iter_mut().zip(fragment) {
                *slot = *byte;
            }
        }
        self.position += fragment.len();
        self.record_left -= fragment.len();
        self.seen += fragment.len();

        let [kind, a, b, c] = self.header;
        if kind != CLIENT_HELLO {
            return Some(Hello::NotTls);
        }
        if self.seen < HANDSHAKE_HEADER {
            return None;
        }
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if length > self.handshake_bytes_max {
            return Some(Hello::TooLong);
        }
        if self.seen < HANDSHAKE_HEADER + length {
            return None;
        }
        Some(self.read(prefix, length))
    }

    /// Reads the complete handshake out of the prefix.
    fn read(&self, prefix: &[u8], length: usize) -> Hello {
        if self.records == 1 {
            let start = RECORD_HEADER + HANDSHAKE_HEADER;
            return client_hello(prefix.get(start..start + length).unwrap_or_default());
        }
        let mut handshake = Vec::with_capacity(HANDSHAKE_HEADER + length);
        let mut rest = prefix;
        while let Record::Payload(record) = record_header(rest) {
            let payload = rest.get(RECORD_HEADER..).unwrap_or_default();
            let fragment = payload.get(..record).unwrap_or(payload);
            handshake.extend_from_slice(fragment);
            if handshake.len() >= HANDSHAKE_HEADER + length {
                break;
            }
            rest = payload.get(record..).unwrap_or_default();
        }
        let body = handshake.get(HANDSHAKE_HEADER..HANDSHAKE_HEADER + length);
        client_hello(body.unwrap_or_default())
    }
}

enum Record {
    NeedMore,
    Payload(usize),
    Other,
}

fn record_header(bytes: &[u8]) -> Record {
    match *bytes {
        [content, ..] if content != CONTENT_HANDSHAKE => Record::Other,
        [_, major, ..] if major != LEGACY_MAJOR => Record::Other,
        [_, _, _, high, low, ..] => {
            match usize::from(u16::from_be_bytes([high, low])) {
                // RFC 8446, 5.1: no empty fragments of a handshake.
                0 => Record::Other,
                length if length > RECORD_BYTES_MAX => Record::Other,
                length => Record::Payload(length),
            }
        }
        _ => Record::NeedMore,
    }
}

/// Finds the server name in the body of a ClientHello.
fn client_hello(body: &[u8]) -> Hello {
    let mut body = Reader(body);
    // legacy_version, random, legacy_session_id, cipher_suites, legacy_compression_methods
    let fixed = body
        .take(2 + 32)
        .and_then(|_| body.vector8())
        .and_then(|_| body.vector16())
        .and_then(|_| body.vector8());
    if fixed.is_none() {
        return Hello::Malformed;
    }
    if body.0.is_empty() {
        return Hello::Unnamed; // TLS 1.0 allows a hello without extensions
    }
    let Some(extensions) = body.vector16() else {
        return Hello::Malformed;
    };
    let mut extensions = Reader(extensions);
    while !extensions.0.is_empty() {
        let Some(kind) = extensions.number16() else {
            return Hello::Malformed;
        };
        let Some(content) = extensions.vector16() else {
            return Hello::Malformed;
        };
        if kind == EXTENSION_SERVER_NAME {
            return server_name(content);
        }
    }
    Hello::Unnamed
}

/// Takes the first host name of a `server_name` extension.
fn server_name(extension: &[u8]) -> Hello {
    let Some(list) = Reader(extension).vector16() else {
        return Hello::Malformed;
    };
    let mut list = Reader(list);
    while !list.0.is_empty() {
        let Some(kind) = list.number8() else {
            return Hello::Malformed;
        };
        let Some(name) = list.vector16() else {
            return Hello::Malformed;
        };
        if kind == NAME_TYPE_HOST {
            let name = std::str::from_utf8(name).ok().and_then(Sni::new);
            return name.map_or(Hello::BadName, Hello::Named);
        }
    }
    Hello::Unnamed
}

/// A cursor over bytes of which every length is doubted.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number16(&mut self) -> Option<u16> {
        let (first, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*first))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.number8()?;
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests;
