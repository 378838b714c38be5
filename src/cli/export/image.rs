//! `export --format erofs`: an image that Linux mounts by itself.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use yester::Result;
use yester::task::Task;
use yester::vfs::image::{self, ExportOptions, Exported, Losses};

use crate::cli::context::Context;
use crate::cli::export::{Exporting, NewFile};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{JsonPath, Output};
use crate::cli::say::{paths, units};

/// What is decoded ahead.
const MEMORY: u64 = 48 << 20;

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
pub(super) fn write(context: &Context, chosen: Exporting, file: &Path) -> Result<Outcome> {
    let began = Instant::now();
    let Exporting { trees, snapshot, position } = chosen;
    let id = snapshot.id.to_string();
    let new = NewFile::begin(file)?;
    let out = new.file();
    let options = ExportOptions { spool: new.directory().to_owned(), memory: MEMORY };
    let made = image::export(&trees, snapshot, position, &options, &Task::default(), out);
    let made = made.map_err(|e| e.context(paths::shown(file)))?;
    new.finish()?;
    say(context, &ExportMessage { file, id, made, seconds: began.elapsed().as_secs_f64() })?;
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
