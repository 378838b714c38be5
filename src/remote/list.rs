//! Lists of objects, as they go from a server to a client: a line an object, and a last line with their number.

use crate::error::{Error, ErrorKind, Result};
use crate::model::Timestamp;
use crate::storage::receipts::is_client;
use crate::storage::{Class, Name, listed_size};

/// The most objects of a class that a client takes from a server: 8 Mi packs (128 TiB of full ones), 1 Mi of any other
/// class. They take 64 bytes of memory each.
pub(crate) fn most_listed(class: Class) -> usize {
    match class {
        Class::Packs => 8 << 20,
        _ => 1 << 20,
    }
}

/// A line of a list: the last part of a name, the size, and when the object was received; of a snapshot also who put it,
/// if that is known.
pub fn list_line(name: &Name, size: u64, received: Timestamp, by: Option<&str>) -> String {
    let by = by.map(|by| format!(" {by}")).unwrap_or_default();
    format!("{} {size} {}.{:09}{by}\n", name.leaf(), received.secs, received.nanos)
}

/// The last line of a list of `count` objects: one without it was cut.
pub fn list_end(count: usize) -> String {
    format!("end {count}\n")
}

/// A list that was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListedObjects {
    /// The objects, by name: their sizes, and when they were received.
    pub objects: Vec<(Name, u64, Timestamp)>,
    /// Who put them, as far as that is told, by name.
    pub by: Vec<(Name, String)>,
}

/// Reads a list from its lines, which come in pieces.
#[derive(Debug)]
pub struct ListParser {
    class: Class,
    /// The beginning of a line.
    rest: Vec<u8>,
    found: Vec<(Name, u64, Timestamp)>,
    /// Who put what.
    by: Vec<(Name, String)>,
    /// The most objects that there may be.
    most: usize,
    ended: bool,
}

/// The longest line of a list.
const MAX_LINE: usize = 256;

impl ListParser {
    /// A list of this class.
    pub fn new(class: Class) -> Self {
        ListParser { class, rest: Vec::new(), found: Vec::new(), by: Vec::new(), most: most_listed(class), ended: false }
    }

    /// The same with another limit than `most_listed`.
    pub fn with_limit(class: Class, most: usize) -> Self {
        ListParser { most, ..ListParser::new(class) }
    }

    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> Result<()> {
        let mut piece = piece;
        while let Some(end) = piece.iter().position(|b| *b == b'\n') {
            let (line, after) = piece.split_at(end);
            piece = after.get(1..).unwrap_or_default();
            self.rest.extend_from_slice(line);
            if self.rest.len() > MAX_LINE {
                break;
            }
            let line = std::mem::take(&mut self.rest);
            std::str::from_utf8(&line)
                .ok()
                .and_then(|line| self.line(line))
                .ok_or_else(|| self.wrong("a line makes no sense"))?;
            if self.found.len() > self.most {
                return Err(self.wrong(&format!("it has more than {} objects, and no more are read", self.most)));
            }
        }
        let room = (MAX_LINE + 1).saturating_sub(self.rest.len());
        self.rest.extend_from_slice(piece.get(..room).unwrap_or(piece));
        if self.rest.len() > MAX_LINE { Err(self.wrong("a line is too long")) } else { Ok(()) }
    }

    fn line(&mut self, line: &str) -> Option<()> {
        if self.ended {
            return None;
        }
        let mut words = line.split(' ');
        let (first, second) = (words.next()?, words.next()?);
        if first == "end" {
            self.ended = second.parse() == Ok(self.found.len());
            return self.ended.then_some(());
        }
        let (secs, nanos) = words.next()?.split_once('.')?;
        let nanos = nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000)?;
        let received = Timestamp { secs: secs.parse().ok()?, nanos };
        let name = Name::parse(self.class, first)?;
        let size = listed_size(self.class, second.parse().ok()?);
        // A list that does not fit into memory is an error as well.
        self.found.try_reserve(1).ok()?;
        if let Some(by) = words.next() {
            if self.class != Class::Snapshots || !is_client(by) {
                return None;
            }
            self.by.try_reserve(1).ok()?;
            self.by.push((name, by.to_owned()));
        }
        self.found.push((name, size, received));
        words.next().is_none().then_some(())
    }

    /// The whole list, by name. A name that a file system gave twice, as it may while its directory changes, is there once.
    pub fn finish(mut self) -> Result<ListedObjects> {
        if !self.ended || !self.rest.is_empty() {
            return Err(self.wrong("it ends too early"));
        }
        self.found.sort_unstable_by_key(|(name, ..)| *name);
        self.found.dedup_by_key(|(name, ..)| *name);
        self.by.sort_unstable();
        self.by.dedup_by_key(|(name, _)| *name);
        Ok(ListedObjects { objects: self.found, by: self.by })
    }

    fn wrong(&self, what: &str) -> Error {
        Error::new(ErrorKind::Io, format!("the server's list of {}/ is no good: {what}", self.class.prefix()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SnapshotId;

    #[test]
    fn a_list_that_was_cut_is_noticed() {
        let name = |n| Name::Snapshot(SnapshotId([n; 32]));
        let received = Timestamp { secs: 7, nanos: 5 };
        let text =
            [list_line(&name(1), 10, received, None), list_line(&name(2), 20, received, Some("ssh:a")), list_end(2)].concat();
        let parse = |text: &str, piece: usize| {
            let mut parser = ListParser::new(Class::Snapshots);
            text.as_bytes().chunks(piece).try_for_each(|piece| parser.feed(piece))?;
            parser.finish()
        };
        for piece in [1, 7, 1000] {
            let listed = parse(&text, piece).unwrap();
            assert_eq!(listed.objects, [(name(1), 10, received), (name(2), 20, received)]);
            assert_eq!(listed.by, [(name(2), "ssh:a".to_owned())]);
        }
        for cut in 0..text.len() {
            assert!(parse(&text[..cut], 16).is_err(), "cut at {cut}");
        }
        assert!(parse(&text.replace("end 2", "end 3"), 9).is_err());
        assert!(parse(&format!("{text}{text}"), 9).is_err());
        assert!(parse(&text.replace("0101", "01/1"), 9).is_err());
        for by in ["", "a b", "\u{1b}", &"x".repeat(81)] {
            assert!(parse(&text.replace("ssh:a", by), 9).is_err(), "{by:?}");
        }
        assert!(parse(&"x".repeat(1000), 9).is_err());
    }

    #[test]
    fn a_list_without_end_and_a_line_without_end_are_refused() {
        let mut parser = ListParser::with_limit(Class::Snapshots, 1000);
        let line = list_line(&Name::Snapshot(SnapshotId([1; 32])), u64::MAX, Timestamp { secs: 7, nanos: 5 }, None);
        let fed = (0..2000).try_for_each(|_| parser.feed(line.as_bytes()));
        assert!(fed.unwrap_err().to_string().contains("more than 1000 objects"));
        assert_eq!(parser.found.len(), 1001);
        let mut parser = ListParser::new(Class::Snapshots);
        assert!(parser.feed(&vec![b'x'; 64 << 20]).is_err() && parser.rest.capacity() < 4096);
        // What a directory gave twice is one object.
        let mut parser = ListParser::new(Class::Snapshots);
        parser.feed(format!("{line}{line}{}", list_end(2)).as_bytes()).unwrap();
        assert_eq!(parser.finish().unwrap().objects.len(), 1);
    }
}
