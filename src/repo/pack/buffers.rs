//! Buffers of decoded frames, used again.
//!
//! A block of memory as large as a frame is mapped by the system when it is asked for and unmapped when it is freed: some
//! hundred page faults, and the other processors have to be told. That takes longer than decoding a frame (three times
//! as long for a random read on a virtual machine), and kept in the C library's heap instead such blocks leave holes.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;

/// Bytes that are kept for the next frame, at most.
const KEPT: usize = 8 << 20;
/// A smaller block comes from the heap anyway.
const SMALLEST: usize = 64 << 10;
/// Capacities are multiples of this, so that one frame fits where another was.
const STEP: usize = 32 << 10;

/// Free buffers.
#[derive(Debug, Default)]
pub(crate) struct BufferPool(Mutex<Free>);

#[derive(Debug, Default)]
struct Free {
    /// The one that was given back last is at the end.
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// A buffer that goes back where it came from.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    home: Arc<BufferPool>,
}

impl BufferPool {
    /// An empty buffer with room for `len` bytes, and not for many more.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        if len < SMALLEST {
            return Vec::with_capacity(len);
        }
        let fits = |buffer: &Vec<u8>| buffer.capacity() >= len && buffer.capacity() <= len + len / 4 + STEP;
        let mut free = self.0.lock();
        let found = free.buffers.iter().rposition(fits).and_then(|at| free.buffers.remove(at));
        match found {
            Some(mut buffer) => {
                free.bytes -= buffer.capacity();
                buffer.clear();
                buffer
            }
            None => Vec::with_capacity(len.next_multiple_of(STEP)),
        }
    }

    fn give(&self, buffer: Vec<u8>) {
        if buffer.capacity() < SMALLEST || buffer.capacity() > KEPT {
            return;
        }
        // What goes is unmapped without the lock.
        let mut gone = Vec::new();
        let mut free = self.0.lock();
        free.bytes += buffer.capacity();
        free.buffers.push_back(buffer);
        while free.bytes > KEPT
            && let Some(oldest) = free.buffers.pop_front()
        {
            free.bytes -= oldest.capacity();
            gone.push(oldest);
        }
    }

    /// Has `bytes` given back when nobody needs them any more.
    pub(crate) fn keep(self: &Arc<Self>, bytes: Vec<u8>) -> Buffer {
        Buffer { bytes, home: self.clone() }
    }
}

impl Buffer {
    /// What it takes of memory.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_by_what_fits() {
        let buffers = Arc::new(BufferPool::default());
        let mut first = buffers.take(200 << 10);
        first.extend_from_slice(&[7; 1000]);
        let place = first.as_ptr();
        drop(buffers.keep(first));
        let shorter = buffers.take(100 << 10);
        assert_ne!(shorter.as_ptr(), place, "twice as large as what is wanted");
        let again = buffers.take(190 << 10);
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        let another = buffers.take(190 << 10);
        assert_ne!(another.as_ptr(), place);
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let buffers = Arc::new(BufferPool::default());
        let taken: Vec<Buffer> = (0..40).map(|_| buffers.keep(buffers.take(1 << 20))).collect();
        drop(taken);
        let free = buffers.0.lock();
        assert_eq!((free.buffers.len(), free.bytes), (8, KEPT));
    }
}
