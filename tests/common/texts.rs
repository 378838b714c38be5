//! What comes from outside as text: lists, answers, tokens, names, addresses. Nothing makes them panic, and what is read is
//! what is written.

use yester::remote::address::Address;
use yester::remote::list::{ListParser, list_end, list_line};
use yester::remote::protocol::{About, Capability, LeftoversFound, Refusal, RepositoryName};
use yester::remote::tls::Fingerprint;
use yester::remote::tokens::{Token, is_token};
use yester::storage::{Class, Name};

/// Reads the text by all parsers of its kind, which the first byte says.
pub fn texts(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => list(rest),
        1 => answers(rest),
        2 => names(rest),
        _ => addresses(rest),
    }
}

fn list(bytes: &[u8]) {
    let Some(([class, piece], rest)) = bytes.split_first_chunk() else { return };
    let class = Class::ALL[usize::from(*class) % Class::ALL.len()];
    let parse = |text: &[u8], piece: usize| {
        let mut parser = ListParser::with_limit(class, 50);
        text.chunks(piece).try_for_each(|piece| parser.feed(piece))?;
        parser.finish()
    };
    let found = parse(rest, usize::from(*piece).max(1));
    // How it is cut does not matter.
    assert_eq!(found.as_ref().ok(), parse(rest, usize::MAX).as_ref().ok());
    if let Ok(found) = found {
        assert!(
            found.objects.len() <= 51
                && found.objects.iter().all(|(name, size, _)| name.class() == class && *size <= class.max_object() + 1)
        );
        let by = |name: &Name| found.by.iter().find(|(other, _)| other == name).map(|(_, by)| by.as_str());
        let line = |(name, size, at): &(Name, u64, _)| list_line(name, *size, *at, by(name)).into_bytes();
        let mut text: Vec<u8> = found.objects.iter().flat_map(line).collect();
        text.extend(list_end(found.objects.len()).bytes());
        assert_eq!(parse(&text, 7).unwrap(), found);
    }
}

fn answers(bytes: &[u8]) {
    if let Ok(about) = serde_json::from_slice::<About>(bytes) {
        let again: About = serde_json::from_slice(&serde_json::to_vec(&about).unwrap()).unwrap();
        assert!(again.free == about.free && again.capabilities == about.capabilities);
    }
    if let Ok(refusal) = serde_json::from_slice::<Refusal>(bytes) {
        assert!((400..=507).contains(&refusal.error.status()));
        let _ = refusal.error.kind();
    }
    let _ = serde_json::from_slice::<LeftoversFound>(bytes);
    if let Ok(token) = serde_json::from_slice::<Token>(bytes) {
        let _ = (token.can(Capability::Put), token.has_expired(i64::MIN), token.has_expired(i64::MAX));
    }
}

fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = RepositoryName::parse(text) {
        assert!(name.as_str() == text && !text.contains(['/', '\0']) && !text.starts_with('.'));
    }
    for class in Class::ALL {
        if let Some(name) = Name::parse(class, text) {
            assert!(name.leaf() == text && name.class() == class && !text.contains(['/', '\0']));
        }
    }
    if let Ok(fingerprint) = Fingerprint::parse(text) {
        assert_eq!(Fingerprint::parse(&fingerprint.to_string()).unwrap(), fingerprint);
    }
    let _ = (is_token(text), Capability::parse(text));
}

fn addresses(bytes: &[u8]) {
    for (address, scheme) in [(Address::https(bytes), "https://"), (Address::ssh(bytes), "ssh://")] {
        let Ok(address) = address else { continue };
        let shown = address.to_string();
        let host = match &address {
            Address::Https { host, .. } | Address::Ssh { host, .. } => host,
        };
        assert!(!host.starts_with('-') && !host.contains(['/', ' ', '\0']), "{shown:?}");
        // A path that is escaped to be shown is another one.
        if !shown.contains('\\') {
            let rest = shown.strip_prefix(scheme).unwrap().as_bytes();
            let again = if scheme == "https://" { Address::https(rest) } else { Address::ssh(rest) };
            assert_eq!(again.unwrap(), address, "{shown:?}");
        }
    }
}
