//! Counters, in the text form of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::remote::protocol::Code;

/// So many counters of refusals there are; further tokens are counted together.
const COUNTERS: usize = 4096;

/// Counters since the server started.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Requests, by the first digit of the answer's status.
    answers: [AtomicU64; 6],
    /// Bytes of objects received and acknowledged.
    pub(crate) received: AtomicU64,
    /// Bytes of objects read for answers.
    pub(crate) sent: AtomicU64,
    /// Objects created.
    pub(crate) created: AtomicU64,
    /// Objects deleted.
    pub(crate) deleted: AtomicU64,
    /// Connections accepted.
    pub(crate) accepted: AtomicU64,
    /// Connections that the server closed: too slow, or closed to make room for others.
    pub(crate) cut: AtomicU64,
    /// Requests refused for their token.
    pub(crate) refused: AtomicU64,
    /// Requests refused, by token (`-` without a good one) and reason.
    refusals: Mutex<BTreeMap<(String, Code), u64>>,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Metrics {
    /// Counts an answer.
    pub(crate) fn answer(&self, status: u16) {
        if let Some(counter) = self.answers.get(usize::from(status / 100)) {
            add(counter, 1);
        }
    }

    /// Counts a refusal of this token, for this reason.
    pub(crate) fn refusal(&self, token: &str, code: Code) {
        let mut refusals = self.refusals.lock();
        let key = (token.to_owned(), code);
        let is_new = !refusals.contains_key(&key);
        let key = if is_new && refusals.len() >= COUNTERS { ("many".to_owned(), code) } else { key };
        *refusals.entry(key).or_insert(0) += 1;
    }

    fn refusals(&self) -> Vec<(String, u64)> {
        let refusals = self.refusals.lock();
        let line = |((token, code), count): (&(String, Code), &u64)| {
            (format!("{{token=\"{token}\",error=\"{}\"}}", code.name()), *count)
        };
        refusals.iter().map(line).collect()
    }

    /// The text.
    pub(crate) fn text(&self, connections: usize) -> String {
        let mut out = String::new();
        let mut line = |name: &str, help: &str, kind: &str, values: &[(String, u64)]| {
            let _ = writeln!(out, "# HELP yester_{name} {help}\n# TYPE yester_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "yester_{name}{labels} {value}");
            }
        };
        let one = |counter: &AtomicU64| vec![(String::new(), counter.load(Ordering::Relaxed))];
        let answers: Vec<(String, u64)> = self
            .answers
            .iter()
            .enumerate()
            .skip(1)
            .map(|(digit, counter)| (format!("{{status=\"{digit}xx\"}}"), counter.load(Ordering::Relaxed)))
            .collect();
        line("requests_total", "Requests answered.", "counter", &answers);
        line("received_bytes_total", "Bytes of objects received and durable.", "counter", &one(&self.received));
        line("sent_bytes_total", "Bytes of objects sent.", "counter", &one(&self.sent));
        line("objects_created_total", "Objects created.", "counter", &one(&self.created));
        line("objects_deleted_total", "Objects deleted.", "counter", &one(&self.deleted));
        line("connections_accepted_total", "Connections accepted.", "counter", &one(&self.accepted));
        line("connections_cut_total", "Connections cut for being slow or in the way.", "counter", &one(&self.cut));
        line("unauthorized_total", "Requests refused for their token.", "counter", &one(&self.refused));
        line("refusals_total", "Requests refused, by token and reason.", "counter", &self.refusals());
        line("connections", "Open connections.", "gauge", &[(String::new(), connections as u64)]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_token_and_memory_is_bounded() {
        let metrics = Metrics::default();
        (0..3).for_each(|_| metrics.refusal("one", Code::Malformed));
        metrics.refusal("two", Code::Quota);
        let text = metrics.text(0);
        assert!(text.contains("yester_refusals_total{token=\"one\",error=\"malformed\"} 3\n"), "{text}");
        assert!(text.contains("yester_refusals_total{token=\"two\",error=\"quota\"} 1\n"), "{text}");
        (0..10_000).for_each(|n| metrics.refusal(&n.to_string(), Code::Forbidden));
        assert!(metrics.refusals.lock().len() <= COUNTERS + 17);
        assert_eq!(metrics.refusals().iter().map(|(_, count)| count).sum::<u64>(), 10_004);
    }
}
