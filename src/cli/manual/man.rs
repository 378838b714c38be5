//! `man`: a page of the manual for every command.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use serde::Serialize;
use yester::error::IoContext;
use yester::{Error, ErrorKind, Result};

use crate::cli::args::Cli;
use crate::cli::context::Context;
use crate::cli::manual::help;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{JsonPath, Output};
use crate::cli::say::paths;

/// The first line of every page, a comment: what begins with it may be replaced.
const MARK: &[u8] = b".\\\" Made by yester man; changes are lost when it is made again.\n";

/// Write the manual into a directory
///
/// One page a command: yester.1, yester-ingest.1 and so on. DIR is made if it does not exist. Pages that this command
/// wrote earlier are replaced; if any other file has the name of a page, nothing is written.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to, as in ~/.local/share/man/man1
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Serialize)]
struct JsonManWritten {
    message_type: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    pages: usize,
}

/// Writes the pages.
pub fn run(context: &Context, args: &ManArgs) -> Result<Outcome> {
    let directory = paths::absolute(&args.directory)?;
    let pages = pages().at(|| "cannot make the manual".to_owned())?;
    let failed = || format!("cannot write the manual to {}", paths::shown(&directory));
    fs::create_dir_all(&directory).at(failed)?;
    for (name, _) in &pages {
        check_free(&directory.join(name))?;
    }
    for (name, page) in &pages {
        write(&directory, name, page).at(failed)?;
    }
    let mut out = Output::new();
    if context.global.json {
        let path = JsonPath::new(paths::bytes(&directory));
        out.json(&JsonManWritten { message_type: "manual", path, pages: pages.len() })?;
    } else if !context.global.quiet {
        out.line(&format!("wrote {} pages to {}", pages.len(), paths::shown(&directory)))?;
    }
    out.finish()?;
    Ok(Outcome::Done)
}

/// Name and text of every page.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = Cli::command();
    command.build();
    let source = format!("yester {}", env!("CARGO_PKG_VERSION"));
    let mut pages = Vec::new();
    let mut left = vec![command];
    while let Some(command) = left.pop() {
        left.extend(visible(&command).cloned());
        let text = page_of(command, &source)?;
        pages.push((text.0, [MARK, &ascii(&text.1)].concat()));
    }
    Ok(pages)
}

/// A page's file name and text. Examples come first.
fn page_of(command: Command, source: &str) -> io::Result<(String, Vec<u8>)> {
    let display = command.get_display_name().unwrap_or_default().to_owned();
    let examples = help::examples(display.strip_prefix("yester").unwrap_or_default().replace('-', " ").trim());
    let below = command.get_subcommands().any(|below| !below.is_hide_set());
    let more = command.get_after_long_help().or(command.get_after_help()).is_some();
    let version = command.get_version().is_some();
    let page = Man::new(command).source(source).manual("yester");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    if !examples.is_empty() {
        text.extend_from_slice(b".SH EXAMPLES\n");
        for (line, what) in examples {
            text.extend_from_slice(format!(".TP\n\\fB{}\\fR\n{}\n", escaped(line), escaped(what)).as_bytes());
        }
    }
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if below {
        page.render_subcommands_section(&mut text)?;
    }
    if more {
        page.render_extra_section(&mut text)?;
    }
    if version {
        page.render_version_section(&mut text)?;
    }
    Ok((page.get_filename(), text))
}

/// Text as a formatter of manuals takes it.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('~', "\\(ti").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// The same page for formatters that know no UTF-8.
fn ascii(page: &[u8]) -> Vec<u8> {
    let mut out = String::with_capacity(page.len());
    for c in String::from_utf8_lossy(page).chars() {
        if c.is_ascii() { out.push(c) } else { out.push_str(&format!("\\[u{:04X}]", u32::from(c))) }
    }
    out.into_bytes()
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// Fails if there is something that this command did not write.
fn check_free(path: &Path) -> Result<()> {
    let failed = || format!("cannot look at {}", paths::shown(path));
    let foreign = |what: &str| {
        let text = format!("{} {what}: nothing was written; take it away, or name another directory", paths::shown(path));
        Err(Error::new(ErrorKind::Exists, text))
    };
    match path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(failed(), e)),
        Ok(metadata) if !metadata.is_file() => return foreign("is no file"),
        Ok(_) => {}
    }
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(MARK.len() as u64).read_to_end(&mut start)).at(failed)?;
    if start == MARK { Ok(()) } else { foreign("was not written by yester man") }
}

/// Puts a whole page under its name, in one step.
fn write(directory: &Path, name: &str, page: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let written = file.write_all(page).and_then(|()| fs::rename(&temporary, directory.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
