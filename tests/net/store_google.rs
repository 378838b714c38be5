//! Repositories in a store that is spoken to as Google's: the suite of every storage, faults, races, the program.

use std::sync::LazyLock;

use yester::remote::client::RemoteOptions;
use yester::remote::s3::credentials::S3Options;

use crate::common::program::{World, shown};
use crate::common::s3::{Fault, Kind, S3Server};
use crate::net::program::{Variables, every_command, run, variables};
use crate::net::store::Spoken;
use crate::net::support::*;

/// The file of a service account, with a key that nobody knows.
static ACCOUNT: LazyLock<String> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    serde_json::json!({
        "type": "service_account",
        "private_key": key.serialize_pem(),
        "private_key_id": "1",
        "client_email": "web@example.iam.gserviceaccount.com",
        "client_id": "1",
    })
    .to_string()
});

fn options() -> RemoteOptions {
    let variables = [("GOOGLE_SERVICE_ACCOUNT_KEY".to_owned(), ACCOUNT.clone())].into_iter().collect();
    RemoteOptions { timeout: PATIENT, s3: S3Options { variables, ..S3Options::default() }, ..RemoteOptions::default() }
}

const GOOGLE: Spoken = Spoken { place: S3Server::google, options };

/// What the program needs to know besides credentials.
fn place(server: &S3Server, world: &World) -> Variables {
    let (repo, key) = (server.google("web"), shown(&world.at("key")));
    variables(&[("YESTER_REPO", &repo), ("YESTER_KEY_FILE", &key)])
}

/// The program on a machine that has a token of its own.
fn of_the_machine(server: &S3Server, world: &World) -> Variables {
    // Another name than that of the store: what gives tokens is another service.
    let host = format!("localhost:{}", server.port);
    [place(server, world), variables(&[("GCE_METADATA_HOST", &host), ("GCE_METADATA_IP", &host)])].concat()
}

#[test]
fn conformance() {
    GOOGLE.conformance();
}

#[test]
fn a_store_that_does_not_decide_is_found_out() {
    GOOGLE.found_out();
}

#[test]
fn one_of_many_creators_wins() {
    GOOGLE.races();
}

#[test]
fn faults_at_every_request_change_nothing() {
    GOOGLE.faults(&[
        Fault::Refused(503, "ServiceUnavailable"),
        Fault::Refused(429, "SlowDown"),
        Fault::Refused(412, "PreconditionFailed"),
        Fault::DoneThen(500, "InternalError"),
        Fault::DoneThen(412, "PreconditionFailed"),
        Fault::CutAfter,
        Fault::Truncated,
        Fault::NoToken,
        Fault::Stale(1),
    ]);
}

#[test]
fn every_command_with_the_token_of_the_machine() {
    let (world, server) = (World::new(), S3Server::start());
    server.page(7);
    // Who gives tokens has no time at first, under both of its names.
    server.busy(4);
    every_command(&world, &of_the_machine(&server, &world));
    let seen = server.take();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.access == "of-the-machine"));
}

#[test]
fn every_command_with_the_file_of_an_account_on_a_store_that_often_fails() {
    let (world, server) = (World::new(), S3Server::start());
    let file = shown(&world.file("account.json", &*ACCOUNT));
    let variables = [place(&server, &world), variables(&[("GOOGLE_APPLICATION_CREDENTIALS", &file)])].concat();
    let faults = [
        Fault::Refused(500, "InternalError"),
        Fault::CutAfter,
        Fault::Refused(503, "ServiceUnavailable"),
        Fault::DoneThen(500, "InternalError"),
        Fault::Truncated,
        Fault::Cut,
        Fault::Refused(429, "SlowDown"),
    ];
    server.script(move |seen| (seen.number % 5 == 4).then(|| faults[seen.number / 5 % faults.len()]));
    every_command(&world, &variables);
    // A token that the key has signed: three parts.
    let seen = server.take();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.access.split('.').count() == 3));
}

#[test]
fn what_is_wrong_is_said_in_its_own_words() {
    let (world, server) = (World::new(), S3Server::start());
    let mut variables = of_the_machine(&server, &world);
    run(&world, &variables, &["-r", &server.google("web").replace("/bucket/", "/nobucket/"), "init"])
        .fails(10, &["NoSuchBucket"]);
    run(&world, &variables, &["-r", "gs:bucket/a b", "init"]).fails(2, &["gs:BUCKET/PREFIX"]);
    server.script(|_| Some(Fault::Refused(403, "AccessDenied")));
    run(&world, &variables, &["init"]).fails(12, &["AccessDenied", "object-stores.md"]);
    // What creates are refused for, not that nothing came of them.
    server.script(|seen| (seen.kind == Kind::Put).then_some(Fault::Refused(400, "InvalidArgument")));
    run(&world, &variables, &["init"]).fails(1, &["InvalidArgument"]);
    server.fair();
    variables.push(("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), shown(&world.at("none.json"))));
    run(&world, &variables, &["init"]).fails(12, &["GOOGLE_APPLICATION_CREDENTIALS", "none.json"]);
    world.file("none.json", "{}");
    run(&world, &variables, &["init"]).fails(12, &["none.json", "cannot be used for Google's store"]);
    // Without a file, without gcloud's, and on no machine of Google's.
    variables.retain(|(name, _)| name != "GOOGLE_APPLICATION_CREDENTIALS");
    let nobody = "127.0.0.1:1".to_owned();
    for (name, value) in &mut variables {
        *value = if name.starts_with("GCE_METADATA_") { nobody.clone() } else { std::mem::take(value) };
    }
    run(&world, &variables, &["init"]).fails(12, &["no credentials", "GOOGLE_APPLICATION_CREDENTIALS", "gcloud"]);
}
