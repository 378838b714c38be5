//! Names of users and groups, and numbers of names.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::ptr;

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
pub fn group_name(gid: u32) -> Option<Vec<u8>> {
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
pub fn group_id(name: &[u8]) -> Option<u32> {
    let name = CString::new(name).ok()?;
    lookup(|buf, entry, found| {
        // SAFETY: as in `user_name`; `name` outlives the call.
        unsafe { libc::getgrnam_r(name.as_ptr(), entry, buf.as_mut_ptr().cast(), buf.len(), found) }
    })
    .run(|entry: &libc::group| entry.gr_gid)
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
