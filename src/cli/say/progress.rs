//! What is seen while a command runs: a bar on a terminal, or lines of JSON; warnings as they come; with `-v` a line an
//! entry; and on SIGUSR1 how far it is.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use yester::jobs::under_way::RunBeacon;
use yester::model::escape;
use yester::observe::{Action, EntryKind, Event, Observer};

use crate::cli::args::Global;
use crate::cli::given::carry::carry;
use crate::cli::say::exit;
use crate::cli::say::output::{JsonPath, note, note_exactly};
use crate::cli::say::status::Status;
use crate::cli::signals;

/// The bar's two lines.
const BAR: &str = "{bar:20} {prefix}\n{wide_msg}";
/// The same while nobody knows how much there is.
const SPINNER: &str = "{spinner} {prefix}\n{wide_msg}";
/// How often the thread that draws looks up.
const TICK: Duration = Duration::from_millis(100);
/// How often `--json` says how far the command is.
const STATUS: Duration = Duration::from_secs(1);
/// Lines that wait for the next tick are written earlier when they are this many bytes.
const WAITING: usize = 64 << 10;

/// Whether there is somebody to be asked.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Shows events.
pub struct Display {
    shared: Arc<DisplayShared>,
    ticker: Mutex<Option<Ticker>>,
}

/// What ends the thread that draws, and the thread.
type Ticker = (Sender<()>, JoinHandle<()>);

struct DisplayShared {
    bar: Option<ProgressBar>,
    json: bool,
    quiet: bool,
    /// Lines of JSON say how far the command is.
    status: bool,
    /// Names are escaped in a list that is read on a terminal.
    escaped: bool,
    listing: bool,
    state: Mutex<DisplayState>,
    /// Says to other processes how far the command is.
    beacon: Mutex<Option<RunBeacon>>,
}

struct DisplayState {
    status: Status,
    /// Lines for standard output that were not written yet.
    waiting: Vec<u8>,
}

#[derive(Serialize)]
struct Warning<'a> {
    message_type: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    message: &'a str,
}

#[derive(Serialize)]
struct JsonEntry<'a> {
    message_type: &'static str,
    action: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    r#type: &'static str,
    size: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

impl Display {
    /// A display after the options. The bar is there only when standard error is a terminal.
    pub fn new(global: &Global) -> Self {
        let wanted = std::io::stderr().is_terminal() && !global.quiet && !global.json;
        let shared = Arc::new(DisplayShared {
            bar: wanted.then(|| ProgressBar::no_length().with_style(style(SPINNER))),
            json: global.json,
            quiet: global.quiet,
            status: global.json && !global.quiet,
            escaped: std::io::stdout().is_terminal(),
            listing: global.verbose > 0,
            state: Mutex::new(DisplayState { status: Status::new(), waiting: Vec::new() }),
            beacon: Mutex::new(None),
        });
        let display = Display { shared, ticker: Mutex::new(None) };
        display.resume();
        display
    }

    /// Goes on after [`Display::finish`].
    pub fn resume(&self) {
        if let Some(bar) = &self.shared.bar {
            bar.reset();
        }
        let (end, ended) = bounded(0);
        let at_work = self.shared.clone();
        let ticker = std::thread::Builder::new().name("display".to_owned()).spawn(move || {
            let mut said = Instant::now();
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(TICK) {
                at_work.tick(&mut said, &signals::asked());
            }
        });
        *self.ticker() = ticker.ok().map(|thread| (end, thread));
    }

