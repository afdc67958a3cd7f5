//! Loopback addresses for one federation: `127.<block>.<zone>.<host>`, so that ports can be the well-known ones.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context as _;

/// A block of loopback addresses that nobody else uses right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block(u8);

impl Block {
    /// Finds a block whose first control plane address is free; held by binding it until `claim` is dropped.
    ///
    /// # Errors
    /// None of the blocks is free, which means that loopback addresses other than 127.0.0.1 cannot be bound here.
    pub fn find() -> anyhow::Result<(Self, TcpListener)> {
        let mut last = None;
        for _ in 0..50 {
            let block = Self(fastrand::u8(20..=250));
            // The claim is a port no process of ours uses; two federations on one machine cannot both hold it.
            match TcpListener::bind((block.at(0, 1), 1999)) {
                Ok(claim) => return Ok((block, claim)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("tried nothing"), anyhow::Error::from))
            .context("found no free block of loopback addresses 127.20.0.0 to 127.250.255.255")
    }

    /// The address of a host in a zone; zone 0 is the global control plane's.
    #[must_use]
    pub fn at(self, zone: u8, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0, zone, host).into()
    }

    /// Address and port.
    #[must_use]
    pub fn socket(self, zone: u8, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.at(zone, host), port)
    }
}
