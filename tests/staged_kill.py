#!/usr/bin/env python3
"""staged_kill.py YESTER DIR [RUNS]: kills a staged restore of three directories at random moments (200, unless told), in DIR.
After each, the next call is one of: the same restore, --rollback, --discard-old; then all three directories must be wholly as
they were or wholly as in the snapshot. Ends with 1 at the first that are not."""
import os, random, shutil, subprocess, sys, time

yester, base = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
runs = int(sys.argv[3]) if len(sys.argv) > 3 else 200
names = ["one", "in/two", "in/three"]
options = ["--repo", f"{base}/repo", "--key-file", f"{base}/key"]
environment = {"HOME": base, "PATH": os.environ["PATH"]}


def call(*args):
    return subprocess.Popen([yester, *options, *args], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def done(*args):
    process = call(*args)
    out = process.communicate()[0].decode()
    return process.returncode, out


def fill(state, files):
    shutil.rmtree(f"{base}/live", ignore_errors=True)
    for name in names:
        os.makedirs(f"{base}/live/{name}/sub")
        for number in range(files):
            with open(f"{base}/live/{name}/sub/{number}", "w") as f:
                f.write(f"{state} {number}\n" * (number * 37 % 400))


def now():
    tree = []
    for name in names:
        for at, _, files in sorted(os.walk(f"{base}/live/{name}")):
            tree += [(os.path.join(at, file), open(os.path.join(at, file)).read()) for file in sorted(files)]
    return tree


shutil.rmtree(base, ignore_errors=True)
os.makedirs(base)
done("init")
fill("new", 60)
places = [f"{base}/live/{name}" for name in names]
code, out = done("ingest", *places)
assert code == 0, out
restore = ["restore", *[f"latest:{place}" for place in places], "--target", "/", "--staged"]
new = now()
fill("old", 50)
old = now()
began = time.time()
assert done(*restore)[0] == 0 and now() == new
length = time.time() - began
told = {}
for number in range(runs):
    fill("old", 50)
    process = call(*restore)
    time.sleep(random.uniform(0, length * 1.05))
    process.kill()
    process.communicate()
    what = random.choice(["again", "--rollback", "--discard-old"])
    code, out = done(*restore) if what == "again" else done("restore", what, "--target", random.choice(places))
    if "before its commands were done" in out:
        code, out = done(*restore)
    state = "new" if now() == new else "old" if now() == old else "mixed"
    kept = code == 1 and "--discard-old" in out
    right = state == "new" if what == "again" else state == "old" if what == "--rollback" else state != "mixed"
    if not right or what == "again" and code != 0 and not kept:
        sys.exit(f"{number}: {what} after a kill left a state that is {state}: {out}")
    told[(what, state)] = told.get((what, state), 0) + 1
for (what, state), count in sorted(told.items()):
    print(f"{what}: {state} {count} times")
