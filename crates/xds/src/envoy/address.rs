//! Addresses.

use kds_proto::envoy::config::core::v3::{
    Address, BindConfig, CidrRange, Pipe, SocketAddress, address, socket_address::PortSpecifier,
};

use super::number;

/// The private ranges, which requests are internal from; in the order in which Kuma writes them.
const INTERNAL_RANGES: &[(&str, u32)] = &[
    ("10.0.0.0", 8),
    ("192.168.0.0", 16),
    ("172.16.0.0", 12),
    ("fc00::", 7),
    ("fd00::", 8),
    ("127.0.0.1", 32),
    ("::1", 128),
];

const LOOPBACK_RANGES: &[(&str, u32)] = &[("127.0.0.1", 32), ("::1", 128)];

pub(crate) fn socket_address(host: &str, port: u32) -> SocketAddress {
    SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    }
}

pub(crate) fn socket(host: &str, port: u32) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(socket_address(host, port))),
    }
}

pub(crate) fn pipe(path: &str, mode: u32) -> Address {
    Address {
        address: Some(address::Address::Pipe(Pipe {
            path: path.to_owned(),
            mode,
        })),
    }
}

pub(crate) fn source(host: &str) -> BindConfig {
    BindConfig {
        source_address: Some(socket_address(host, 0)),
        ..BindConfig::default()
    }
}

fn ranges(table: &[(&str, u32)], ipv6: bool) -> Vec<CidrRange> {
    table
        .iter()
        .filter(|(prefix, _)| ipv6 || !prefix.contains(':'))
        .map(|&(prefix, bits)| CidrRange {
            address_prefix: prefix.to_owned(),
            prefix_len: Some(number(bits)),
        })
        .collect()
}

/// The ranges that listeners of the mesh take for internal.
pub(crate) fn internal_ranges(ipv6: bool) -> Vec<CidrRange> {
    ranges(INTERNAL_RANGES, ipv6)
}

/// The ranges that the system's own listeners take for internal.
pub(crate) fn loopback_ranges(ipv6: bool) -> Vec<CidrRange> {
    ranges(LOOPBACK_RANGES, ipv6)
}
