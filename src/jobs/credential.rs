//! What unlocks a repository: where it comes from, and reading it. No secret is ever part of an error.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::chunk::keys::Credential;
use crate::error::IoContext;
use crate::model::escape;
use crate::model::id::{fill_random, from_hex, hex_pair};
use crate::sys::terminal::ask_hidden;
use crate::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::jobs::paths;
use crate::jobs::variables;

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// The longest passphrase or key file that is read.
const LIMIT: usize = 64 << 10;

/// Secret bytes: overwritten when they go.
pub type Secret = Zeroizing<Vec<u8>>;

/// A token for a server.
pub type ServerToken = Zeroizing<String>;

/// Where a credential comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum CredentialOrigin {
    /// The content of a file, without its last newline.
    PasswordFile(PathBuf),
    /// The output of a shell command, without its last newline.
    PasswordCommand(OsString),
    /// A key file.
    KeyFile(PathBuf),
    /// The passphrase itself, from the environment.
    Password(Secret),
}

/// What the options say of a credential; at most one of them is there.
#[derive(Debug, Clone, Default)]
pub struct CredentialOptions {
    /// A key file.
    pub key_file: Option<PathBuf>,
    /// A shell command that prints a passphrase.
    pub password_command: Option<OsString>,
    /// A file that holds one.
    pub password_file: Option<PathBuf>,
}

impl CredentialOptions {
    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.key_file.is_some() || self.password_command.is_some() || self.password_file.is_some()
    }
}

