//! zstd with contexts that are made once a thread, and a cheap look at what does not compress.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat, ResetDirective, Strategy, get_error_name};

use crate::chunk::by_place::{self, SamePlace};
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::Codec;
use crate::sys::sequences::{Match, Sequencer};

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Level 3, or one short table for frames like those for which that was better; not what a probe finds incompressible.
    Auto,
    /// Not at all.
    Off,
    /// This zstd level (negative: fastest) on everything that becomes smaller.
    Level(i32),
}

/// The level of [`Compression::Auto`]: two cores reach 1 GB/s with it, and 5 takes
/// twice the time for 8 % less.
pub(crate) const AUTO_LEVEL: i32 = 3;
/// Entries of the compressor's table for differences, as a power of two: at least one for every third byte of prefix and
/// frame, within these. A table that is larger than that only costs: it is cleared for every frame.
const DELTA_TABLE: std::ops::RangeInclusive<u32> = 14..=19;
/// Entries of the short table, as a power of two: one for four bytes of the frame, within these.
const SHORT_TABLE: std::ops::RangeInclusive<u32> = 13..=17;
/// One frame in so many is compressed both ways, to see which of them suits the data.
const TRIAL: u32 = 32;
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
    /// The other way of [`Compression::Auto`]: one short table. Pages of databases, which repeat what is a few bytes long,
    /// become smaller with it than at level 3, and in less time; other data do not.
    short: CCtx<'static>,
    /// Which way is better, by the length of a frame: those of large and of small files are not alike.
    ways: [Ways; 32],
    other: Vec<u8>,
    probe: CCtx<'static>,
    scratch: Vec<u8>,
    compression: Compression,
    level: i32,
    /// Made when the first frame has a base at the same place.
    sequencer: Option<Sequencer>,
    matches: Vec<Match>,
}

/// How small frames of about one length became.
#[derive(Debug, Clone, Copy, Default)]
struct Ways {
    frames: u32,
    /// Bytes of those that were compressed both ways; what is long ago counts less.
    level: usize,
    short: usize,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({:?})", self.compression)
    }
}

