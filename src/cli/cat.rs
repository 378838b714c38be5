//! `cat`: a file's bytes to standard output.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use yester::model::{Content, Item, Kind, escape};
use yester::repo::tree::TreeReader;
use yester::{Error, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::select::{self, Chooser, Filters, Spec};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::Output;

/// Write a file of a snapshot to standard output
#[derive(Debug, Args)]
pub struct CatArgs {
    /// Which file of which snapshot
    #[arg(value_name = "SNAP:PATH")]
    spec: OsString,
    #[command(flatten)]
    filters: Filters,
}

/// Prints the file.
pub fn run(context: &Context, args: &CatArgs) -> Result<Outcome> {
    let spec = Spec::parse(&args.spec)?;
    let Some(path) = &spec.path else {
        let name = escape(spec.snapshot.as_bytes());
        return Err(Error::invalid(match select::is_path(&spec.snapshot) {
            true => format!("{name} is a path, and in which snapshot? latest:{name} is in the newest that has it"),
            false => format!("{name} names a snapshot and no file in it: write {name}:/PATH"),
        }));
    };
    let repo = context.open()?;
    crate::cli::gone::warn(context, &repo)?;
    let chooser = Chooser::new(context, &repo, &args.filters)?;
    let reader = context::trees(&repo)?;
    let snapshot = chooser.with_path(&reader, &spec)?;
    let shown = crate::cli::say::paths::shown(path);
    let (node, _) = reader.walk_to(&snapshot.root, &spec.names())?;
    match &node.kind {
        Kind::File(content) => write(&reader, content).map_err(|e| e.context(shown)).map(|()| Outcome::Done),
        Kind::Directory(_) => {
            let spec = escape(args.spec.as_bytes());
            let text = format!("yester ls {spec} lists it, yester restore {spec} copies it");
            Err(Error::invalid(format!("{shown} is a directory: {text}")))
        }
        Kind::Symlink(target) => Err(Error::invalid(format!("{shown} is a link to {}: name that file", escape(target)))),
        _ => Err(Error::invalid(format!("{shown} is a pipe, socket or device and holds no bytes"))),
    }
}

/// Writes `content`, one chunk in memory at a time.
fn write(reader: &TreeReader, content: &Content) -> Result<()> {
    let mut out = Output::new();
    if let Content::Inline(bytes) = content {
        out.bytes(bytes)?;
        return out.finish();
    }
    reader.items(content, 0, &mut |_, item| {
        match item {
            Item::Chunk { id, len } => out.bytes(&reader.data(id, *len)?)?,
            Item::Hole { len } => zeros(&mut out, *len)?,
        }
        Ok(true)
    })?;
    out.finish()
}

fn zeros(out: &mut Output, mut len: u64) -> Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while len > 0 {
        let now = len.min(ZEROS.len() as u64);
        out.bytes(&ZEROS[..now as usize])?;
        len -= now;
    }
    Ok(())
}
