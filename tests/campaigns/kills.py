#!/usr/bin/env python3
"""kills.py YESTER DIR [--random 300] [--calls 1] [--seed 1]: kills everything that writes, in DIR.

--random N: N times, a random command is killed (SIGKILL) at a random moment; prunes and ingests also beside each other.
--calls 1: each command is killed at every system call that changes something: at the first one of its name, at the second
one, and so on as far as a thread makes any. Needs strace. 0 leaves this out.
After each kill all of lab.py must hold. Ends with 1 at the first violation, which is kept in DIR."""
import collections, os, re, shutil, signal, subprocess, sys, time

from lab import Lab, Violation, fresh, options

CHANGING = (
    "write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,syncfs,sync_file_range,rename,renameat,renameat2,mkdir,mkdirat,link,"
    "linkat,unlink,unlinkat,rmdir,symlinkat,ftruncate,fallocate,copy_file_range,fchmod,fchmodat,utimensat,flock,openat")


def killed_at_random(lab, count):
    lengths, told = collections.defaultdict(lambda: 0.1), collections.Counter()
    for number in range(count):
        commands = lab.commands()
        # Half of them are ingests; without new snapshots nothing else has work.
        name, words = commands[0] if lab.random.random() < 0.5 else lab.random.choice(commands)
        if name == "ingest":
            lab.edit()
        lab.begin(name)
        began = time.monotonic()
        process = lab.start(*words)
        beside = None
        if lab.random.random() < 0.2 and name != "restore":
            beside = lab.start("prune", "--max-unused", "0", "--quiet")
        limit = lab.random.uniform(0, lengths[name] * 1.2)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
        code, out, _ = lab.end(process)
        if ended:
            lengths[name] = 0.7 * lengths[name] + 0.3 * (time.monotonic() - began)
        else:
            lengths[name] = max(lengths[name], limit)
        lab.acknowledged(name, code, out)
        told[name, "ended" if ended else "killed"] += 1
        if beside:
            if lab.random.random() < 0.5:
                os.killpg(beside.pid, signal.SIGKILL)
            lab.end(beside)
        shutil.rmtree(f"{lab.base}/restored", ignore_errors=True)
        lab.verify(whole=number % 10 == 9)
        if number % 50 == 49:
            lab.tidy()
    return told


def counted(lab, words, calls=CHANGING):
    """How often a thread at most makes each call, of one run under strace."""
    log = f"{lab.base}/strace"
    lab.run(*words, before=("strace", "-f", "-qq", "-o", log, "-e", f"trace={calls}"))
    made = collections.Counter()
    for line in open(log, errors="replace"):
        found = re.match(r"(\d+) +(\w+)\(", line)
        if found:
            made[found.groups()] += 1
    most = collections.Counter()
    for (_, call), count in made.items():
        most[call] = max(most[call], count)
    return most


def killed_at_every_call(lab):
    """A state with something to do for every command is put back before each kill."""
    for _ in range(4):
        lab.edit()
        lab.acknowledged("ingest", *lab.run(*lab.commands()[0][1])[:2])
    lab.edit()
    template, home, known = f"{lab.base}/template", f"{lab.base}/home-template", dict(lab.known)
    told = collections.Counter()

    def back():
        for kept, place in ((template, lab.repository), (home, f"{lab.base}/home")):
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run(["cp", "-a", kept, place], check=True)
        shutil.rmtree(f"{lab.base}/restored", ignore_errors=True)
        lab.known, lab.perhaps = dict(known), {}

    lab.must("forget", "--keep-last", "3")
    known = {id: state for id, state in known.items() if id in lab.listed()}
    for kept, place in ((template, lab.repository), (home, f"{lab.base}/home")):
        subprocess.run(["cp", "-a", place, kept], check=True)
    for name, words in lab.commands():
        back()
        for call, most in sorted(counted(lab, words).items()):
            # openat is mostly of what is read: each of the first hundred, then one in twenty.
            for when in [n for n in range(1, most + 1) if call != "openat" or n <= 100 or n % 20 == 0]:
                back()
                lab.begin(name)
                inject = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}")
                code, out, _ = lab.run(*words, before=inject)
                lab.acknowledged(name, code, out)
                told[name, "ended" if code >= 0 and code != 137 else "killed"] += 1
                try:
                    lab.verify(whole=told.total() % 10 == 0)
                except Violation as e:
                    raise Violation(f"{name} killed at {call} {when}: {e}") from None
    return told


if __name__ == "__main__":
    yester, base, given = options(__doc__, random=300, calls=1, seed=1)
    fresh(base)
    lab = Lab(yester, base, given["seed"])
    lab.must("init")
    began = time.monotonic()
    for what, told in (
            ("at random", killed_at_random(lab, given["random"])),
            ("at every call", killed_at_every_call(lab) if given["calls"] else collections.Counter())):
        lab.verify()
        killed = sum(count for (_, how), count in told.items() if how == "killed")
        print(f"{what}: {killed} kills, {told.total() - killed} came to their end; no violation; {time.monotonic() - began:.0f} s", flush=True)
        print("  " + ", ".join(f"{name} {how} {count}" for (name, how), count in sorted(told.items())), flush=True)
    shutil.rmtree(base)
