//! zstd with contexts that are made once a thread, and a cheap look at what does not compress.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat, ResetDirective, get_error_name};

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::Codec;

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Level 3, except for what a probe finds incompressible.
    Auto,
    /// Not at all.
    Off,
    /// This zstd level (negative: fastest) on everything that becomes smaller.
    Level(i32),
}

/// The level of [`Compression::Auto`]: two cores reach 1 GB/s with it, and 5 takes
/// twice the time for 8 % less.
pub const AUTO_LEVEL: i32 = 3;
/// Entries of the compressor's table for differences, as a power of two: at least one for every third byte of prefix and
/// frame, within these. A table that is larger than that only costs: it is cleared for every frame.
const DELTA_TABLE: std::ops::RangeInclusive<u32> = 14..=19;
/// Bytes of one sample of the probe.
const SAMPLE: usize = 4096;
/// Samples of the probe, spread over the frame.
const SAMPLES: usize = 3;

fn zstd_error(code: usize) -> Error {
    Error::corrupt(format!("zstd: {}", get_error_name(code)))
}

/// Compresses frames.
pub struct Encoder {
    context: CCtx<'static>,
    probe: CCtx<'static>,
    scratch: Vec<u8>,
    compression: Compression,
    level: i32,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({:?})", self.compression)
    }
}

fn context<'a>(level: i32) -> Result<CCtx<'a>> {
    let mut context = CCtx::try_create().ok_or_else(|| Error::new(ErrorKind::Io, "there is no memory for a compressor"))?;
    let parameters = [
        CParameter::CompressionLevel(level),
        // The frame is named, sized and authenticated by what is around it.
        CParameter::Format(FrameFormat::Magicless),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
    ];
    for parameter in parameters {
        context.set_parameter(parameter).map_err(zstd_error)?;
    }
    Ok(context)
}

impl Encoder {
    /// An encoder for one thread.
    pub fn new(compression: Compression) -> Result<Self> {
        let level = match compression {
            Compression::Level(level) => level,
            _ => AUTO_LEVEL,
        };
        Ok(Encoder { context: context(level)?, probe: context(1)?, scratch: Vec::with_capacity(2 * SAMPLE), compression, level })
    }

