//! The keys of the configuration file, as types. What is not here is an unknown key.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::remote::control::JobKind;
use serde::de::{self, SeqAccess, Visitor, value};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default, expecting = "a table of keys")]
pub(crate) struct FileKeys {
    /// More files, or directories of them (`*.toml`), from where this file is.
    pub(crate) include: Vec<PathBuf>,
    /// The repository of every command that names no other.
    pub(crate) repository: Option<RepositoryKeys>,
    /// More of them, by name.
    pub(crate) repositories: BTreeMap<String, RepositoryKeys>,
    /// Sets, by name.
    pub(crate) sets: BTreeMap<String, Set>,
    /// How the agent runs them.
    pub(crate) agent: Option<AgentKeys>,
}

/// How the agent runs sets, and whom it tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default, expecting = "a table of keys")]
pub struct AgentKeys {
    /// How many sets are run at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_once: Option<u16>,
    /// The kinds of jobs that it takes from the server of the repository: none, if it is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobKind>,
    /// What the server calls this host, in place of its own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Whether it tells the server of the repository how the sets stand: without this key it does if it takes jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<bool>,
    /// Whom it tells of troubles.
    #[serde(skip_serializing_if = "NotifyKeys::is_empty")]
    pub(crate) notify: NotifyKeys,
}

/// Where messages go when something fails or is overdue, and when that is over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default, expecting = "a table of keys")]
pub(crate) struct NotifyKeys {
    /// A command that gets the message on its standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) command: Option<Hook>,
    /// An address that the message is posted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) webhook: Option<String>,
}

impl NotifyKeys {
    /// Whether nobody is told.
    pub(crate) fn is_empty(&self) -> bool {
        *self == NotifyKeys::default()
    }
}

/// A repository and what opens it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default, expecting = "a table of keys")]
pub struct RepositoryKeys {
    /// Another repository, whose keys hold where this one says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) like: Option<String>,
    /// Keys of that one that do not hold here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unset: Vec<String>,
    /// As `--repo` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// A key file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// A file with a passphrase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// A shell command that prints one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_command: Option<String>,
    /// A file with a server's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The server's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<String>,
    /// Authorities that sign it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cacert: Option<PathBuf>,
    /// Connections at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u16>,
    /// Bytes a second that are sent at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_upload: Option<LimitKeys>,
    /// Bytes a second that are received at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_download: Option<LimitKeys>,
    /// The ssh program and its options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_command: Option<String>,
    /// What yester is called on the far side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_program: Option<String>,
    /// Where the cache is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    /// How much data that was read is kept there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_size: Option<String>,
    /// How long prune leaves what is forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
}

/// What belongs together on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default, expecting = "a table of keys")]
pub struct Set {
    /// Another set, whose keys hold where this one says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) like: Option<String>,
    /// Keys of that one that do not hold here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unset: Vec<String>,
    /// The name of the repository that it goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The host that its snapshots are of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Tags of its snapshots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Files and directories: absolute.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathBuf>,
    /// Patterns of what is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// The same, whatever the case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub iexclude: Vec<String>,
    /// Leave out what is in cache directories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_caches: Option<bool>,
    /// Leave out directories with such a file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_if_present: Vec<String>,
    /// Leave out larger files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_larger_than: Option<String>,
    /// Leave out these extended attributes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_xattr: Vec<String>,
    /// Stay on the file systems of the paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_file_system: Option<bool>,
    /// What may change while it is read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed_is_ok: Vec<String>,
    /// As `--compression` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// No snapshot where nothing differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_if_unchanged: Option<bool>,
    /// From what snapshots of file systems paths are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_snapshot: Option<String>,
    /// Commands whose output is stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamKeys>,
    /// Buckets whose objects are stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<BucketKeys>,
    /// Commands around it.
    #[serde(skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// How it goes back.
    #[serde(skip_serializing_if = "RestoreKeys::is_empty")]
    pub restore: RestoreKeys,
    /// When the agent runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The longest random delay of a run: a text as in `10m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) splay: Option<String>,
    /// How old its last good snapshot may be: a text as in `26h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overdue_after: Option<String>,
    /// Which of its snapshots `forget --set` keeps.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keep: BTreeMap<Keep, Amount>,
}

/// A command whose output is a file of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table of keys")]
pub struct StreamKeys {
    /// The file: an absolute path in the snapshot.
    pub at: String,
    /// The command: a program and its arguments.
    pub command: Vec<String>,
    /// The command that takes it back: `restore --set` gives it the file on standard input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restore: Vec<String>,
    /// It may write nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_empty: bool,
    /// How long the command may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Without it there is no snapshot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// A bucket whose objects are files of the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default, expecting = "a table of keys")]
pub struct BucketKeys {
    /// The directory that it is in the snapshot: an absolute path.
    pub at: String,
    /// Where it is: `s3:https://ENDPOINT/BUCKET/PREFIX`.
    pub url: String,
    /// The profile whose keys are used, whatever the environment says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where the store expects the bucket's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_in: Option<BucketPlace>,
    /// The store's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<String>,
    /// Authorities that sign it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cacert: Option<PathBuf>,
    /// Requests at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u16>,
    /// Requests a second at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Bytes a second that are sent at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_upload: Option<LimitKeys>,
    /// Bytes a second that are received at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_download: Option<LimitKeys>,
    /// Without it there is no snapshot.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// All versions of its objects are stored, and delete markers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub versions: bool,
}

/// Where the name of a bucket is in addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BucketPlace {
    /// In the path.
    Path,
    /// In the name of the host.
    Host,
}

