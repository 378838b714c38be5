//! Rewrites: text in files, and in the targets of symbolic links, is replaced as they are restored. What is stored never
//! changes.
//!
//! A file that is rewritten is restored as if the snapshot had it so: it is written, and compared, with its new content.
//! All that is to be rewritten is computed before anything is touched (`survey`).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use regex::bytes::{Captures, Regex, RegexBuilder};

use crate::error::{Error, ErrorKind, Result};
use crate::model::patterns::Patterns;
use crate::model::{Content, Kind, LinkGroup, Node, escape};
use crate::repo::tree::TreeReader;
use crate::restore::run::RestoreRun;

pub mod placeholders;
pub(crate) mod survey;

use placeholders::{FilledText, Placeholders};

/// The largest file that is rewritten: all of it is in memory.
const LARGEST: u64 = 32 << 20;
/// So many different replacements of one file are told one by one.
const TOLD: usize = 1000;
/// So much of each is told.
const SHOWN: usize = 300;

/// The new contents of files with several names.
type SharedContents = HashMap<(usize, LinkGroup), Arc<Vec<u8>>>;

/// What is replaced where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewriteRule {
    /// Patterns of the files and links that it is for: paths inside the snapshot.
    pub files: Vec<String>,
    /// What is replaced.
    pub find: RewriteFind,
    /// What takes its place. Of an expression, `$1` and the like stand for what its groups match.
    pub with: String,
}

/// What a rule replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewriteFind {
    /// This text.
    Text(String),
    /// What this regular expression matches.
    Expression(String),
}

/// Rules that can be carried out, and what was done by them.
#[derive(Debug)]
pub struct Rewriter {
    rules: Vec<CompiledRule>,
    /// A rule that is for no file is an error.
    strict: bool,
    /// Contents are kept, to be shown.
    keeps: bool,
    done: Mutex<Vec<Rewritten>>,
    /// What hard links share, by source and group.
    shared: Mutex<SharedContents>,
}

#[derive(Debug)]
struct CompiledRule {
    files: Patterns,
    find: Regex,
    with: Vec<u8>,
    /// Whether groups of the expression stand in `with`.
    expands: bool,
}

/// A file, or the target of a link, that was rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// Its path inside the snapshot.
    pub path: Vec<u8>,
    /// It is a symbolic link.
    pub link: bool,
    /// What was replaced in it.
    pub replaced: Vec<Replaced>,
    /// What it was, and what it is; empty unless they are kept.
    pub contents: (Vec<u8>, Vec<u8>),
}

/// A text that was replaced by another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replaced {
    /// What it was.
    pub was: Vec<u8>,
    /// What it is.
    pub is: Vec<u8>,
    /// How often.
    pub count: u64,
}

/// What becomes of an entry.
pub(crate) struct Change {
    /// Its content, or its target.
    content: Arc<Vec<u8>>,
    done: Option<Rewritten>,
}

impl Rewriter {
    /// Rules with their placeholders filled in. `strict`: each must be for some file. `keeps`: contents are kept for
    /// [`Rewriter::done`].
    pub fn new(rules: &[RewriteRule], values: &Placeholders, strict: bool, keeps: bool) -> Result<Self> {
        let rules = rules.iter().map(|rule| CompiledRule::new(rule, values)).collect::<Result<Vec<_>>>()?;
        Ok(Rewriter { rules, strict, keeps, done: Mutex::default(), shared: Mutex::default() })
    }

    /// What was rewritten so far, or in a dry run would be, by path.
    pub fn done(&self) -> Vec<Rewritten> {
        let mut done = self.done.lock().clone();
        done.sort_by(|a, b| a.path.cmp(&b.path));
        done.dedup_by(|a, b| a.path == b.path);
        done
    }

