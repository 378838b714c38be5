//! What the words of other tools mean here.

/// Words that are no command, and what to do instead.
const WORDS: &[(&[&str], &str)] = &[
    (
        &["grep", "search"],
        "yester find finds files by name in all snapshots; yester mount DIR shows them as directories, where grep works",
    ),
    (&["export-tar", "tar", "zip", "archive"], "yester export SNAP[:PATH] writes a snapshot as a tar or zip file"),
    (&["import", "import-tar"], "yester ingest DIR stores what another tool has restored to DIR"),
    (&["sync", "clone", "transfer", "replicate"], "yester copy --from-repo OTHER copies snapshots from another repository"),
    (&["comment", "annotate"], "yester note sets the note of a snapshot, yester tag its tags"),
    (&["rename"], "yester rewrite --new-host NEW writes snapshots anew with another host"),
    (&["recreate", "edit", "amend"], "yester rewrite writes snapshots anew without some paths, or with another host or time"),
    (&["delete", "remove", "rm", "expire", "purge"], "yester forget takes snapshots away, yester prune then frees their space"),
    (&["rebuild-index", "reindex"], "yester repair index makes the index anew"),
    (&["recover"], "yester key recover brings back a lost key from the recovery text; yester repair index a lost index"),
    (&["price", "prices", "bill"], "yester cost says what a repository costs in object stores"),
    (&["info", "show", "status"], "yester snapshots lists the snapshots, yester stats counts what they take"),
    (&["passwd", "change-passphrase", "password"], "yester key passwd changes the passphrase"),
    (
        &["rotate", "rekey", "change-key"],
        "yester key rotate changes the master key, yester prune --rekey seals with it what is stored",
    ),
    (&["key-export", "paperkey"], "yester key export prints the recovery text"),
    (&["migrate", "upgrade"], "there is one format of repositories: nothing is to be migrated"),
    (&["self-update"], "install a new version as you installed this one"),
    (&["with-lock", "lock"], "nothing is ever locked: any number of commands may run at the same time"),
    (
        &["cache"],
        "the cache is kept small by itself; --no-cache uses none, --cache-dir names its place, --cache-size how much data it holds",
    ),
    (&["repo", "repository"], "the repository is named by --repo or YESTER_REPO"),
    (&["snapshot"], "yester ingest PATH takes a snapshot, yester snapshots lists them"),
];

/// What `unlock` says.
pub const UNLOCK: &str = "nothing is ever locked: any number of commands may run at the same time, and what a killed command \
                          leaves open is ended by the next yester prune";

/// What somebody who typed `word` may have wanted.
pub fn meaning(word: &str) -> Option<&'static str> {
    WORDS.iter().find(|(words, _)| words.contains(&word)).map(|(_, meaning)| *meaning)
}
