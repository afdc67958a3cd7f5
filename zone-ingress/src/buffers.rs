//! Buffers shared by all connections: one is held only while bytes are in it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

/// Spare buffers kept for the next reader; what is beyond is given back to the system.
const SPARE_MAX: usize = 32;

/// A pool of equal buffers.
#[derive(Clone, Debug)]
pub struct Buffers {
    bytes: usize,
    spare: Arc<Mutex<Vec<Box<[u8]>>>>,
}

impl Buffers {
    /// Buffers of `bytes` each.
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes: bytes.max(1024),
            spare: Arc::default(),
        }
    }

    /// A buffer whose content is left over from anywhere: read only what was written to it.
    pub fn take(&self) -> Buffer {
        let spare = self.spare.lock().pop();
        let bytes = spare.unwrap_or_else(|| vec![0; self.bytes].into_boxed_slice());
        Buffer {
            bytes,
            pool: Arc::clone(&self.spare),
        }
    }
}

/// One buffer; goes back to its pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    pool: Arc<Mutex<Vec<Box<[u8]>>>>,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut spare = self.pool.lock();
        if spare.len() < SPARE_MAX {
            spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_buffers_are_reused_and_few() {
        let pool = Buffers::new(2048);
        let many: Vec<_> = (0..100).map(|_| pool.take()).collect();
        assert!(many.iter().all(|buffer| buffer.len() == 2048));
        drop(many);
        assert_eq!(pool.spare.lock().len(), SPARE_MAX);
        let one = pool.take();
        assert_eq!(pool.spare.lock().len(), SPARE_MAX - 1);
        drop(one);
    }
}
