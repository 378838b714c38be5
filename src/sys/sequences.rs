//! zstd's entropy stage alone: a frame out of matches that the caller found. The bindings have no safe call for it.

use std::ptr::NonNull;

use ::zstd::zstd_safe::{self, zstd_sys as raw};

/// The most bytes of a block of a frame (RFC 8878, 3.1.1.2.3).
const BLOCK: usize = 128 << 10;
/// A shorter match is not worth a sequence; zstd takes none below 3.
const SHORTEST: usize = 8;

/// Bytes of the frame that also stand earlier: before the frame in its prefix, or in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match {
    /// Where they begin in the frame.
    pub(crate) at: u32,
    /// How many they are.
    pub(crate) len: u32,
    /// How far back the same bytes stand; at least 1. The frame's prefix lies directly before its first byte.
    pub(crate) offset: u32,
}

/// Makes frames out of matches; one for each thread.
#[derive(Debug)]
pub(crate) struct Sequencer {
    context: NonNull<raw::ZSTD_CCtx>,
    list: Vec<raw::ZSTD_Sequence>,
}

// SAFETY: a context may be used by any thread, by one at a time; it is only reached through `&mut`.
#[allow(unsafe_code)]
unsafe impl Send for Sequencer {}

impl Drop for Sequencer {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the context was made by `ZSTD_createCCtx` and is freed once.
        unsafe { raw::ZSTD_freeCCtx(self.context.as_ptr()) };
    }
}

impl Sequencer {
    /// A sequencer whose frames have no magic number, no length, and no checksum. An error is zstd's text.
    #[allow(unsafe_code)]
    pub(crate) fn new() -> Result<Self, &'static str> {
        use raw::ZSTD_cParameter as P;
        // SAFETY: takes nothing; null is looked for.
        let context = NonNull::new(unsafe { raw::ZSTD_createCCtx() }).ok_or("there is no memory for a compressor")?;
        let made = Sequencer { context, list: Vec::new() };
        // Level 1 chooses tables of the entropy stage only: nothing is searched. Repeated offsets are looked for,
        // since all matches of one place have the same.
        let parameters = [
            (P::ZSTD_c_compressionLevel, 1),
            (P::ZSTD_c_contentSizeFlag, 0),
            // The format: magicless.
            (P::ZSTD_c_experimentalParam2, 1),
            // The blocks end where the sequences say.
            (P::ZSTD_c_experimentalParam11, 1),
            // Repeated offsets: enabled.
            (P::ZSTD_c_experimentalParam19, 1),
        ];
        for (parameter, value) in parameters {
            // SAFETY: the context is alive.
            checked(unsafe { raw::ZSTD_CCtx_setParameter(made.context.as_ptr(), parameter, value) })?;
        }
        Ok(made)
    }

    /// Makes the frame of `plain` with `matches`, which are in order and do not overlap, into `out` (replaced). Whether the
    /// matched bytes are equal is not checked here: decoding the frame shows it. An error is zstd's text, or says
    /// that the matches do not lie in the frame.
    #[allow(unsafe_code)]
    pub(crate) fn frame(&mut self, plain: &[u8], matches: &[Match], out: &mut Vec<u8>) -> Result<(), &'static str> {
        list(plain.len(), matches, &mut self.list)?;
        out.clear();
        out.reserve(zstd_safe::compress_bound(plain.len()));
        // SAFETY: the pointers and lengths are those of live buffers. `list` covers exactly `plain`, in blocks of at most
        // BLOCK bytes. What is written is at most the capacity that is passed.
        let written = unsafe {
            let sequences = (self.list.as_ptr(), self.list.len());
            let (to, room) = (out.as_mut_ptr().cast(), out.capacity());
            let context = self.context.as_ptr();
            raw::ZSTD_compressSequences(context, to, room, sequences.0, sequences.1, plain.as_ptr().cast(), plain.len())
        };
        let written = checked(written)?;
        // SAFETY: so many bytes were written.
        unsafe { out.set_len(written) };
        Ok(())
    }
}

#[allow(unsafe_code)]
fn checked(code: usize) -> Result<usize, &'static str> {
    // SAFETY: looks at the number only.
    match unsafe { raw::ZSTD_isError(code) } {
        0 => Ok(code),
        _ => Err(zstd_safe::get_error_name(code)),
    }
}

/// The sequences of a frame of `len` bytes with the ends of its blocks. Matches are cut there.
fn list(len: usize, matches: &[Match], out: &mut Vec<raw::ZSTD_Sequence>) -> Result<(), &'static str> {
    let sequence = |literals: usize, matched: usize, offset: u32| raw::ZSTD_Sequence {
        offset,
        litLength: literals as u32,
        matchLength: matched as u32,
        rep: 0,
    };
    out.clear();
    let (mut literal, mut block, mut before) = (0, BLOCK.min(len), 0);
    for m in matches {
        let (mut at, end) = (m.at as usize, m.at as usize + m.len as usize);
        if at < before || end > len || m.offset == 0 {
            return Err("a match is out of its place");
        }
        before = end;
        while at < end {
            while at >= block {
                out.push(sequence(block - literal, 0, 0));
                (literal, block) = (block, (block + BLOCK).min(len));
            }
            let stop = end.min(block);
            if stop - at >= SHORTEST {
                out.push(sequence(at - literal, stop - at, m.offset));
                literal = stop;
            }
            at = stop;
        }
    }
    loop {
        out.push(sequence(block - literal, 0, 0));
        if block == len {
            return Ok(());
        }
        (literal, block) = (block, (block + BLOCK).min(len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_cover_the_frame_in_blocks() {
        let mut sequences = Vec::new();
        let frames = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5];
        for len in frames {
            let far = Match { at: 0, len: len as u32, offset: 7 };
            for matches in [&[][..], &[far]] {
                list(len, matches, &mut sequences).expect("a list");
                let sum: u32 = sequences.iter().map(|s| s.litLength + s.matchLength).sum();
                assert_eq!(sum as usize, len);
                let blocks = sequences.split_inclusive(|s| s.offset == 0);
                assert!(blocks.clone().all(|b| b.iter().map(|s| s.litLength + s.matchLength).sum::<u32>() <= BLOCK as u32));
                assert_eq!(blocks.count(), len.div_ceil(BLOCK).max(1));
            }
        }
    }

    #[test]
    fn matches_out_of_their_place_are_refused() {
        let of = |at, len, offset| Match { at, len, offset };
        let mut sequencer = Sequencer::new().expect("a sequencer");
        for wrong in [&[of(0, 101, 1)][..], &[of(50, 10, 1), of(55, 10, 1)], &[of(0, 10, 0)], &[of(u32::MAX, u32::MAX, 1)]] {
            assert!(sequencer.frame(&[7; 100], wrong, &mut Vec::new()).is_err());
        }
    }
}
