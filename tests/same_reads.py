#!/usr/bin/env python3
"""same_reads.py SEED COUNT A B: does COUNT random operations that read to entries of A and to those of the same names in B,
and compares what comes back: bytes, numbers, errors. Prints the first difference and ends with 1."""
import ctypes, errno, fcntl, mmap, os, random, stat, sys

seed, count, roots = int(sys.argv[1]), int(sys.argv[2]), [os.fsencode(a) for a in sys.argv[3:5]]
rng = random.Random(seed)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
PAGE, POPULATE = mmap.PAGESIZE, 0x8000
HUGE = 2**63 - 1
# File systems differ in how far behind its end one may stand in a file.
FAR = 1 << 36


def walk(top):
    for entry in sorted(os.scandir(os.path.join(roots[0], top)), key=lambda e: e.name):
        path = os.path.join(top, entry.name)
        yield path, entry.stat(follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            yield from walk(path)


everything = [(b".", os.lstat(roots[0]))] + list(walk(b""))
names = [path for path, _ in everything]
files = [(path, s.st_size) for path, s in everything if stat.S_ISREG(s.st_mode)]
directories = [path for path, s in everything if stat.S_ISDIR(s.st_mode)]


def outcome(act, *args):
    """What a call answers, or its error."""
    try:
        return act(*args)
    except OSError as e:
        return errno.errorcode.get(e.errno, e.errno)


def offset(size):
    """Places where something happens: ends, pages, boundaries of reading ahead; or anywhere."""
    near = rng.choice([0, size, PAGE, size // PAGE * PAGE, 1 << 17, 1 << 20, rng.randrange(size + 1)])
    return rng.choice([near, near + rng.randrange(-3, 4), near + rng.randrange(-70000, 70000), rng.randrange(size + 1), HUGE, HUGE - 4096])


def length():
    return rng.choice([0, 1, 7, PAGE, PAGE + 1, rng.randrange(1, 1 << 16), rng.randrange(1, 1 << 20)])


opened = []


def pair():
    """A file that is open on both sides; some stay open for long."""
    if len(opened) < 40 or rng.random() < 0.2:
        path, size = rng.choice(files)
        pairs = [os.open(os.path.join(root, path), os.O_RDONLY) for root in roots]
        if len(opened) >= 40:
            for fd in opened.pop(rng.randrange(len(opened)))[2]:
                os.close(fd)
        opened.append((path, size, pairs))
    return rng.choice(opened)


def on_both(act):
    path, size, fds = pair()
    call = act(size)
    return path, [outcome(call, fd) for fd in fds]


def read_at(size):
    at, n = offset(size), length()
    return lambda fd: os.pread(fd, n, at)


def read_parts(size):
    at, parts = offset(size), [rng.randrange(1, 9000) for _ in range(rng.randrange(1, 6))]

    def act(fd):
        buffers = [bytearray(n) for n in parts]
        return os.preadv(fd, buffers, at), buffers

    return act


def seek_and_read(size):
    at, n = min(offset(size), FAR) * rng.choice([1, 1, -1]), length()
    whence = rng.choice([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE, 7])

    def act(fd):
        answer = outcome(os.lseek, fd, at if whence < os.SEEK_DATA else max(at, -1), whence)
        return answer, outcome(os.lseek, fd, 0, os.SEEK_CUR), outcome(os.read, fd, n)

    return act


def mapping(size):
    """Pages of a file, also those behind its end: what is there is zeros up to the page's end, then SIGBUS."""
    first = rng.randrange(size // PAGE + 2)
    pages = rng.randrange(1, 40)
    flags = mmap.MAP_SHARED if rng.random() < 0.5 else mmap.MAP_PRIVATE
    flags |= POPULATE if rng.random() < 0.5 else 0
    there = max(0, min(pages, (size + PAGE - 1) // PAGE - first))

    def act(fd):
        at = libc.mmap(None, pages * PAGE, mmap.PROT_READ, flags, fd, first * PAGE)
        if at == ctypes.c_void_p(-1).value:
            return ctypes.get_errno()
        whole = ctypes.string_at(at, there * PAGE) if there else b""
        behind = touched(at + there * PAGE) if there < pages and beyond else None
        libc.munmap(at, pages * PAGE)
        return whole, behind

    beyond = rng.random() < 0.1
    return act


def touched(address):
    """The signal that a child gets who reads there."""
    child = os.fork()
    if child == 0:
        ctypes.string_at(address, 1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def through_a_pipe(move):
    def act(size):
        at, n = min(offset(size), FAR), min(length(), 1 << 18)

        def one(fd):
            out, into = os.pipe()
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 1 << 20)
            try:
                whole = b""
                while len(whole) < n and (moved := move(into, fd, at + len(whole), n - len(whole))):
                    whole += os.read(out, moved)
                return whole
            finally:
                os.close(out)
                os.close(into)

        return one

    act.__name__ = move.__name__
    return act


def sendfile(into, fd, at, n):
    return os.sendfile(into, fd, at, n)


def splice(into, fd, at, n):
    return os.splice(fd, into, n, offset_src=at)


def copied(size):
    """copy_file_range; between file systems Linux refuses it, and then programs read."""
    at, n = min(offset(size), FAR), length()

    def act(fd):
        to = os.memfd_create("to")
        try:
            done = os.copy_file_range(fd, to, n, at, 0)
            return os.pread(to, n, 0) if done else b""
        except OSError as e:
            return os.pread(fd, n, at) if e.errno == errno.EXDEV else errno.errorcode[e.errno]
        finally:
            os.close(to)

    return act


def attributes(path):
    s = os.lstat(path)
    return s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_mtime_ns, s.st_rdev, 0 if stat.S_ISDIR(s.st_mode) else s.st_size


def followed(path):
    s = os.stat(path)
    return s.st_mode, s.st_mtime_ns, 0 if stat.S_ISDIR(s.st_mode) else s.st_size


def listed(path):
    kind = lambda e: (e.name, e.is_dir(follow_symlinks=False), e.is_file(follow_symlinks=False), e.is_symlink())
    return sorted(map(kind, os.scandir(path)))


def xattrs(path):
    found = sorted(os.listxattr(path, follow_symlinks=False))
    return [(name, os.getxattr(path, name, follow_symlinks=False)) for name in found]


def missing_xattr(path):
    return os.getxattr(path, b"user.missing", follow_symlinks=False)


def wrongly(path):
    """Questions that have no answer."""
    tries = [(os.readlink, path), (os.scandir, path), (os.lstat, os.path.join(path, b"no such")), (os.lstat, path + b"/"),
             (os.lstat, path + b"/x/y"), (os.lstat, os.path.join(path, b"n" * 256))]
    act, *args = tries[which % len(tries)]
    answer = outcome(act, *args)
    return answer if isinstance(answer, (str, bytes)) else "answered"


by_fd = [read_at, read_at, read_at, read_parts, seek_and_read, seek_and_read, mapping, copied,
         through_a_pipe(sendfile), through_a_pipe(splice)]
by_path = [attributes, attributes, followed, xattrs, missing_xattr, wrongly]
done = {}
for number in range(count):
    which = rng.randrange(1 << 30)
    if rng.random() < 0.6:
        act = rng.choice(by_fd)
        path, answers = on_both(act)
        what = act.__name__
    else:
        act = rng.choice(by_path + [listed])
        path = rng.choice(directories if act is listed else names)
        answers = [outcome(act, os.path.join(root, path)) for root in roots]
        what = act.__name__
    if answers[0] != answers[1]:
        print(f"seed {seed}, operation {number}: {what} of {path!r}: {str(answers[0])[:300]} and {str(answers[1])[:300]}")
        sys.exit(1)
    done[what] = done.get(what, 0) + 1
print(" ".join(f"{name}={n}" for name, n in sorted(done.items())))
