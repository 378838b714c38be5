//! Owners of a snapshot as numbers of this system.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Owners, escape};
use crate::sys::users;

/// Numbers of the snapshot that are other numbers here.
#[derive(Debug, Default)]
pub(crate) struct OwnerMap {
    users: HashMap<u32, u32>,
    groups: HashMap<u32, u32>,
}

const ACL_VERSION: [u8; 4] = [2, 0, 0, 0];
const ACL_USER: u16 = 2;
const ACL_GROUP: u16 = 8;

impl OwnerMap {
    /// The same where some names are others here: those are an error that this system does not know.
    pub(crate) fn mapped(owners: &Owners, users: &[(String, String)], groups: &[(String, String)]) -> Result<Self> {
        let mut map = OwnerMap::of(owners);
        let lists = [
            (&owners.users, users, &mut map.users, users::user_id as fn(&[u8]) -> Option<u32>, "user"),
            (&owners.groups, groups, &mut map.groups, users::group_id, "group"),
        ];
        for (owners, names, ids, find, what) in lists {
            for (old, new) in names {
                let here = find(new.as_bytes()).ok_or_else(|| {
                    let text = format!("nothing was touched: there is no {what} {} on this system", escape(new.as_bytes()));
                    Error::new(ErrorKind::NotFound, text)
                })?;
                ids.extend(owners.iter().filter(|(_, name)| name == old.as_bytes()).map(|(id, _)| (*id, here)));
            }
        }
        Ok(map)
    }

    /// Looks every name up on this system; a name that is not there keeps its number.
    pub(crate) fn of(owners: &Owners) -> Self {
        let moved = |list: &[(u32, Vec<u8>)], find: fn(&[&[u8]]) -> Vec<Option<u32>>| {
            let names: Vec<&[u8]> = list.iter().map(|(_, name)| name.as_slice()).collect();
            let found = list.iter().zip(find(&names)).filter_map(|((there, _), here)| Some((*there, here?)));
            found.filter(|(there, here)| there != here).collect()
        };
        OwnerMap { users: moved(&owners.users, users::user_ids), groups: moved(&owners.groups, users::group_ids) }
    }

    /// The user's number here.
    pub(crate) fn user(&self, id: u32) -> u32 {
        self.users.get(&id).copied().unwrap_or(id)
    }

    /// The group's number here.
    pub(crate) fn group(&self, id: u32) -> u32 {
        self.groups.get(&id).copied().unwrap_or(id)
    }

    /// Replaces the numbers in the value of a `system.posix_acl_*` attribute: a version, then entries of tag (2 bytes),
    /// permissions (2) and number (4). Anything else stays as it is, for the kernel to judge.
    pub(crate) fn map_acl(&self, value: &mut [u8]) {
        if self.users.is_empty() && self.groups.is_empty() {
            return;
        }
        let Some((version, entries)) = value.split_at_mut_checked(4) else { return };
        if *version != ACL_VERSION {
            return;
        }
        for entry in entries.chunks_exact_mut(8) {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            let here = match u16::from_le_bytes([entry[0], entry[1]]) {
                ACL_USER => self.user(id),
                ACL_GROUP => self.group(id),
                _ => continue,
            };
            entry[4..].copy_from_slice(&here.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decide_and_unknown_ones_keep_their_number() {
        let owners = Owners {
            users: vec![(4000, b"root".to_vec()), (4001, b"nobody-has-this-name".to_vec())],
            groups: vec![(4000, b"root".to_vec())],
        };
        let map = OwnerMap::of(&owners);
        assert_eq!((map.user(4000), map.user(4001), map.user(7), map.group(4000)), (0, 4001, 7, 0));
        let mut acl = [&ACL_VERSION[..], &[2, 0, 6, 0], &4000u32.to_le_bytes(), &[4, 0, 6, 0], &4000u32.to_le_bytes()].concat();
        map.map_acl(&mut acl);
        assert_eq!(acl[8..12], 0u32.to_le_bytes());
        assert_eq!(acl[16..20], 4000u32.to_le_bytes(), "the owning group's entry has no number");
    }
}
