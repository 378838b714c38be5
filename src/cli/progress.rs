//! What is seen while a command runs: a bar on a terminal, warnings as they come, the log that `-v` asks for.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use yester::model::escape;
use yester::observe::{Event, Observer};

use super::args::Global;
use super::output::{JsonPath, note};

const KNOWN: &str = "{elapsed} {wide_bar} {decimal_bytes_per_sec} {bytes}/{total_bytes}, {msg}, {eta} left";
const UNKNOWN: &str = "{elapsed} {spinner} {bytes}, {binary_bytes_per_sec}, {msg}";

/// Shows events on standard error.
pub struct Display {
    bar: Option<ProgressBar>,
    json: bool,
}

#[derive(Serialize)]
struct Warning<'a> {
    message_type: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    message: &'a str,
}

impl Display {
    /// A display after the options; the bar is there only when standard error is a terminal.
    pub fn new(global: &Global) -> Self {
        let wanted = std::io::stderr().is_terminal() && !global.quiet && !global.json;
        let bar = wanted.then(|| {
            let bar = ProgressBar::no_length();
            bar.set_style(style(UNKNOWN));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Display { bar, json: global.json }
    }

    /// Takes the bar away: the summary comes.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Prints a warning above the bar. Names are escaped wherever it goes: a log is read on a terminal one day.
    fn warn(&self, subject: &[u8], message: &str) {
        let line = if self.json {
            let warning = Warning { message_type: "error", path: JsonPath::new(subject), message };
            serde_json::to_string(&warning).unwrap_or_default()
        } else {
            format!("yester: warning: {}: {}", escape(subject), super::exit::one_line(message))
        };
        self.note(&line);
    }

    /// Prints a line above the bar.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(line)),
            None => note(line),
        }
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

impl Observer for Display {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Warning { subject, message } => self.warn(subject, message),
            Event::Progress { entries, bytes, total_entries, total_bytes } => {
                let Some(bar) = &self.bar else { return };
                if *total_bytes > 0 && bar.length() != Some(*total_bytes) {
                    bar.set_style(style(KNOWN));
                    bar.set_length(*total_bytes);
                }
                let of = if *total_entries > 0 { format!("{entries}/{total_entries}") } else { entries.to_string() };
                bar.set_message(format!("{of} entries"));
                bar.set_position(*bytes);
            }
            // Kinds of events that come later are for other displays.
            _ => {}
        }
    }
}

/// Sends the library's log to standard error: warnings, with `-v` what is done, with `-vv` how. A log file gets times.
pub fn log(verbose: u8, with_time: bool) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    let builder =
        tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).with_target(false);
    // A second subscriber in one process is refused; the first one serves.
    let _ = if with_time { builder.try_init() } else { builder.without_time().try_init() };
}
