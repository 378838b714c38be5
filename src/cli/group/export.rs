//! `group export`: an archive of each member's part.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use yester::jobs::groups::GroupWatch;
use yester::model::escape;
use yester::repo::groups::state::MemberState;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::say::exit::Outcome;
use crate::cli::say::paths;
use crate::cli::{args, export};

/// What is exported, and how.
#[derive(Debug, Args)]
pub struct GroupExportArgs {
    /// Its id (or the first digits), or latest
    #[arg(value_name = "GROUP")]
    id: String,
    /// The directory to write to, which must be there
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    target: PathBuf,
    /// Only of this member (may be repeated)
    #[arg(long, value_name = "NAME")]
    member: Vec<String>,
    /// tar, tar.zst or zip
    #[arg(long, value_name = "FORMAT", default_value = "tar", value_parser = ["tar", "tar.zst", "zip"])]
    format: String,
    /// Export what is there though parts are missing
    #[arg(long)]
    unsafe_without_missing: bool,
}

/// Writes the archives; each is named by the group and the member.
pub fn run(context: &Context, args: &GroupExportArgs) -> Result<Outcome> {
    let repo = context.open()?;
    let id = super::find(&repo, &args.id)?;
    let view = GroupWatch::new(&repo, id)?.view()?;
    if !args.unsafe_without_missing && args.member.is_empty() {
        super::is_whole(&repo, id, &view)?;
    }
    if let Some(unknown) = args.member.iter().find(|name| view.round.member(name.as_bytes()).is_none()) {
        return super::part(&repo, id, &view, unknown.as_bytes()).map(|_| Outcome::Done);
    }
    let mut partly = Outcome::Done;
    let wanted = |name: &[u8]| args.member.is_empty() || args.member.iter().any(|wanted| wanted.as_bytes() == name);
    let mut written = 0;
    for member in view.members.iter().filter(|member| wanted(&member.name)) {
        if member.state != MemberState::Completed && args.unsafe_without_missing {
            continue;
        }
        let snapshot = super::part(&repo, id, &view, &member.name)?;
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name: String = escape(&member.name).chars().map(plain).collect();
        let file = paths::absolute(&args.target.join(format!("group-{}-{name}.{}", id.short(), args.format)))?;
        let words: Vec<OsString> =
            vec!["--format".into(), args.format.clone().into(), "--filename".into(), file.into(), snapshot.to_string().into()];
        if let Outcome::Partial(text) = export::run(context, &args::parsed::<export::ExportArgs>("export", words)?)? {
            partly = Outcome::Partial(text);
        }
        written += 1;
    }
    match written {
        0 => Err(Error::new(ErrorKind::NotFound, format!("group {} has no part that can be exported", id.short()))),
        _ => Ok(partly),
    }
}