    fn ticker(&self) -> MutexGuard<'_, Option<Ticker>> {
        self.ticker.lock()
    }

    /// Takes the bar away: the summary comes. Standard output must not be in use.
    pub fn finish(&self) {
        if let Some((end, thread)) = self.ticker().take() {
            drop(end);
            let _ = thread.join();
        }
        // A signal that came just before the end is answered, too.
        self.shared.tick(&mut Instant::now(), &signals::asked());
        if let Some(bar) = &self.shared.bar {
            bar.finish_and_clear();
        }
    }

    /// Also says how far the command is through `beacon`, until this display is dropped.
    pub fn announce(&self, beacon: Option<RunBeacon>) {
        *self.shared.beacon.lock() = beacon;
    }

    /// Prints a line on standard error, above the bar and after what was listed before.
    pub fn note(&self, line: &str) {
        let mut state = self.shared.state();
        self.shared.flush(&mut state);
        self.shared.above(|| note(line));
    }

    /// Prints a warning or a note above the bar. Names are escaped wherever it goes: a log is read on a terminal one day.
    fn say(&self, what: &str, subject: &[u8], message: &str) {
        if self.shared.json {
            let message_type = if what == "note" { "note" } else { "error" };
            let warning = Warning { message_type, path: JsonPath::new(subject), message: &carry(message) };
            return note_exactly(&serde_json::to_string(&warning).unwrap_or_default());
        }
        self.note(&format!("yester: {what}: {}: {}", escape(subject), exit::one_line(message)));
    }

    /// Asks a question on the terminal; true for yes.
    pub fn ask(&self, question: &str) -> bool {
        let mut answer = String::new();
        let mut state = self.shared.state();
        self.shared.flush(&mut state);
        self.shared.above(|| {
            let shown = write!(std::io::stderr(), "{question} [y/N] ").and_then(|()| std::io::stderr().flush());
            let _ = shown.and_then(|()| std::io::stdin().read_line(&mut answer));
        });
        matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES")
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl DisplayShared {
    fn state(&self) -> MutexGuard<'_, DisplayState> {
        self.state.lock()
    }

    fn above(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Draws, writes what waits, and says how far the command is, if it is time or somebody `asked`.
    fn tick(&self, said: &mut Instant, asked: &AtomicBool) {
        let mut state = self.state();
        let asked = asked.swap(false, Ordering::Relaxed);
        if asked || said.elapsed() >= STATUS {
            *said = Instant::now();
            self.say_status(&mut state);
        }
        self.flush(&mut state);
        if asked && !self.status {
            let (text, current) = (state.status.text(), state.status.current());
            let at = if current.is_empty() { String::new() } else { format!(": {current}") };
            self.above(|| note(&format!("yester: {text}{at}")));
        }
        if let Some(bar) = &self.bar {
            state.status.draw(bar);
        }
    }

    /// Says how far the command is to those who want to know each second.
    fn say_status(&self, state: &mut DisplayState) {
        let mut beacon = self.beacon.lock();
        if !self.status && beacon.is_none() {
            return;
        }
        let line = state.status.json();
        if let Some(beacon) = &mut *beacon {
            beacon.tell(&line, state.status.text());
        }
        if self.status {
            state.waiting.extend_from_slice(line.as_bytes());
            state.waiting.push(b'\n');
        }
    }

    /// Writes what waits to standard output.
    fn flush(&self, state: &mut DisplayState) {
        if state.waiting.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut state.waiting);
        let write = || {
            let mut out = std::io::stdout().lock();
            out.write_all(&lines).and_then(|()| out.flush())
        };
        let mut result = Ok(());
        self.above(|| result = write());
        if result.is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
            exit::broken_pipe();
        }
    }

    fn list(&self, action: Action, path: &[u8], kind: EntryKind, reason: &str, size: u64) {
        let line = match self.json {
            true => {
                let (action, r#type) = (word(action), type_of(kind));
                let entry = JsonEntry { message_type: "entry", action, path: JsonPath::new(path), r#type, size, reason };
                serde_json::to_vec(&entry).unwrap_or_default()
            }
            false => {
                let shown = if self.escaped { escape(path).into_bytes() } else { path.to_vec() };
                let slash = if kind == EntryKind::Directory && path != b"/" { "/" } else { "" };
                let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                [sign(action).as_bytes(), b" ", &shown, slash.as_bytes(), reason.as_bytes()].concat()
            }
        };
        let mut state = self.state();
        state.waiting.extend_from_slice(&line);
        state.waiting.push(b'\n');
        if state.waiting.len() >= WAITING {
            self.flush(&mut state);
        }
    }
}

impl Status {
    fn draw(&self, bar: &ProgressBar) {
        match self.permille() {
            Some(done) if bar.length().is_none() => {
                bar.set_style(style(BAR));
                bar.set_length(1000);
                bar.set_position(done);
            }
            Some(done) => bar.set_position(done),
            None => {
                if bar.length().is_some() {
                    bar.unset_length();
                    bar.set_style(style(SPINNER));
                }
                bar.tick();
            }
        }
        bar.set_prefix(self.text());
        bar.set_message(self.current());
    }
}

/// The sign of an action in a list.
fn sign(action: Action) -> &'static str {
    match action {
        Action::New => "+",
        Action::Changed => "M",
        Action::Removed => "-",
        Action::Unchanged | Action::Kept => "=",
        Action::LeftOut => "x",
    }
}

/// The word for an action in JSON; restic's where it has the same thing.
fn word(action: Action) -> &'static str {
    match action {
        Action::New => "new",
        Action::Changed => "modified",
        Action::Removed => "removed",
        Action::Unchanged => "unchanged",
        Action::Kept => "kept",
        Action::LeftOut => "excluded",
    }
}

fn type_of(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "dir",
        EntryKind::Symlink => "symlink",
        EntryKind::Special => "special",
        EntryKind::Object => "object",
    }
}

impl Observer for Display {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Warning { subject, message } => {
                self.shared.state().status.errors += 1;
                self.say("warning", subject, message);
            }
            Event::Note { .. } if self.shared.quiet => {}
            Event::Note { subject, message } => self.say("note", subject, message),
            Event::Progress { entries, bytes, total_entries, total_bytes, unit } => {
                self.shared.state().status.advance(unit, (*entries, *bytes), (*total_entries, *total_bytes));
            }
            Event::Current { subject } => self.shared.state().status.at(subject),
            Event::Entry { action, path, kind, reason, bytes } => {
                self.shared.list(*action, path, *kind, reason, *bytes);
                self.shared.state().status.at(path);
            }
            // Kinds of events that come later are for other displays.
            _ => {}
        }
    }

    fn wants_entries(&self) -> bool {
        self.shared.listing
    }
}
