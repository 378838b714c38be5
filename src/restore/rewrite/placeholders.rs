//! Placeholders in rules: `{host}` and the like, for what differs between the host of a snapshot and this one.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::model::escape;

/// Names in braces, and what stands for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placeholders(BTreeMap<String, Option<String>>);

/// What a text is that placeholders are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilledText {
    /// It is taken as it is.
    Plain,
    /// It is a regular expression: values stand for themselves in it.
    Expression,
    /// It is what takes the place of an expression: a `$` of a value stands for itself.
    Replacement,
}

impl Placeholders {
    /// Sets what stands for a name; `None` if nobody knows it. A name has small letters, digits, `.`, `-` and `_`.
    pub fn set(&mut self, name: &str, value: Option<String>) -> Result<()> {
        if !is_name(name) {
            let text = format!("{} is no name of a placeholder: write small letters, digits, dots", escape(name.as_bytes()));
            return Err(Error::invalid(text));
        }
        self.0.insert(name.to_owned(), value);
        Ok(())
    }

    /// A text with all placeholders replaced. `{{name}}` is `{name}` itself.
    pub fn fill(&self, text: &str) -> Result<String> {
        self.fill_as(text, FilledText::Plain)
    }

    /// The same, in a text of this kind: in an expression or a replacement a value stands for itself, so what is special
    /// there is escaped. Braces after `\p`, `\P`, `\x`, `\u` and `\U` are the expression's.
    pub(crate) fn fill_as(&self, text: &str, what: FilledText) -> Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            // `\p{name}` and the like are of the expression.
            let class = what == FilledText::Expression && is_class(before);
            let named = |open: &str, close: &str| {
                let (name, after) = from.strip_prefix(open)?.split_once(close)?;
                is_name(name).then_some((name, after))
            };
            if let Some((name, after)) = named("{{", "}}") {
                out.push_str(&format!("{{{name}}}"));
                rest = after;
            } else if let Some((name, after)) = named("{", "}").filter(|_| !class) {
                let value = self.value(name)?;
                match what {
                    FilledText::Plain => out.push_str(value),
                    FilledText::Expression => out.push_str(&regex::escape(value)),
                    FilledText::Replacement => out.push_str(&value.replace('$', "$$")),
                }
                rest = after;
            } else {
                out.push('{');
                rest = from.get(1..).unwrap_or_default();
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&self, name: &str) -> Result<&str> {
        match self.0.get(name) {
            Some(Some(value)) => Ok(value),
            Some(None) => Err(Error::invalid(format!("what {{{name}}} stands for is not known here: give --value {name}=VALUE"))),
            None => {
                let known: Vec<String> = self.0.keys().map(|name| format!("{{{name}}}")).collect();
                let text = format!(
                    "there is no placeholder {{{name}}}: there are {}; for the text itself write {{{{{name}}}}}",
                    known.join(", ")
                );
                Err(Error::invalid(text))
            }
        }
    }
}

/// Whether this part of an expression ends with a backslash that is not escaped itself, and a letter that takes braces.
fn is_class(before: &str) -> bool {
    let backslashes = before.strip_suffix(['p', 'P', 'x', 'u', 'U']).map(|text| text.len() - text.trim_end_matches('\\').len());
    backslashes.is_some_and(|backslashes| backslashes % 2 == 1)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Placeholders {
        let mut known = Placeholders::default();
        known.set("from.host", Some("a.b".to_owned())).expect("a name");
        known.set("host", Some("c$1".to_owned())).expect("a name");
        known.set("address", None).expect("a name");
        known
    }

    #[test]
    fn names_in_braces_are_replaced() {
        let known = known();
        assert_eq!(known.fill("x {from.host}:{host} {{host}} {} {2,3} {X}").expect("known"), "x a.b:c$1 {host} {} {2,3} {X}");
        assert_eq!(
            known.fill_as("\\b{from.host}\\b\\p{greek}{2}", FilledText::Expression).expect("known"),
            "\\ba\\.b\\b\\p{greek}{2}"
        );
        let around = known.fill_as("\\\\p{host}\\x{a}{from.host}", FilledText::Expression).expect("known");
        assert_eq!(around, "\\\\pc\\$1\\x{a}a\\.b", "a backslash of its own is no class");
        assert_eq!(known.fill_as("$1{host}", FilledText::Replacement).expect("known"), "$1c$$1");
        assert!(known.fill("{hots}").expect_err("unknown").to_string().contains("{from.host}, {host}"));
        assert!(known.fill("{address}").expect_err("unknown").to_string().contains("--value address="));
        assert!(Placeholders::default().set("A", None).is_err());
    }
}