/// How a set goes back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default, expecting = "a table of keys")]
pub struct RestoreKeys {
    /// What must not be alive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refuse_while: Vec<String>,
    /// Users of the snapshot that are others here, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub map_users: BTreeMap<String, String>,
    /// Groups, likewise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub map_groups: BTreeMap<String, String>,
    /// What placeholders stand for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// What is replaced in files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewrite: Vec<RewriteKeys>,
    /// What a person still has to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next_steps: Vec<String>,
    /// Commands that are run in the end, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepKeys>,
}

impl RestoreKeys {
    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == RestoreKeys::default()
    }
}

/// A text that is replaced in files, and in the targets of links.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table of keys")]
pub struct RewriteKeys {
    /// Patterns of the files.
    pub(crate) files: Vec<String>,
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replace: Option<String>,
    /// An expression for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) regex: Option<String>,
    /// What takes its place.
    pub(crate) with: String,
}

/// A command that is run after a restore.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table of keys")]
pub struct StepKeys {
    /// What it is called.
    pub name: String,
    /// A program and its arguments.
    pub command: Vec<String>,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// `host-changed`: only when the snapshot is of another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
}

/// When a step is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// When the snapshot is of another host than this one.
    HostChanged,
}

/// Commands around an ingest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default, expecting = "a table of keys")]
pub struct Hooks {
    /// First of all; when it fails, nothing is ingested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Hook>,
    /// Makes things stand still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Hook>,
    /// Lets them go on: whenever `freeze` was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thaw: Option<Hook>,
    /// When a snapshot was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<Hook>,
    /// When something failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<Hook>,
    /// Last of all, whatever happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) always: Option<Hook>,
}

impl Hooks {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Hooks::default()
    }

    /// Those that there are, with their names.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &Hook)> {
        let all = [
            ("before", &self.before),
            ("freeze", &self.freeze),
            ("thaw", &self.thaw),
            ("after", &self.after),
            ("failed", &self.failed),
            ("always", &self.always),
        ];
        all.into_iter().filter_map(|(name, hook)| Some((name, hook.as_ref()?)))
    }
}

/// A command that is run at a certain time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// A program and its arguments.
    pub command: Vec<String>,
    /// How long it may take: a text as in `30s`.
    pub timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table of keys")]
struct HookTable {
    command: Vec<String>,
    timeout: Option<String>,
}

impl<'de> Deserialize<'de> for Hook {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shapes;

        impl<'de> Visitor<'de> for Shapes {
            type Value = Hook;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of words, a text for sh -c, or a table with command and timeout")
            }

            fn visit_str<E: de::Error>(self, script: &str) -> Result<Hook, E> {
                Ok(Hook { command: ["sh", "-c", script].map(str::to_owned).to_vec(), timeout: None })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, words: A) -> Result<Hook, A::Error> {
                let command = Vec::deserialize(value::SeqAccessDeserializer::new(words))?;
                Ok(Hook { command, timeout: None })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, table: A) -> Result<Hook, A::Error> {
                let HookTable { command, timeout } = Deserialize::deserialize(value::MapAccessDeserializer::new(table))?;
                Ok(Hook { command, timeout })
            }
        }

        deserializer.deserialize_any(Shapes)
    }
}

impl Serialize for Hook {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(timeout) = &self.timeout else { return self.command.serialize(serializer) };
        let mut table = serializer.serialize_map(Some(2))?;
        table.serialize_entry("command", &self.command)?;
        table.serialize_entry("timeout", timeout)?;
        table.end()
    }
}

/// A rule of what is kept: those of `forget`, without `keep-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Keep {
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    Within,
}

impl Keep {
    /// The key.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Keep::Last => "last",
            Keep::Hourly => "hourly",
            Keep::Daily => "daily",
            Keep::Weekly => "weekly",
            Keep::Monthly => "monthly",
            Keep::Yearly => "yearly",
            Keep::Within => "within",
        }
    }
}

/// How much is kept: a number, or a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount(pub String);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shapes;

        impl Visitor<'_> for Shapes {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a text as in \"unlimited\" or \"30d\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Amount, E> {
                Ok(Amount(number.to_string()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount(text.to_owned()))
            }
        }

        deserializer.deserialize_any(Shapes)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<i64>() {
            Ok(number) => serializer.serialize_i64(number),
            Err(_) => serializer.serialize_str(&self.0),
        }
    }
}

/// A limit of bytes a second: one text, or several of which the first one that holds counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LimitKeys(pub Vec<String>);

impl<'de> Deserialize<'de> for LimitKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shapes;

        impl<'de> Visitor<'de> for Shapes {
            type Value = LimitKeys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text as in \"2M\", or a list of such, as in [\"8M 08:00-18:00\", \"off\"]")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LimitKeys, E> {
                Ok(LimitKeys(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, texts: A) -> Result<LimitKeys, A::Error> {
                Vec::deserialize(value::SeqAccessDeserializer::new(texts)).map(LimitKeys)
            }
        }

        deserializer.deserialize_any(Shapes)
    }
}
