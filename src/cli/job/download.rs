//! `job run ingest --filename`: the snapshot as an archive here, once the job has made it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use yester::remote::control::Job;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::export::{self, ExportArgs};
use crate::cli::say::exit::Outcome;
use crate::cli::{args, say::paths};

/// Looks before the job is asked for whether an archive can be made here: a full key, and no such file.
pub fn prepare(context: &Context, file: &Path) -> Result<PathBuf> {
    let file = paths::absolute(file)?;
    export::refuse_existing(&file)?;
    context.open().map_err(|e| e.context("--filename needs the repository's key here, and a token that may get and list"))?;
    Ok(file)
}

/// Writes the archive of what a job made.
pub fn run(context: &Context, job: &Job, file: &Path) -> Result<Outcome> {
    let Some(snapshot) = &job.snapshot else {
        return Err(Error::new(ErrorKind::NotFound, format!("job {} made no snapshot", job.id)));
    };
    let words: Vec<OsString> = vec!["--filename".into(), file.into(), snapshot.into()];
    export::run(context, &args::parsed::<ExportArgs>("export", words)?)
}
