//! The log on standard error: what the library reports while no operation shows it, and what the server logs.

use std::sync::Arc;

use yester::model::escape;
use yester::observe::{Event, Observer, Reports};

/// Writes warnings and notes to the log.
pub struct Log;

impl Observer for Log {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Warning { subject: b"", message } => tracing::warn!("{message}"),
            Event::Warning { subject, message } => tracing::warn!("{}: {message}", escape(subject)),
            Event::Note { subject: b"", message } => tracing::info!("{message}"),
            Event::Note { subject, message } => tracing::info!("{}: {message}", escape(subject)),
            // All else is said by operations, which have an observer of their own.
            _ => {}
        }
    }
}

/// Where a repository reports what it finds.
pub fn reports() -> Reports {
    Reports::to(Arc::new(Log))
}

/// Sends the log to standard error: warnings, with `-v` what is done, with `-vv` how. A log file gets times.
pub fn start(verbose: u8, with_time: bool) {
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
