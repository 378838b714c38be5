//! Alarms: a message that a set failed or is overdue, once when it begins and once when it is over.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::jobs::agent::memory::SetTrouble;
use crate::jobs::config::check::words;
use crate::jobs::config::keys::{Hook, NotifyKeys};
use crate::jobs::hooks::{self, Ended};
use crate::jobs::units;
use crate::observe::{Event, Observer};
use crate::remote::webhook::Webhook;
use crate::sys::flow::CommandStream;

/// How long a command may take when nobody says.
const LIMIT: Duration = Duration::from_secs(60);

/// What they are told.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Alarm {
    /// `failed` or `overdue`.
    pub(crate) event: &'static str,
    /// `begin` or `end`.
    pub(crate) phase: &'static str,
    /// The set.
    pub(crate) set: String,
    /// This host.
    pub(crate) host: String,
    /// What is or was wrong.
    pub(crate) message: String,
    /// Since when, RFC 3339.
    pub(crate) since: String,
    /// When the last good snapshot was taken, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_good: Option<String>,
}

/// Seconds since 1970 as RFC 3339.
pub(crate) fn time(secs: i64) -> String {
    jiff::Timestamp::from_second(secs).map_or_else(|_| format!("@{secs}"), |time| time.to_string())
}

impl Alarm {
    /// The text for people.
    pub(crate) fn text(&self) -> String {
        match (self.event, self.phase) {
            ("overdue", "begin") => format!("overdue: {}", self.message),
            ("overdue", _) => "not overdue any more".to_owned(),
            (_, "begin") => format!("failed: {}", self.message),
            _ => "good again".to_owned(),
        }
    }

    /// Tells all who are to be told. An error if one of them could not be.
    pub(crate) fn tell(&self, notify: &NotifyKeys, observer: &Arc<dyn Observer>) -> Result<()> {
        let json = serde_json::to_string(self).map_err(|e| Error::invalid(e.to_string()))?;
        if let Some(command) = &notify.command {
            self.run(command, &json, observer)?;
        }
        match &notify.webhook {
            Some(address) => Webhook::parse(address)?.post(&json),
            None => Ok(()),
        }
    }

    fn run(&self, command: &Hook, json: &str, observer: &Arc<dyn Observer>) -> Result<()> {
        let failed = |how: String| Error::new(ErrorKind::Io, format!("the command of notify failed: {how}"));
        let limit = command.timeout.as_deref().map_or(Ok(LIMIT), units::parse_wait).map_err(Error::invalid)?;
        let variables = [
            ("YESTER_EVENT", self.event),
            ("YESTER_PHASE", self.phase),
            ("YESTER_SET", &self.set),
            ("YESTER_HOST", &self.host),
            ("YESTER_MESSAGE", &self.message),
        ];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let (mut flow, mut input) =
            CommandStream::start_fed(&words(&command.command), &variables).map_err(|e| failed(e.to_string()))?;
        // The text fits into the pipe, so this does not block. An error means that the command does not read it, as it may.
        let _ = input.write_all(json.as_bytes()).and_then(|()| input.write_all(b"\n"));
        drop(input);
        let until = Instant::now() + limit;
        let mut told = |line: &[u8]| {
            observer.event(&Event::Note { subject: b"notify", message: &String::from_utf8_lossy(line) });
        };
        let wanted = || match Instant::now() < until {
            true => Ok(()),
            false => Err(failed(format!("it took longer than {} s, and was ended", limit.as_secs()))),
        };
        hooks::attend(&mut flow, &mut told, &wanted).map_err(|ended| match ended {
            Ended::Failed(how) => failed(how),
            Ended::Unwanted(e) => e,
        })
    }
}

/// Begins a trouble, or goes on with it.
pub(crate) fn begin(trouble: &mut Option<SetTrouble>, now: i64, message: &str) {
    match trouble {
        Some(trouble) => {
            trouble.over = false;
            message.clone_into(&mut trouble.message);
        }
        None => *trouble = Some(SetTrouble { since: now, message: message.to_owned(), ..SetTrouble::default() }),
    }
}

/// Ends a trouble. What nobody was told of is over without a word.
pub(crate) fn end(trouble: &mut Option<SetTrouble>) {
    match trouble {
        Some(trouble) if trouble.told => trouble.over = true,
        _ => *trouble = None,
    }
}

/// The phase that somebody is still to be told of.
pub(crate) fn untold(trouble: &Option<SetTrouble>) -> Option<&'static str> {
    match trouble {
        Some(SetTrouble { told: false, .. }) => Some("begin"),
        Some(SetTrouble { over: true, .. }) => Some("end"),
        _ => None,
    }
}

/// Notes that they were told.
pub(crate) fn told(trouble: &mut Option<SetTrouble>) {
    match trouble {
        Some(trouble) if !trouble.told => trouble.told = true,
        Some(trouble) if trouble.over => {}
        _ => return,
    }
    if trouble.as_ref().is_some_and(|trouble| trouble.over) {
        *trouble = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_once_at_each_end() {
        let mut trouble = None;
        begin(&mut trouble, 5, "no");
        assert_eq!(untold(&trouble), Some("begin"));
        told(&mut trouble);
        begin(&mut trouble, 9, "still no");
        assert_eq!((untold(&trouble), trouble.as_ref().map(|t| t.since)), (None, Some(5)));
        end(&mut trouble);
        assert_eq!(untold(&trouble), Some("end"));
        told(&mut trouble);
        assert_eq!(trouble, None);
        begin(&mut trouble, 5, "no");
        end(&mut trouble);
        assert_eq!((untold(&trouble), &trouble), (None, &None));
    }
}
