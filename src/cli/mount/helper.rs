//! What mount(8) calls for a line of `/etc/fstab`: `mount.yester REPO DIR -o OPTIONS`, another name of this program.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What scripts have as the first argument that are called in the place of this program.
const MARK: &str = "--mount-helper";
/// The names it is called by, for the types `yester` and `fuse.yester`.
const NAMES: [&str; 2] = ["mount.yester", "mount.fuse.yester"];
/// Options that are arguments of the command: `key-file=/root/key` is `--key-file /root/key`.
const ARGUMENTS: [&str; 12] = [
    "key-file",
    "password-file",
    "token-file",
    "config",
    "native",
    "memory",
    "host",
    "tag",
    "newer-than",
    "older-than",
    "path-template",
    "time-template",
];
/// Options that are switches of the command.
const SWITCHES: [&str; 2] = ["owner-root", "no-xattrs"];

/// The command line of `yester` that a call by mount(8) means; any other stays as it is.
pub fn translate(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.get(1).is_some_and(|mark| mark == MARK) {
        arguments.splice(..2, [OsString::from(NAMES[0])]);
    }
    let own = arguments.first().and_then(|own| Path::new(own).file_name()).unwrap_or_default();
    if !NAMES.iter().any(|name| own == *name) {
        return arguments;
    }
    let mut out: Vec<OsString> = ["yester", "mount"].map(OsString::from).to_vec();
    let (mut places, mut snapshot, mut kept) = (Vec::new(), None, Vec::new());
    let mut rest = arguments.into_iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_bytes() {
            b"-o" => {
                let options = rest.next().unwrap_or_default();
                for option in options.as_bytes().split(|&b| b == b',') {
                    take(option, &mut out, &mut snapshot, &mut kept);
                }
            }
            // The type, and a namespace: nothing that this command needs.
            b"-t" | b"-N" => drop(rest.next()),
            b"-v" => out.push("-v".into()),
            // Sloppy, and without a line in mtab: as it is anyway.
            b"-s" | b"-n" => {}
            _ => places.push(argument),
        }
    }
    let mut places = places.into_iter();
    // The repository as everywhere, if none is named.
    if let Some(repo) = places.next().filter(|repo| repo != "none" && repo != "yester") {
        out.extend(["--repo".into(), repo]);
    }
    if !kept.is_empty() {
        out.extend(["-o".into(), OsStr::from_bytes(&kept.join(&b","[..])).to_owned()]);
    }
    out.push("--".into());
    out.extend(snapshot);
    out.extend(places);
    out
}

fn take(option: &[u8], out: &mut Vec<OsString>, snapshot: &mut Option<OsString>, kept: &mut Vec<Vec<u8>>) {
    let at = option.iter().position(|&b| b == b'=');
    let (name, value) = at.map_or((option, None), |at| (&option[..at], Some(OsStr::from_bytes(&option[at + 1..]).to_owned())));
    // Both spellings: options of file systems have no hyphens as a rule.
    let name = String::from_utf8_lossy(name).replace('_', "-");
    match value {
        Some(value) if name == "snapshot" => *snapshot = Some(value),
        Some(value) if ARGUMENTS.contains(&name.as_str()) => out.extend([format!("--{name}").into(), value]),
        None if SWITCHES.contains(&name.as_str()) => out.push(format!("--{name}").into()),
        // mount(8) says `rw` unless the line says `ro`.
        _ if option.is_empty() || option == b"rw" => {}
        _ => kept.push(option.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> String {
        let out = translate(line.split(' ').map(OsString::from).collect());
        out.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lines_of_fstab() {
        assert_eq!(translated("yester mount -o ro /mnt"), "yester mount -o ro /mnt");
        assert_eq!(translated("/usr/bin/yester --mount-helper /srv/repo /mnt"), "yester mount --repo /srv/repo -- /mnt");
        assert_eq!(
            translated("/sbin/mount.yester /srv/repo /mnt -o rw,nofail,key_file=/root/key,snapshot=latest:/etc,allow_other"),
            "yester mount --key-file /root/key --repo /srv/repo -o nofail,allow_other -- latest:/etc /mnt"
        );
        assert_eq!(
            translated("mount.fuse.yester none /mnt -n -v -o owner_root,tag=a=b -t fuse.yester"),
            "yester mount -v --owner-root --tag a=b -- /mnt"
        );
    }
}
