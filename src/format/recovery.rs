//! The recovery text: the master key, and what must be known beside it, as lines that people can type.
//!
//! ```text
//!  1: 0154 6b1c … - 90ab        number: up to 20 bytes, in groups of four digits - two check bytes
//! ```
//!
//! Lines of any other form are prose and left out. Each line's check bytes are BLAKE3 of its number and its bytes, so that
//! a typing error is found in its line, and so is a line in the wrong place.

use std::collections::BTreeMap;

use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{self, Config};
use crate::format::cursor::Put;
use crate::model::RepositoryId;
use crate::model::id::hex_pair;

/// The version of the text that is written, and the only one that is read.
pub const RECOVERY_VERSION: u8 = 1;
/// Bytes of one line.
pub const RECOVERY_LINE: usize = 20;
/// Bytes of the check of all lines together.
pub const RECOVERY_CHECK: usize = 8;

/// Bytes before the configuration's fields: version, length, repository, master key.
const FIXED: usize = 2 + 16 + 32;

/// What is needed to read a repository that has nothing but its packs, index and snapshots.
pub struct Recovery {
    /// The configuration.
    pub config: Config,
    /// The master key.
    pub master: Zeroizing<[u8; 32]>,
    /// Those before it, the first one first.
    pub former: Zeroizing<Vec<[u8; 32]>>,
}

impl std::fmt::Debug for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recovery")
    }
}

fn unusable(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Key, text)
}

impl Recovery {
    /// Of this configuration and master key.
    pub fn new(config: Config, master: &[u8; 32]) -> Self {
        Self::with_former(config, master, Vec::new())
    }

    /// The same of a master key that took the place of others.
    pub fn with_former(config: Config, master: &[u8; 32], former: Vec<[u8; 32]>) -> Self {
        Recovery { config, master: Zeroizing::new(*master), former: Zeroizing::new(former) }
    }

    /// The numbered lines, in memory that never moves.
    pub fn lines(&self) -> Result<Zeroizing<String>> {
        let mut fields = Zeroizing::new(Vec::with_capacity(256));
        fields.extend_from_slice(&config::open_config_fields(&self.config));
        if !self.former.is_empty() {
            fields.varint(6);
            fields.varint(32 * self.former.len() as u64);
            self.former.iter().for_each(|key| fields.extend_from_slice(key));
        }
        fields.push(0);
        let len = FIXED + fields.len() + RECOVERY_CHECK;
        let short = u8::try_from(len).map_err(|_| unusable("the configuration is too long for a recovery text"))?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        bytes.extend_from_slice(&[RECOVERY_VERSION, short]);
        bytes.extend_from_slice(&self.config.repository.0);
        bytes.extend_from_slice(&*self.master);
        bytes.extend_from_slice(&fields);
        let check = check::<RECOVERY_CHECK>(&[&bytes]);
        bytes.extend_from_slice(&check);
        let mut text = Zeroizing::new(String::with_capacity(4 * len + 16 * len.div_ceil(RECOVERY_LINE)));
        for (number, line) in (1u8..).zip(bytes.chunks(RECOVERY_LINE)) {
            put_line(number, line, &mut text);
        }
        Ok(text)
    }

    /// Reads a text: the numbered lines, with or without what is around them. An error names the line, and none of its
    /// digits.
    pub fn read(text: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(text).map_err(|e| {
            let line = text.get(..e.valid_up_to()).unwrap_or_default().iter().filter(|b| **b == b'\n').count() + 1;
            unusable(format!("this is no recovery text: line {line} of the file is not UTF-8"))
        })?;
        let mut lines = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let Some((number, rest)) = numbered(line) else { continue };
            let here = || format!("line {number} of the recovery text (line {} of the file)", at + 1);
            let bytes = read_line(number, rest).map_err(|e| unusable(format!("{} {e}", here())))?;
            if lines.insert(number, bytes).is_some() {
                return Err(unusable(format!("{} stands there twice", here())));
            }
        }
        join(&lines)
    }
}

fn put_line(number: u8, bytes: &[u8], out: &mut String) {
    out.push_str(&format!("{number:>2}:"));
    put_groups(bytes, out);
    out.push_str(" -");
    put_groups(&check::<2>(&[&[number], bytes]), out);
    out.push('\n');
}

