//! `export`: a snapshot as a file that other programs know.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use yester::model::escape;
use yester::task::Task;
use yester::vfs::image::{self, ExportOptions, Exported, Losses};
use yester::{Error, ErrorKind, Result};

use super::context::{self, Context};
use super::exit::Outcome;
use super::output::{JsonPath, Output};
use super::select::{Chooser, Filters, Spec};
use super::{paths, units};

/// What is decoded ahead.
const MEMORY: u64 = 48 << 20;

/// Write a snapshot into a file that other programs know
///
/// With --erofs, an image that Linux mounts by itself (`mount -o ro FILE DIR`), without yester: all names, owners,
/// modes, times, hard links, extended attributes and ACLs are in it.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The image to make; it must not be there yet
    #[arg(long, value_name = "FILE", required = true)]
    erofs: PathBuf,
    /// What is to be in it: a snapshot, or a directory of one
    #[arg(value_name = "SNAP[:PATH]")]
    spec: OsString,
    #[command(flatten)]
    filters: Filters,
}

#[derive(Serialize)]
struct ExportSummary {
    message_type: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    snapshot_id: String,
    image_bytes: u64,
    image_files: u64,
    files_with_holes: u64,
    files_with_zeros: u64,
    flags_left_out: u64,
    attributes_left_out: u64,
    total_duration: f64,
}

/// Writes the image.
pub fn run(context: &Context, args: &ExportArgs) -> Result<Outcome> {
    let began = Instant::now();
    let spec = Spec::parse(&args.spec)?;
    let file = paths::absolute(&args.erofs)?;
    let name = paths::shown(&file);
    if std::fs::symlink_metadata(&file).is_ok() {
        let text = format!("{name} is there already: remove it, or name another file");
        return Err(Error::new(ErrorKind::Exists, text));
    }
    let repo = context.open()?;
    super::gone::warn(context, &repo)?;
    let chooser = Chooser::new(context, &repo, &args.filters)?;
    let trees = Arc::new(context::trees(&repo)?);
    let snapshot = chooser.with_path(&trees, &spec)?.clone();
    let (node, position) = trees.walk_to(&snapshot.root, &spec.names())?;
    if node.directory().is_none() {
        let text = format!("{} is not a directory: yester cat writes a file", escape(spec.names().join(&b'/').as_slice()));
        return Err(Error::invalid(text));
    }
    let id = snapshot.id.to_string();
    let directory = file.parent().unwrap_or(Path::new("/"));
    let cannot = |e| Error::io(format!("cannot write {name}"), e);
    // Under its name only when it is whole.
    let out = tempfile::Builder::new().prefix(".yester-export-").tempfile_in(directory).map_err(cannot)?;
    let options = ExportOptions { spool: directory.to_owned(), memory: MEMORY };
    let made = image::export(&trees, snapshot, position, &options, &Task::default(), out.as_file());
    let made = made.map_err(|e| e.context(&name))?;
    out.persist_noclobber(&file).map_err(|e| cannot(e.error))?;
    say(context, &ExportMessage { file: &file, id, made, seconds: began.elapsed().as_secs_f64() })?;
    Ok(outcome(&made.losses))
}

struct ExportMessage<'a> {
    file: &'a Path,
    id: String,
    made: Exported,
    seconds: f64,
}

fn say(context: &Context, said: &ExportMessage<'_>) -> Result<()> {
    let (made, losses) = (&said.made, &said.made.losses);
    let mut out = Output::new();
    if context.global.json {
        out.json(&ExportSummary {
            message_type: "summary",
            path: JsonPath::new(paths::bytes(said.file)),
            snapshot_id: said.id.clone(),
            image_bytes: made.bytes,
            image_files: made.files,
            files_with_holes: losses.sparse,
            files_with_zeros: losses.zeros,
            flags_left_out: losses.flags,
            attributes_left_out: losses.attributes,
            total_duration: said.seconds,
        })?;
    } else if !context.global.quiet {
        let shown = paths::shown(said.file);
        let size = units::size(made.bytes);
        out.line(&format!("wrote {shown}, an EROFS image of {size} (look into it with: mount -o ro {shown} DIR)"))?;
    }
    out.finish()
}

/// What the image lacks is said.
fn outcome(losses: &Losses) -> Outcome {
    let counted = [
        (
            losses.attributes,
            units::counted(
                losses.attributes,
                "extended attribute that EROFS does not know",
                "extended attributes that EROFS does not know",
            ),
        ),
        (losses.flags, units::counted(losses.flags, "entry's chattr flags", "entries' chattr flags")),
        (losses.zeros, units::counted(losses.zeros, "file's holes, which are zeros", "files' holes, which are zeros")),
    ];
    let missing: Vec<String> = counted.into_iter().filter(|(n, _)| *n > 0).map(|(_, text)| text).collect();
    if missing.is_empty() {
        return Outcome::Done;
    }
    Outcome::Partial(format!("the image lacks {}", missing.join(", ")))
}
