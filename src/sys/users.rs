//! Names of users and groups, and numbers of names.
#![allow(unsafe_code)]

use std::borrow::Borrow;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::hash::Hash;
use std::ptr;

use parking_lot::Mutex;

/// From so many on all users or groups are listed first: each look-up by itself may read the whole of `/etc/passwd`.
const MANY: usize = 256;
/// No more than these are listed.
const MOST: usize = 1 << 20;
/// The list that the C library is at is one for the whole process.
static LISTING: Mutex<()> = Mutex::new(());

/// The name of user `uid`, where the system knows one.
pub fn user_name(uid: u32) -> Option<Vec<u8>> {
    lookup(|buf, entry, found| {
        // SAFETY: every pointer is to live memory of this frame, and the length is the buffer's.
        unsafe { libc::getpwuid_r(uid, entry, buf.as_mut_ptr().cast(), buf.len(), found) }
    })
    // SAFETY: `pw_name` of an entry that was found points into the buffer, which `lookup` keeps alive during the call.
    .run(|entry: &libc::passwd| unsafe { CStr::from_ptr(entry.pw_name) }.to_bytes().to_vec())
}

/// The name of group `gid`, where the system knows one.
pub(crate) fn group_name(gid: u32) -> Option<Vec<u8>> {
    lookup(|buf, entry, found| {
        // SAFETY: as in `user_name`.
        unsafe { libc::getgrgid_r(gid, entry, buf.as_mut_ptr().cast(), buf.len(), found) }
    })
    // SAFETY: as in `user_name`.
    .run(|entry: &libc::group| unsafe { CStr::from_ptr(entry.gr_name) }.to_bytes().to_vec())
}

/// The number of the user called `name`.
pub fn user_id(name: &[u8]) -> Option<u32> {
    let name = CString::new(name).ok()?;
    lookup(|buf, entry, found| {
        // SAFETY: as in `user_name`; `name` outlives the call.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, buf.as_mut_ptr().cast(), buf.len(), found) }
    })
    .run(|entry: &libc::passwd| entry.pw_uid)
}

/// The number of the group called `name`.
pub(crate) fn group_id(name: &[u8]) -> Option<u32> {
    let name = CString::new(name).ok()?;
    lookup(|buf, entry, found| {
        // SAFETY: as in `user_name`; `name` outlives the call.
        unsafe { libc::getgrnam_r(name.as_ptr(), entry, buf.as_mut_ptr().cast(), buf.len(), found) }
    })
    .run(|entry: &libc::group| entry.gr_gid)
}

/// The names of many users.
pub(crate) fn user_names(uids: &[u32]) -> Vec<Option<Vec<u8>>> {
    many(uids, || first(all_users().into_iter().map(|(name, uid)| (uid, name))), |uid: &u32| user_name(*uid))
}

/// The names of many groups.
pub(crate) fn group_names(gids: &[u32]) -> Vec<Option<Vec<u8>>> {
    many(gids, || first(all_groups().into_iter().map(|(name, gid)| (gid, name))), |gid: &u32| group_name(*gid))
}

/// The numbers of the users with these names.
pub(crate) fn user_ids(names: &[&[u8]]) -> Vec<Option<u32>> {
    many(names, || first(all_users()), user_id)
}

/// The numbers of the groups with these names.
pub(crate) fn group_ids(names: &[&[u8]]) -> Vec<Option<u32>> {
    many(names, || first(all_groups()), group_id)
}

/// Asks for each. Of many, only those are asked for by themselves that are not in the list: not every source of names
/// lists what it has.
fn many<Q: Borrow<B>, B: Hash + Eq + ?Sized, K: Hash + Eq + Borrow<B>, A: Clone>(
    asked: &[Q],
    list: impl FnOnce() -> HashMap<K, A>,
    one: impl Fn(&B) -> Option<A>,
) -> Vec<Option<A>> {
    let listed = if asked.len() < MANY { HashMap::new() } else { list() };
    asked.iter().map(|asked| listed.get(asked.borrow()).cloned().or_else(|| one(asked.borrow()))).collect()
}

/// Of entries with one key the first counts, as in a look-up.
fn first<K: Hash + Eq, V>(entries: impl IntoIterator<Item = (K, V)>) -> HashMap<K, V> {
    let mut out = HashMap::new();
    for (key, value) in entries {
        out.entry(key).or_insert(value);
    }
    out
}

/// All users that are listed: names and numbers.
fn all_users() -> Vec<(Vec<u8>, u32)> {
    let _alone = LISTING.lock();
    // SAFETY: nobody else uses this list of the process.
    unsafe { libc::setpwent() };
    let next = || {
        // SAFETY: as above. What it gives is valid until the next call, and copied before that.
        unsafe { libc::getpwent().as_ref().map(|entry| (CStr::from_ptr(entry.pw_name).to_bytes().to_vec(), entry.pw_uid)) }
    };
    let found = std::iter::from_fn(next).take(MOST).collect();
    // SAFETY: as above.
    unsafe { libc::endpwent() };
    found
}

/// All groups that are listed: names and numbers.
fn all_groups() -> Vec<(Vec<u8>, u32)> {
    let _alone = LISTING.lock();
    // SAFETY: nobody else uses this list of the process.
    unsafe { libc::setgrent() };
    let next = || {
        // SAFETY: as above. What it gives is valid until the next call, and copied before that.
        unsafe { libc::getgrent().as_ref().map(|entry| (CStr::from_ptr(entry.gr_name).to_bytes().to_vec(), entry.gr_gid)) }
    };
    let found = std::iter::from_fn(next).take(MOST).collect();
    // SAFETY: as above.
    unsafe { libc::endgrent() };
    found
}

struct UserLookup<F>(F);

fn lookup<T, F: FnMut(&mut [u8], *mut T, *mut *mut T) -> i32>(call: F) -> UserLookup<F> {
    UserLookup(call)
}

impl<F> UserLookup<F> {
    fn run<T, R>(mut self, read: impl FnOnce(&T) -> R) -> Option<R>
    where
        F: FnMut(&mut [u8], *mut T, *mut *mut T) -> i32,
    {
        let mut buffer = vec![0u8; 1024];
        loop {
            // SAFETY: `passwd` and `group` are plain C structs of integers and pointers, for which zeros are valid.
            let mut entry: T = unsafe { std::mem::zeroed() };
            let mut found = ptr::null_mut();
            match (self.0)(&mut buffer, &mut entry, &mut found) {
                0 if found.is_null() => return None,
                0 => return Some(read(&entry)),
                libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
                _ => return None,
            }
        }
    }
}
