//! `mount`: the snapshots as a file system, in the background or here.

pub mod guard;
pub mod helper;
pub mod umount;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use yester::chunk::keys::Credential;
use yester::error::IoContext;
use yester::mount::{Shutdown, mount};
use yester::repo::Repository;
use yester::sys::terminal;
use yester::vfs::templates::{LinkTemplates, PathTemplate, TimeTemplate};
use yester::vfs::{MountOptions, Native};
use yester::{Error, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::select::{Chooser, Filters, Spec};
use crate::cli::mount::guard::MountGuard;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{JsonPath, Output, lossy};
use crate::cli::say::{log, paths, units};
use crate::cli::{background, gone};

/// Show the snapshots as a file system
///
/// Mounts the repository, read-only: latest/ is the newest snapshot, ids/ holds all, and snapshots/, hosts/, tags/,
/// series/ lead to them by time. With SNAP[:PATH], only that directory is mounted. The command returns when the mount
/// answers, and goes on in the background until umount.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// What to mount, and where
    #[arg(value_names = ["SNAP[:PATH]", "MOUNTPOINT"], num_args = 0..=2)]
    places: Vec<OsString>,
    /// Stay in the foreground; Ctrl-C unmounts
    #[arg(short, long)]
    foreground: bool,
    /// Let other users in, as far as the modes in the snapshots let them
    #[arg(long)]
    allow_other: bool,
    /// Show everything as root's
    #[arg(long)]
    owner_root: bool,
    /// Show no extended attributes and no ACLs: `cp -a` is then several times as fast
    #[arg(long)]
    no_xattrs: bool,
    /// Have the kernel read snapshots by itself, as images of EROFS: for root
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = NativeWhen::Auto, hide_possible_values = true)]
    native: NativeWhen,
    /// Memory for decoded data, as in 256M
    #[arg(long, value_name = "SIZE", default_value = "66M", value_parser = units::parse_size)]
    memory: u64,
    /// Options of fuse
    #[arg(short, value_name = "OPT,…", value_delimiter = ',')]
    options: Vec<String>,
    /// Links to the snapshots by a template, as web/%h/%T: %i and %I ids, %u user, %h host, %t tag, %T time (may be repeated)
    #[arg(long, value_name = "TEMPLATE", value_parser = PathTemplate::parse)]
    path_template: Vec<PathTemplate>,
    /// How times are written, as strftime: %Y-%m-%d_%H.%M; restic's 2006-01-02_15.04 is understood
    #[arg(long, value_name = "FORMAT", value_parser = TimeTemplate::parse)]
    time_template: Option<TimeTemplate>,
    #[command(flatten)]
    filters: Filters,
}

/// When an image is used.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum NativeWhen {
    /// Where it can be; the log says why not
    Auto,
    /// Never
    Off,
    /// It is an error where it cannot be
    Require,
}

/// What was typed, understood.
struct MountPlan {
    mountpoint: PathBuf,
    /// What is mounted, where that is not everything.
    what: Option<Spec>,
    filters: Filters,
    options: MountOptions,
}

#[derive(Serialize)]
struct JsonMounted {
    message_type: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
}

/// Mounts.
pub fn run(context: &Context, args: &MountArgs, in_background: bool) -> Result<Outcome> {
    if in_background {
        serve_in_background(context, args)?;
        return Ok(Outcome::Done);
    }
    let plan = args.plan(context)?;
    let place = context.place()?;
    if args.foreground {
        let storage = context.storage(&place)?;
        let (repo, _) = context.unlock(&place, |key| Repository::open_with(storage.clone(), key, &log::reports()))?;
        let mut said = Ok(());
        serve(context, repo, &plan, |_, warning| {
            warning.iter().for_each(|text| gone::say(context, text));
            said = say(context, &plan.mountpoint, std::process::id(), None);
        })?;
        said?;
    } else {
        // Nobody is asked for a passphrase of what is not there. Else the process in the background finds that out.
        if place.local().is_some() || context.given()?.is_none() {
            context.storage(&place)?;
        }
        let start = |key: &Credential| background::start(key, context.token()?, context.places.state());
        let (started, _) = context.unlock(&place, start)?;
        started.warning.iter().for_each(|text| gone::say(context, text));
        say(context, &plan.mountpoint, started.pid, started.log.as_deref())?;
    }
    Ok(Outcome::Done)
}

fn serve_in_background(context: &Context, args: &MountArgs) -> Result<()> {
    let ready = |shutdown: &Shutdown, warning: Option<String>| {
        // Nothing from here on is relative, and no file system must stay busy because of this process.
        let _ = std::env::set_current_dir("/");
        if !background::answer(Ok(warning.as_deref())) {
            shutdown.trigger();
        }
    };
    let served = background::begin().and_then(|(key, token)| {
        context.hand_over(token);
        let plan = args.plan(context)?;
        let repo = Repository::open_with(context.storage(&context.place()?)?, &key, &log::reports())?;
        // A mount may stay for months: what a user types elsewhere too does not stay with it.
        drop(key);
        serve(context, repo, &plan, ready)
    });
    if let Err(e) = &served {
        // Once the starting process has its answer, this one goes nowhere; the log has it.
        background::answer(Err(e));
    }
    served
}

