//! zip: names, modes, times and content. Links and directories are there; owners, attributes and devices are not.

use std::io::Write;

use ::zip::write::{SimpleFileOptions, StreamWriter};
use ::zip::{CompressionMethod, DateTime, ZipWriter};

use crate::archive::{ArchiveEntry, ArchiveLosses, ArchiveWriter, io};
use crate::error::{Error, Result};
use crate::model::{Kind, Timestamp, Xattrs};

/// From this size on an entry says its size in 64 bits.
const LARGE: u64 = 0xffff_0000;

pub(super) struct ZipArchive<'a> {
    out: Option<ZipWriter<StreamWriter<&'a mut dyn Write>>>,
}

impl<'a> ZipArchive<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        ZipArchive { out: Some(ZipWriter::new_stream(out)) }
    }
}

impl ArchiveWriter for ZipArchive<'_> {
    fn entry(&mut self, entry: &ArchiveEntry<'_>, losses: &mut ArchiveLosses) -> Result<bool> {
        let Some(out) = &mut self.out else { return Ok(false) };
        if !matches!(entry.node.kind, Kind::File(_) | Kind::Directory(_) | Kind::Symlink(_)) {
            return Ok(false);
        }
        let name = String::from_utf8_lossy(entry.path);
        losses.names += u64::from(matches!(name, std::borrow::Cow::Owned(_)));
        losses.attributes += u64::from(entry.node.meta.xattrs != Xattrs::None);
        let mut options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .unix_permissions(u32::from(entry.node.meta.mode & 0o7777))
            .large_file(entry.node.size() >= LARGE);
        if let Some(time) = time(entry.node.meta.mtime) {
            options = options.last_modified_time(time);
        }
        match &entry.node.kind {
            Kind::Directory(_) => out.add_directory(name, options).map_err(failed)?,
            Kind::Symlink(target) => out.add_symlink(name, String::from_utf8_lossy(target), options).map_err(failed)?,
            _ => {
                out.start_file(name, options).map_err(failed)?;
                entry.body.write(true, &mut |bytes| out.write_all(bytes).map_err(io))?;
            }
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<()> {
        match self.out.take() {
            Some(out) => out.finish().map_err(failed)?.into_inner().flush().map_err(io),
            None => Ok(()),
        }
    }

    fn knows_links(&self) -> bool {
        false
    }

    fn holds_top(&self) -> bool {
        false
    }
}

fn failed(e: ::zip::result::ZipError) -> Error {
    io(e.into())
}

/// The time as zip has it: in steps of two seconds, of UTC, from 1980 to 2107.
fn time(time: Timestamp) -> Option<DateTime> {
    let time = jiff::Timestamp::from_second(time.secs).ok()?.to_zoned(jiff::tz::TimeZone::UTC);
    let part = |number: i8| u8::try_from(number).ok();
    let (date, clock) = (time.date(), time.time());
    let year = u16::try_from(date.year()).ok()?;
    let [month, day] = [part(date.month())?, part(date.day())?];
    let [hour, minute, second] = [part(clock.hour())?, part(clock.minute())?, part(clock.second())?];
    DateTime::from_date_and_time(year, month, day, hour, minute, second).ok()
}
