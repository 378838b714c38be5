//! Repositories in a store that is spoken to as Azure's: the suite of every storage, faults, races, the program.

use yester::remote::client::RemoteOptions;
use yester::remote::s3::credentials::S3Options;

use crate::common::program::{World, shown};
use crate::common::s3::{ACCOUNT_KEY, Fault, Kind, S3Server};
use crate::net::program::{Variables, every_command, run, variables};
use crate::net::store::Spoken;
use crate::net::support::*;

fn options() -> RemoteOptions {
    let variables = [("AZURE_STORAGE_ACCOUNT_KEY".to_owned(), ACCOUNT_KEY.to_owned())].into_iter().collect();
    RemoteOptions { timeout: PATIENT, s3: S3Options { variables, ..S3Options::default() }, ..RemoteOptions::default() }
}

const AZURE: Spoken = Spoken { place: S3Server::azure, options };

/// What the program needs to know besides credentials.
fn place(server: &S3Server, world: &World) -> Variables {
    let (repo, key) = (server.azure("web"), shown(&world.at("key")));
    variables(&[("YESTER_REPO", &repo), ("YESTER_KEY_FILE", &key)])
}

fn with(server: &S3Server, world: &World, more: &[(&str, &str)]) -> Variables {
    [place(server, world), variables(more)].concat()
}

#[test]
fn conformance() {
    AZURE.conformance();
}

#[test]
fn a_store_that_does_not_decide_is_found_out() {
    AZURE.found_out();
}

#[test]
fn one_of_many_creators_wins() {
    AZURE.races();
}

#[test]
fn faults_at_every_request_change_nothing() {
    AZURE.faults(&[
        Fault::Refused(503, "ServerBusy"),
        Fault::Refused(500, "OperationTimedOut"),
        Fault::Refused(409, "BlobAlreadyExists"),
        Fault::Refused(412, "ConditionNotMet"),
        Fault::DoneThen(500, "InternalError"),
        Fault::DoneThen(409, "BlobAlreadyExists"),
        Fault::CutAfter,
        Fault::Truncated,
        Fault::NoToken,
        Fault::Stale(1),
    ]);
}

#[test]
fn every_command_with_the_key_of_the_account_on_a_store_that_often_fails() {
    let (world, server) = (World::new(), S3Server::start());
    let faults = [
        Fault::Refused(500, "InternalError"),
        Fault::CutAfter,
        Fault::Refused(503, "ServerBusy"),
        Fault::DoneThen(500, "InternalError"),
        Fault::Truncated,
        Fault::Cut,
        Fault::DoneThen(409, "BlobAlreadyExists"),
    ];
    server.script(move |seen| (seen.number % 5 == 4).then(|| faults[seen.number / 5 % faults.len()]));
    every_command(&world, &with(&server, &world, &[("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY)]));
    let seen = server.take();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.access == "the key"));
}

#[test]
fn every_command_with_a_sas_token() {
    let (world, server) = (World::new(), S3Server::start());
    server.page(7);
    let token = "?sv=2023-11-03&sr=c&sp=racwdl&se=2100-01-01T00%3A00%3A00Z&sig=signed%2Fby%2Bsomebody%3D";
    every_command(&world, &with(&server, &world, &[("AZURE_STORAGE_SAS_TOKEN", token)]));
    let seen = server.take();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.access == "a SAS"));
    // What is deleted is one request a blob, and counted as such.
    assert!(seen.iter().any(|seen| seen.kind == Kind::Delete) && seen.iter().all(|seen| seen.kind != Kind::Other));
}

#[test]
fn the_token_of_the_machine() {
    let (world, server) = (World::new(), S3Server::start());
    // Another name than that of the store: what gives tokens is another service.
    let identity = format!("http://localhost:{}/metadata/identity/oauth2/token", server.port);
    let variables = with(&server, &world, &[("AZURE_MSI_ENDPOINT", &identity)]);
    server.busy(2);
    run(&world, &variables, &["init"]).ok();
    world.file("src/a", "a");
    run(&world, &variables, &["ingest", "-q", "src"]).ok();
    run(&world, &variables, &["check", "--read-data"]).ok();
    let seen = server.take();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.access == "of-the-machine"));
}

#[test]
fn archived_packs_are_named_with_the_command_that_thaws_them() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = with(&server, &world, &[("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY)]);
    world.file("src/a", noise(1, 100_000));
    run(&world, &variables, &["init"]).ok();
    run(&world, &variables, &["ingest", "-q", "--data-class", "Archive", "src"]).ok();
    let packs = || server.save().into_iter().filter(|(_, object)| object.headers.iter().any(|(_, value)| value == "Archive"));
    let (key, _) = packs().next().unwrap();
    run(&world, &variables, &["ls", "latest"]).ok();
    let said = run(&world, &variables, &["restore", "--plan", "latest"]).ok();
    assert!(said.text().contains("Archive: 1 pack"), "{}", said.text());
    assert!(said.err.contains("az storage blob set-tier --account-name account --container-name bucket"), "{}", said.err);
    assert_eq!(run(&world, &variables, &["-q", "restore", "--plan", "latest"]).ok().text().trim(), key);
    let out = shown(&world.at("out"));
    let archived = run(&world, &variables, &["--no-cache", "restore", "latest:/", "--target", &out]);
    assert!(archived.code == Some(3) && archived.err.contains("yester restore --plan"), "{}", archived.err);
    // As the command does.
    let mut objects = server.save();
    objects.get_mut(&key).unwrap().headers.retain(|(name, _)| name != "x-ms-access-tier");
    server.load(objects);
    run(&world, &variables, &["restore", "-q", "latest:/", "--target", &out]).ok();
}

#[test]
fn what_is_wrong_is_said_in_its_own_words() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = with(&server, &world, &[("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY)]);
    let elsewhere = server.azure("web").replace("/bucket/", "/nobucket/");
    run(&world, &variables, &["-r", &elsewhere, "init"]).fails(10, &["ContainerNotFound"]);
    run(&world, &variables, &["-r", "azure:web/a b", "init"]).fails(2, &["azure:CONTAINER/PREFIX"]);
    run(&world, &variables, &["-r", "azure:web", "init"]).fails(2, &["AZURE_STORAGE_ACCOUNT_NAME"]);
    let wrong = with(&server, &world, &[("AZURE_STORAGE_ACCOUNT_KEY", "AAAA")]);
    run(&world, &wrong, &["init"]).fails(12, &["AuthenticationFailed", "the key or the SAS token"]);
    let none = with(&server, &world, &[("AZURE_STORAGE_ACCOUNT_KEY", "no base64!")]);
    run(&world, &none, &["init"]).fails(12, &["AZURE_STORAGE_ACCOUNT_KEY", "cannot be used"]);
    let none = with(&server, &world, &[("AZURE_MSI_ENDPOINT", "http://localhost:1/")]);
    run(&world, &none, &["init"]).fails(12, &["no credentials", "AZURE_STORAGE_SAS_TOKEN"]);
    run(&world, &variables, &["init"]).ok();
    // Nobody waits for what stays so.
    for (code, kind) in [("SnapshotsPresent", Kind::Delete), ("BlobImmutableDueToPolicy", Kind::Delete)] {
        server.script(move |seen| (seen.kind == kind).then_some(Fault::Refused(409, code)));
        world.file("src/a", code);
        server.take();
        run(&world, &variables, &["ingest", "-q", "src"]).fails(1, &[code]);
        assert_eq!(server.counts().get(&Kind::Delete), Some(&1));
    }
}
