//! Holds the length of functions: one that a reader cannot see at once is several.

use super::sources;

/// Lines of the longest function, from its `fn` to its last brace.
const LONGEST: usize = 60;

/// The functions of a source file that are too long, as sentences. Sources are formatted, so that a function ends at the
/// first line which is only a brace, as far in as its `fn`.
fn too_long(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let Some(name) = function(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let is_end = |line: &&str| {
            let own = line.strip_prefix(indent).unwrap_or_default();
            own == "}" || own.starts_with(')') && own.ends_with(';')
        };
        let on_one_line = line.ends_with('}') || line.ends_with(';');
        let length = if on_one_line { 1 } else { lines[first..].iter().take_while(|line| !is_end(line)).count() + 1 };
        if length > LONGEST {
            out.push(format!("src/{path}: {name} has {length} lines, more than {LONGEST}: split it by what it does"));
        }
    }
    out
}

/// The name of the function that a line begins.
fn function(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    while let Some((word, more)) = rest.split_once(' ').filter(|(word, _)| *word != "fn") {
        let is_modifier = word.starts_with("pub") || ["const", "async", "unsafe", "extern", "\"C\""].contains(&word);
        rest = is_modifier.then_some(more)?;
    }
    let name = rest.strip_prefix("fn ")?;
    Some(&name[..name.find(|c: char| !c.is_alphanumeric() && c != '_')?])
}

#[test]
fn no_function_is_too_long() {
    let sources = sources();
    assert!(sources.len() > 30, "the sources were not found");
    let long: Vec<String> = sources.iter().flat_map(|(path, text)| too_long(path, text)).collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn a_long_function_is_seen() {
    let body = |lines: usize| "        call();\n".repeat(lines);
    let method =
        |lines: usize| format!("impl X {{\n    pub(crate) async fn f(\n        &self,\n    ) {{\n{}    }}\n}}\n", body(lines));
    assert_eq!(too_long("x.rs", &method(LONGEST - 4)), Vec::<String>::new());
    assert_eq!(too_long("x.rs", &method(LONGEST - 3)).len(), 1);
    let plain = format!("pub fn f() {{\n{}}}\n", "    call();\n".repeat(LONGEST));
    assert!(too_long("x.rs", &plain)[0].contains("f has 62 lines"));
    // What only declares, or stands on one line, ends where it is.
    let short =
        format!("trait T {{\n    fn f(\n        &self,\n    ) -> u8;\n\n    fn g() {{}}\n\n    fn h();\n\n{}}}\n", body(LONGEST));
    assert_eq!(too_long("x.rs", &short), Vec::<String>::new());
}
