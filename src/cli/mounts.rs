//! `mounts`: what is mounted on this machine.

use clap::Args;
use serde::Serialize;
use yester::Result;
use yester::model::escape;
use yester::mount::status::{self, FoundMount, FuseTree, MountState};

use crate::cli::context::Context;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{JsonPath, Output};
use crate::cli::say::{paths, units};

/// List the mounts of this machine, and how each is read
///
/// A mount that belongs to another user, or whose process is stopped, is listed without what only its process knows.
#[derive(Debug, Args)]
pub struct MountsArgs {}

#[derive(Serialize)]
struct JsonMount<'a> {
    message_type: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a str>,
    images: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_no_images: Option<&'a str>,
    through_fuse: &'a [FuseTree],
    through_fuse_more: u64,
}

/// Lists.
pub fn run(context: &Context, _: &MountsArgs) -> Result<Outcome> {
    let mut out = Output::new();
    for mount in &status::list()? {
        if context.global.json {
            out.json(&json(mount))?;
        } else {
            lines(mount).iter().try_for_each(|line| out.line(line))?;
        }
    }
    out.finish()?;
    Ok(Outcome::Done)
}

fn json(mount: &FoundMount) -> JsonMount<'_> {
    let (state, status) = match &mount.state {
        MountState::Works(status) => ("works", Some(status)),
        MountState::Silent => ("silent", None),
        MountState::Dead => ("dead", None),
    };
    JsonMount {
        message_type: "mount",
        path: JsonPath::new(paths::bytes(&mount.point)),
        state,
        pid: status.map(|status| status.pid),
        repository: status.map(|status| status.repository.as_str()),
        images: mount.images,
        why_no_images: status.and_then(|status| status.never.as_deref()),
        through_fuse: status.map_or(&[], |status| &status.through_fuse),
        through_fuse_more: status.map_or(0, |status| status.more),
    }
}

fn lines(mount: &FoundMount) -> Vec<String> {
    let point = paths::shown(&mount.point);
    let images = units::counted(mount.images, "tree is read as an image", "trees are read as images");
    match &mount.state {
        MountState::Dead => vec![format!("{point}  its process is gone (take it away with: yester umount {point})")],
        MountState::Silent => vec![format!("{point}  does not say more to this user; {images}")],
        MountState::Works(status) => {
            // Whoever made the mount says this, and it need not be this program.
            let said = |text: &str| escape(text.as_bytes()).to_string();
            let how = status.never.as_ref().map_or(images, |why| format!("through FUSE: {}", said(why)));
            let mut out = vec![format!("{point}  {}  process {}  {how}", said(&status.repository), status.pid)];
            out.extend(
                status.through_fuse.iter().map(|tree| format!("    {}: through FUSE: {}", said(&tree.tree), said(&tree.why))),
            );
            out.extend((status.more > 0).then(|| format!("    and {} more", status.more)));
            out
        }
    }
}
