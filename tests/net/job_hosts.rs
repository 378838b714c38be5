//! How the sets of hosts stand, as their agents tell the server.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::mounted::until;
use crate::net::jobs_page::Site;

/// A set that is run at once, since it never was, and then each new year; and one that fails.
const SETS: &str = r#"
[sets.yearly]
paths = ["HOME/etc"]
schedule = "0 0 1 1 *"
splay = "0s"

[sets.broken]
paths = ["HOME/etc"]
schedule = "0 0 1 1 *"
splay = "0s"
hooks = { before = "test -e HOME/whole" }
"#;

fn hosts(site: &Site) -> Vec<Value> {
    site.job(&["hosts", "--json"]).ok().json()
}

/// What is told of a set of the host pg1.
fn of(site: &Site, set: &str) -> Value {
    hosts(site).into_iter().find(|one| one["host"] == "pg1" && one["set"] == set).unwrap_or_default()
}

#[test]
fn the_server_knows_how_the_sets_of_a_host_stand() {
    let mut site = Site::new(SETS, &[]);
    assert_eq!(hosts(&site), Vec::<Value>::new());
    site.start_agent();
    until(|| of(&site, "yearly")["last_good"].is_string() && of(&site, "broken")["failed_since"].is_string());
    let good = of(&site, "yearly");
    assert!(good["exit_code"] == 0 && good["overdue"] == false && good["failed_since"].is_null(), "{good}");
    assert!(good["next_due"].as_str().unwrap().contains("-01-01T") && good["reported_at"].is_string(), "{good}");
    assert_eq!(good["schedule"], "0 0 1 1 *");
    let bad = of(&site, "broken");
    assert!(bad["exit_code"] != 0 && bad["last_good"].is_null() && bad["message"].is_string(), "{bad}");
    // The table is for people.
    let shown = site.job(&["hosts", "--host", "pg1"]).ok().text();
    assert!(shown.contains("yearly") && shown.contains("never") && shown.contains("failed: "), "{shown}");
    assert!(!site.job(&["hosts", "--host", "another"]).ok().text().contains("yearly"));

    // While the server is away the agent goes on, and the server hears of it when it is back. What it knew it may lose.
    site.kill_server();
    fs::remove_dir_all(site.world.at("root/pg/.jobs")).unwrap();
    site.world.file("whole", "");
    site.serve();
    site.job(&["run", "ingest", "--host", "pg1", "--set", "broken", "--wait"]).ok();
    until(|| of(&site, "broken")["last_good"].is_string());
    let mended = of(&site, "broken");
    assert!(mended["failed_since"].is_null() && mended["exit_code"] == 0, "{mended}");

    // An agent that is gone can say nothing; the clock of the server says what is overdue.
    site.kill_agent(Signal::KILL);
    assert!(of(&site, "yearly")["overdue_at"].is_string());
}