/// What the user gave: an option beats every variable; among the variables, whose names begin with `prefix`, a key file,
/// a command, a file and the passphrase itself come in this order.
pub fn given(
    options: &CredentialOptions,
    prefix: &str,
    get: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<CredentialOrigin>> {
    let options = [
        options.key_file.clone().map(CredentialOrigin::KeyFile),
        options.password_command.clone().map(CredentialOrigin::PasswordCommand),
        options.password_file.clone().map(CredentialOrigin::PasswordFile),
    ];
    if let Some(given) = options.into_iter().flatten().next() {
        return Ok(Some(given));
    }
    let set = |name: &str| variables::value(&format!("{prefix}{name}"), &get);
    let found = [
        set("KEY_FILE")?.map(|v| CredentialOrigin::KeyFile(v.into())),
        set("PASSWORD_COMMAND")?.map(CredentialOrigin::PasswordCommand),
        set("PASSWORD_FILE")?.map(|v| CredentialOrigin::PasswordFile(v.into())),
        get(&format!("{prefix}PASSWORD")).map(|v| CredentialOrigin::Password(Zeroizing::new(v.into_vec()))),
    ];
    if found.iter().flatten().next() == Some(&CredentialOrigin::Password(Zeroizing::new(Vec::new()))) {
        let text = format!("{prefix}PASSWORD is set, and the passphrase is empty: an empty one protects nothing");
        return Err(Error::new(ErrorKind::Key, text));
    }
    Ok(found.into_iter().flatten().next())
}

/// A credential that is new here, and the key file that holds it.
pub struct New {
    /// What will unlock.
    pub credential: Credential,
    /// Its key file, absolute.
    pub key_file: Option<PathBuf>,
    /// Whether the key file was made.
    pub made: bool,
}

/// The credential of a repository that is made, or of a new slot of the one at `repository`. A key file that does not
/// exist is made. `None` for `origin` asks on the terminal.
pub fn new(origin: Option<CredentialOrigin>, repository: Option<&Path>, prompt: &str) -> Result<New> {
    match origin {
        Some(CredentialOrigin::KeyFile(file)) => {
            let file = paths::absolute(&file)?;
            if repository.is_some_and(|repository| file.starts_with(repository)) {
                let text = "is inside the repository: a thief of one would have the other";
                return Err(Error::invalid(format!("the key file {} {text}", shown(&file))));
            }
            let made = file.symlink_metadata().is_err();
            let credential = if made { make_key_file(&file)? } else { load(&CredentialOrigin::KeyFile(file.clone()))? };
            Ok(New { credential, key_file: Some(file), made })
        }
        Some(origin) => Ok(New { credential: load(&origin)?, key_file: None, made: false }),
        None => Ok(New { credential: ask_new(prompt)?, key_file: None, made: false }),
    }
}

/// Reads the credential from where it is.
pub fn load(origin: &CredentialOrigin) -> Result<Credential> {
    crate::sys::process::protect_memory();
    match origin {
        CredentialOrigin::PasswordFile(path) => {
            let what = || format!("cannot read the password file {}", shown(path));
            let file = File::open(path).at(what).map_err(|e| e.with_kind(ErrorKind::Key))?;
            passphrase(read_line(file).at(what).map_err(|e| e.with_kind(ErrorKind::Key))?)
        }
        CredentialOrigin::PasswordCommand(command) => passphrase(run(command, "password")?),
        CredentialOrigin::Password(password) => passphrase(password.clone()),
        CredentialOrigin::KeyFile(path) => key_file(path),
    }
}

/// Whether somebody can be asked.
pub fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// Asks for the passphrase on the terminal.
pub fn ask(prompt: &str) -> Result<Credential> {
    crate::sys::process::protect_memory();
    passphrase(prompt_for(prompt)?)
}

/// Asks for a new passphrase, twice.
fn ask_new(prompt: &str) -> Result<Credential> {
    crate::sys::process::protect_memory();
    let first = prompt_for(prompt)?;
    // An empty one is refused before it has to be given again.
    let credential = passphrase(first.clone())?;
    if first != prompt_for("the same once more: ")? {
        return Err(Error::new(ErrorKind::Key, "the two passphrases differ: nothing was made"));
    }
    Ok(credential)
}

fn prompt_for(prompt: &str) -> Result<Secret> {
    ask_hidden(prompt).map_err(|e| match e.kind() {
        io::ErrorKind::Interrupted => Error::new(ErrorKind::Interrupted, "interrupted at the question for a passphrase"),
        io::ErrorKind::UnexpectedEof => Error::new(ErrorKind::Key, "no passphrase was given on the terminal"),
        _ => Error::io("cannot read a passphrase from the terminal", e).with_kind(ErrorKind::Key),
    })
}

fn passphrase(mut bytes: Secret) -> Result<Credential> {
    if bytes.is_empty() {
        return Err(Error::new(ErrorKind::Key, "the passphrase is empty: an empty one protects nothing"));
    }
    Ok(Credential::Passphrase(std::mem::take(&mut *bytes)))
}

/// Reads all of `from` into a buffer that never moves (a moved one would leave a copy), and cuts the last newline.
fn read_line(from: impl Read) -> io::Result<Secret> {
    let mut bytes = read_limited(from)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(bytes)
}

/// Reads all of `from`, which must have no buffer of its own, into one that never moves.
pub fn read_limited(from: impl Read) -> io::Result<Secret> {
    let mut bytes = Secret::new(Vec::with_capacity(LIMIT + 64));
    from.take(LIMIT as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LIMIT {
        return Err(io::Error::other("it is longer than 64 KiB, which no passphrase or key is"));
    }
    Ok(bytes)
}

fn run(command: &OsStr, what: &str) -> Result<Secret> {
    let failed = || format!("cannot run the {what} command");
    let key = |e: Error| e.with_kind(ErrorKind::Key);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = shell.spawn().at(failed).map_err(key)?;
    let output = child.stdout.take().map_or(Ok(Secret::default()), read_line);
    let status = child.wait().at(failed).map_err(key)?;
    let output = output.at(failed).map_err(key)?;
    if !status.success() {
        return Err(Error::new(ErrorKind::Key, format!("the {what} command failed: {status}")));
    }
    Ok(output)
}

fn key_file(path: &Path) -> Result<Credential> {
    let shown = shown(path);
    let what = || format!("cannot read the key file {shown}");
    let file = File::open(path).at(what).map_err(|e| e.with_kind(ErrorKind::Key))?;
    let bytes = read_limited(file).at(what).map_err(|e| e.with_kind(ErrorKind::Key))?;
    parse_key(&bytes).map(Credential::KeyFile).ok_or_else(|| {
        Error::new(ErrorKind::Key, format!("{shown} is no key file: it must hold 64 hexadecimal digits or 32 bytes"))
    })
}

fn parse_key(bytes: &[u8]) -> Option<[u8; 32]> {
    if let Ok(raw) = bytes.try_into() {
        return Some(raw);
    }
    let digits = Zeroizing::new(std::str::from_utf8(bytes).ok()?.trim_ascii_end().to_ascii_lowercase());
    from_hex(&digits)
}

/// Makes a new key file (0600, its directory 0700 if it is missing), durable when this returns. One that is there
/// already is never replaced.
fn make_key_file(path: &Path) -> Result<Credential> {
    crate::sys::process::protect_memory();
    let failed = || format!("cannot make the key file {}", shown(path));
    let mut key = Zeroizing::new([0; 32]);
    fill_random(&mut *key)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(parent).at(failed)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).at(failed)?;
    file.write_all(&*key_text(&key)).and_then(|()| file.sync_all()).at(failed)?;
    File::open(parent).and_then(|dir| dir.sync_all()).at(failed)?;
    Ok(Credential::KeyFile(*key))
}

/// What a key file holds: 64 hexadecimal digits and a newline, in memory that never moves.
fn key_text(key: &[u8; 32]) -> Zeroizing<[u8; 65]> {
    let mut text = Zeroizing::new([b'\n'; 65]);
    for (pair, byte) in text.chunks_exact_mut(2).zip(key) {
        pair.copy_from_slice(&hex_pair(*byte));
    }
    text
}

/// The token for a server, after the variables of `get`: of a command, a file, or itself.
pub fn token(get: impl Fn(&str) -> Option<OsString>) -> Result<Option<ServerToken>> {
    let set = |name: &str| variables::value(name, &get);
    let (command, file, token) = (set("YESTER_TOKEN_COMMAND")?, set("YESTER_TOKEN_FILE")?, set("YESTER_TOKEN")?);
    let bytes = if let Some(command) = command {
        run(&command, "token")?
    } else if let Some(path) = file {
        let what = || format!("cannot read the token file {}", shown(Path::new(&path)));
        File::open(&path).and_then(read_line).at(what).map_err(|e| e.with_kind(ErrorKind::Key))?
    } else if let Some(token) = token {
        Zeroizing::new(token.into_vec())
    } else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes).ok().filter(|text| crate::remote::tokens::is_token(text));
    let text = text.ok_or_else(|| {
        Error::new(
            ErrorKind::Key,
            "what YESTER_TOKEN, its file or its command gives is no token: yester serve token create makes one",
        )
    })?;
    Ok(Some(Zeroizing::new(text.to_owned())))
}