fn put_groups(bytes: &[u8], out: &mut String) {
    for group in bytes.chunks(2) {
        out.push(' ');
        group.iter().flat_map(|byte| hex_pair(*byte)).for_each(|digit| out.push(char::from(digit)));
    }
}

fn check<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut out = [0; N];
    let mut reader = hasher.finalize_xof();
    reader.fill(&mut out);
    reader.zeroize();
    hasher.zeroize();
    out
}

/// A numbered line's number, and what stands behind the colon.
fn numbered(line: &str) -> Option<(u8, &str)> {
    let (number, rest) = line.split_once(':')?;
    let number = number.trim();
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    number.parse().ok().map(|number| (number, rest))
}

fn read_line(number: u8, rest: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(RECOVERY_LINE + 2));
    let mut high = None;
    for c in rest.chars().filter(|c| !c.is_whitespace() && !DASHES.contains(c)) {
        let digit = digit(c).ok_or("holds a sign that is none of 0 to 9 and a to f")?;
        match high.take() {
            None => high = Some(digit),
            Some(_) if bytes.len() == RECOVERY_LINE + 2 => return Err("has too many digits"),
            Some(high) => bytes.push(high << 4 | digit),
        }
    }
    let len = bytes.len().saturating_sub(2);
    if high.is_some() || len == 0 {
        return Err("has too few digits");
    }
    let (content, found) = bytes.split_at(len);
    if check::<2>(&[&[number], content]) != *found {
        return Err("does not fit its check digits, the last four: something in it is mistyped");
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// What may stand between groups: also what a word processor makes of a dash.
const DASHES: [char; 4] = ['-', '\u{2010}', '\u{2013}', '\u{2014}'];

/// A digit's value. The letters that are taken for 0 and 1 stand for nothing else here.
fn digit(c: char) -> Option<u8> {
    match c {
        'o' | 'O' => Some(0),
        'i' | 'I' | 'l' => Some(1),
        _ => c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()),
    }
}

