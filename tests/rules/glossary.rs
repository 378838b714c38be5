//! Holds the names: a type name means one thing in the crate, and the types that `docs/glossary.md` names exist.
//!
//! It reads the sources as text. Only declarations at the beginning of a line count, so types inside of functions and
//! associated types do not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{sources, without_tests};

/// Names that stand for several types, and why. The list may only shrink: each must really repeat.
const REPEATED: [(&str, &str); 0] = [];

/// Where each type is declared, below `src/`, by name.
fn declared(sources: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in sources {
        for line in without_tests(text).lines() {
            if let Some(name) = type_name(line) {
                out.entry(name.to_owned()).or_default().push(path.clone());
            }
        }
    }
    out
}

/// The name of the type that a line declares.
fn type_name(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.strip_prefix(' ')?,
        None => line,
    };
    let line = line.strip_prefix("unsafe ").unwrap_or(line);
    let (word, rest) = line.split_once(' ')?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    ["struct", "enum", "trait", "type", "union"].contains(&word).then_some(&rest[..end])
}

/// What is wrong with the repeats of these sources, by what may repeat.
fn breaches(sources: &[(String, String)], repeated: &[&str]) -> Vec<String> {
    let declared = declared(sources);
    let mut out = Vec::new();
    for (name, places) in &declared {
        if places.len() > 1 && !repeated.contains(&name.as_str()) {
            out.push(format!("{name} means {} things, name them apart: {places:?}", places.len()));
        }
    }
    for name in repeated {
        if declared.get(*name).is_none_or(|places| places.len() < 2) {
            out.push(format!("{name} no longer repeats: take it from the list"));
        }
    }
    out
}

/// The paths of types that a page names: in backticks, from a room on.
fn paths_of_types(page: &str) -> Vec<&str> {
    page.split('`')
        .skip(1)
        .step_by(2)
        .filter(|text| text.contains("::") && !text.contains(' '))
        .filter(|text| text.rsplit("::").next().is_some_and(|last| last.starts_with(char::is_uppercase)))
        .collect()
}

#[test]
fn a_type_name_means_one_thing() {
    let sources = sources();
    assert!(sources.len() > 30, "the sources were not found");
    let breaches = breaches(&sources, &REPEATED.map(|(name, _)| name));
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn every_type_of_the_glossary_exists() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/glossary.md")).unwrap();
    let sources = sources();
    let declared = declared(&sources);
    let paths = paths_of_types(&page);
    assert!(paths.len() > 30, "the glossary names {} types", paths.len());
    for path in paths {
        let (module, name) = path.rsplit_once("::").unwrap();
        let module = module.replace("::", "/");
        let below = |place: &str| {
            let place = place.trim_end_matches(".rs").trim_end_matches("/mod");
            place == module || place.starts_with(&format!("{module}/"))
        };
        let found = declared.get(name).is_some_and(|places| places.iter().any(|place| below(place)));
        // The identifiers are made by a macro, which is given their names.
        let by_macro = || sources.iter().any(|(place, text)| below(place) && text.contains(&format!("\n    {name}, ")));
        assert!(found || by_macro(), "docs/glossary.md names {path}, which does not exist");
    }
}

#[test]
fn a_repeat_is_seen() {
    let source = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let two = [source("a.rs", "pub struct Plan {\n"), source("b.rs", "pub(super) enum Plan<'a> {\n")];
    assert!(breaches(&two, &[])[0].contains("Plan means 2 things"));
    assert!(breaches(&two, &["Plan"]).is_empty());
    assert!(breaches(&two[..1], &["Plan"])[0].contains("no longer repeats"));
    let one = [
        source("a.rs", "type Error = u8;\nimpl X for Y {\n    type Error = u8;\n}\n"),
        source("b.rs", "fn f() {\n    struct Error;\n}\n#[cfg(test)]\nmod tests {\nstruct Error;\n"),
    ];
    assert!(breaches(&one, &[]).is_empty());
}
