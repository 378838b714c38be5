//! What `--help` and the manual say beside the options: examples first, and the options of every command in one line.

use std::ffi::OsString;

use clap::{Command, CommandFactory, FromArgMatches};

use crate::cli::args::Cli;
use crate::cli::manual::words;

/// Shows the options of every command too.
const ALL: &str = "--help-all";

/// Examples of a command: what to type, and what it does.
type Examples = &'static [(&'static str, &'static str)];

/// Two or three of each command, by its name below `yester`.
const EXAMPLES: &[(&str, Examples)] = &[
    (
        "",
        &[
            ("yester ingest ~/documents", "take a snapshot"),
            ("yester mount ~/past", "look at all snapshots as directories"),
            ("yester restore latest:~/documents/plan.txt -t .", "bring a file back"),
        ],
    ),
    (
        "init",
        &[
            ("yester init -r /mnt/disk/backup", "ask for a passphrase"),
            ("yester init -r ssh://host/srv/backup --key-file ~/my.key", "elsewhere; makes the key file"),
            ("yester init -r /mnt/copy --chunker-from /mnt/disk/backup", "for copies of that one, and more"),
        ],
    ),
    (
        "ingest",
        &[
            ("yester ingest ~", "all of the home directory"),
            ("yester ingest -n -v --exclude '*.o' ~/src", "list what would be stored, and why"),
            ("yester ingest /etc --stream db.sql -- pg_dumpall", "a directory, and what a command writes"),
        ],
    ),
    (
        "snapshots",
        &[("yester snapshots", "all"), ("yester snapshots --latest 1 --host web", "the newest of each series of a host")],
    ),
    (
        "copy",
        &[
            ("yester copy --from-repo /mnt/usb/repo --from-key-file ~/usb.key", "everything that is not here yet"),
            ("yester copy --from-repo ssh://host/srv/repo --host web latest", "the newest snapshot of a host"),
        ],
    ),
    (
        "import",
        &[
            ("yester import restic:/srv/restic --host web", "a host's snapshots that are not here yet"),
            ("yester import tree:/srv/rsnapshot --new-host web", "daily.0, daily.1 …"),
            ("yester import tar:home.tar.zst --as /home", "what export wrote"),
        ],
    ),
    (
        "ls",
        &[
            ("yester ls latest:/etc", "a directory of the newest snapshot that has it"),
            ("yester ls -l -R '2 days ago:/home/eva'", "everything below one, with modes and sizes"),
        ],
    ),
    (
        "cat",
        &[
            ("yester cat latest:/etc/fstab", "a file"),
            ("yester cat 2026-11-20:/var/backups/db.sql.gz | zcat", "a file as it was at the end of a day"),
        ],
    ),
    (
        "find",
        &[
            ("yester find '*.odt'", "such names in all snapshots, and which have them"),
            ("yester find --deleted plan.txt", "only what the newest snapshot has not"),
            ("yester find --larger 1G --type f --last", "large files, and the last snapshot of each"),
        ],
    ),
    (
        "history",
        &[
            ("yester history ~/plan.txt", "its versions"),
            ("yester history --follow ~/plan-2.txt", "also under the names that it had before"),
            ("yester history --bisect 'grep -q total \"$1\"' ~/list", "since when a line is missing"),
        ],
    ),
    (
        "diff",
        &[
            ("yester diff latest~1 latest", "what came, went and changed"),
            ("yester diff --patch latest:/etc /etc", "what changed since then, in text files line by line"),
            ("yester diff '2 days ago:/home' latest", "a directory, in the past and in the newest"),
        ],
    ),
    (
        "export",
        &[
            ("yester export -o home.tar.zst latest:/home", "a directory, compressed"),
            ("yester export -o - latest:/etc | ssh other tar -x -C /tmp/etc", "into a pipe"),
            ("yester export --erofs all.img latest", "everything; mount -o ro all.img /mnt shows it"),
        ],
    ),
    (
        "mount",
        &[
            ("yester mount ~/past", "all snapshots"),
            ("yester mount latest:/home /mnt", "one directory of the newest"),
            ("yester mount --host web --allow-other /mnt", "those of a host, for all users"),
        ],
    ),
    ("mounts", &[("yester mounts", "where, and of which repository"), ("yester mounts --json", "the same for programs")]),
    ("umount", &[("yester umount ~/past", "after a mount"), ("yester umount /mnt", "also when its process has died")]),
    (
        "restore",
        &[
            ("yester restore latest:/home/eva/letter.odt -t .", "a file, into this directory"),
            ("yester restore latest:/srv/www -t /srv/www --delete -n -v", "list what would change"),
            ("yester restore latest -t /", "everything, where it was"),
        ],
    ),
    (
        "check",
        &[
            ("yester check", "is everything there that snapshots need?"),
            ("yester check --read-data", "read and verify every byte too"),
            ("yester check --read-data-subset 5%", "a part, another one each time"),
        ],
    ),
    (
        "doctor",
        &[
            ("yester doctor --read-data -n", "what is damaged, and what can be healed?"),
            ("yester doctor --from-tree /home --from-repo /mnt/usb/repo", "heal it from there"),
            ("yester doctor --drop-lost", "go on without what nobody has"),
        ],
    ),
    (
        "parity",
        &[
            ("yester parity add", "for all packs that have none: 16+2, and 3+3 for trees"),
            ("yester parity add 8+3 --no-key", "more of it, also where no key is"),
            ("yester parity status", "which packs have parity, and what it takes"),
        ],
    ),
    (
        "parity add",
        &[
            ("yester parity add", "for all packs that have none: 16+2, and 3+3 for trees"),
            ("yester parity add 8+3 --metadata 2+2", "any 3 of 11 may be lost, and 2 of 4 packs of trees"),
            ("yester parity add --no-key", "by a server or a cron job without secrets"),
        ],
    ),
    ("parity status", &[("yester parity status", "for people"), ("yester parity status --json", "for programs")]),
    ("parity remove", &[("yester parity status", "see what there is"), ("yester parity remove", "remove all of it; packs stay")]),
    ("stats", &[("yester stats", "all snapshots"), ("yester stats latest", "the newest")]),
    (
        "du",
        &[
            ("yester du latest:/home", "what each directory in it takes"),
            ("yester du latest --added --top 10", "the ten files that made the newest snapshot large"),
            ("yester du --if-forgotten latest~3 latest~2", "what forgetting these two would free"),
        ],
    ),
    (
        "cost",
        &[
            ("yester cost", "a month and the last runs, in each store that is known"),
            ("yester cost latest:/home --store aws-glacier-ir", "restoring a directory from one of them, too"),
        ],
    ),
    (
        "tag",
        &[
            ("yester tag latest --add release", "add a tag to the newest"),
            ("yester tag --host web --remove old", "remove one from all snapshots of a host"),
            ("yester tag 1a2b3c4d --set ''", "remove all tags of one"),
        ],
    ),
    ("note", &[("yester note latest 'before the upgrade'", "write it"), ("yester note latest", "read it")]),
    (
        "pin",
        &[
            ("yester pin latest", "forget leaves it"),
            ("yester pin 1a2b3c4d --until 2027-12-31", "until then"),
            ("yester pin", "list what is pinned"),
        ],
    ),
    (
        "rewrite",
        &[
            ("yester rewrite -n -v -e /home/eva/secret.key", "what would be dropped from all snapshots"),
            ("yester rewrite -e '*.key' --forget", "drop it, then: yester prune --max-unused 0"),
            ("yester rewrite --host web --new-host web1", "all snapshots of a host that has another name"),
        ],
    ),
    (
        "sets",
        &[
            ("yester sets", "when each set of the configuration was last good, and when it is next due"),
            ("yester sets --all", "and those of all other hosts in its repositories"),
        ],
    ),
    (
        "overdue",
        &[
            ("yester overdue", "for monitoring: exit code 1 if a set has no snapshot that is new enough"),
            ("yester overdue --all --json", "of all hosts, for programs"),
        ],
    ),
    (
        "agent",
        &[
            ("yester agent", "run sets when they are due, until it is stopped"),
            ("yester agent --once", "run what is due and end, for cron and timers"),
            ("yester agent --once -n", "only say what is due"),
        ],
    ),
    (
        "job",
        &[
            ("yester job run ingest --host web --set shop --wait", "back up another host now, and follow it"),
            ("yester job list --state failed", "what went wrong"),
        ],
    ),
    (
        "job run",
        &[
            ("yester job run ingest --host web --set shop --wait", "back up a set of another host now, and follow it"),
            ("yester job run restore --host web --set shop --backup 5ffb80f9fe1c4d08", "restore what a job stored"),
            ("yester job run check --host web --idempotency-key night-29", "asked for twice, it is one job"),
        ],
    ),
    ("job list", &[("yester job list --state failed", "what went wrong"), ("yester job list --host web", "of one host")]),
    (
        "job hosts",
        &[("yester job hosts", "what is overdue, on any host"), ("yester job hosts --host web --json", "for programs")],
    ),
    ("job show", &[("yester job show 5ffb80f9", "with why it failed"), ("yester job show 5ffb80f9 --json", "for programs")]),
    ("job watch", &[("yester job watch 5ffb80f9", "until it is over"), ("yester job watch 5ffb80f9 -q", "only its exit code")]),
    (
        "job cancel",
        &[
            ("yester job cancel 5ffb80f9", "whether it is queued or running"),
            ("yester job cancel 5ffb80f9 --json", "for programs"),
        ],
    ),
    (
        "runs",
        &[
            ("yester runs --set web", "what became of the ingests of a set"),
            ("yester runs show latest", "the newest, with its steps"),
        ],
    ),
    ("runs list", &[("yester runs list", "all"), ("yester runs --kind check --latest 5 list", "the last five checks")]),
    ("runs show", &[("yester runs show latest", "the newest"), ("yester runs show 1a2b3c4d", "one")]),
    ("runs log", &[("yester runs log latest", "what the newest said"), ("yester runs log 1a2b3c4d", "one")]),
    (
        "group",
        &[
            ("yester group create --set store --members db1,db2,db3 --wait", "open a group, and wait until all is there"),
            ("yester ingest --set store --group latest", "on each of these hosts: take its part"),
            ("yester group status latest", "how it stands, by member"),
        ],
    ),
    (
        "group create",
        &[
            ("yester group create --set store --members db1,db2,db3", "print its id; each host takes part with it"),
            ("yester group create --set store --members db1,db2 --allow-missing --wait", "without those who do not come"),
        ],
    ),
    (
        "group join",
        &[
            ("yester group join latest", "the part of this host"),
            ("yester group join 19a7e40e --member db1", "a host that has another name"),
        ],
    ),
    ("group status", &[("yester group status latest", "the newest"), ("yester group status 19a7e40e --json", "for programs")]),
    (
        "group wait",
        &[("yester group wait 19a7e40e", "until it is over"), ("yester group wait latest --timeout 10m", "no longer than that")],
    ),
    ("group list", &[("yester group list", "all"), ("yester group list --set store", "those of a set")]),
    (
        "group restore",
        &[
            ("yester group restore 19a7e40e -- --dry-run", "what the restore of this host's part would do"),
            ("yester group restore 19a7e40e --to db1=new1 --to db2=new2", "open a restore: all exchange, or none"),
            ("yester group restore 5b1f0c77", "on each of these hosts: its part of that"),
        ],
    ),
    (
        "group export",
        &[
            ("yester group export 19a7e40e -t /mnt/archive", "group-19a7e40e-db1.tar and so on"),
            ("yester group export latest --member db1 --format tar.zst", "of one member, compressed"),
        ],
    ),
    (
        "config",
        &[
            ("yester config check", "is there anything wrong with the configuration file?"),
            ("yester config show", "print what holds, and which file says so"),
        ],
    ),
    ("config check", &[("yester config check", "the usual file"), ("yester --config ./new.toml config check", "another")]),
    ("config show", &[("yester config show", "for people"), ("yester config show --json", "for programs")]),
    ("repair", &[("yester repair index", "when the index is damaged"), ("yester repair keys", "when copies of keys are")]),
    ("repair index", &[("yester repair index -n", "only say what would be done"), ("yester repair index", "do it")]),
    ("repair keys", &[("yester repair keys -n", "only say what would be done"), ("yester repair keys", "do it")]),
    ("repair objects", &[("yester repair objects -n", "only say what would be done"), ("yester repair objects", "do it")]),
    (
        "forget",
        &[
            ("yester forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 -n", "list what would go and stay"),
            ("yester forget --keep-daily 7 --keep-weekly 5 --prune", "and free the space"),
            ("yester forget 1a2b3c4d", "one snapshot"),
        ],
    ),
    ("prune", &[("yester prune -n", "how much would be freed?"), ("yester prune", "free it")]),
    ("key", &[("yester key list", "show the keys"), ("yester key export > paper.txt", "print the recovery text and keep it")]),
    ("key list", &[("yester key list", "for people"), ("yester key list --json", "for programs")]),
    (
        "key add",
        &[
            ("yester key add", "ask for another passphrase"),
            ("yester key add --new-key-file ~/second.key --label laptop", "make another key file"),
        ],
    ),
    ("key remove", &[("yester key list", "find its id"), ("yester key remove 1a2b3c4d", "remove it")]),
    (
        "key passwd",
        &[("yester key passwd", "ask for a new passphrase"), ("yester key passwd --new-password-file new.txt", "read it")],
    ),
    (
        "key rotate",
        &[
            ("yester key rotate --also-key-file second.key", "for the key that opens it now, and another one"),
            ("yester key rotate --drop-others", "only for the key that opens it now"),
            ("yester prune --rekey", "afterwards: seal what is stored with the new one"),
        ],
    ),
    ("key export", &[("yester key export > paper.txt", "print it and keep the paper"), ("yester key export | lp", "at once")]),
    (
        "key recover",
        &[
            ("yester -r /mnt/backup key recover paper.txt", "ask for a new passphrase"),
            ("yester -r /mnt/backup key recover paper.txt --new-key-file ~/new.key", "or make a key file"),
        ],
    ),
    (
        "serve",
        &[
            ("yester serve --root /srv/yester --listen 0.0.0.0:7070", "for other machines"),
            ("yester serve token create web --root /srv/yester", "let a machine in"),
        ],
    ),
    (
        "serve token",
        &[
            ("yester serve token create web --root /srv/yester", "let a machine in, to the repository web"),
            ("yester serve token list --root /srv/yester", "who may come in"),
        ],
    ),
    (
        "serve token create",
        &[
            ("yester serve token create web --root /srv/yester", "may add, and take nothing away"),
            ("yester serve token create web --full --quota 500G --root /srv/yester", "may prune too"),
        ],
    ),
    (
        "serve token list",
        &[
            ("yester serve token list --root /srv/yester", "all"),
            ("yester serve token list --json --root /srv/yester", "as JSON"),
        ],
    ),
    (
        "serve token revoke",
        &[
            ("yester serve token list --root /srv/yester", "find its id"),
            ("yester serve token revoke 1a2b3c4d --root /srv/yester", "take it back"),
        ],
    ),
    (
        "serve fingerprint",
        &[
            ("yester serve fingerprint --root /srv/yester", "of the certificate that it made itself"),
            ("yester serve fingerprint --tls-cert /etc/ssl/web.pem", "of another one"),
        ],
    ),
    (
        "completions",
        &[
            ("yester completions bash > ~/.local/share/bash-completion/completions/yester", "for bash"),
            ("yester completions fish > ~/.config/fish/completions/yester.fish", "for fish"),
        ],
    ),
    (
        "man",
        &[("yester man ~/.local/share/man/man1", "for this user"), ("yester man /usr/local/share/man/man1", "for all users")],
    ),
    ("version", &[("yester version", "for people"), ("yester version --json", "for programs")]),
];

