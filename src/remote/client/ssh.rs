//! Connections by the user's own ssh, which starts `yester serve --stdio` on the other machine. The user's configuration of
//! ssh holds: agent, jump hosts, names of hosts.

use std::ffi::OsString;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::error::{Error, ErrorKind};
use crate::remote::client::fault::RequestFault;
use crate::remote::protocol::GREETING;

/// What may come before the greeting: what a shell says to everybody.
const LIMIT: u64 = 64 << 10;

/// A command line.
#[derive(Debug, Clone)]
pub(crate) struct SshCommand {
    /// The program and its own options: `ssh`, or what the user says.
    pub(crate) program: Vec<OsString>,
    /// The account.
    pub(crate) user: Option<String>,
    /// The machine.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: Option<u16>,
    /// What is called `yester` there.
    pub(crate) remote: String,
}

impl SshCommand {
    /// Its arguments after the program.
    fn arguments(&self) -> Vec<OsString> {
        let mut out: Vec<OsString> = self.program.iter().skip(1).cloned().collect();
        // No terminal, no other forwarding over a connection that stays for hours.
        out.extend(["-T", "-oClearAllForwardings=yes"].map(OsString::from));
        if let Some(port) = self.port {
            out.extend(["-p".into(), port.to_string().into()]);
        }
        if let Some(user) = &self.user {
            out.extend(["-l".into(), user.into()]);
        }
        out.extend(["--".into(), OsString::from(&self.host), format!("{} serve --stdio", self.remote).into()]);
        out
    }
}

/// The two pipes of an ssh that is killed when this goes.
pub(crate) struct Pipes {
    input: BufReader<ChildStdout>,
    output: ChildStdin,
    _child: Child,
}

/// Starts ssh and waits for the greeting of the far side.
pub(super) async fn connect(command: &SshCommand) -> Result<Pipes, RequestFault> {
    let program = command.program.first().cloned().unwrap_or_else(|| "ssh".into());
    let shown = crate::model::escape(std::os::unix::ffi::OsStrExt::as_bytes(program.as_os_str()));
    let failed = |e| RequestFault::Final(Error::io(format!("cannot run {shown}"), e));
    let mut start = Command::new(&program);
    start.args(command.arguments()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    // The far side needs none of our secrets, and SendEnv must not carry them there.
    for secret in ["YESTER_TOKEN", "YESTER_PASSWORD", "YESTER_NEW_PASSWORD"] {
        start.env_remove(secret);
    }
    let mut child = start.spawn().map_err(failed)?;
    let (Some(output), Some(input)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed(std::io::ErrorKind::BrokenPipe.into()));
    };
    let mut pipes = Pipes { input: BufReader::new(input), output, _child: child };
    match greeting(&mut pipes.input).await {
        Ok(true) => Ok(pipes),
        Ok(false) => Err(RequestFault::NotSent(ended(&mut pipes._child, &shown).await)),
        Err(e) => Err(RequestFault::NotSent(Error::io(format!("cannot read from {shown}"), e))),
    }
}

async fn ended(child: &mut Child, shown: &str) -> Error {
    let status = child.wait().await.ok();
    let text = match status {
        // ssh itself failed, and not what it started.
        Some(status) if status.code() == Some(255) => {
            format!("{shown} did not get in, and says why above (try it by itself: {shown} with the same user and host)")
        }
        _ => {
            let status = status.map(|status| status.to_string()).unwrap_or_default();
            format!(
                "{shown} ended without an answer of yester serve --stdio on the far side ({status}): is yester installed there?"
            )
        }
    };
    Error::new(ErrorKind::Io, text)
}

/// Reads until the greeting. False when there is none.
async fn greeting(input: &mut BufReader<ChildStdout>) -> std::io::Result<bool> {
    let mut input = input.take(LIMIT);
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).await? == 0 {
            return Ok(false);
        }
        if line == GREETING.as_bytes() {
            return Ok(true);
        }
    }
}

impl AsyncRead for Pipes {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.input).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipes {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.output).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.output).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.output).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_comes_after_the_options() {
        let command = SshCommand {
            program: vec!["ssh".into(), "-F".into(), "x".into()],
            user: Some("u".to_owned()),
            host: "h".to_owned(),
            port: Some(7),
            remote: "yester".to_owned(),
        };
        let words = ["-F", "x", "-T", "-oClearAllForwardings=yes", "-p", "7", "-l", "u", "--", "h", "yester serve --stdio"];
        assert_eq!(command.arguments(), words.map(OsString::from));
    }
}
