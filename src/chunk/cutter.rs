//! Where a file is cut into chunks: FastCDC (Xia et al., 2020) with a secret gear table.
//!
//! The table comes from the repository's key through BLAKE3, so that chunk lengths tell an outsider less about
//! known files than a public table would. It is a layer, not a proof: gear tables are linear, and the secrets of
//! several tools have been recovered from chunk lengths (eprint 2025/532).

use crate::error::Result;
use crate::format::config::ChunkerParameters;

/// Cuts byte streams into chunks.
#[derive(Clone)]
pub struct Cutter {
    parameters: ChunkerParameters,
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
    mask_small: u64,
    mask_large: u64,
}

impl std::fmt::Debug for Cutter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cutter").field("parameters", &self.parameters).finish_non_exhaustive()
    }
}

impl Cutter {
    /// A cutter for `parameters` (validated here) with the gear table that `secret` makes.
    pub fn new(parameters: ChunkerParameters, secret: &[u8; 32]) -> Result<Self> {
        parameters.validate()?;
        let mut bytes = [0; 2048];
        blake3::Hasher::new_keyed(secret).finalize_xof().fill(&mut bytes);
        let mut gear = Box::new([0; 256]);
        let mut gear_shifted = Box::new([0; 256]);
        for (at, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            gear[at] = u64::from_le_bytes(*word);
            gear_shifted[at] = gear[at] << 1;
        }
        // Normalized chunking, level 1: one more bit below the average, one less above it.
        let bits = parameters.avg.trailing_zeros() as usize;
        let masks = fastcdc::v2020::MASKS;
        Ok(Cutter { parameters, gear, gear_shifted, mask_small: masks[bits + 1], mask_large: masks[bits - 1] })
    }

    /// The length of the first chunk of `source`, which must be the rest of the file or at least `Cutter::max` bytes
    /// of it. 0 only for an empty source.
    pub fn cut(&self, source: &[u8]) -> usize {
        let p = &self.parameters;
        if source.len() <= p.min as usize {
            return source.len();
        }
        let (min, avg, max) = (p.min as usize, p.avg as usize, p.max as usize);
        let (small, large) = (self.mask_small, self.mask_large);
        let (gear, shifted) = (&self.gear[..], &self.gear_shifted[..]);
        fastcdc::v2020::cut_gear(source, min, avg, max, small, large, small << 1, large << 1, gear, shifted).1
    }

    /// The longest chunk: as many bytes must be at hand before a cut, unless the file ends.
    pub(crate) fn max(&self) -> usize {
        self.parameters.max as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut out);
        out
    }

    fn cuts(cutter: &Cutter, mut data: &[u8]) -> Vec<usize> {
        let mut out = Vec::new();
        while !data.is_empty() {
            let n = cutter.cut(data);
            out.push(n);
            data = &data[n..];
        }
        out
    }

    #[test]
    fn golden_cuts() {
        let cutter = Cutter::new(ChunkerParameters::DEFAULT, &[9; 32]).expect("parameters");
        // A change here means that every repository out there would store everything again.
        assert_eq!(cuts(&cutter, &noise(600_000, 1)), GOLDEN);
    }

    const GOLDEN: &[usize] = &[28556, 84730, 16410, 92906, 60040, 110699, 91350, 85336, 29973];

    #[test]
    fn the_secret_moves_the_cuts() {
        let data = noise(600_000, 1);
        let of = |secret| cuts(&Cutter::new(ChunkerParameters::DEFAULT, &[secret; 32]).expect("parameters"), &data);
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn bad_sizes_are_refused() {
        for (min, avg, max) in
            [(0, 0, 0), (16, 8, 32), (16384, 65537, 262144), (16384, 65536, 65536), (1 << 21, 1 << 22, 1 << 23)]
        {
            assert!(Cutter::new(ChunkerParameters { min, avg, max }, &[0; 32]).is_err(), "{min}/{avg}/{max}");
        }
    }
}
