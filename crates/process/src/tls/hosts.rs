//! The names and addresses of this machine, for the certificate made on first start.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Host name, `localhost`, loopback and every address of this machine that can be found, in order.
pub fn local_names() -> Vec<String> {
    let mut names = BTreeSet::from(["localhost".to_owned()]);
    if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        let host = host.trim();
        if is_dns_name(host) {
            names.insert(host.to_lowercase());
        }
    }
    let mut addresses = BTreeSet::from([
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ]);
    if let Ok(text) = std::fs::read_to_string("/proc/net/fib_trie") {
        addresses.extend(ipv4_of_trie(&text).into_iter().map(IpAddr::from));
    }
    if let Ok(text) = std::fs::read_to_string("/proc/net/if_inet6") {
        addresses.extend(ipv6_of_list(&text).into_iter().map(IpAddr::from));
    }
    names
        .into_iter()
        .chain(addresses.into_iter().map(|address| address.to_string()))
        .collect()
}

/// Whether the text can stand in a certificate as a DNS name.
pub(super) fn is_dns_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

/// The kernel's routing trie names each local address on a line before `/32 host LOCAL`.
fn ipv4_of_trie(text: &str) -> Vec<Ipv4Addr> {
    text.lines()
        .zip(text.lines().skip(1))
        .filter(|(_, next)| next.trim() == "/32 host LOCAL")
        .filter_map(|(line, _)| line.trim().trim_start_matches("|-- ").parse().ok())
        .collect()
}

/// One address per line, 32 hexadecimal digits first. Link-local ones are left out: nobody dials them by name.
fn ipv6_of_list(text: &str) -> Vec<Ipv6Addr> {
    text.lines()
        .filter_map(|line| u128::from_str_radix(line.split_whitespace().next()?, 16).ok())
        .map(Ipv6Addr::from_bits)
        .filter(|address| !address.is_unicast_link_local())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_read_from_the_kernel_tables() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n";
        assert_eq!(ipv4_of_trie(trie), [Ipv4Addr::new(10, 1, 2, 3)]);
        let list = "00000000000000000000000000000001 01 80 10 80 lo\nfe800000000000000000000000000001 02 40 20 80 eth0\n";
        assert_eq!(ipv6_of_list(list), [Ipv6Addr::LOCALHOST]);
    }

    #[test]
    fn local_names_always_have_loopback() {
        let names = local_names();
        for name in ["localhost", "127.0.0.1", "::1"] {
            assert!(names.iter().any(|have| have == name), "{name} in {names:?}");
        }
    }
}
