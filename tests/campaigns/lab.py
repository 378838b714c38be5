"""What the campaigns share: a source that changes, a repository, and what must hold after every fault.

After a fault (a kill, an error of a system call, a power cut):
- every snapshot that was acknowledged is listed, and none that was forgotten for sure comes back;
- one that was not acknowledged is not there, or is whole;
- `check --read-data` finds nothing wrong, and what is restored is what was there;
- nothing panics, and nothing hangs;
- the next command works without anybody's help."""
import json, os, random, shutil, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
SAME_TREE = os.path.join(HERE, "..", "same_tree.py")
LONGEST = 300  # seconds: whatever takes longer hangs


class Violation(Exception):
    pass


def options(text, **defaults):
    """The arguments behind YESTER DIR, as `--name VALUE`: numbers where the default is one."""
    if len(sys.argv) < 3:
        sys.exit(text)
    given, rest = dict(defaults), sys.argv[3:]
    while rest:
        name = rest[0].removeprefix("--")
        if name not in defaults or len(rest) < 2:
            sys.exit(f"{rest[0]}: not an option with a value\n{text}")
        given[name] = rest[1] if isinstance(defaults[name], str) else int(rest[1])
        rest = rest[2:]
    return os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), given


class Lab:
    def __init__(self, yester, base, seed, where=None):
        self.yester, self.base, self.random = yester, base, random.Random(seed)
        self.place = where or base
        self.repository, self.source = f"{self.place}/repository", f"{base}/source"
        self.known, self.perhaps, self.state = {}, {}, 0
        self.environment = {"HOME": f"{base}/home", "PATH": os.environ["PATH"], "RUST_BACKTRACE": "0"}
        for directory in ("home", "states", "source/many", "source/sub/deep"):
            os.makedirs(f"{base}/{directory}", exist_ok=True)
        for number in range(60):
            self.write(f"many/{number}", self.random.randrange(1, 9000))
        self.write("database", 700_000)
        self.freeze()

    # The source.

    def write(self, name, size):
        words = self.random.randbytes(1 + size // 8)
        with open(f"{self.source}/{name}", "wb") as file:
            file.write((words * 8)[:size] if self.random.random() < 0.5 else self.random.randbytes(size))

    def edit(self):
        """Changes the source a little: files that are new, gone, other, linked, and pages of the database."""
        for _ in range(self.random.randrange(1, 8)):
            name = f"many/{self.random.randrange(90)}"
            at = f"{self.source}/{name}"
            match self.random.randrange(5):
                case 0 if os.path.exists(at):
                    os.remove(at)
                case 1 if os.path.exists(at):
                    shutil.copy2(at, f"{self.source}/sub/deep/{self.random.randrange(20)}")
                case 2:
                    self.write(f"sub/{self.random.randrange(30)}", self.random.randrange(60_000))
                case _:
                    self.write(name, self.random.randrange(30_000))
        with open(f"{self.source}/database", "r+b") as file:
            for _ in range(3):
                file.seek(self.random.randrange(80) * 8192)
                file.write(self.random.randbytes(8192))
        self.freeze()

    def freeze(self):
        """Keeps a copy of the source as it is."""
        self.state += 1
        subprocess.run(["cp", "-a", self.source, f"{self.base}/states/{self.state}"], check=True)

    # The program.

    def words(self, *args):
        return [self.yester, "--repo", self.repository, "--key-file", f"{self.place}/key", *args]

    def start(self, *args, before=()):
        return subprocess.Popen(
            [*before, *self.words(*args)], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True)

    def end(self, process):
        """Its exit code, and what it said."""
        try:
            out, err = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            raise Violation(f"{process.args} has not ended after {LONGEST} s")
        if b"panicked" in err:
            raise Violation(f"{process.args} panicked: {err.decode(errors='replace')}")
        return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    def run(self, *args, before=()):
        return self.end(self.start(*args, before=before))

    def must(self, *args):
        code, out, err = self.run(*args)
        if code != 0:
            raise Violation(f"{args} ended with {code}: {err or out}")
        return out

    # What is to be done, and what it means if it was.

    INGEST = ("ingest", "--json", "--quiet")

    def commands(self):
        """One of everything that writes, as (name, words)."""
        keep = str(self.random.randrange(2, 6))
        return [
            ("ingest", (*self.INGEST, self.source)),
            ("forget", ("forget", "--keep-last", keep, "--json")),
            ("prune", ("prune", "--max-unused", "0", "--quiet")),
            ("forget --prune", ("forget", "--keep-last", keep, "--prune", "--max-unused", "0", "--json")),
            ("rewrite", ("rewrite", "--exclude", f"{self.source}/sub/deep", "--forget", "latest")),
            ("tag", ("tag", "add", "latest", "seen")),
            ("check", ("check", "--read-data", "--quiet")),
            ("restore", ("restore", f"latest:{self.source}", "--target", f"{self.base}/restored", "--quiet")),
        ]

    def begin(self, name):
        """Before a command that may not come to its end: whatever it would do may have been done after it."""
        if name.startswith("forget") or name == "rewrite":
            self.perhaps.update(self.known)
            self.known.clear()

    def listed(self):
        """The ids of snapshots, the oldest first, and whether each was made out of another one by `rewrite`."""
        found = [json.loads(line) for line in self.must("snapshots", "--json").splitlines()]
        return {snapshot["id"]: "rules" in snapshot for snapshot in found}

    def acknowledged(self, name, code, out):
        """Takes over what a command said that came to its end."""
        if name == "ingest" and code in (0, 3):
            for line in out.splitlines():
                found = json.loads(line)
                if found.get("message_type") == "summary" and found.get("snapshot_id"):
                    self.known[found["snapshot_id"]] = self.state if code == 0 else None

    # What must hold.

    def verify(self, whole=True):
        """Looks whether everything holds. With `whole`, all data are read, and the newest snapshot and another are restored."""
        listed = self.listed()
        missing = [id for id in self.known if id not in listed]
        if missing:
            raise Violation(f"acknowledged and not there: {missing}")
        for id, remade in listed.items():
            if id not in self.known:
                # Perhaps forgotten, or not acknowledged: then it is of an ingest that was stopped, and of the newest state.
                self.known[id] = self.perhaps.get(id, None if remade else self.state)
        self.perhaps.clear()
        self.must("check", "--quiet", *(["--read-data"] if whole else []))
        chosen = {*list(listed)[-1:], *self.random.sample(list(listed), min(1, len(listed)))} if whole else ()
        for id in chosen:
            self.compare(id)

    def compare(self, id):
        state = self.known.get(id)
        if state is None:
            return
        shutil.rmtree(f"{self.base}/out", ignore_errors=True)
        self.must("restore", f"{id}:{self.source}", "--target", f"{self.base}/out", "--quiet")
        self.compare_with(f"{self.base}/out", id)

    def compare_with(self, place, id):
        """Whether the tree at `place` is the state of which this snapshot is."""
        state = self.known[id]
        told = subprocess.run(
            [sys.executable, SAME_TREE, "--no-holes", f"{self.base}/states/{state}", place], capture_output=True, text=True)
        if told.returncode != 0:
            raise Violation(f"snapshot {id} is not state {state}: {told.stdout[:500]}{told.stderr[:500]}")

    def tidy(self):
        """Copies of states that no snapshot is of any more go."""
        used = {self.state, *self.known.values(), *self.perhaps.values()}
        for name in os.listdir(f"{self.base}/states"):
            if int(name) not in used:
                shutil.rmtree(f"{self.base}/states/{name}")


def fresh(base):
    shutil.rmtree(base, ignore_errors=True)
    os.makedirs(base)