    /// An error if a rule is for nothing that was gone through.
    pub(crate) fn all_matched(&self) -> Result<()> {
        let of_no_use = |rule: &&CompiledRule| rule.files.unmatched().next().is_some();
        match self.rules.iter().find(of_no_use).and_then(|rule| rule.files.unmatched().next()) {
            Some(pattern) if self.strict => {
                let text = format!("nothing was touched: there is no file {} to be rewritten", escape(pattern.as_bytes()));
                Err(Error::new(ErrorKind::NotFound, text))
            }
            _ => Ok(()),
        }
    }

    /// What becomes of an entry that is restored. `known`: it is a further link of a file that was restored.
    pub(crate) fn made(
        &self,
        run: &RestoreRun<'_>,
        source: usize,
        path: &[u8],
        node: &Node,
        known: bool,
    ) -> Result<Option<Change>> {
        let key = node.link.map(|group| (source, group));
        if let (true, Some(key)) = (known, &key) {
            let shared = self.shared.lock().get(key).cloned();
            return match shared {
                Some(content) => Ok(Some(Change { content, done: None })),
                None if self.change(run.tree, path, node)?.is_some() => Err(Error::invalid(
                    "it is not rewritten, since it is a hard link of a file that no rule names: name that, too",
                )),
                None => Ok(None),
            };
        }
        let change = self.change(run.tree, path, node)?;
        if let Some(key) = key {
            let mut shared = self.shared.lock();
            match &change {
                Some(change) => shared.insert(key, change.content.clone()),
                None => shared.remove(&key),
            };
        }
        Ok(change)
    }

    /// What an entry must be now that was restored before.
    pub(crate) fn expected(&self, run: &RestoreRun<'_>, source: usize, path: &[u8], node: &Node) -> Result<Option<Node>> {
        let change = match node.link {
            Some(group) => {
                self.shared.lock().get(&(source, group)).map(|content| Change { content: content.clone(), done: None })
            }
            None => self.change(run.tree, path, node)?,
        };
        Ok(change.map(|change| change.node(node)))
    }

    /// Notes that an entry was rewritten.
    pub(crate) fn note(&self, change: &mut Change) {
        self.done.lock().extend(change.done.take());
    }

    /// Computes what the rules make of an entry; `None` if it stays as it is.
    pub(crate) fn change(&self, tree: &TreeReader, path: &[u8], node: &Node) -> Result<Option<Change>> {
        let rules: Vec<&CompiledRule> = match node.kind {
            Kind::File(_) | Kind::Symlink(_) => self.rules.iter().filter(|rule| rule.files.find(path).is_some()).collect(),
            _ => return Ok(None),
        };
        if rules.is_empty() {
            return Ok(None);
        }
        let before = match &node.kind {
            Kind::File(content) => read(tree, content).map_err(|e| e.context("it cannot be rewritten"))?,
            Kind::Symlink(target) => target.clone(),
            _ => return Ok(None),
        };
        let (mut after, mut replaced) = (before.clone(), HashMap::new());
        for rule in rules {
            after = rule.apply(after, &mut replaced);
        }
        if after == before {
            return Ok(None);
        }
        let link = matches!(node.kind, Kind::Symlink(_));
        if link && (after.is_empty() || after.contains(&0) || after.len() > 4095) {
            return Err(Error::invalid("what it would lead to is no path: look at the rules that rewrite it"));
        }
        let mut replaced: Vec<Replaced> = replaced.into_iter().map(|((was, is), count)| Replaced { was, is, count }).collect();
        replaced.sort();
        let contents = if self.keeps { (before, after.clone()) } else { Default::default() };
        let done = Some(Rewritten { path: path.to_vec(), link, replaced, contents });
        Ok(Some(Change { content: Arc::new(after), done }))
    }
}

impl Change {
    /// The entry as it is restored.
    pub(crate) fn node(&self, node: &Node) -> Node {
        let content = self.content.to_vec();
        let kind = match node.kind {
            Kind::Symlink(_) => Kind::Symlink(content),
            _ => Kind::File(Content::Inline(content)),
        };
        Node { kind, ..node.clone() }
    }
}