fn join(lines: &BTreeMap<u8, Zeroizing<Vec<u8>>>) -> Result<Recovery> {
    let first = lines.get(&1).map(|line| line.as_slice());
    let (version, len) = match first {
        None if lines.is_empty() => return Err(unusable("this is no recovery text: it has no numbered lines")),
        None => return Err(unusable("line 1 of the recovery text is missing")),
        Some([version, len, ..]) => (*version, usize::from(*len)),
        Some(_) => return Err(unusable("line 1 of the recovery text is too short")),
    };
    if version != RECOVERY_VERSION {
        let text = format!("the recovery text is of version {version}: a newer yester is needed");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(len));
    for number in (1u8..).take(len.div_ceil(RECOVERY_LINE)) {
        let line = lines.get(&number).ok_or_else(|| {
            unusable(format!("line {number} of the recovery text is missing: there are {}", len.div_ceil(RECOVERY_LINE)))
        })?;
        if line.len() != RECOVERY_LINE.min(len - bytes.len()) {
            return Err(unusable(format!("line {number} of the recovery text is too short or too long")));
        }
        bytes.extend_from_slice(line);
    }
    if lines.len() > len.div_ceil(RECOVERY_LINE) {
        return Err(unusable(format!("the recovery text has {} lines too many", lines.len() - len.div_ceil(RECOVERY_LINE))));
    }
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Recovery> {
    let mixed = || unusable("the lines of the recovery text are good, but not together: is one from another text?");
    let (rest, found) = bytes.split_last_chunk::<RECOVERY_CHECK>().ok_or_else(mixed)?;
    if check::<RECOVERY_CHECK>(&[rest]) != *found {
        return Err(mixed());
    }
    let (repository, rest) = rest.get(2..).and_then(|rest| rest.split_first_chunk::<16>()).ok_or_else(mixed)?;
    let (master, fields) = rest.split_first_chunk::<32>().ok_or_else(mixed)?;
    let mut former = Zeroizing::new(Vec::with_capacity(8));
    let read = config::decode_config_and(fields, RepositoryId(*repository), |tag, v| {
        if tag != 6 {
            return Ok(false);
        }
        while former.len() < 8 && v.end().is_err() {
            former.push(v.array()?);
        }
        Ok(true)
    });
    let config = read.map_err(|e| e.context("the recovery text"))?;
    Ok(Recovery::with_former(config, master, std::mem::take(&mut *former)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::config::ChunkerParameters;
    use crate::model::Timestamp;

    fn recovery() -> Recovery {
        let config = Config {
            repository: RepositoryId([0xab; 16]),
            created: Timestamp { secs: 1_795_132_800, nanos: 123_456_789 },
            chunker: ChunkerParameters::DEFAULT,
            cutter: None,
            mandatory: 0,
        };
        Recovery::new(config, &std::array::from_fn(|at| at as u8))
    }

    fn same(text: &str) -> bool {
        Recovery::read(text.as_bytes()).is_ok_and(|read| read.config == recovery().config && *read.master == *recovery().master)
    }

    fn refused(text: &str) -> String {
        let error = Recovery::read(text.as_bytes()).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Key, "{error}");
        error.to_string()
    }

    #[test]
    fn the_text_stays_what_it_is() {
        // Papers with this text are in drawers: it can never change.
        let expected = " 1: 0154 abab abab abab abab abab abab abab abab 0001 - a65e
 2: 0203 0405 0607 0809 0a0b 0c0d 0e0f 1011 1213 1415 - 0b23
 3: 1617 1819 1a1b 1c1d 1e1f 0101 0003 0980 8001 8080 - 297a
 4: 0480 8010 0409 80b6 fcaf 0d95 9aef 3a00 6031 5b10 - a3f1
 5: 5c89 5a46 - a9da
";
        assert_eq!(*recovery().lines().unwrap(), expected);
        assert!(same(expected));
    }

    #[test]
    fn it_is_read_as_people_type_it() {
        let lines = recovery().lines().unwrap();
        assert!(same(&format!("YESTER\nmade 2026-11-20 10:04:11\n\n{}\nkeep it: well\n", *lines)));
        assert!(same(&lines.to_uppercase().replace(' ', "")));
        assert!(same(&lines.replace('\n', "\r\n").replace('-', "\u{2014}")));
        assert!(same(&lines.replace(": ", ":\t").replace("0001", "oOOl")));
        let mut turned: Vec<&str> = lines.lines().collect();
        turned.reverse();
        assert!(same(&turned.join("\n")));
    }

    #[test]
    fn every_mistyped_digit_is_found_in_its_line() {
        let lines = recovery().lines().unwrap();
        let mut seen = 0;
        for (at, c) in lines.char_indices().filter(|(at, c)| c.is_ascii_hexdigit() && lines.as_bytes()[at + 1] != b':') {
            for other in "0123456789abcdef".chars().filter(|other| *other != c) {
                let mut bad = lines.to_string();
                bad.replace_range(at..=at, &other.to_string());
                let line = lines[..at].matches('\n').count() + 1;
                let said = refused(&bad);
                assert!(said.contains(&format!("line {line} of the recovery text (line {line} of the file)")), "{said}");
                seen += 1;
            }
        }
        assert!(seen > 2000);
    }

    #[test]
    fn what_is_missing_or_too_much_is_named() {
        let text = recovery().lines().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for gone in 0..lines.len() {
            let rest: Vec<&str> = lines.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, line)| *line).collect();
            assert!(refused(&rest.join("\n")).contains(&format!("line {} of the recovery text is missing", gone + 1)));
        }
        assert!(
            refused(&[&lines[..], &lines[2..3]].concat().join("\n"))
                .contains("line 3 of the recovery text (line 6 of the file) stands there twice")
        );
        assert!(refused("").contains("no numbered lines"));
        assert!(refused(&text.replace(" 2:", " 3:")).contains("line 3 of the recovery text (line 2"));
        assert!(refused(&text.replace(" 3:", " 3: 00")).contains("line 3"));
        assert!(refused(&text.replace(" 3:", " 3: x")).contains("line 3"));
        assert!(refused(" 1:").contains("line 1"));
        assert!(Recovery::read(b"1: \xff").unwrap_err().to_string().contains("line 1"));
        let mut other = recovery();
        other.master[0] ^= 1;
        let other = other.lines().unwrap();
        // The first line of another text: each line is good by itself.
        let mixed = other.lines().take(2).chain(lines[2..].iter().copied()).collect::<Vec<_>>().join("\n");
        assert!(refused(&mixed).contains("not together"));
    }
}
