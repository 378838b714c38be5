//! tar: a ustar header an entry, with PAX records before it for what does not fit or is not known to ustar.

use std::io::Write;

use ::tar::{Builder, EntryType, Header};

use crate::archive::pax::{self, PaxRecord};
use crate::archive::{ArchiveEntry, ArchiveLosses, ArchiveWriter, io};
use crate::error::Result;
use crate::model::{Content, Kind};

const BLOCK: usize = 512;
/// The largest size, number or device in the octal digits of a header.
const MAX_SIZE: u64 = 0o77_777_777_777;
const MAX_NUMBER: u64 = 0o7_777_777;

pub(super) struct TarWriter<'a> {
    out: Builder<&'a mut dyn Write>,
}

impl<'a> TarWriter<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        TarWriter { out: Builder::new(out) }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.get_mut().write_all(bytes).map_err(io)
    }

    /// Zeros up to the next block after so many bytes.
    fn pad(&mut self, written: u64) -> Result<()> {
        let over = (written % BLOCK as u64) as usize;
        if over == 0 { Ok(()) } else { self.put(&[0; BLOCK][over..]) }
    }
}

impl ArchiveWriter for TarWriter<'_> {
    fn entry(&mut self, entry: &ArchiveEntry<'_>, losses: &mut ArchiveLosses) -> Result<bool> {
        let mut head = Head { header: Header::new_ustar(), records: Vec::new() };
        let Some(kind) = kind(entry) else { return Ok(false) };
        let mut path = entry.path.to_vec();
        if kind == EntryType::Directory {
            path.push(b'/');
        }
        head.header.set_entry_type(kind);
        head.owners(entry);
        for (name, value) in entry.xattrs.iter().filter(|_| entry.same_as.is_none()) {
            match pax::attribute(name, value) {
                Some(record) => head.records.push(record),
                None => losses.attributes += 1,
            }
        }
        let link = match &entry.node.kind {
            _ if entry.same_as.is_some() => entry.same_as,
            Kind::Symlink(target) => Some(target.as_slice()),
            _ => None,
        };
        if let Some(link) = link {
            head.text(link, "linkpath", |ustar| &mut ustar.linkname);
        }
        let (mut map, mut size) = (Vec::new(), 0);
        if let (Kind::File(content), EntryType::Regular) = (&entry.node.kind, kind) {
            size = content.size();
            if has_holes(content) {
                let extents = entry.body.extents()?;
                map = pax::map(&extents, size);
                head.sparse(&path, size);
                size = map.len() as u64 + extents.iter().map(|(_, len)| len).sum::<u64>();
                path = b"GNUSparseFile.0/".iter().chain(entry.node.name.iter()).copied().collect();
            }
        }
        head.size(size);
        head.text(&path, "path", |ustar| &mut ustar.name);
        let Head { mut header, records } = head;
        header.set_cksum();
        let records = records.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.out.append_pax_extensions(records).map_err(io)?;
        self.put(header.as_bytes())?;
        if size > 0 {
            self.put(&map)?;
            entry.body.write(false, &mut |bytes| self.out.get_mut().write_all(bytes).map_err(io))?;
            self.pad(size)?;
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<()> {
        self.out.finish().map_err(io)
    }

    fn knows_links(&self) -> bool {
        true
    }

    fn holds_top(&self) -> bool {
        true
    }
}

/// What an entry is to tar; `None`: nothing.
fn kind(entry: &ArchiveEntry<'_>) -> Option<EntryType> {
    let kind = match &entry.node.kind {
        Kind::Socket => return None,
        _ if entry.same_as.is_some() => EntryType::Link,
        Kind::File(_) => EntryType::Regular,
        Kind::Directory(_) => EntryType::Directory,
        Kind::Symlink(_) => EntryType::Symlink,
        Kind::Fifo => EntryType::Fifo,
        Kind::CharDevice(..) => EntryType::Char,
        Kind::BlockDevice(..) => EntryType::Block,
    };
    Some(kind)
}

fn has_holes(content: &Content) -> bool {
    match content {
        Content::Inline(_) => false,
        other => other.data() < other.size(),
    }
}

/// A header, and the records before it.
struct Head {
    header: Header,
    records: Vec<PaxRecord>,
}

impl Head {
    fn record(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.records.push((name.to_owned(), value.into()));
    }

    /// A text in its field, and whole in a record where it is too long for that or no ASCII. As GNU tar does, bytes that
    /// are no UTF-8 are written as they are, without `hdrcharset`: that program knows no such record.
    fn text<const N: usize>(&mut self, text: &[u8], name: &str, field: impl Fn(&mut ::tar::UstarHeader) -> &mut [u8; N]) {
        if text.len() > N || !text.is_ascii() {
            self.record(name, text);
        }
        if let Some(ustar) = self.header.as_ustar_mut() {
            let field = field(ustar);
            let len = text.len().min(N);
            field[..len].copy_from_slice(&text[..len]);
        }
    }

    fn size(&mut self, size: u64) {
        self.header.set_size(size.min(MAX_SIZE));
        if size > MAX_SIZE {
            self.record("size", size.to_string());
        }
    }

    /// The header of a sparse file says what is stored, the records what it is.
    fn sparse(&mut self, path: &[u8], size: u64) {
        self.record("GNU.sparse.major", "1");
        self.record("GNU.sparse.minor", "0");
        self.record("GNU.sparse.name", path);
        self.record("GNU.sparse.realsize", size.to_string());
    }

    /// Owner, mode, time and device numbers.
    fn owners(&mut self, entry: &ArchiveEntry<'_>) {
        let meta = &entry.node.meta;
        self.header.set_mode(u32::from(meta.mode & 0o7777));
        let (uid, gid) = (u64::from(meta.uid), u64::from(meta.gid));
        self.header.set_uid(uid.min(MAX_NUMBER));
        self.header.set_gid(gid.min(MAX_NUMBER));
        for (name, number) in [("uid", uid), ("gid", gid)] {
            if number > MAX_NUMBER {
                self.record(name, number.to_string());
            }
        }
        if let Some(name) = entry.user {
            self.text(name, "uname", |ustar| &mut ustar.uname);
        }
        if let Some(name) = entry.group {
            self.text(name, "gname", |ustar| &mut ustar.gname);
        }
        let secs = u64::try_from(meta.mtime.secs).unwrap_or(0).min(MAX_SIZE);
        self.header.set_mtime(secs);
        if meta.mtime.nanos != 0 || i64::try_from(secs) != Ok(meta.mtime.secs) {
            self.record("mtime", pax::time(meta.mtime));
        }
        if let Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) = entry.node.kind {
            let small = |number: u32| u64::from(number).min(MAX_NUMBER) as u32;
            // They fit: only what is no ustar header is refused.
            let _ = self.header.set_device_major(small(major)).and_then(|()| self.header.set_device_minor(small(minor)));
            if u64::from(major.max(minor)) > MAX_NUMBER {
                self.record("SCHILY.devmajor", major.to_string());
                self.record("SCHILY.devminor", minor.to_string());
            }
        }
    }
}
