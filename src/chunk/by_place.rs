//! Matches between a frame and bases that lie at the same place of the previous version: found by comparing, which is much
//! faster than searching. Files that are written in place, such as databases and images, mostly differ so.

use crate::sys::sequences::Match;

/// A part of a frame whose previous version is a part of the frame's bases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SamePlace {
    /// Where it begins in the frame.
    pub at: u32,
    /// Its length in bytes, in the frame and among the bases.
    pub len: u32,
    /// Where its previous version begins among the bases' bytes.
    pub base: u32,
}

/// At least this share of a frame must be equal to what was at the same place: where less is, a search finds more.
const EQUAL: f64 = 0.9;
/// After so many bytes with less than [`EARLY`] equal ones the comparing ends.
const LOOK: usize = 64 << 10;
const EARLY: f64 = 0.8;
/// Shorter runs of equal bytes are not worth a match.
const RUN: usize = 8;

/// Finds what of `plain` is equal to what was at the same place in `prefix`, into `out` (replaced). False: too little is, or
/// `places` do not fit.
pub(crate) fn find(plain: &[u8], prefix: &[u8], places: &[SamePlace], out: &mut Vec<Match>) -> bool {
    out.clear();
    let (mut equal, mut seen) = (0, 0);
    for place in places {
        let (at, len, base) = (place.at as usize, place.len as usize, place.base as usize);
        let (Some(new), Some(old)) = (plain.get(at..at + len), prefix.get(base..base + len)) else { return false };
        let offset = (prefix.len() - base + at) as u32;
        equal += runs(new, old, |run| out.push(Match { at: place.at + run.0 as u32, len: run.1 as u32, offset }));
        seen += len;
        if seen >= LOOK && (equal as f64) < EARLY * seen as f64 {
            return false;
        }
    }
    equal as f64 >= EQUAL * plain.len() as f64
}

/// Calls `found` with begin and length of each long enough run of equal bytes; returns the bytes in them.
fn runs(new: &[u8], old: &[u8], mut found: impl FnMut((usize, usize))) -> usize {
    let (mut at, mut sum) = (0, 0);
    while at < new.len() {
        let run = equal(&new[at..], &old[at..]);
        if run >= RUN {
            found((at, run));
            sum += run;
        }
        at += run;
        at += new[at..].iter().zip(&old[at..]).take_while(|(a, b)| a != b).count();
    }
    sum
}

/// How many first bytes are equal.
fn equal(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    for (n, (x, y)) in words_a.iter().zip(words_b).enumerate() {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return n * 8 + differ.trailing_zeros() as usize / 8;
        }
    }
    let at = words_a.len().min(words_b.len()) * 8;
    at + a[at..].iter().zip(&b[at..]).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_runs_are_found_to_the_byte() {
        let old: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let mut new = old.clone();
        for at in [0, 7, 8, 9, 1000, 1001, 1010, 70_001, 399_999] {
            new[at] ^= 0xff;
        }
        let mut found = Vec::new();
        runs(&new, &old, |run| found.push(run));
        let expected = [(10, 990), (1002, 8), (1011, 68_990), (70_002, 329_997)];
        assert_eq!(found, expected);
    }

    #[test]
    fn places_that_do_not_fit_are_not_compared() {
        let (plain, mut out) = (vec![1; 5000], Vec::new());
        let place = |at, len, base| [SamePlace { at, len, base }];
        assert!(find(&plain, &plain, &place(0, 5000, 0), &mut out));
        assert_eq!(out, [Match { at: 0, len: 5000, offset: 5000 }]);
        for wrong in [place(1, 5000, 0), place(0, 5000, 1), place(u32::MAX, u32::MAX, 0), place(0, 5000, u32::MAX)] {
            assert!(!find(&plain, &plain, &wrong, &mut out));
        }
        // Half of it is somewhere else.
        assert!(!find(&plain, &plain, &place(0, 2500, 0), &mut out));
    }
}
