#!/usr/bin/env python3
"""every_write.py PATH…: tries every system call that changes something on each path, and in each that is a directory. Prints a
line `call path: error` for each that was not refused with EROFS, and at last how many were. Needs root."""
import ctypes, errno, fcntl, mmap, os, socket, stat, sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, TMPFILE = -100, 0o20200000
SETFLAGS, FSSETXATTR = 0x40086602, 0x401C5820
PAGE = mmap.mmap(-1, mmap.PAGESIZE)
refused = 0


def tried(name, path, act, *args):
    global refused
    try:
        act(*args)
        print(f"{name} {path!r}: done")
    except OSError as e:
        if e.errno == errno.EROFS:
            refused += 1
        else:
            print(f"{name} {path!r}: {errno.errorcode[e.errno]}")


def close_of(*args):
    os.close(os.open(*args))


def writing(path, flags, act):
    """What can be done once a file is open for writing. Linux opens it where the mount is not read-only."""
    fd = os.open(path, flags)
    try:
        act(fd)
    finally:
        os.close(fd)


def call(name, *args):
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), name)


def bind(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)


def ioctl(path, request, size):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, request, bytes(size))
    finally:
        os.close(fd)


def by_descriptor(path, act):
    fd = os.open(path, os.O_RDONLY)
    try:
        act(fd)
    finally:
        os.close(fd)


def on(path):
    """What changes an entry itself."""
    mode = os.lstat(path).st_mode
    link = stat.S_ISLNK(mode)
    parent, name = os.path.split(path)
    tried("unlink", path, os.unlink, path)
    tried("rmdir", path, os.rmdir, path)
    tried("rename", path, os.rename, path, path + "-new")
    tried("rename over", path, os.rename, os.path.join(parent, "never was"), path)
    tried("exchange", path, call, "renameat2", AT_FDCWD, path.encode(), AT_FDCWD, (path + "-new").encode(), 2)
    tried("link", path, lambda: os.link(path, path + "-link", follow_symlinks=False))
    tried("chown", path, lambda: os.chown(path, 1, 1, follow_symlinks=False))
    tried("utimens", path, lambda: os.utime(path, (1, 1), follow_symlinks=False))
    tried("utimens now", path, lambda: os.utime(path, None, follow_symlinks=False))
    tried("setxattr", path, lambda: os.setxattr(path, "trusted.x", b"1", follow_symlinks=False))
    tried("removexattr", path, lambda: os.removexattr(path, "trusted.x", follow_symlinks=False))
    if link:
        return
    tried("chmod", path, os.chmod, path, 0o700)
    tried("set an ACL", path, os.setxattr, path, "system.posix_acl_access", b"\2\0\0\0")
    tried("remove an ACL", path, os.removexattr, path, "system.posix_acl_access")
    if stat.S_ISDIR(mode):
        inside(path)
    if stat.S_ISREG(mode):
        content(path)
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        for request, size in [(SETFLAGS, 8), (FSSETXATTR, 28)]:
            tried(f"ioctl {request:x}", path, ioctl, path, request, size)
        tried("fchmod", path, by_descriptor, path, lambda fd: os.fchmod(fd, 0o700))
        tried("fchown", path, by_descriptor, path, lambda fd: os.fchown(fd, 1, 1))
        tried("fsetxattr", path, by_descriptor, path, lambda fd: os.setxattr(fd, "user.x", b"1"))
        tried("futimens", path, by_descriptor, path, lambda fd: os.utime(fd, (1, 1)))


def content(path):
    """What changes the bytes of a file."""
    for name, flags in [("O_TRUNC", os.O_RDONLY | os.O_TRUNC), ("O_CREAT|O_TRUNC", os.O_RDWR | os.O_CREAT | os.O_TRUNC)]:
        tried(name, path, close_of, path, flags)
    for name, flags in [("O_WRONLY", os.O_WRONLY), ("O_RDWR", os.O_RDWR), ("O_APPEND", os.O_WRONLY | os.O_APPEND),
                        ("O_DIRECT", os.O_WRONLY | os.O_DIRECT), ("O_SYNC", os.O_RDWR | os.O_SYNC)]:
        tried(f"write {name}", path, writing, path, flags, lambda fd: os.write(fd, PAGE))
    tried("ftruncate", path, writing, path, os.O_RDWR, lambda fd: os.ftruncate(fd, 1))
    for mode in [0, 1, 3, 16]:
        tried(f"fallocate {mode}", path, writing, path, os.O_RDWR, lambda fd: call("fallocate", fd, mode, ctypes.c_long(0), ctypes.c_long(9)))
    tried("truncate", path, os.truncate, path, 0)
    tried("extend", path, os.truncate, path, 1 << 40)


def inside(path):
    """What makes something in a directory."""
    new = os.path.join(path, "new")
    tried("mkdir", path, os.mkdir, new)
    tried("O_CREAT", path, close_of, new, os.O_RDONLY | os.O_CREAT)
    tried("O_CREAT|O_EXCL", path, close_of, new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    tried("O_TMPFILE", path, close_of, path, os.O_RDWR | TMPFILE)
    tried("symlink", path, os.symlink, "to", new)
    tried("socket", path, bind, new)
    for name, kind in [("file", stat.S_IFREG), ("fifo", stat.S_IFIFO), ("socket node", stat.S_IFSOCK), ("char", stat.S_IFCHR), ("block", stat.S_IFBLK)]:
        tried(f"mknod {name}", path, os.mknod, new, kind | 0o600, os.makedev(1, 3))


for path in sys.argv[1:]:
    on(path)
print(refused)