    /// Compresses `plain` into `out` (replaced). `Raw` when that gains nothing: `out` is then a copy.
    pub fn encode(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Codec> {
        out.clear();
        if self.compression != Compression::Off && !self.looks_incompressible(plain)? {
            out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
            self.context.compress2(out, plain).map_err(zstd_error)?;
            if out.len() < plain.len() {
                return Ok(Codec::Zstd);
            }
            out.clear();
        }
        out.extend_from_slice(plain);
        Ok(Codec::Raw)
    }

    /// Compresses `plain` against `prefix` into `out` (replaced): what repeats of the prefix costs nearly nothing. The
    /// context is made anew, since it borrows the prefix.
    pub fn encode_delta(&mut self, plain: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut context = context(self.level)?;
        // The tables that a level has for a frame alone forget the beginning of a prefix before the frame begins.
        let table = ((plain.len() + prefix.len()) / 3).next_power_of_two().ilog2();
        let table = table.clamp(*DELTA_TABLE.start(), *DELTA_TABLE.end());
        for parameter in [CParameter::HashLog(table), CParameter::ChainLog(table - 1)] {
            context.set_parameter(parameter).map_err(zstd_error)?;
        }
        context.ref_prefix(prefix).map_err(zstd_error)?;
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        context.compress2(out, plain).map_err(zstd_error)?;
        Ok(())
    }

    fn looks_incompressible(&mut self, plain: &[u8]) -> Result<bool> {
        if self.compression != Compression::Auto || plain.len() < 2 * SAMPLES * SAMPLE {
            return Ok(false);
        }
        let step = (plain.len() - SAMPLE) / (SAMPLES - 1);
        for n in 0..SAMPLES {
            let sample = &plain[n * step..n * step + SAMPLE];
            self.scratch.clear();
            self.scratch.reserve(zstd::zstd_safe::compress_bound(SAMPLE));
            self.probe.compress2(&mut self.scratch, sample).map_err(zstd_error)?;
            if self.scratch.len() < SAMPLE - SAMPLE / 32 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Decompresses frames.
pub struct Decoder {
    context: DCtx<'static>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

impl Decoder {
    /// A decoder for one thread.
    pub fn new() -> Result<Self> {
        Ok(Decoder { context: decoding_context()? })
    }

    /// Decodes what was compressed against `prefix` into `out` (replaced): exactly `plain` bytes or an error.
    pub fn decode_delta(&mut self, stored: &[u8], prefix: &[u8], plain: usize, out: &mut Vec<u8>) -> Result<()> {
        let mut context = decoding_context()?;
        context.ref_prefix(prefix).map_err(zstd_error)?;
        out.clear();
        out.reserve_exact(plain);
        context.decompress(out, stored).map_err(zstd_error)?;
        exact(out, plain)
    }

    /// Decodes `stored` into `out` (replaced): exactly `plain` bytes or an error, and never more memory than that.
    pub fn decode(&mut self, codec: Codec, stored: &[u8], plain: usize, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        match codec {
            Codec::Raw => out.extend_from_slice(stored),
            Codec::Zstd => {
                out.reserve_exact(plain);
                if let Err(code) = self.context.decompress(out, stored) {
                    self.context.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
                    return Err(zstd_error(code));
                }
            }
        }
        exact(out, plain)
    }
}

fn exact(out: &[u8], plain: usize) -> Result<()> {
    if out.len() == plain {
        return Ok(());
    }
    Err(Error::corrupt(format!("a frame has {} bytes where {plain} were announced", out.len())))
}

fn decoding_context<'a>() -> Result<DCtx<'a>> {
    let mut context = DCtx::try_create().ok_or_else(|| Error::new(ErrorKind::Io, "there is no memory for a decompressor"))?;
    context.set_parameter(DParameter::Format(FrameFormat::Magicless)).map_err(zstd_error)?;
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_is_small_and_needs_its_prefix() {
        let mut old = vec![0; 300_000];
        blake3::Hasher::new().finalize_xof().fill(&mut old);
        let mut new = old.clone();
        new.splice(1000..1010, b"something else".iter().copied());
        let mut encoder = Encoder::new(Compression::Auto).expect("encoder");
        let mut decoder = Decoder::new().expect("decoder");
        let (mut stored, mut back) = (Vec::new(), Vec::new());
        encoder.encode_delta(&new, &old, &mut stored).expect("encoding");
        assert!(stored.len() < 1000, "{} bytes", stored.len());
        decoder.decode_delta(&stored, &old, new.len(), &mut back).expect("decoding");
        assert_eq!(back, new);
        let wrong = decoder.decode_delta(&stored, &new[..200_000], new.len(), &mut back);
        assert!(wrong.is_err() || back != new);
    }

    #[test]
    fn what_does_not_compress_is_stored_as_it_is() {
        let mut noise = vec![0; 200_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let text = b"the same words again and again ".repeat(9000);
        let mut encoder = Encoder::new(Compression::Auto).expect("encoder");
        let mut decoder = Decoder::new().expect("decoder");
        let (mut stored, mut back) = (Vec::new(), Vec::new());
        for (data, codec) in [(&noise, Codec::Raw), (&text, Codec::Zstd)] {
            assert_eq!(encoder.encode(data, &mut stored).ok(), Some(codec));
            decoder.decode(codec, &stored, data.len(), &mut back).expect("decoding");
            assert_eq!(&back, data);
            assert!(decoder.decode(codec, &stored, data.len() + 1, &mut back).is_err());
            assert!(decoder.decode(codec, &stored, data.len() - 1, &mut back).is_err());
        }
    }
}