/// The examples of a command.
pub fn examples(path: &str) -> Examples {
    EXAMPLES.iter().find(|(name, _)| *name == path).map_or(&[], |(_, examples)| examples)
}

/// Parses the arguments (the program's name first). Help is an error, as clap has it.
pub fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut arguments = arguments.to_vec();
    match arguments.get(1).and_then(|word| word.to_str()) {
        None => arguments.push("--help".into()),
        // `yester help restore` is `yester restore --help`.
        Some("help") => {
            arguments.remove(1);
            arguments.push("--help".into());
        }
        Some(_) => {}
    }
    // The short form, an option a line, unless everything is asked for.
    let mut all = false;
    for argument in arguments.iter_mut().take_while(|argument| *argument != "--") {
        if *argument == ALL {
            all = true;
            *argument = "--help".into();
        } else if *argument == "--help" {
            *argument = "-h".into();
        }
    }
    let matches = command(all).try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches)
}

/// The whole command line as `--help` shows it; with `all`, options of every command stand in each.
pub fn command(all: bool) -> Command {
    shaped(Cli::command(), "", all)
}

/// The command that these arguments are for: `restore`, `key add`; empty for none.
pub fn command_of(arguments: &[OsString]) -> String {
    let mut at = Cli::command();
    let mut path = Vec::new();
    for word in arguments.iter().skip(1).filter_map(|argument| argument.to_str()) {
        if let Some(below) = at.find_subcommand(word) {
            path.push(below.get_name().to_owned());
            at = below.clone();
        }
    }
    path.join(" ")
}

