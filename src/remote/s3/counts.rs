//! What was asked of a store, for its bill.

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Method;

use crate::storage::Requests;

/// Whether a query asks for a list, as S3 and Google have it, or Azure.
pub(super) fn is_list(query: &str) -> bool {
    query.split('&').any(|pair| pair.starts_with("list-type=") || pair == "comp=list")
}

/// Counters of requests and bytes.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts {
    put: AtomicU64,
    get: AtomicU64,
    head: AtomicU64,
    list: AtomicU64,
    delete: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl RequestCounts {
    /// One more request.
    pub(crate) fn request(&self, method: &Method, query: &str) {
        let counter = match *method {
            Method::PUT => &self.put,
            Method::HEAD => &self.head,
            Method::DELETE => &self.delete,
            _ if is_list(query) => &self.list,
            _ => &self.get,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of a body went.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of a body came.
    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What they say now.
    pub(crate) fn now(&self) -> Requests {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            put: get(&self.put),
            get: get(&self.get),
            head: get(&self.head),
            list: get(&self.list),
            delete: get(&self.delete),
            sent: get(&self.sent),
            received: get(&self.received),
        }
    }
}