fn made<'a>(level: i32) -> Result<CCtx<'a>> {
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

/// Compresses into `out` (replaced).
fn compress(context: &mut CCtx<'static>, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
    context.compress2(out, plain).map(drop).map_err(zstd_error)
}

impl Encoder {
    /// An encoder for one thread.
    pub fn new(compression: Compression) -> Result<Self> {
        let level = match compression {
            Compression::Level(level) => level,
            _ => AUTO_LEVEL,
        };
        let (context, probe, short) = (made(level)?, made(1)?, made(level)?);
        let scratch = Vec::with_capacity(2 * SAMPLE);
        let (ways, other, matches) = Default::default();
        Ok(Encoder { context, short, ways, other, probe, scratch, compression, level, sequencer: None, matches })
    }

    /// Compresses `plain` into `out` (replaced). `Raw` when that gains nothing: `out` is then a copy.
    pub fn encode(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Codec> {
        out.clear();
        if self.compression != Compression::Off && !self.looks_incompressible(plain)? {
            match self.compression {
                Compression::Auto => self.better(plain, out)?,
                _ => compress(&mut self.context, plain, out)?,
            }
            if out.len() < plain.len() {
                return Ok(Codec::Zstd);
            }
            out.clear();
        }
        out.extend_from_slice(plain);
        Ok(Codec::Raw)
    }

    /// Compresses in the way that has been better of late; now and then in both.
    fn better(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let class = plain.len().checked_ilog2().unwrap_or(0);
        let ways = &mut self.ways[class as usize % 32];
        let trial = ways.frames.is_multiple_of(TRIAL);
        ways.frames = ways.frames.wrapping_add(1);
        if !trial && ways.level <= ways.short {
            return compress(&mut self.context, plain, out);
        }
        let table = class.saturating_sub(2).clamp(*SHORT_TABLE.start(), *SHORT_TABLE.end());
        self.short.set_parameter(CParameter::Strategy(Strategy::ZSTD_fast)).map_err(zstd_error)?;
        for parameter in [CParameter::MinMatch(4), CParameter::HashLog(table)] {
            self.short.set_parameter(parameter).map_err(zstd_error)?;
        }
        compress(&mut self.short, plain, out)?;
        if trial {
            compress(&mut self.context, plain, &mut self.other)?;
            (ways.level, ways.short) = (ways.level / 2 + self.other.len(), ways.short / 2 + out.len());
            if self.other.len() <= out.len() {
                out.clear();
                out.extend_from_slice(&self.other);
            }
        }
        Ok(())
    }

    /// Compresses `plain` against `prefix` into `out` (replaced): what repeats of the prefix costs nearly nothing. `same`
    /// says what of the prefix is the previous version of which part: if most is equal there, nothing is searched for.
    pub fn encode_delta(&mut self, plain: &[u8], prefix: &[u8], same: &[SamePlace], out: &mut Vec<u8>) -> Result<()> {
        if self.compression == Compression::Auto && self.encode_by_place(plain, prefix, same, out)? {
            return Ok(());
        }
        // The context is made anew, since it borrows the prefix.
        let mut context = made(self.level)?;
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

    /// The same with what is equal at the same place alone; false when that is too little.
    fn encode_by_place(&mut self, plain: &[u8], prefix: &[u8], same: &[SamePlace], out: &mut Vec<u8>) -> Result<bool> {
        if same.is_empty() || !by_place::find(plain, prefix, same, &mut self.matches) {
            return Ok(false);
        }
        let failed = |text: &str| Error::new(ErrorKind::Io, format!("zstd: {text}"));
        let sequencer = match &mut self.sequencer {
            Some(sequencer) => sequencer,
            none => none.insert(Sequencer::new().map_err(failed)?),
        };
        sequencer.frame(plain, &self.matches, out).map_err(failed)?;
        Ok(true)
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
        encoder.encode_delta(&new, &old, &[], &mut stored).expect("encoding");
        assert!(stored.len() < 1000, "{} bytes", stored.len());
        decoder.decode_delta(&stored, &old, new.len(), &mut back).expect("decoding");
        assert_eq!(back, new);
        let wrong = decoder.decode_delta(&stored, &new[..200_000], new.len(), &mut back);
        assert!(wrong.is_err() || back != new);
    }

    #[test]
    fn what_is_at_the_same_place_is_not_searched_for() {
        let mut encoder = Encoder::new(Compression::Auto).expect("encoder");
        let mut decoder = Decoder::new().expect("decoder");
        let (mut stored, mut back) = (Vec::new(), Vec::new());
        // Two fields, whose bases lie the other way round, with something between that nothing is compared with.
        let old = pages(400_000);
        for (field, changes) in [(65_536, 3), (200_000, 500), (131_072, 0), (4096, 1)] {
            let mut new = [&old[200_000..][..field], &old[..field]].concat();
            for n in 0..changes {
                let at = n * 7919 % new.len();
                new[at] ^= 0x55;
            }
            let place = |at: usize, base: usize| SamePlace { at: at as u32, len: field as u32, base: base as u32 };
            let same = [place(0, 200_000), place(field, 0)];
            assert!(encoder.encode_by_place(&new, &old, &same, &mut stored).expect("encoding"));
            assert!(stored.len() < 40 + 14 * (changes + 1), "{} bytes for {changes} changes", stored.len());
            decoder.decode_delta(&stored, &old, new.len(), &mut back).expect("decoding");
            assert!(back == new, "{field} bytes, {changes} changes");
        }
        // What is mostly other is searched for.
        let noise = pages(800_000)[400_000..].to_vec();
        let all = [SamePlace { at: 0, len: 400_000, base: 0 }];
        assert!(!encoder.encode_by_place(&noise, &old, &all, &mut stored).expect("encoding"));
    }

    /// Pages like those of a database: rows with a header, a number, some random bytes, and much that is always the same.
    fn pages(len: usize) -> Vec<u8> {
        let mut noise = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let row = |(at, noise): (u32, &[u8])| {
            let head = [&[0, 0, 0, 0, 0xd7, 2][..], &(at / 61).to_le_bytes(), &[(at % 61) as u8, 0, 4, 0, 2, 8, 24, 0]].concat();
            [&head[..], &at.to_le_bytes(), &[1, 0, 0, 0], &noise[..2], &[0, 0], &[b' '; 84]].concat()
        };
        let mut bytes: Vec<u8> = (0..).zip(noise.chunks(2)).take(len / 100).flat_map(row).collect();
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn the_better_way_is_taken() {
        let mut level = made(AUTO_LEVEL).expect("a context");
        let words: Vec<u8> =
            (0u32..40_000).flat_map(|n| format!("{:x} ", n.wrapping_mul(2_654_435_761) >> 20).into_bytes()).collect();
        for (data, name) in [(pages(140_000), "pages"), (words[..140_000].to_vec(), "words")] {
            let mut encoder = Encoder::new(Compression::Auto).expect("encoder");
            let (mut stored, mut plain, mut alone) = (Vec::new(), Vec::new(), Vec::new());
            compress(&mut level, &data, &mut alone).expect("compressed");
            // The first frame is compressed both ways, and tells how the next ones are.
            for frame in 0..3 {
                assert_eq!(encoder.encode(&data, &mut stored).ok(), Some(Codec::Zstd));
                assert!(stored.len() <= alone.len(), "{name}, frame {frame}: {} and {} bytes", stored.len(), alone.len());
                Decoder::new().expect("decoder").decode(Codec::Zstd, &stored, data.len(), &mut plain).expect("decoding");
                assert!(plain == data);
            }
            assert_eq!(stored.len() < alone.len(), name == "pages", "{name}: {} and {} bytes", stored.len(), alone.len());
        }
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
