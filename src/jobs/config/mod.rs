//! The configuration file: repositories by name, and sets. `docs/sets.md` shows it; `keys` has every key.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::jobs::config::keys::{AgentKeys, RepositoryKeys, Set};
use crate::jobs::config::text::{Document, Problem, nearest};
use crate::model::escape;

pub mod check;
pub mod keys;
pub mod text;

/// The name of the repository that is meant when no other is named.
pub const DEFAULT: &str = "default";
/// The longest file.
const LONGEST: u64 = 4 << 20;
/// The most files.
const FILES: usize = 1000;

/// Something that is configured under a name, and which file says so.
#[derive(Debug, Clone)]
pub struct Named<T> {
    /// What it is, with what it takes over from others.
    pub value: T,
    /// The keys that lead to it in its file.
    pub(crate) key: Vec<String>,
    document: usize,
}

/// All that is configured.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    documents: Vec<Document>,
    /// Repositories by name.
    pub repositories: BTreeMap<String, Named<RepositoryKeys>>,
    /// Sets by name.
    pub sets: BTreeMap<String, Named<Set>>,
    /// How the agent runs them.
    pub agent: Option<Named<AgentKeys>>,
}

/// Where the file is looked for, unless somebody says: the user's, then the machine's.
pub fn places(get: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let absolute = |name: &str| get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    own.map(|dir| dir.join("yester/config.toml")).into_iter().chain(["/etc/yester/config.toml".into()]).collect()
}

impl Configuration {
    /// Reads a file and all that it includes.
    pub fn load(file: &Path) -> Result<Self> {
        let mut configuration = Configuration::default();
        configuration.file(file, &mut Vec::new(), None).map_err(as_error)?;
        configuration.take_over().map_err(as_error)?;
        Ok(configuration)
    }

    /// The files that were read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.documents.iter().map(|document| document.file.as_path())
    }

    /// The repository of this name.
    pub fn repository(&self, name: &str) -> Option<&Named<RepositoryKeys>> {
        self.repositories.get(name)
    }

    /// The set of this name.
    pub fn set(&self, name: &str) -> Result<&Named<Set>> {
        self.sets.get(name).ok_or_else(|| {
            let files: Vec<String> = self.files().map(|file| escape(file.as_os_str().as_bytes())).collect();
            let near = nearest(name, self.sets.keys().map(String::as_str));
            Error::new(ErrorKind::NotFound, format!("there is no set {} in {}{near}", escape(name.as_bytes()), files.join(", ")))
        })
    }

    /// All of it as one file, with what is taken over from others.
    pub fn text(&self) -> Result<String> {
        let wrong = |e: toml::ser::Error| Error::invalid(e.to_string());
        let repositories: BTreeMap<&String, &RepositoryKeys> = self.repositories.iter().map(|(n, it)| (n, &it.value)).collect();
        let sets: BTreeMap<&String, &Set> = self.sets.iter().map(|(n, it)| (n, &it.value)).collect();
        let mut table = toml::Table::new();
        table.insert("repositories".to_owned(), toml::Value::try_from(repositories).map_err(wrong)?);
        table.insert("sets".to_owned(), toml::Value::try_from(sets).map_err(wrong)?);
        toml::to_string(&table).map_err(wrong)
    }

    /// A problem of a key below what is configured under a name.
    pub fn problem<T>(&self, of: &Named<T>, key: &[&str], message: impl Into<String>) -> Problem {
        let path: Vec<&str> =
            of.key.iter().map(String::as_str).chain(key.iter().copied().filter(|key| !key.is_empty())).collect();
        match self.documents.get(of.document) {
            Some(document) => document.problem(&path, message),
            None => Problem { file: PathBuf::new(), line: 0, key: path.join("."), message: message.into() },
        }
    }

    fn file(&mut self, file: &Path, stack: &mut Vec<PathBuf>, by: Option<&Document>) -> Result<(), Problem> {
        let own = Document::new(file, String::new());
        // What is wrong with an included file is its includer's to change, as far as it cannot be read.
        let failed = |message: String| match by {
            Some(by) => by.problem(&["include"], format!("{}: {message}", escape(file.as_os_str().as_bytes()))),
            None => own.problem(&[], message),
        };
        let real = file.canonicalize().map_err(|e| failed(format!("it cannot be read: {e}")))?;
        if stack.contains(&real) {
            return Err(failed("the files include one another in a circle".to_owned()));
        }
        let found = fs::metadata(&real).map_err(|e| failed(format!("it cannot be read: {e}")))?;
        if found.mode() & 0o002 != 0 {
            let text = "every user may change it, and so the commands that it runs: chmod o-w it";
            return Err(failed(text.to_owned()));
        }
        if found.len() > LONGEST || self.documents.len() >= FILES {
            return Err(failed("it is too long, or there are too many files".to_owned()));
        }
        let text = fs::read_to_string(&real).map_err(|e| failed(format!("it cannot be read: {e}")))?;
        let document = Document::new(file, text);
        let keys = document.keys()?;
        let number = self.documents.len();
        self.documents.push(document.clone());
        let default = keys.repository.map(|repository| (DEFAULT.to_owned(), vec!["repository".to_owned()], repository));
        let named = keys.repositories.into_iter().map(|(name, it)| (name.clone(), vec!["repositories".to_owned(), name], it));
        for (name, key, value) in default.into_iter().chain(named) {
            self.add(|all| &mut all.repositories, name, "repositories", Named { value, key, document: number })?;
        }
        for (name, value) in keys.sets {
            let key = vec!["sets".to_owned(), name.clone()];
            self.add(|all| &mut all.sets, name, "sets", Named { value, key, document: number })?;
        }
        if let Some(value) = keys.agent {
            let named = Named { value, key: vec!["agent".to_owned()], document: number };
            if self.agent.is_some() {
                return Err(self.problem(&named, &[], "there are two tables of this name"));
            }
            self.agent = Some(named);
        }
        stack.push(real.clone());
        for include in keys.include {
            let path = real.parent().unwrap_or(Path::new("/")).join(include);
            for file in listed(&path).map_err(|e| {
                document.problem(&["include"], format!("{}: it cannot be read: {e}", escape(path.as_os_str().as_bytes())))
            })? {
                self.file(&file, stack, Some(&document))?;
            }
        }
        stack.pop();
        Ok(())
    }

    fn add<T>(
        &mut self,
        map: impl Fn(&mut Self) -> &mut BTreeMap<String, Named<T>>,
        name: String,
        what: &str,
        named: Named<T>,
    ) -> Result<(), Problem> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(plain) {
            return Err(self.problem(&named, &[], "a name has letters, digits, -, _ and . only, and begins with no - or ."));
        }
        if let Some(other) =
            map(self).get(&name).map(|other| Named { value: (), key: other.key.clone(), document: other.document })
        {
            let place = self.problem(&other, &[], "");
            let other = format!("{}:{}", escape(place.file.as_os_str().as_bytes()), place.line);
            return Err(self.problem(&named, &[], format!("there are two {what} of this name: the other one is in {other}")));
        }
        map(self).insert(name, named);
        Ok(())
    }

    /// Has every repository and set take over what it is `like`.
    fn take_over(&mut self) -> Result<(), Problem> {
        let repositories = merged(self, &self.repositories, |it| (it.like.clone(), it.unset.clone()))?;
        let sets = merged(self, &self.sets, |it| (it.like.clone(), it.unset.clone()))?;
        (self.repositories, self.sets) = (repositories, sets);
        Ok(())
    }
}