impl MountArgs {
    fn plan(&self, context: &Context) -> Result<MountPlan> {
        let (what, mountpoint) = match self.places.as_slice() {
            [mountpoint] => (None, mountpoint),
            [what, mountpoint] => (Some(Spec::parse(what)?), mountpoint),
            _ => {
                return Err(Error::invalid(
                    "the directory to mount at is missing: yester mount [SNAP[:PATH]] MOUNTPOINT (see: yester mount --help)",
                ));
            }
        };
        if what.is_some() && !(self.path_template.is_empty() && self.time_template.is_none()) {
            let text = "--path-template and --time-template name snapshots: mount all of them (without SNAP)";
            return Err(Error::invalid(text));
        }
        let options = MountOptions {
            scope: None,
            filter: self.filters.filter()?,
            templates: LinkTemplates { paths: self.path_template.clone(), time: self.time_template.clone() },
            memory: self.memory,
            allow_other: self.allow_other,
            owner_root: self.owner_root,
            without_xattrs: self.no_xattrs,
            native: match self.native {
                NativeWhen::Auto => Native::Auto,
                NativeWhen::Off => Native::Off,
                NativeWhen::Require => Native::Require,
            },
            extra: self.options.clone(),
            list_again: None,
            repository: context.place()?.shown().to_string(),
            avoid: context.place()?.local().map(Path::to_owned).into_iter().collect(),
        };
        let mountpoint = paths::absolute(Path::new(mountpoint))?;
        Ok(MountPlan { mountpoint, what, filters: self.filters.clone(), options })
    }
}

/// SIGINT and SIGTERM unmount. SIGHUP has the snapshots listed again, unless it comes because the terminal is gone.
fn obey(mut signals: Signals, shutdown: &Shutdown, again: &crossbeam_channel::Sender<()>) {
    let had_terminal = terminal::is_there();
    for signal in signals.forever() {
        if signal == SIGHUP && had_terminal == terminal::is_there() {
            tracing::info!("the snapshots are listed again");
            // Full: that is to be done already.
            let _ = again.try_send(());
        } else {
            shutdown.trigger();
        }
    }
}

/// Mounts the repository and serves until somebody unmounts; SIGINT and SIGTERM are requests to do so.
/// `ready` is called when the mount answers, with what there is to say of the repository.
fn serve(
    context: &Context,
    repo: Repository,
    plan: &MountPlan,
    ready: impl FnOnce(&Shutdown, Option<String>) + Send,
) -> Result<()> {
    yester::sys::process::return_large_blocks();
    let place = context.place()?;
    let repo = Arc::new(context.with_cache(&place, repo));
    let warning = gone::warning(context, &repo)?;
    let shutdown = Shutdown::new();
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).at(|| "cannot handle signals".to_owned())?;
    let mut options = plan.options.clone();
    let (again, asked) = crossbeam_channel::bounded(1);
    options.list_again = Some(asked);
    let (handle, trigger) = (signals.handle(), shutdown.clone());
    let waiter = std::thread::spawn(move || obey(signals, &trigger, &again));
    options.scope = scope(context, &repo, plan)?;
    options.avoid.extend(context.cache(repo.id()));
    // Before the connection is there, so that it does not share it.
    let mut guard = MountGuard::start();
    let served = mount(&repo, &options, &plan.mountpoint, &shutdown, || {
        guard.iter_mut().for_each(|guard| guard.watch(&plan.mountpoint));
        tracing::info!("mounted {} at {}", place.shown(), paths::shown(&plan.mountpoint));
        ready(&shutdown, warning);
    });
    tracing::info!("the mount at {} has ended", paths::shown(&plan.mountpoint));
    drop(guard);
    handle.close();
    let _ = waiter.join();
    served
}

/// What is mounted, where that is not everything. The mount lists the snapshots itself, so nobody else does without need.
fn scope(context: &Context, repo: &Arc<Repository>, plan: &MountPlan) -> Result<Option<(String, Vec<u8>)>> {
    if plan.what.is_none() && plan.filters.is_empty() {
        return Ok(None);
    }
    let chooser = Chooser::new(context, repo, &plan.filters)?;
    chooser.require_some()?;
    let Some(spec) = &plan.what else { return Ok(None) };
    let snapshot = chooser.with_path(&context::trees(repo)?, spec)?;
    let path = spec.path.as_deref().map_or(&b"/"[..], paths::bytes).to_vec();
    Ok(Some((snapshot.id.to_string(), path)))
}

fn say(context: &Context, mountpoint: &Path, pid: u32, log: Option<&Path>) -> Result<()> {
    let mut out = Output::new();
    if context.global.json {
        let log = log.map(|log| lossy(paths::bytes(log)));
        out.json(&JsonMounted { message_type: "mounted", path: JsonPath::new(paths::bytes(mountpoint)), pid, log })?;
    } else if !context.global.quiet {
        let shown = paths::shown(mountpoint);
        out.line(&format!("mounted at {shown} (take it away with: yester umount {shown})"))?;
    }
    out.finish()
}