impl CompiledRule {
    fn new(rule: &RewriteRule, values: &Placeholders) -> Result<Self> {
        let (find, with, expands) = match &rule.find {
            RewriteFind::Text(text) => (regex::escape(&values.fill(text)?), values.fill(&rule.with)?, false),
            RewriteFind::Expression(text) => {
                let with = values.fill_as(&rule.with, FilledText::Replacement)?;
                (values.fill_as(text, FilledText::Expression)?, with, true)
            }
        };
        let wrong = |e: regex::Error| Error::invalid(format!("the expression {find} cannot be used: {e}"));
        let find = RegexBuilder::new(&find).multi_line(true).size_limit(10 << 20).build().map_err(wrong)?;
        if find.is_match(b"") {
            return Err(Error::invalid("a rewrite would replace nothing by something: say what it replaces"));
        }
        let files = Patterns::new(rule.files.iter().map(|pattern| (pattern.as_str(), false)))?;
        if files.is_empty() {
            return Err(Error::invalid("a rewrite is for no file: say for which, as in files = [\"/etc/hosts\"]"));
        }
        Ok(CompiledRule { files, find, with: with.into_bytes(), expands })
    }

    fn apply(&self, text: Vec<u8>, replaced: &mut HashMap<(Vec<u8>, Vec<u8>), u64>) -> Vec<u8> {
        let mut told = |found: &Captures<'_>| {
            let was = found.get(0).map(|it| it.as_bytes()).unwrap_or_default();
            let mut is = Vec::new();
            match self.expands {
                true => found.expand(&self.with, &mut is),
                false => is.extend_from_slice(&self.with),
            }
            if was != is && (replaced.len() < TOLD) {
                let cut = |text: &[u8]| text.get(..SHOWN).unwrap_or(text).to_vec();
                *replaced.entry((cut(was), cut(&is))).or_default() += 1;
            }
            is
        };
        match self.find.replace_all(&text, &mut told) {
            std::borrow::Cow::Borrowed(_) => text,
            std::borrow::Cow::Owned(new) => new,
        }
    }
}

fn read(tree: &TreeReader, content: &Content) -> Result<Vec<u8>> {
    if content.size() > LARGEST {
        return Err(Error::invalid(format!("it has more than {} MiB", LARGEST >> 20)));
    }
    if let Content::Inline(bytes) = content {
        return Ok(bytes.clone());
    }
    let mut out = Vec::new();
    tree.read(content, 0, LARGEST as usize, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(find: RewriteFind, with: &str, text: &[u8]) -> (Vec<u8>, Vec<Replaced>) {
        let mut values = Placeholders::default();
        values.set("from.host", Some("old.example".to_owned())).expect("a name");
        values.set("host", Some("new$1".to_owned())).expect("a name");
        let rule = RewriteRule { files: vec!["/x".to_owned()], find, with: with.to_owned() };
        let rule = CompiledRule::new(&rule, &values).expect("a rule");
        let mut replaced = HashMap::new();
        let text = rule.apply(text.to_vec(), &mut replaced);
        let mut replaced: Vec<Replaced> = replaced.into_iter().map(|((was, is), count)| Replaced { was, is, count }).collect();
        replaced.sort();
        (text, replaced)
    }

    #[test]
    fn texts_and_expressions_are_replaced() {
        let text = |text: &str| RewriteFind::Text(text.to_owned());
        let expression = |text: &str| RewriteFind::Expression(text.to_owned());
        let (out, replaced) = rewritten(text("{from.host}"), "{host}", b"\xffold.example oldXexample old.example");
        assert_eq!(out, b"\xffnew$1 oldXexample new$1");
        assert_eq!(replaced, [Replaced { was: b"old.example".to_vec(), is: b"new$1".to_vec(), count: 2 }]);
        let (out, _) = rewritten(expression("^name = ({from.host})$"), "name = {host} # $1", b"a\nname = old.example\n");
        assert_eq!(out, b"a\nname = new$1 # old.example\n");
        assert_eq!(rewritten(text("same"), "same", b"same"), (b"same".to_vec(), vec![]));
    }
}