/// All of a kind, each with what it takes over.
fn merged<T: Clone + Serialize + DeserializeOwned>(
    all: &Configuration,
    map: &BTreeMap<String, Named<T>>,
    of: impl Fn(&T) -> (Option<String>, Vec<String>),
) -> Result<BTreeMap<String, Named<T>>, Problem> {
    let mut out = BTreeMap::new();
    for (name, named) in map {
        // From the thing itself up to what is like nothing.
        let mut chain = vec![named];
        let mut names = vec![name.as_str()];
        while let Some((like, at)) = chain.last().and_then(|last| Some((of(&last.value).0?, *last))) {
            let Some((known, next)) = map.get_key_value(&like) else {
                let near = nearest(&like, map.keys().map(String::as_str));
                return Err(all.problem(at, &["like"], format!("there is no {}{near}", escape(like.as_bytes()))));
            };
            if names.contains(&known.as_str()) {
                return Err(all.problem(at, &["like"], "it is like itself, in a circle"));
            }
            names.push(known);
            chain.push(next);
        }
        let mut table = toml::Table::new();
        for named in chain.into_iter().rev() {
            let failed = |e: String| all.problem(named, &[], e);
            for key in of(&named.value).1 {
                if table.remove(&key).is_none() {
                    let near = nearest(&key, table.keys().map(String::as_str));
                    let text = format!("{} is not set by what it is like{near}", escape(key.as_bytes()));
                    return Err(all.problem(named, &["unset"], text));
                }
            }
            table.extend(toml::Table::try_from(&named.value).map_err(|e| failed(e.to_string()))?);
        }
        table.remove("like");
        table.remove("unset");
        let value = table.try_into().map_err(|e: toml::de::Error| all.problem(named, &[], e.message()))?;
        out.insert(name.clone(), Named { value, ..named.clone() });
    }
    Ok(out)
}

/// The file itself; of a directory, the files in it.
fn listed(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|end| end == "toml") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// A problem as an error: what a command says that cannot begin.
pub fn as_error(problem: Problem) -> Error {
    Error::invalid(problem.to_string())
}
