//! The classes of objects, and what is fixed for each.

/// A class of objects: one directory of the repository, one prefix of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// `config/`
    Config,
    /// `keys/`
    Keys,
    /// `packs/xx/`
    Packs,
    /// `index/`
    Index,
    /// `sessions/`
    Sessions,
    /// `snapshots/`
    Snapshots,
    /// `forgotten/`
    Forgotten,
    /// `condemned/`
    Condemned,
    /// `damaged/`
    Damaged,
    /// `runs/`
    Runs,
    /// `annotations/`
    Annotations,
    /// `groups/`
    Groups,
    /// `parity/`
    Parity,
}

/// What is fixed for a class.
struct Properties {
    prefix: &'static str,
    /// Whether a repository may lack the directory.
    optional: bool,
    /// The longest object, in bytes.
    max_object: u64,
}

/// The longest pack (`format/pack.rs` has the same limit).
const MAX_PACK: u64 = 1 << 30;
/// The longest segment.
const MAX_SEGMENT: u64 = 64 << 30;
/// The longest row of parity: as long as the longest pack, and what describes it.
const MAX_PARITY: u64 = 2 << 30;
/// The longest object of any other class.
const MAX_SMALL: u64 = 64 << 20;

impl Class {
    /// Every class.
    pub const ALL: [Class; 13] = [
        Class::Config,
        Class::Keys,
        Class::Packs,
        Class::Index,
        Class::Sessions,
        Class::Snapshots,
        Class::Forgotten,
        Class::Condemned,
        Class::Damaged,
        Class::Runs,
        Class::Annotations,
        Class::Groups,
        Class::Parity,
    ];

    /// One line for each class. A class that is added here is optional: repositories that were made
    /// before it do not have its directory.
    fn properties(self) -> Properties {
        let required = |prefix, max_object| Properties { prefix, optional: false, max_object };
        let optional = |prefix, max_object| Properties { prefix, optional: true, max_object };
        match self {
            Class::Config => required("config", MAX_SMALL),
            Class::Keys => required("keys", MAX_SMALL),
            Class::Packs => required("packs", MAX_PACK),
            Class::Index => required("index", MAX_SEGMENT),
            Class::Sessions => required("sessions", MAX_SMALL),
            Class::Snapshots => required("snapshots", MAX_SMALL),
            Class::Forgotten => required("forgotten", MAX_SMALL),
            Class::Condemned => required("condemned", MAX_SMALL),
            Class::Damaged => optional("damaged", MAX_SMALL),
            Class::Runs => optional("runs", MAX_SMALL),
            Class::Annotations => optional("annotations", MAX_SMALL),
            Class::Groups => optional("groups", MAX_SMALL),
            Class::Parity => optional("parity", MAX_PARITY),
        }
    }

    /// The longest object of the class, in bytes. Longer files are no objects, and are not read.
    pub fn max_object(self) -> u64 {
        self.properties().max_object
    }

    /// Whether a repository may lack the class's directory. It then holds no objects of the class,
    /// and the directory is made when the first one is created.
    pub fn is_optional(self) -> bool {
        self.properties().optional
    }

    /// The first part of its names.
    pub fn prefix(self) -> &'static str {
        self.properties().prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository of the first version has these directories, and lacks every class that came later.
    #[test]
    fn classes_that_came_later_are_optional() {
        let first = ["config", "keys", "packs", "index", "sessions", "snapshots", "forgotten", "condemned"];
        for class in Class::ALL {
            assert_eq!(class.is_optional(), !first.contains(&class.prefix()), "{class:?}");
        }
    }
}