/// Writes a credential and a token to the process that will serve a mount.
pub fn hand_over(credential: &Credential, token: Option<&ServerToken>, mut to: impl Write) -> io::Result<()> {
    let token = token.map_or("", |token| token.as_str());
    to.write_all(token.as_bytes())?;
    to.write_all(b"\n")?;
    match credential {
        Credential::Passphrase(bytes) => to.write_all(b"P").and_then(|()| to.write_all(bytes)),
        Credential::KeyFile(key) => to.write_all(b"K").and_then(|()| to.write_all(key)),
    }
}

/// Reads what [`hand_over`] wrote.
pub fn take_over(from: impl Read) -> Result<(Credential, Option<ServerToken>)> {
    crate::sys::process::protect_memory();
    let missing = || Error::new(ErrorKind::Key, "the process that asked for this mount handed no key over");
    let bytes = read_limited(from).map_err(|_| missing())?;
    let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(missing)?;
    let (token, key) = bytes.split_at(end);
    let token = std::str::from_utf8(token).map_err(|_| missing())?;
    let credential = match key.get(1..).and_then(<[u8]>::split_first) {
        Some((b'P', rest)) => passphrase(Zeroizing::new(rest.to_vec()))?,
        Some((b'K', rest)) => rest.try_into().map(Credential::KeyFile).map_err(|_| missing())?,
        _ => return Err(missing()),
    };
    Ok((credential, (!token.is_empty()).then(|| Zeroizing::new(token.to_owned()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(options: &CredentialOptions, variables: &[(&str, &str)]) -> Option<CredentialOrigin> {
        given(options, "YESTER_", |name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into())).unwrap()
    }

    #[test]
    fn an_option_beats_every_variable() {
        let all =
            [("YESTER_KEY_FILE", "k"), ("YESTER_PASSWORD_COMMAND", "c"), ("YESTER_PASSWORD_FILE", "f"), ("YESTER_PASSWORD", "p")];
        let option = CredentialOptions { password_file: Some("option".into()), ..CredentialOptions::default() };
        assert!(origin(&option, &all) == Some(CredentialOrigin::PasswordFile("option".into())));
        let none = CredentialOptions::default();
        assert!(origin(&none, &all) == Some(CredentialOrigin::KeyFile("k".into())));
        assert!(origin(&none, &all[1..]) == Some(CredentialOrigin::PasswordCommand("c".into())));
        assert!(origin(&none, &all[2..]) == Some(CredentialOrigin::PasswordFile("f".into())));
        assert!(origin(&none, &all[3..]) == Some(CredentialOrigin::Password(Zeroizing::new(b"p".to_vec()))));
        assert!(origin(&none, &[]).is_none());
        let empty = given(&CredentialOptions::default(), "YESTER_", |name| (name == "YESTER_PASSWORD").then(OsString::new));
        assert!(empty.is_err_and(|e| e.to_string().contains("YESTER_PASSWORD")));
    }

    #[test]
    fn keys_are_hexadecimal_or_raw() {
        assert_eq!(parse_key(&[7; 32]), Some([7; 32]));
        assert_eq!(parse_key(format!("{}\n", "0A".repeat(32)).as_bytes()), Some([10; 32]));
        for bad in [&b""[..], &[7; 31], &[b'a'; 63], &[b'g'; 64], &[b'a'; 66]] {
            assert_eq!(parse_key(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_the_last_newline_goes() {
        assert_eq!(**read_line(&b" a \n\n"[..]).unwrap(), *b" a \n");
        assert_eq!(**read_line(&b"a\r\n"[..]).unwrap(), *b"a");
        assert!(read_line(io::repeat(b'x')).is_err());
    }

    #[test]
    fn a_credential_survives_the_way_to_the_other_process() {
        for credential in [Credential::Passphrase(b"P\n\xff".to_vec()), Credential::KeyFile([b'K'; 32])] {
            let mut pipe = Vec::new();
            let token = matches!(credential, Credential::KeyFile(_)).then(|| Zeroizing::new("a token".to_owned()));
            hand_over(&credential, token.as_ref(), &mut pipe).unwrap();
            let (taken, same_token) = take_over(&pipe[..]).unwrap();
            assert!(same_token == token);
            let same = match (taken, &credential) {
                (Credential::Passphrase(ref a), Credential::Passphrase(b)) => a == b,
                (Credential::KeyFile(ref a), Credential::KeyFile(b)) => a == b,
                _ => false,
            };
            assert!(same);
        }
        assert_eq!(take_over(&b""[..]).unwrap_err().kind(), ErrorKind::Key);
    }
}
