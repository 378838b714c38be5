#!/usr/bin/env python3
"""How long it takes to look through many snapshots, beside restic: find, history, diff, .versions in a mount.

    tests/bench/looking.py --yester target/release/yester --restic restic --v1 DIR/src-v1 --v2 DIR/src-v2 --work SCRATCH

DIR is made by datasets.sh. The tree goes from v1 to v2 in `--snapshots` steps: each step takes its share of what really
changed between the two releases, and edits ten more files. After each step both programs take a snapshot. Repositories
that are there from an earlier run are used again (`--build` makes them and stops). Each command runs three times, the
kernel's caches dropped before each; medians of the wall time and of the peak resident memory are printed as a table in
Markdown, the ratio beside them. Root, for the caches and the mount.
"""
import argparse, filecmp, os, random, shutil, statistics, subprocess, sys, time

PASSWORD = "looking"


def run(argv, env, out=subprocess.DEVNULL):
    """Wall seconds and peak MiB of one command. It must succeed."""
    began = time.monotonic()
    child = subprocess.Popen(argv, env=env, stdout=out, stderr=subprocess.PIPE)
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{argv}: {child.returncode}\n{said.decode(errors='replace')}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def cold():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


def files_of(root):
    return {
        os.path.relpath(os.path.join(d, f), root)
        for d, _, files in os.walk(root)
        for f in files
        if not os.path.islink(os.path.join(d, f))
    }


class Edits:
    """What each step does to the tree: a share of what changed between the releases, and ten lines added to ten files."""

    def __init__(self, v1, v2, steps):
        one, two = files_of(v1), files_of(v2)
        changed = [f for f in sorted(one & two) if not filecmp.cmp(f"{v1}/{f}", f"{v2}/{f}", shallow=False)]
        self.v2, self.steps = v2, steps
        work = [("take", f) for f in changed] + [("take", f) for f in sorted(two - one)] + [("remove", f) for f in sorted(one - two)]
        random.Random(1).shuffle(work)
        self.work = work
        self.others = sorted(one & two - set(changed))

    def apply(self, tree, step):
        for what, name in self.work[step :: self.steps]:
            path = f"{tree}/{name}"
            if what == "remove":
                os.unlink(path)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if os.path.lexists(path):
                os.unlink(path)
            shutil.copy2(f"{self.v2}/{name}", path)
        for name in random.Random(step).sample(self.others, 10):
            with open(f"{tree}/{name}", "a") as f:
                f.write(f"/* edited in step {step} */\n")


def build(a, env):
    tree, done = f"{a.work}/tree", f"{a.work}/steps"
    began = int(open(done).read()) if os.path.exists(done) else 0
    if began == 0:
        shutil.rmtree(tree, ignore_errors=True)
        subprocess.run(["cp", "-a", a.v1, tree], check=True)
        run([a.yester, "init"], env)
        run([a.restic, "init"], env)
    edits = Edits(a.v1, a.v2, a.snapshots)
    for step in range(began, a.snapshots):
        if step > 0:
            edits.apply(tree, step)
        took = [run([a.yester, "ingest", tree, "--host", "bench"], env)[0], run([a.restic, "backup", tree, "--host", "bench", "-q"], env)[0]]
        with open(done, "w") as f:
            f.write(str(step + 1))
        if step % 20 == 0:
            print(f"step {step}: ingest {took[0]:.2f} s, backup {took[1]:.2f} s", flush=True)
    return edits, tree


def measure(argv, env, times):
    wall, memory = [], []
    for _ in range(times):
        cold()
        w, m = run(argv, env)
        wall.append(w)
        memory.append(m)
    return statistics.median(wall), statistics.median(memory)


def row(what, ours, theirs=None):
    cell = lambda x: f"{x[0]:.3f} s, {x[1]:.0f} MiB"
    print(f"| {what} | {cell(ours)} | {cell(theirs) if theirs else ''} | {f'{theirs[0] / ours[0]:.1f}' if theirs else ''} |", flush=True)


def ids(a, env):
    out = subprocess.run([a.restic, "snapshots", "--json"], env=env, check=True, capture_output=True).stdout
    import json

    return [s["short_id"] for s in json.loads(out)]


def versions(a, env, tree, directory):
    """`ls DIR/.versions` in a new mount, and what walks into it: nothing may."""
    point = f"{a.work}/mnt"
    os.makedirs(point, exist_ok=True)
    wall = []
    for _ in range(a.times):
        cold()
        run([a.yester, "mount", point], env)
        try:
            below = f"{point}/latest{tree}/{directory}"
            os.listdir(below)
            began = time.monotonic()
            count = len(os.listdir(f"{below}/.versions"))
            wall.append(time.monotonic() - began)
            walked = subprocess.run(["find", below, "-name", ".versions"], check=True, capture_output=True).stdout
            assert walked == b"", walked
        finally:
            run([a.yester, "umount", point], env)
    print(f"| `ls {directory}/.versions` ({count} names) | {statistics.median(wall):.3f} s | | |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--yester", default="yester")
    p.add_argument("--restic", default="restic")
    p.add_argument("--v1", required=True)
    p.add_argument("--v2", required=True)
    p.add_argument("--work", required=True)
    p.add_argument("--snapshots", type=int, default=300)
    p.add_argument("--times", type=int, default=3)
    p.add_argument("--build", action="store_true", help="make the repositories and stop")
    a = p.parse_args()
    a.work = os.path.abspath(a.work)
    os.makedirs(a.work, exist_ok=True)
    env = dict(os.environ, YESTER_REPO=f"{a.work}/yester", YESTER_PASSWORD=PASSWORD, RESTIC_REPOSITORY=f"{a.work}/restic", RESTIC_PASSWORD=PASSWORD)
    env |= {"YESTER_CACHE_DIR": f"{a.work}/yester-cache", "RESTIC_CACHE_DIR": f"{a.work}/restic-cache", "HOME": a.work}
    edits, tree = build(a, env)
    if a.build:
        return
    one = random.Random(7).choice(edits.others)
    touched = next(name for name in (random.Random(a.snapshots // 2).sample(edits.others, 10)))
    print(f"| {a.snapshots} snapshots | yester | restic | times as fast |\n|---|---|---|---|")
    row(f"`find {os.path.basename(one)}`", *(measure([t, "find", os.path.basename(one)], env, a.times) for t in (a.yester, a.restic)))
    row("`find '*.dts'`", *(measure([t, "find", "*.dts"], env, a.times) for t in (a.yester, a.restic)))
    row("`find` of no name that is there", *(measure([t, "find", "no-such-name"], env, a.times) for t in (a.yester, a.restic)))
    row("`history FILE`", measure([a.yester, "history", f"{tree}/{touched}"], env, a.times))
    row("`history -R DIR`", measure([a.yester, "history", "-R", f"{tree}/kernel"], env, a.times))
    names = ids(a, env)
    for what, ours, theirs in (("next", ("latest~1", "latest"), names[-2:]), ("first and last", (f"latest~{a.snapshots - 1}", "latest"), [names[0], names[-1]])):
        row(f"`diff`, {what}", measure([a.yester, "diff", *ours], env, a.times), measure([a.restic, "diff", *theirs], env, a.times))
    row("`snapshots`", *(measure([t, "snapshots"], env, a.times) for t in (a.yester, a.restic)))
    versions(a, env, tree, "kernel")
    versions(a, env, tree, "drivers/net")


if __name__ == "__main__":
    main()