fn shaped(mut command: Command, path: &str, all: bool) -> Command {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
    let more = long.strip_prefix(&about).unwrap_or_default().trim();
    let first = [example_lines(path), more.to_owned()].into_iter().filter(|text| !text.is_empty());
    let first = first.map(|text| format!("{text}\n\n")).collect::<String>();
    let after = command.get_after_help().map(ToString::to_string);
    let of_all = format!(
        "Options of every command: -r REPO, --key-file FILE, --password-file FILE, -q, -v, --json and more, which {} shows.",
        ["yester", path, ALL].map(str::trim).into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    );
    let after: Vec<String> = after.into_iter().chain((!all).then_some(of_all)).collect();
    command = command
        .long_about(None)
        .before_help(first)
        .after_help(after.join("\n\n"))
        .help_template("{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}")
        .mut_args(|arg| if arg.is_global_set() && !all { arg.hide(true) } else { arg });
    let names: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    for name in names {
        let below = format!("{path} {name}");
        command = command.mut_subcommand(name, |command| shaped(command, below.trim(), all));
    }
    command
}

/// Examples as help shows them.
fn example_lines(path: &str) -> String {
    let examples = examples(path);
    let width = examples.iter().map(|(line, _)| line.chars().count()).filter(|width| *width < 56).max().unwrap_or(0);
    let line = |(line, what): &(&str, &str)| format!("  {line:width$}  # {what}");
    examples.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What there is to say of a word that is no command: where it is another tool's.
pub fn unknown(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue};
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => words::meaning(word).map(|meaning| format!("there is no command {word}: {meaning}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(command: &Command, path: &str, visit: &mut dyn FnMut(&Command, &str)) {
        visit(command, path);
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            each(below, format!("{path} {}", below.get_name()).trim(), visit);
        }
    }

    #[test]
    fn every_command_has_examples_that_are_read() {
        each(&Cli::command(), "", &mut |_, path| {
            let examples = examples(path);
            assert!((2..=3).contains(&examples.len()), "{path:?} has {} examples", examples.len());
            for (line, _) in examples {
                // What a shell would make of it, as far as it matters here.
                let line = line.split([';', '|', '>']).next().unwrap();
                let quoted = line.split('\'').enumerate();
                let words = quoted.flat_map(|(at, part)| match at % 2 {
                    0 => part.split_whitespace().map(str::to_owned).collect(),
                    _ => vec![part.to_owned()],
                });
                let words: Vec<OsString> = words.map(OsString::from).collect();
                if let Err(e) = parse(&words) {
                    panic!("{line}: {e}");
                }
            }
        });
    }

    #[test]
    fn help_is_short_and_has_everything_on_demand() {
        each(&Cli::command(), "", &mut |_, path| {
            let of = |option: &str| {
                let words = ["yester"].into_iter().chain(path.split(' ').filter(|word| !word.is_empty())).chain([option]);
                parse(&words.map(OsString::from).collect::<Vec<_>>()).unwrap_err().to_string()
            };
            let (help, all) = (of("--help"), of(ALL));
            assert!(help.lines().count() < 60, "{path}: {} lines\n{help}", help.lines().count());
            assert!(!help.contains("--ssh-command") && help.contains("--help-all"), "{path}: {help}");
            assert!(all.contains("--ssh-command") && all.contains("--password-command"), "{path}: {all}");
            if let Some((first, _)) = examples(path).first() {
                assert!(help.find(first).unwrap() < help.find("Usage:").unwrap(), "{path}: examples come first\n{help}");
            }
        });
    }

    #[test]
    fn the_command_at_hand_is_found() {
        let of = |line: &str| command_of(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of("yester -r repo extract latest --frob"), "restore");
        assert_eq!(of("yester key add --frob"), "key add");
        assert_eq!(of("yester --frob"), "");
    }
}
