//! A table of prices: what a month, requests and a restore cost in a store.

use std::path::Path;

use serde::Deserialize;
use yester::maintain::reads::PlannedReads;
use yester::model::Requests;
use yester::{Error, Result};

use crate::cli::say::paths;

/// The table of the program.
const OWN: &str = include_str!("prices.toml");

/// Prices of several stores, as of one date.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceTable {
    /// Since when they are thought to hold.
    pub date: String,
    /// What they are in.
    pub currency: String,
    /// The stores.
    #[serde(default, rename = "store")]
    pub stores: Vec<StorePrices>,
}

/// The prices of one store, or of one class of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorePrices {
    /// What `--store` calls it.
    pub name: String,
    /// What it is, for people.
    pub title: String,
    /// The storage class, as `--data-class` names it.
    pub class: Option<String>,
    /// Where everything is that is not content of files; none: it is here, too.
    rest: Option<String>,
    /// Prices are for 2^30 bytes, and not for 10^9.
    #[serde(default)]
    gib: bool,
    storage: f64,
    put: f64,
    list: f64,
    get: f64,
    #[serde(default)]
    retrieval: f64,
    #[serde(default)]
    thaw: f64,
    egress: f64,
    /// What is deleted sooner is paid for so many days.
    #[serde(default)]
    pub least_days: u32,
}

/// What is stored, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct StoredBytes {
    /// Packs of content of files.
    pub data: u64,
    /// Everything else.
    pub rest: u64,
}

impl PriceTable {
    /// The table of a file, or of the program.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let Some(path) = file else { return Self::parse(OWN) };
        let shown = paths::shown(path);
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(format!("cannot read the prices in {shown}"), e))?;
        Self::parse(&text).map_err(|e| Error::invalid(format!("the prices in {shown} cannot be used: {e}")))
    }

    fn parse(text: &str) -> Result<Self> {
        let table: PriceTable = toml::from_str(text).map_err(|e| Error::invalid(e.to_string().trim_end().to_owned()))?;
        for store in &table.stores {
            let StorePrices { storage, put, list, get, retrieval, thaw, egress, .. } = store;
            let all = [storage, put, list, get, retrieval, thaw, egress];
            if !all.iter().all(|price| price.is_finite() && **price >= 0.0) {
                return Err(Error::invalid(format!("a price of {} is less than nothing, or no number", store.name)));
            }
            if let Some(rest) = &store.rest
                && !table.stores.iter().any(|other| other.name == *rest && other.rest.is_none())
            {
                return Err(Error::invalid(format!(
                    "rest of {} names {rest}, which is no store with prices for all",
                    store.name
                )));
            }
        }
        match table.stores.is_empty() {
            true => Err(Error::invalid("there is no [[store]] in it")),
            false => Ok(table),
        }
    }

    /// What has all that is not content of files.
    fn rest<'a>(&'a self, store: &'a StorePrices) -> &'a StorePrices {
        let named = |name: &String| self.stores.iter().find(|other| other.name == *name);
        store.rest.as_ref().and_then(named).unwrap_or(store)
    }

    /// What it costs to keep this for a month.
    pub fn month(&self, store: &StorePrices, stored: StoredBytes) -> f64 {
        let rest = self.rest(store);
        store.gb(stored.data) * store.storage + rest.gb(stored.rest) * rest.storage
    }

    /// What these requests cost, if each were for content of files, and what came left the provider.
    pub fn requests(&self, store: &StorePrices, asked: &Requests) -> f64 {
        let many = |count: u64, price: f64| count as f64 / 1000.0 * price;
        let requests = many(asked.put, store.put) + many(asked.list, store.list) + many(asked.get + asked.head, store.get);
        requests + store.gb(asked.received) * (store.retrieval + store.egress)
    }

    /// What reading this costs. What has to be thawed is thawed whole, pack by pack.
    pub fn restore(&self, store: &StorePrices, plan: &PlannedReads) -> f64 {
        let one = |pack: &yester::maintain::reads::PlannedPack| {
            let place = if pack.is_tree { self.rest(store) } else { store };
            let thawed = place.thaw > 0.0;
            let retrieved = if thawed { pack.size } else { pack.bytes };
            (pack.requests as f64 * place.get + if thawed { place.thaw } else { 0.0 }) / 1000.0
                + place.gb(retrieved) * place.retrieval
                + place.gb(pack.bytes) * place.egress
        };
        plan.packs.iter().map(one).sum()
    }
}

impl StorePrices {
    fn gb(&self, bytes: u64) -> f64 {
        bytes as f64 / if self.gib { (1_u64 << 30) as f64 } else { 1e9 }
    }
}

#[cfg(test)]
mod tests {
    use yester::maintain::reads::PlannedPack;
    use yester::model::PackId;

    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    const TABLE: &str = "date = \"2020-01-02\"\ncurrency = \"EUR\"\n\
        [[store]]\nname = \"warm\"\ntitle = \"w\"\nstorage = 2\nput = 5\nlist = 3\nget = 1\negress = 10\n\
        [[store]]\nname = \"cold\"\ntitle = \"c\"\nrest = \"warm\"\nstorage = 1\nput = 50\nlist = 3\nget = 7\n\
        retrieval = 20\nthaw = 100\negress = 10\n";

    #[test]
    fn the_table_of_the_program_is_whole_and_dated() {
        let table = PriceTable::read(None).unwrap();
        assert!(table.date.parse::<jiff::civil::Date>().is_ok() && table.stores.len() >= 8);
        for name in ["aws-standard", "aws-glacier-ir", "aws-deep-archive", "backblaze-b2", "wasabi", "cloudflare-r2"] {
            assert!(table.stores.iter().any(|store| store.name == name), "{name}");
        }
    }

    #[test]
    fn what_is_cold_is_paid_where_it_is() {
        let table = PriceTable::parse(TABLE).unwrap();
        let [warm, cold] = table.stores.as_slice() else { panic!() };
        let stored = StoredBytes { data: 3_000_000_000, rest: 1_000_000_000 };
        close(table.month(warm, stored), 8.0);
        close(table.month(cold, stored), 5.0);
        let asked = Requests { put: 1000, get: 500, head: 500, list: 2000, delete: 9, sent: 9, received: 500_000_000 };
        close(table.requests(warm, &asked), 5.0 + 6.0 + 1.0 + 5.0);
        close(table.requests(cold, &asked), 50.0 + 6.0 + 7.0 + 15.0);
        let pack = |is_tree, size, bytes, requests| PlannedPack { id: PackId([1; 32]), is_tree, size, bytes, requests };
        let packs = vec![pack(true, 2_000_000_000, 1_000_000_000, 1000), pack(false, 2_000_000_000, 1_000_000_000, 2000)];
        let plan = PlannedReads { packs, content: 1 };
        close(table.restore(warm, &plan), 3.0 + 20.0);
        close(table.restore(cold, &plan), 1.0 + 10.0 + (14.0 + 0.1 + 40.0 + 10.0));
    }

    #[test]
    fn a_table_that_makes_no_sense_is_refused() {
        for (from, to, said) in [
            ("put = 5\n", "put = -5\n", "less than nothing"),
            ("rest = \"warm\"", "rest = \"none\"", "names none"),
            ("egress", "eggs", "eggs"),
            ("[[store]]", "[[shop]]", "shop"),
        ] {
            let e = PriceTable::parse(&TABLE.replace(from, to)).unwrap_err().to_string();
            assert!(e.contains(said), "{e}");
        }
    }
}
