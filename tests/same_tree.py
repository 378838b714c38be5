#!/usr/bin/env python3
"""same_tree.py [--no-holes] A B: compares two trees by all that lstat, extended attributes, chattr flags, contents, maps of
holes and links tell. Walks by descriptors: paths may be of any length. Prints what differs; 1 if anything does."""
import array, errno, fcntl, hashlib, os, stat, sys

GETFLAGS, USER_FLAGS = 0x80086601, 0x2083C0FF
holes_too = "--no-holes" not in sys.argv


def attributes(path):
    """Where there are none at all, a mount says "not supported"."""
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
    except OSError as e:
        if e.errno != errno.EOPNOTSUPP:
            raise
        names = []
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def flags(fd):
    out = array.array("L", [0])
    try:
        fcntl.ioctl(fd, GETFLAGS, out)
    except OSError as e:
        if e.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            return 0
        raise
    return out[0] & USER_FLAGS


def content(fd, size):
    """A hash of the bytes, and the ranges that are not holes."""
    ranges, digest, at = [], hashlib.blake2b(), 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            break
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        ranges.append((start, at))
    # What is in holes is zeros; only the rest needs to be read when there are many terabytes of them.
    plan = ranges if size > 1 << 32 else [(0, size)]
    for start, end in plan:
        while start < end:
            data = os.pread(fd, min(1 << 20, end - start), start)
            if not data:
                return "short", ranges
            digest.update(data)
            start += len(data)
    if size and size <= 1 << 32 and os.pread(fd, 1, size):
        return "long", ranges
    return digest.hexdigest(), ranges


def entry(parent, name, path):
    st = os.lstat(name, dir_fd=parent)
    kind = stat.S_IFMT(st.st_mode)
    record = dict(mode=oct(st.st_mode), uid=st.st_uid, gid=st.st_gid, mtime=st.st_mtime_ns)
    record["xattrs"] = attributes(b"/proc/self/fd/%d/%s" % (parent, name))
    if kind != stat.S_IFDIR:
        record["links"] = st.st_nlink
    if kind == stat.S_IFLNK:
        record["target"] = os.readlink(name, dir_fd=parent)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        record["device"] = st.st_rdev
    elif kind == stat.S_IFREG:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            record["size"], record["flags"] = st.st_size, flags(fd)
            record["data"], ranges = content(fd, st.st_size)
            if holes_too:
                record["ranges"] = ranges
        finally:
            os.close(fd)
    return st, kind, record


def walk(parent, name, path, out, groups):
    st, kind, record = entry(parent, name, path)
    out[path] = record
    if kind != stat.S_IFDIR:
        groups.setdefault((st.st_dev, st.st_ino), []).append(path)
        return
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        record["flags"] = flags(fd)
        for below in os.listdir(fd):
            walk(fd, os.fsencode(below), path + b"/" + os.fsencode(below), out, groups)
    finally:
        os.close(fd)


def tree(root):
    out, groups = {}, {}
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    walk(fd, b".", b"", out, groups)
    os.close(fd)
    for group in groups.values():
        for path in group:
            out[path]["group"] = tuple(sorted(group)) if len(group) > 1 else ()
    return out


sys.setrecursionlimit(20000)
a, b = (tree(root) for root in [arg for arg in sys.argv[1:] if not arg.startswith("--")])
bad = 0
for path in sorted(set(a) | set(b)):
    if a.get(path) == b.get(path):
        continue
    bad += 1
    if bad <= 40:
        if path not in a or path not in b:
            print(repr(path)[:300], "is only in the", "first" if path in a else "second")
        else:
            print(repr(path)[:300], {k: (str(v)[:200], str(b[path].get(k))[:200]) for k, v in a[path].items() if v != b[path].get(k)})
print(f"{len(a)} entries, {bad} differ")
sys.exit(bool(bad))
