//! `export`: a snapshot as a file that other programs know.

pub mod archive;
pub mod image;

use std::ffi::OsString;
use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tempfile::NamedTempFile;
use yester::model::{Snapshot, escape};
use yester::repo::tree::TreeReader;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::select::{Chooser, Filters, Spec};
use crate::cli::say::exit::Outcome;
use crate::cli::say::paths;

/// Write a snapshot into a file that other programs know
///
/// As tar, everything that a tree holds is in it: owners, modes, times, hard links, holes, devices, attributes and ACLs.
/// An image of EROFS is mounted by Linux without yester (`mount -o ro FILE DIR`).
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// What kind of file; without it, what the name of the file says, or tar
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<ExportFormat>,
    /// The file to make, which must not be there yet; - is standard output. Without it, HOST-TIME.tar (or .zip …) here
    #[arg(long, short = 'o', value_name = "FILE")]
    filename: Option<PathBuf>,
    /// Short for --format erofs --filename FILE
    #[arg(long, value_name = "FILE", conflicts_with_all = ["format", "filename"])]
    erofs: Option<PathBuf>,
    /// What is to be in it: a snapshot, or a directory of one
    #[arg(value_name = "SNAP[:PATH]")]
    spec: OsString,
    #[command(flatten)]
    filters: Filters,
}

/// What kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportFormat {
    /// tar, with everything in PAX records
    Tar,
    /// The same, compressed
    #[value(name = "tar.zst", alias = "tzst")]
    TarZst,
    /// zip: names, modes, times and content
    Zip,
    /// An image that Linux mounts
    Erofs,
}

impl ExportFormat {
    /// The end of the name of such a file.
    pub(super) fn ending(self) -> &'static str {
        match self {
            ExportFormat::Tar => "tar",
            ExportFormat::TarZst => "tar.zst",
            ExportFormat::Zip => "zip",
            ExportFormat::Erofs => "erofs",
        }
    }

    /// What the name of a file says; `None`: nothing.
    fn of_name(file: &Path) -> Option<ExportFormat> {
        let name = file.file_name()?.to_str()?.to_ascii_lowercase();
        let all = [
            (".tar", ExportFormat::Tar),
            (".tar.zst", ExportFormat::TarZst),
            (".tzst", ExportFormat::TarZst),
            (".zip", ExportFormat::Zip),
            (".erofs", ExportFormat::Erofs),
        ];
        all.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| format)
    }
}

/// What is exported.
pub(super) struct Exporting {
    pub(super) trees: Arc<TreeReader>,
    pub(super) snapshot: Snapshot,
    /// The position of the directory.
    pub(super) position: u64,
}

/// Writes the file.
pub fn run(context: &Context, args: &ExportArgs) -> Result<Outcome> {
    let spec = Spec::parse(&args.spec)?;
    let named = args.erofs.as_ref().or(args.filename.as_ref());
    let to_stdout = args.erofs.is_none() && named.is_some_and(|file| file.as_os_str() == "-");
    let format = match (args.format, named) {
        _ if args.erofs.is_some() => ExportFormat::Erofs,
        (Some(format), _) => format,
        (None, Some(file)) => ExportFormat::of_name(file).unwrap_or(ExportFormat::Tar),
        (None, None) => ExportFormat::Tar,
    };
    if to_stdout && format == ExportFormat::Erofs {
        return Err(Error::invalid("an image is not written from front to back: name a file with --filename"));
    }
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(Error::invalid("an archive is not for a terminal: name a file with --filename, or send it into a pipe"));
    }
    let given = named.filter(|_| !to_stdout).map(|file| paths::absolute(file)).transpose()?;
    if let Some(file) = &given {
        refuse_existing(file)?;
    }
    let repo = context.open()?;
    crate::cli::gone::warn(context, &repo)?;
    let chooser = Chooser::new(context, &repo, &args.filters)?;
    let trees = Arc::new(context::trees(&repo)?);
    let snapshot = chooser.with_path(&trees, &spec)?.clone();
    let (node, position) = trees.walk_to(&snapshot.root, &spec.names())?;
    if node.directory().is_none() {
        let text = format!("{} is not a directory: yester cat writes a file", escape(spec.names().join(&b'/').as_slice()));
        return Err(Error::invalid(text));
    }
    let file = match given {
        _ if to_stdout => None,
        Some(file) => Some(file),
        None => Some(paths::absolute(Path::new(&dated(&snapshot, format)))?),
    };
    let chosen = Exporting { trees, snapshot, position };
    match (format, file) {
        (ExportFormat::Erofs, Some(file)) => image::write(context, chosen, &file),
        (format, file) => archive::write(context, chosen, format, file.as_deref()),
    }
}

/// A name of a file that tells of which host and time the snapshot is.
fn dated(snapshot: &Snapshot, format: ExportFormat) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let host: String = String::from_utf8_lossy(&snapshot.host).chars().map(plain).collect();
    let time = jiff::Timestamp::from_second(snapshot.time.secs).unwrap_or_default();
    let host = host.trim_start_matches(['-', '.']);
    format!("{}-{}.{}", if host.is_empty() { "snapshot" } else { host }, time.strftime("%Y%m%dT%H%M%SZ"), format.ending())
}

/// An error if something is there already.
pub(super) fn refuse_existing(file: &Path) -> Result<()> {
    match std::fs::symlink_metadata(file) {
        Ok(_) => {
            let text = format!("{} is there already: remove it, or name another file", paths::shown(file));
            Err(Error::new(ErrorKind::Exists, text))
        }
        Err(_) => Ok(()),
    }
}

/// A file that gets its name only when it is whole.
pub(super) struct NewFile {
    out: NamedTempFile,
    name: PathBuf,
}

impl NewFile {
    /// Begins one at an absolute path. Errors: something is there already.
    pub(super) fn begin(name: &Path) -> Result<NewFile> {
        refuse_existing(name)?;
        let directory = name.parent().unwrap_or(Path::new("/"));
        let made = tempfile::Builder::new().prefix(".yester-export-").tempfile_in(directory);
        let out = made.map_err(|e| Error::io(format!("cannot write {}", paths::shown(name)), e))?;
        Ok(NewFile { out, name: name.to_owned() })
    }

    pub(super) fn file(&self) -> &File {
        self.out.as_file()
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        self.name.parent().unwrap_or(Path::new("/"))
    }

    /// Gives it its name, durably.
    pub(super) fn finish(self) -> Result<()> {
        let cannot = |e| Error::io(format!("cannot write {}", paths::shown(&self.name)), e);
        self.out.as_file().sync_all().map_err(cannot)?;
        self.out.persist_noclobber(&self.name).map_err(|e| cannot(e.error))?;
        Ok(())
    }
}
