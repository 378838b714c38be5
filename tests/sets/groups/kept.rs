//! What a policy keeps of groups: all of one, or none.

use jiff::tz::TimeZone;
use yester::maintain::forget;
use yester::maintain::retention::{GroupStandings, KeepCount, Policy};
use yester::model::Timestamp;
use yester::repo::groups;
use yester::repo::snapshots::{self, SnapshotFilter};

use super::cluster::Cluster;

const PAIR: [&str; 2] = ["db1", "db2"];

fn whole(cluster: &Cluster) -> String {
    let id = cluster.create(&[]);
    cluster.all(&id).into_iter().for_each(|run| drop(run.ok()));
    id
}

/// A group that only the first member takes part in.
fn partial(cluster: &Cluster) -> String {
    let id = cluster.create(&["--limit", "3s", "--allow-missing"]);
    cluster.join("db1", &id).end().ok();
    assert_eq!(cluster.on("db1", &["group", "wait", &id]).code, Some(3));
    id
}

/// Whose snapshots a policy would keep, as group and member, sorted; `options` of forget.
fn kept(cluster: &Cluster, options: &[&str]) -> Vec<(String, String)> {
    let told = cluster.on("db1", &[&["--json", "forget", "-n"], options].concat()).ok().json();
    let series = told.iter().filter(|line| line["message_type"] == "series");
    let ids: Vec<String> = series
        .flat_map(|series| series["keep"].as_array().unwrap())
        .map(|snapshot| snapshot["id"].as_str().unwrap().to_owned())
        .collect();
    let listed = cluster.on("db1", &["--json", "snapshots"]).ok().json();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let of = |snapshot: &serde_json::Value| (text(&snapshot["group"]), text(&snapshot["member"]));
    let mut out: Vec<_> = listed.iter().filter(|s| ids.contains(&text(&s["id"]))).map(of).collect();
    out.sort();
    out
}

fn parts(groups: &[(&String, &[&str])]) -> Vec<(String, String)> {
    let all = groups.iter().flat_map(|(id, members)| members.iter().map(|member| ((*id).clone(), (*member).to_owned())));
    let mut out: Vec<_> = all.collect();
    out.sort();
    out
}

#[test]
fn a_group_is_one_item_of_a_policy() {
    let cluster = Cluster::new(&PAIR);
    let [a, b, c] = [(); 3].map(|()| whole(&cluster));
    let last_two = &["--keep-last", "2"][..];
    assert_eq!(kept(&cluster, last_two), parts(&[(&b, &PAIR), (&c, &PAIR)]));
    // One that lacks a part makes no whole one go, and stays as long as nothing newer is whole.
    let d = partial(&cluster);
    assert_eq!(kept(&cluster, last_two), parts(&[(&b, &PAIR), (&c, &PAIR), (&d, &PAIR[..1])]));
    let e = whole(&cluster);
    assert_eq!(kept(&cluster, last_two), parts(&[(&c, &PAIR), (&e, &PAIR)]));
    // What keeps one part keeps the others, also where each host forgets only its own.
    let part = cluster.status(&a)["members"][0]["snapshot_id"].as_str().unwrap().to_owned();
    cluster.on("db1", &["pin", &part]).ok();
    assert_eq!(kept(&cluster, last_two), parts(&[(&a, &PAIR), (&c, &PAIR), (&e, &PAIR)]));
    let own = &["--keep-last", "2", "--host", "db2"][..];
    assert_eq!(kept(&cluster, own), parts(&[(&a, &PAIR[1..]), (&c, &PAIR[1..]), (&e, &PAIR[1..])]));
    // One that is still taken stays.
    let f = cluster.create(&["--no-barrier"]);
    cluster.join("db1", &f).end().ok();
    let g = whole(&cluster);
    let one = &["--keep-last", "1"][..];
    assert_eq!(kept(&cluster, one), parts(&[(&a, &PAIR), (&f, &PAIR[..1]), (&g, &PAIR)]));
    // Where nobody says that it is over, it is some time.
    let repo = cluster.world.open_repository();
    let all = snapshots::list(&repo).unwrap();
    let stays = |now: Timestamp| {
        let policy = Policy { last: KeepCount::Of(1), groups: GroupStandings::read(&repo, now).unwrap(), ..Policy::default() };
        let series = forget::by_policy(&all, &SnapshotFilter::default(), &policy, &TimeZone::UTC, now, true).unwrap();
        let mut kept = series.iter().flat_map(|series| &series.keep);
        kept.any(|(snapshot, _)| snapshot.composition.group.as_ref().is_some_and(|part| part.group.to_string() == f))
    };
    let now = yester::sys::clock::now();
    assert!(stays(now) && !stays(Timestamp { secs: now.secs + 2 * 86_400, ..now }));
    // And it is done.
    cluster.on("db1", &["forget", "--keep-last", "1"]).ok();
    assert_eq!(cluster.on("db1", &["--json", "snapshots"]).ok().json().len(), 5);
    assert_eq!(cluster.on("db1", &["--json", "group", "list"]).ok().json().len(), 7);
}

#[test]
fn what_was_said_goes_with_its_snapshots() {
    let cluster = Cluster::new(&PAIR);
    let gone = whole(&cluster);
    let empty = cluster.create(&[]);
    let stays = whole(&cluster);
    for member in cluster.status(&gone)["members"].as_array().unwrap() {
        cluster.on("db1", &["forget", member["snapshot_id"].as_str().unwrap()]).ok();
    }
    let listed = || cluster.on("db1", &["--json", "group", "list"]).ok().json();
    cluster.on("db1", &["prune", "--no-grace"]).ok();
    assert_eq!(listed().len(), 3, "for a year they are kept");
    let repo = cluster.world.open_repository();
    let later = Timestamp { secs: yester::sys::clock::now().secs + 366 * 86_400, nanos: 0 };
    assert!(groups::expire(&repo, later).unwrap() > 10);
    let left = listed();
    assert_eq!(left.iter().map(|group| group["id"].as_str().unwrap()).collect::<Vec<_>>(), [&stays]);
    assert_eq!(cluster.states(&stays), ["completed"; 3]);
    assert_ne!(empty, gone);
    assert_eq!(groups::expire(&repo, later).unwrap(), 0);
}
