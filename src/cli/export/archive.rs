//! `export` as tar or zip.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use yester::archive::{self, ArchiveFormat, ArchiveLosses, ArchiveOptions, Archived};
use yester::task::Task;
use yester::{Error, Result};

use crate::cli::context::Context;
use crate::cli::export::{ExportFormat, Exporting, NewFile};
use crate::cli::say::exit::{self, Outcome};
use crate::cli::say::output::{self, JsonPath, Output};
use crate::cli::say::progress::Display;
use crate::cli::say::{paths, units};
use crate::cli::signals;

/// What is decoded ahead.
const MEMORY: u64 = 48 << 20;
/// Bytes that are written at once.
const BUFFER: usize = 256 << 10;

#[derive(Serialize)]
struct ArchiveSummary {
    message_type: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    snapshot_id: String,
    format: &'static str,
    archive_bytes: u64,
    sha256: String,
    archive_entries: u64,
    content_bytes: u64,
    entries_left_out: u64,
    flags_left_out: u64,
    attributes_left_out: u64,
    links_as_files: u64,
    names_changed: u64,
    total_duration: f64,
}

/// Counts and digests what goes through.
struct DigestWriter<W> {
    out: W,
    bytes: u64,
    digest: archive::Digest,
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Standard output, of which a reader may have had enough.
struct Pipe(io::StdoutLock<'static>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).inspect_err(gone)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().inspect_err(gone)
    }
}

fn gone(e: &io::Error) {
    if e.kind() == io::ErrorKind::BrokenPipe {
        exit::broken_pipe();
    }
}

/// Writes the archive, into a file or standard output.
pub(super) fn write(context: &Context, chosen: Exporting, format: ExportFormat, file: Option<&Path>) -> Result<Outcome> {
    let began = Instant::now();
    let id = chosen.snapshot.id.to_string();
    let (made, bytes, sha256) = match file {
        Some(file) => {
            let new = NewFile::begin(file)?;
            let out = into(context, chosen, format, new.file()).map_err(|e| e.context(paths::shown(file)))?;
            new.finish()?;
            out
        }
        None => into(context, chosen, format, Pipe(io::stdout().lock()))?,
    };
    let losses = &made.losses;
    let summary = ArchiveSummary {
        message_type: "summary",
        path: JsonPath::new(file.map_or(b"-", paths::bytes)),
        snapshot_id: id,
        format: format.ending(),
        archive_bytes: bytes,
        sha256,
        archive_entries: made.entries,
        content_bytes: made.bytes,
        entries_left_out: losses.left_out,
        flags_left_out: losses.flags,
        attributes_left_out: losses.attributes,
        links_as_files: losses.links,
        names_changed: losses.names,
        total_duration: began.elapsed().as_secs_f64(),
    };
    say(context, &summary, file)?;
    Ok(outcome(losses))
}

fn into(context: &Context, chosen: Exporting, format: ExportFormat, out: impl Write) -> Result<(Archived, u64, String)> {
    let (stop, display) = (signals::stop_flag()?, Display::new(&context.global));
    let kind = if format == ExportFormat::Zip { ArchiveFormat::Zip } else { ArchiveFormat::Tar };
    let options = ArchiveOptions { format: kind, position: chosen.position, memory: MEMORY };
    let measured = DigestWriter { out, bytes: 0, digest: archive::Digest::default() };
    let mut out = BufWriter::with_capacity(BUFFER, measured);
    let task = Task::new(&display).stopped_by(&stop);
    let mut run = |out: &mut dyn Write| archive::archive(&chosen.trees, chosen.snapshot.clone(), &options, &task, out);
    let made = match format {
        ExportFormat::TarZst => archive::compressed(&mut out, &mut run),
        _ => run(&mut out),
    };
    display.finish();
    let made = made?;
    let measured = out.into_inner().map_err(|e| Error::io("cannot write the archive", e.into_error()))?;
    Ok((made, measured.bytes, measured.digest.finish()))
}

/// Where the archive is on standard output, the summary goes to standard error.
fn say(context: &Context, summary: &ArchiveSummary, file: Option<&Path>) -> Result<()> {
    let size = units::size(summary.archive_bytes);
    let entries = units::counted(summary.archive_entries, "entry", "entries");
    let lines = [
        format!("wrote {}: {entries}, {size}", file.map_or("the archive".to_owned(), paths::shown)),
        format!("SHA-256 {}", summary.sha256),
    ];
    match (context.global.json, file) {
        (true, None) => match serde_json::to_string(summary) {
            Ok(text) => output::note_exactly(&text),
            Err(e) => return Err(Error::io("cannot write the summary", e.into())),
        },
        (true, Some(_)) => {
            let mut out = Output::new();
            out.json(summary)?;
            return out.finish();
        }
        _ if context.global.quiet => {}
        (false, None) => lines.iter().for_each(|line| output::note(line)),
        (false, Some(_)) => {
            let mut out = Output::new();
            lines.iter().try_for_each(|line| out.line(line))?;
            return out.finish();
        }
    }
    Ok(())
}

/// What the archive lacks is said.
fn outcome(losses: &ArchiveLosses) -> Outcome {
    let counted = [
        (losses.left_out, "entry that has no place in it", "entries that have no place in it"),
        (losses.flags, "entry's chattr flags", "entries' chattr flags"),
        (losses.attributes, "entry's extended attributes", "entries' extended attributes"),
        (losses.links, "hard link, which is a file of its own", "hard links, which are files of their own"),
        (losses.names, "name as it is, which is not UTF-8", "names as they are, which are not UTF-8"),
    ];
    let missing: Vec<String> =
        counted.into_iter().filter(|(n, ..)| *n > 0).map(|(n, one, many)| units::counted(n, one, many)).collect();
    if missing.is_empty() {
        return Outcome::Done;
    }
    Outcome::Partial(format!("the archive lacks {}", missing.join(", ")))
}
