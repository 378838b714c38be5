//! The terminal: asking for what nobody may see.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use zeroize::{Zeroize, Zeroizing};

/// The longest answer, in bytes.
const LIMIT: usize = 4096;

/// Shows `prompt` on the terminal of this process and reads a line that is not shown. Backspace and Ctrl-U correct it.
/// The answer is in memory once: neither the line editor of the C library nor a buffered reader gets hold of it.
///
/// Ctrl-C gives [`io::ErrorKind::Interrupted`], Ctrl-D on an empty line [`io::ErrorKind::UnexpectedEof`]; the terminal
/// is as it was in both cases, which it would not be after a signal.
pub fn ask_hidden(prompt: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let mut quiet = Quiet::new(terminal)?;
    quiet.terminal.write_all(prompt.as_bytes())?;
    let answer = read_line(&mut quiet.terminal);
    quiet.terminal.write_all(b"\n")?;
    answer
}

/// Whether this process has a terminal that it belongs to.
pub fn is_there() -> bool {
    File::open("/dev/tty").is_ok()
}

/// How many columns the terminal `fd` has; `None` for what is no terminal, or does not know.
pub fn columns(fd: impl AsFd) -> Option<usize> {
    let size = termios::tcgetwinsize(fd).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn new(terminal: File) -> io::Result<Self> {
        let before = termios::tcgetattr(&terminal)?;
        let mut modes = before.clone();
        modes.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        // What was typed before the question is no answer to it, and was shown.
        termios::tcsetattr(&terminal, OptionalActions::Flush, &modes)?;
        Ok(Quiet { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Reads up to the end of the line, byte by byte, and does what the terminal's line editor would.
fn read_line(from: &mut impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(LIMIT));
    let mut byte = Zeroizing::new([0]);
    loop {
        match from.read(&mut *byte) {
            Ok(0) if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(line),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        match byte[0] {
            b'\n' | b'\r' => return Ok(line),
            // Ctrl-C
            0x03 => return Err(io::ErrorKind::Interrupted.into()),
            // Ctrl-D
            0x04 if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            // Ctrl-U
            0x15 => line.zeroize(),
            0x7f | 0x08 => rub_out(&mut line),
            // Other control characters are keys that were hit by mistake.
            0..0x20 => {}
            _ if line.len() == LIMIT => return Err(io::Error::other("it is longer than 4096 bytes")),
            other => line.push(other),
        }
    }
}

/// Takes the last character away: all its bytes, when it is UTF-8.
fn rub_out(line: &mut Vec<u8>) {
    while let Some(byte) = line.pop() {
        if byte & 0xc0 != 0x80 {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str) -> io::Result<Vec<u8>> {
        read_line(&mut keys.as_bytes()).map(|line| line.to_vec())
    }

    #[test]
    fn a_line_can_be_corrected() {
        assert_eq!(typed("geheim\nmore").unwrap(), b"geheim");
        assert_eq!(typed("wrong\x15rä\x7f\x7fright\r").unwrap(), b"right");
        assert_eq!(typed("\x7f\x08a\x01b\n").unwrap(), b"ab");
        assert_eq!(typed("\n").unwrap(), b"");
        assert_eq!(typed("no end").unwrap(), b"no end");
    }

    #[test]
    fn a_question_can_be_left() {
        assert_eq!(typed("half\x03").unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(typed("\x04").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(typed("").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(typed(&"x".repeat(5000)).is_err());
    }
}
