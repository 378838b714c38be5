//! Counters, in the text form of Prometheus.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the server started.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests, by the first digit of the answer's status.
    answers: [AtomicU64; 6],
    /// Bytes of objects received and acknowledged.
    pub received: AtomicU64,
    /// Bytes of objects read for answers.
    pub sent: AtomicU64,
    /// Objects created.
    pub created: AtomicU64,
    /// Objects deleted.
    pub deleted: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections cut: too slow, or strangers that stood in the way.
    pub cut: AtomicU64,
    /// Requests refused for their token.
    pub refused: AtomicU64,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Metrics {
    /// Counts an answer.
    pub fn answer(&self, status: u16) {
        if let Some(counter) = self.answers.get(usize::from(status / 100)) {
            add(counter, 1);
        }
    }

    /// The text.
    pub fn text(&self, connections: usize) -> String {
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
        line("connections", "Open connections.", "gauge", &[(String::new(), connections as u64)]);
        out
    }
}
