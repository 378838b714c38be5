//! Where a repository on another machine is: `https://host:port/name`, `ssh://user@host:port/path`.

use std::fmt;

use crate::error::{Error, Result};
use crate::model::escape;
use crate::remote::protocol::RepositoryName;

/// A repository on another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// On a server.
    Https {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
        /// The repository's name there.
        name: RepositoryName,
    },
    /// Behind ssh.
    Ssh {
        /// Whose account; without one ssh decides.
        user: Option<String>,
        /// What ssh calls the machine.
        host: String,
        /// The port; without one ssh decides.
        port: Option<u16>,
        /// Bytes of the path there, absolute or relative to where ssh leads.
        path: Vec<u8>,
    },
}

fn wrong(form: &str) -> Error {
    Error::invalid(format!("the repository's name is not of the form {form}"))
}

/// Parts `host:port` and `[address]:port`.
pub(crate) fn host_and_port<'a>(text: &'a str, form: &str) -> Result<(&'a str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(|| wrong(form))?;
            (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let port = match port.ok_or_else(|| wrong(form))? {
        "" => None,
        digits => Some(digits.parse().ok().filter(|p| *p > 0).ok_or_else(|| wrong(form))?),
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b) || text.starts_with('[') && b":%".contains(&b);
    if host.starts_with('-') {
        return Err(Error::invalid("a host cannot begin with -: ssh would take it for an option"));
    }
    // Brackets are for addresses with colons.
    let brackets = text.starts_with('[') && !host.contains(':');
    if host.is_empty() || brackets || !host.bytes().all(good) {
        return Err(wrong(form));
    }
    Ok((host, port))
}

impl Address {
    /// What stands behind `https://`.
    pub fn https(rest: &[u8]) -> Result<Self> {
        let form = "https://HOST:PORT/NAME";
        let text = std::str::from_utf8(rest).map_err(|_| wrong(form))?;
        let (authority, name) = text.split_once('/').ok_or_else(|| wrong(form))?;
        let (host, port) = host_and_port(authority, form)?;
        let name = RepositoryName::parse(name.strip_suffix('/').unwrap_or(name))?;
        Ok(Address::Https { host: host.to_owned(), port: port.unwrap_or(443), name })
    }

    /// What stands behind `ssh://`.
    pub fn ssh(rest: &[u8]) -> Result<Self> {
        let form = "ssh://USER@HOST:PORT/PATH";
        let slash = rest.iter().position(|b| *b == b'/').ok_or_else(|| wrong(form))?;
        let (authority, path) = rest.split_at(slash);
        let authority = std::str::from_utf8(authority).map_err(|_| wrong(form))?;
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-+@".contains(&b);
        if user.is_some_and(|user| user.is_empty() || user.starts_with('-') || !user.bytes().all(good)) {
            return Err(wrong(form));
        }
        let (host, port) = host_and_port(place, form)?;
        // Behind `/./` a path is relative, however many slashes follow.
        let path = match path.strip_prefix(b"/./") {
            Some(relative) => &relative[relative.iter().take_while(|b| **b == b'/').count()..],
            None => path,
        };
        if path.is_empty() || path == b"/" || path.contains(&0) {
            return Err(wrong(form));
        }
        Ok(Address::Ssh { user: user.map(str::to_owned), host: host.to_owned(), port, path: path.to_vec() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bracketed = |host: &str| if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        match self {
            Address::Https { host, port: 443, name } => write!(f, "https://{}/{name}", bracketed(host)),
            Address::Https { host, port, name } => write!(f, "https://{}:{port}/{name}", bracketed(host)),
            Address::Ssh { user, host, port, path } => {
                let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                let relative = if path.starts_with(b"/") { "" } else { "/./" };
                write!(f, "ssh://{user}{}{port}{relative}{}", bracketed(host), escape(path))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["https://h/web", "https://h.example:7070/web", "https://[::1]:7070/a", "https://127.0.0.1:1/a"] {
            let address = Address::https(text.strip_prefix("https://").unwrap().as_bytes()).unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in ["ssh://h/a/b", "ssh://u@h:22/a", "ssh://h/./relative/x", "ssh://h/././x", "ssh://u@[fe80::1%eth0]/a b"] {
            let address = Address::ssh(text.strip_prefix("ssh://").unwrap().as_bytes()).unwrap();
            assert_eq!(address.to_string(), text);
        }
        for bad in [
            "",
            "h",
            "h/",
            "/web",
            "h:0/web",
            "h:x/web",
            "h:70707/web",
            "h/a/b",
            "h/..",
            "h/%2e",
            "-h/a",
            "h h/a",
            "[::1/a",
            "[h]/a",
        ] {
            assert!(Address::https(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(Address::ssh(b"h/.//./x").unwrap(), Address::ssh(b"h/././x").unwrap());
        for bad in [
            "h",
            "h/",
            "h/./",
            "h/.//",
            "-oProxyCommand=x/a",
            "-u@h/a",
            "u@-h/a",
            "u u@h/a",
            "h;x/a",
            "$(x)/a",
            "@h/a",
            "h:/\0",
            "[0%l]/a",
        ] {
            assert!(Address::ssh(bad.as_bytes()).is_err(), "{bad}");
        }
        let said = Address::ssh(b"-oProxyCommand/a").unwrap_err().to_string();
        assert!(said.contains("begin with -"), "{said}");
    }
}
