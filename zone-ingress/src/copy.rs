//! Moves bytes between two sockets until both sides are finished.
//!
//! A buffer is held only from a read to the end of its write: an idle connection has none. A slow
//! reader stops its own sender only. The end of one side's stream is passed on, and the other
//! direction goes on.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::Poll;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::buffers::{Buffer, Buffers};
use crate::connection::{Connection, Direction};
use crate::times::Times;

/// Bytes one direction may move before its neighbours get their turn.
const TURN_BYTES: usize = 1 << 20;

/// A side broke the connection.
#[derive(Debug)]
pub enum Broken {
    Caller(io::Error),
    Service(io::Error),
}

/// What moving bytes needs besides the sockets.
#[derive(Debug)]
pub struct Flow<'a> {
    pub connection: &'a Connection,
    pub buffers: &'a Buffers,
    pub times: &'a Times,
}

impl Flow<'_> {
    /// Moves bytes both ways; completes when both sides are finished or one breaks.
    ///
    /// # Errors
    /// When a side broke. Bytes that its peer had sent before may be lost, as on the wire.
    pub async fn both_ways(
        &self,
        caller: &mut TcpStream,
        service: &mut TcpStream,
    ) -> Result<(), Broken> {
        let (from_caller, to_caller) = caller.split();
        let (from_service, to_service) = service.split();
        let there = async {
            let moved = self
                .one_way(from_caller, to_service, Direction::ToService)
                .await;
            moved.map_err(|side| side.named(Broken::Caller, Broken::Service))
        };
        let back = async {
            let moved = self
                .one_way(from_service, to_caller, Direction::ToCaller)
                .await;
            moved.map_err(|side| side.named(Broken::Service, Broken::Caller))
        };
        tokio::try_join!(there, back).map(|((), ())| ())
    }

    async fn one_way(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        direction: Direction,
    ) -> Result<(), Side> {
        let mut turn = 0_usize;
        loop {
            let (buffer, bytes) = self.read(&mut from).await.map_err(Side::Reading)?;
            if bytes == 0 {
                break;
            }
            let mut rest = buffer.get(..bytes).unwrap_or_default();
            while !rest.is_empty() {
                let written = to.write(rest).await.map_err(Side::Writing)?;
                self.connection.moved(direction, written, self.times.now());
                rest = rest.get(written..).unwrap_or_default();
            }
            drop(buffer);
            turn += bytes;
            if turn >= TURN_BYTES {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        self.connection.half_closed(self.times.now());
        // Everything read was written before, so the end arrives after the last byte.
        match SockRef::from(to.as_ref()).shutdown(Shutdown::Write) {
            // The reader has gone meanwhile and misses nothing.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            ended => ended.map_err(Side::Writing),
        }
    }

    /// Reads into a buffer that is taken when there is something to read.
    async fn read(&self, from: &mut ReadHalf<'_>) -> io::Result<(Buffer, usize)> {
        poll_fn(|context| {
            let mut buffer = self.buffers.take();
            let mut space = ReadBuf::new(&mut buffer);
            match Pin::new(&mut *from).poll_read(context, &mut space) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {
                    let bytes = space.filled().len();
                    Poll::Ready(Ok((buffer, bytes)))
                }
            }
        })
        .await
    }
}

/// Which end of one direction broke.
enum Side {
    Reading(io::Error),
    Writing(io::Error),
}

impl Side {
    fn named(self, reading: fn(io::Error) -> Broken, writing: fn(io::Error) -> Broken) -> Broken {
        match self {
            Self::Reading(error) => reading(error),
            Self::Writing(error) => writing(error),
        }
    }
}
