//! Streams on the command line: standard input, or a command's output, as a file of the snapshot.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use yester::error::IoContext;
use yester::ingest::{Stream, sources};
use yester::{Error, Result};

/// What restic calls the file when nobody says.
const STDIN: &str = "stdin";

#[derive(Debug, Args)]
pub struct StreamArgs {
    /// Store what comes on standard input as the file NAME
    #[arg(long, value_name = "NAME", num_args = 0..=1, conflicts_with_all = ["stream", "stdin_from_command"])]
    stdin: Option<Option<OsString>>,
    /// Run COMMAND and store its output as the file NAME
    #[arg(long, value_name = "NAME", conflicts_with = "stdin_from_command")]
    stream: Option<OsString>,
    /// The name for --stdin and --stdin-from-command
    #[arg(long, value_name = "NAME", hide = true, conflicts_with = "stream")]
    stdin_filename: Option<OsString>,
    /// --stream with the name of --stdin-filename
    #[arg(long, hide = true)]
    stdin_from_command: bool,
    /// The command of --stream, and its arguments
    #[arg(value_name = "COMMAND", last = true, hide = true)]
    command: Vec<OsString>,
}

impl StreamArgs {
    /// The paths among the given words, and the stream.
    pub fn parted(&self, words: &[PathBuf]) -> Result<(Vec<PathBuf>, Option<Stream>)> {
        let mut paths = words.to_vec();
        let mut command = self.command.clone();
        if self.stdin_from_command && command.is_empty() {
            // As restic has it: all words are the command.
            command = paths.drain(..).map(OsString::from).collect();
        }
        let renamed = self.stdin_filename.clone();
        if self.stream.is_some() || self.stdin_from_command {
            let name = self.stream.clone().or(renamed).unwrap_or_else(|| STDIN.into());
            if command.is_empty() {
                let text = "--stream needs a command: write it after --, as in --stream db.sql -- pg_dumpall";
                return Err(Error::invalid(text));
            }
            return Ok((paths, Some(Stream::of_command(place(&name)?, command, Vec::new()))));
        }
        // Without a stream, what stands behind -- are paths that may begin with a dash.
        paths.extend(command.into_iter().map(PathBuf::from));
        let named = match (&self.stdin, renamed) {
            (None, None) => return Ok((paths, None)),
            (Some(Some(_)), Some(_)) => return Err(Error::invalid("--stdin has a name already: leave out --stdin-filename")),
            (Some(Some(name)), None) => name.clone(),
            (_, Some(name)) => name,
            (Some(None), None) => STDIN.into(),
        };
        let input = std::io::stdin().as_fd().try_clone_to_owned().at(|| "cannot read standard input".to_owned())?;
        Ok((paths, Some(Stream::of_file(place(&named)?, File::from(input)))))
    }
}

/// Where a stream stands in the snapshot: its name is a path from the root, wherever this process is at work.
fn place(name: &OsString) -> Result<Vec<u8>> {
    let path = [b"/", name.as_bytes()].concat();
    let names = sources::names(&path)?;
    match names.is_empty() {
        true => Err(Error::invalid("a stream needs a name: the file that it becomes in the snapshot")),
        false => Ok(names.iter().flat_map(|name| [b"/", *name].concat()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_from_the_root() {
        assert_eq!(place(&"db.sql".into()).unwrap(), b"/db.sql");
        assert_eq!(place(&"/dumps//./db.sql".into()).unwrap(), b"/dumps/db.sql");
        assert!(place(&"".into()).is_err() && place(&"/".into()).is_err() && place(&"../x".into()).is_err());
    }
}
