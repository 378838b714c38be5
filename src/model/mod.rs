//! The types of what a repository holds: ids, nodes of trees, snapshots. Immutable values without input or output; how they
//! are written as bytes is in `format`.

pub(crate) mod annotation;
pub mod bucket;
pub(crate) mod composition;
pub(crate) mod group;
pub mod id;
pub mod node;
pub(crate) mod object;
pub mod patterns;
pub(crate) mod run;
pub(crate) mod snapshot;
pub mod versions;

pub use annotation::{Annotation, EXPECTED, Pin, Remarks};
pub use composition::{Composition, Origin, Part, SetText};
pub use group::{GroupEntry, GroupPart, GroupRound, GroupSlot, GroupStep};
pub(crate) use id::writer_at_end;
pub use id::{ChunkId, ChunkKey, LinkGroup, PackId, ParityId, RepositoryId, SegmentId, SlotId, SnapshotId, WriterId};
pub use node::{Content, Directory, Item, Kind, LeftOut, Metadata, Node, Root, Timestamp, Xattrs};
pub use object::ObjectType;
pub use run::{Requests, Run, RunRewrite, RunStep};
pub use snapshot::{Chain, Owners, Rule, Snapshot, Statistics};

/// Bytes for a terminal or a log line: printable UTF-8 as it is, everything else (control characters, also the
/// C1 range, direction marks, invalid UTF-8, the backslash) as escapes that cannot move a cursor.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            if c == '\\' || c.is_control() || is_direction_mark(c) {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for b in part.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn terminals_are_safe_from_names() {
        assert_eq!(escape("größe.txt".as_bytes()), "größe.txt");
        assert_eq!(escape(b"a\x1b]0;x\x07\n"), "a\\u{1b}]0;x\\u{7}\\n");
        assert_eq!(escape(b"\xff\\"), "\\xff\\\\");
        assert_eq!(escape("\u{202e}\u{9b}".as_bytes()), "\\u{202e}\\u{9b}");
    }
}
