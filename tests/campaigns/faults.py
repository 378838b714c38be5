#!/usr/bin/env python3
"""faults.py YESTER DIR [--every 1] [--seed 1]: system calls fail, in DIR. Needs strace.

In each command that writes, each call of a kind that can fail fails once with each error: the first one of its name with
ENOSPC, then with EIO, and so on, then the second one, as far as a thread makes any. --every N does this for one call in N.
A command whose call failed ends with an error and says why, or does all that it says. Then all of lab.py must hold.
Calls that fail once and work when they are tried again are among them: a failed fsync says nothing the second time.
Ends with 1 at the first violation, which is kept in DIR."""
import collections, shutil, subprocess, sys, time

from kills import counted
from lab import Lab, Violation, fresh, options

ERRORS = {
    "write": ("ENOSPC", "EIO", "EDQUOT", "EINTR", "EAGAIN"), "pwrite64": ("ENOSPC", "EIO", "EDQUOT", "EINTR"),
    "fsync": ("EIO", "ENOSPC"), "fdatasync": ("EIO",), "syncfs": ("EIO",),
    "rename": ("EIO", "ENOSPC"), "renameat": ("EIO", "ENOSPC"), "renameat2": ("EIO", "ENOSPC", "EROFS"),
    "link": ("EIO", "EMLINK"), "linkat": ("EIO", "ENOSPC", "EMLINK"), "mkdir": ("ENOSPC", "EROFS"), "mkdirat": ("ENOSPC",),
    "unlink": ("EIO", "EROFS"), "unlinkat": ("EIO", "EROFS"), "ftruncate": ("EIO", "EFBIG"), "fallocate": ("ENOSPC", "EOPNOTSUPP"),
    "copy_file_range": ("EIO", "EXDEV"), "openat": ("EMFILE", "EIO", "ENOSPC", "EROFS"), "pread64": ("EIO", "EINTR"),
    "flock": ("EINTR", "ENOLCK"), "fchmod": ("EPERM",), "utimensat": ("EPERM",),
}


def failing(lab, every):
    for _ in range(4):
        lab.edit()
        lab.acknowledged("ingest", *lab.run(*lab.commands()[0][1])[:2])
    lab.must("forget", "--keep-last", "3")
    lab.edit()
    kept = [(lab.repository, f"{lab.base}/template"), (f"{lab.base}/home", f"{lab.base}/home-template")]
    for place, copy in kept:
        subprocess.run(["cp", "-a", place, copy], check=True)
    known = {id: state for id, state in lab.known.items() if id in lab.listed()}

    def back():
        for place, copy in kept:
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run(["cp", "-a", copy, place], check=True)
        shutil.rmtree(f"{lab.base}/restored", ignore_errors=True)
        lab.known, lab.perhaps = dict(known), {}

    told, silent = collections.Counter(), collections.Counter()
    for name, words in lab.commands():
        back()
        most = counted(lab, words, ",".join(ERRORS))
        cases = [(call, when, error) for call in sorted(most) if call in ERRORS for when in range(1, most[call] + 1) for error in ERRORS[call]]
        for call, when, error in cases[lab.random.randrange(every)::every]:
            back()
            lab.begin(name)
            inject = ("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}")
            code, out, err = lab.run(*words, before=("strace", "-f", "-qq", "-o", f"{lab.base}/strace", *inject))
            try:
                if code < 0:
                    raise Violation(f"it was ended by signal {-code}")
                # Before the program runs, the loader's own calls fail: 127.
                if code not in (0, 127) and not err.strip():
                    raise Violation(f"it ended with {code} and said nothing")
                lab.acknowledged(name, code, out)
                told[name, code] += 1
                if name == "restore" and code == 0:
                    lab.compare_with(f"{lab.base}/restored", list(known)[-1])
                if error == "EIO" and call in ("openat", "pread64"):
                    # What cannot be read is written down as damaged, until a check has read it.
                    lab.must("check", "--read-data", "--quiet")
                lab.verify(whole=told.total() % 10 == 0)
            except Violation as e:
                raise Violation(f"{name}, {call} {when} fails with {error}, exit code {code}: {e}\n{err}") from None
    return told


if __name__ == "__main__":
    yester, base, given = options(__doc__, every=1, seed=1)
    fresh(base)
    lab = Lab(yester, base, given["seed"])
    lab.must("init")
    began = time.monotonic()
    told = failing(lab, given["every"])
    failed = sum(count for (_, code), count in told.items() if code)
    print(f"{told.total()} calls failed, {failed} commands with them; no violation; {time.monotonic() - began:.0f} s")
    print("  " + ", ".join(f"{name} ended with {code}: {count}" for (name, code), count in sorted(told.items())))
    shutil.rmtree(base)
