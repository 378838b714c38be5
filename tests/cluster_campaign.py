#!/usr/bin/env python3
"""cluster_campaign.py YESTER DIR [--members 3,5,7] [--snapshots 50] [--cuts 50] [--seed N] [--figures FILE]: group snapshots of PostgreSQL with
streaming replication, in DIR (root; `postgresql`, `iproute2`, `procps`). For each number of members:

Each member is a host of its own, a network namespace; so are the server and a manager. db1 is the primary, which answers a
commit when every other one has it. A writer increments a counter in it all the time. The hooks stop and continue all processes
of a member's database. Of each group snapshot: all parts are restored on new hosts (in turn each by itself, and all or none
with --to). There each database starts alone: none may count further than the primary, nor lack anything that was answered
before the first one was frozen. Then they find each other, must come to the same, and go on counting. Snapshots without a
barrier must be found to disagree, else the check sees nothing.

Then a host is cut off at random moments of more groups, silently or with the line down, for a while or until the end: every
process ends, the group's state is what is in the repository, nobody stands still beyond its limit, and a group that is whole
agrees with itself. The script ends with 1 at the first thing that is not so, else prints what it measured."""
import argparse, glob, json, os, random, shutil, signal, subprocess, sys, threading, time

options = argparse.ArgumentParser()
options.add_argument("yester"), options.add_argument("dir")
options.add_argument("--members", default="3,5,7"), options.add_argument("--seed", type=int, default=None)
options.add_argument("--figures", help="a file for all values, as JSON")
options.add_argument("--snapshots", type=int, default=50), options.add_argument("--cuts", type=int, default=50)
options = options.parse_args()
yester, base = os.path.abspath(options.yester), os.path.abspath(options.dir)
chance = random.Random(options.seed)
programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
RING = 1000         # so many of the last counters are kept, each in a row of its own
PATIENCE = 600      # nothing may take so many seconds: it would be said to hang
GRACE = 8.0         # so many seconds later a busy machine may be with the hook that thaws
PREFIX = f"yc{os.getpid()}"

HOOK = r"""#!/bin/sh
# HOOK freeze|thaw DATA LOG
pid=$(head -n 1 "$2/postmaster.pid") || exit 0
if [ "$1" = thaw ]; then
    kill -CONT $(pgrep -P "$pid") "$pid"
    echo "thaw $(date +%s.%N)" >> "$3"
    exit 0
fi
echo "begin $(date +%s.%N)" >> "$3"
kill -STOP "$pid"
stopped() { for p in $(pgrep -P "$pid") "$pid"; do case $(sed 's/.*) //' "/proc/$p/stat" 2>/dev/null) in T*|Z*|"") ;; *) return 1 ;; esac; done; }
while kill -STOP $(pgrep -P "$pid") 2>/dev/null; ! stopped; do sleep 0.005; done
echo "still $(date +%s.%N)" >> "$3"
"""


# What it has started is ended also if it is.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def wrong(text):
    raise SystemExit(f"WRONG: {text}")


def need(truth, text):
    if not truth:
        wrong(text)


def until(condition, what, patience=PATIENCE):
    began = time.time()
    while not condition():
        need(time.time() - began < patience, f"waited in vain for {patience} s until {what}")
        time.sleep(0.03)


def sh(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def figures(name, values):
    if not values:
        return
    values = sorted(values)
    at = lambda part: values[min(len(values) - 1, int(part * len(values)))]
    print(f"{name}: p50 {at(.5):.0f}, p99 {at(.99):.0f}, most {values[-1]:.0f} ms ({len(values)} values)", flush=True)


class Network:
    """A switch, in a namespace of its own, and hosts on it."""

    def __init__(self, name):
        self.switch, self.ports = f"{PREFIX}{name}", {}
        sh("ip", "netns", "add", self.switch)
        self.on(self.switch, "ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        self.on(self.switch, "ip", "link", "set", "br0", "up")

    def on(self, space, *words):
        sh("ip", "netns", "exec", space, *words)

    def host(self, name, *addresses, space=None):
        new, space = space is None, space or f"{self.switch}{name}"
        if new:
            sh("ip", "netns", "add", space)
            self.on(space, "ip", "link", "set", "lo", "up")
        port, line = f"p{len(self.ports)}", f"e{self.switch[-1]}"
        self.ports[name] = port
        self.on(self.switch, "ip", "link", "add", port, "type", "veth", "peer", "name", line, "netns", space)
        self.on(self.switch, "ip", "link", "set", port, "up", "master", "br0")
        for address in addresses:
            self.on(space, "ip", "address", "add", f"{address}/24", "dev", line)
        self.on(space, "ip", "link", "set", line, "up")
        return space

    def cut(self, name, silently):
        if silently:
            self.on(self.switch, "bridge", "link", "set", "dev", self.ports[name], "state", "0")
        else:
            self.on(self.switch, "ip", "link", "set", self.ports[name], "down")

    def heal(self, name):
        self.on(self.switch, "ip", "link", "set", self.ports[name], "up")
        # A port whose line was down comes back by itself, and takes no other word until it has.
        until(lambda: subprocess.run(["ip", "netns", "exec", self.switch, "bridge", "link", "set", "dev", self.ports[name],
                                      "state", "3"], **quiet).returncode == 0, "the port is up")


class Database:
    """A PostgreSQL on a host: that of a member, or of a restored one."""

    def __init__(self, name, space, dir, data=None):
        self.name, self.space, self.dir, self.data = name, space, dir, data or f"{dir}/data"
        self.process = None

    def start(self):
        # What was said before says nothing of this start.
        self.log = open(f"{self.dir}/log", "wb")
        words = ["ip", "netns", "exec", self.space, *as_postgres, f"{programs}/postgres", "-D", self.data, "-k", self.dir]
        self.process = subprocess.Popen(words, cwd="/", stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        return self

    def said(self):
        return open(f"{self.dir}/log", errors="replace").read()

    def try_ask(self, sql):
        words = [f"{programs}/psql", "-h", self.dir, "-U", "postgres", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", sql]
        answer = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
        return answer.stdout.strip() if answer.returncode == 0 else None

    def is_up(self):
        need(self.process.poll() is None, f"{self.name} does not start: {self.said()[-1500:]}")
        return self.try_ask("select 1") == "1"

    def ask(self, sql):
        until(self.is_up, f"{self.name} answers")
        out = self.try_ask(sql)
        need(out is not None, f"{self.name} does not answer {sql}: {self.said()[-1500:]}")
        return out

    def counter(self):
        """How far it counted; the last rows must be those of the last counters, each in its place."""
        count, whole = map(int, self.ask("with c as (select n from counter) select c.n, (select count(*) from ring where ring.n = "
                                         f"c.n - ((c.n - slot) % {RING} + {RING}) % {RING}) from c").split("|"))
        need(whole == RING, f"{self.name} counts {count}, and has {whole} of the last {RING}")
        return count

    def state(self):
        """The state of its first process, as the system has it."""
        try:
            with open(f"/proc/{self.process.pid}/stat") as f:
                return f.read().rsplit(") ", 1)[1][0]
        except (OSError, IndexError):
            return "?"

    def stop(self):
        if self.process and self.process.poll() is None:
            try:
                self.process.send_signal(signal.SIGCONT)
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Writer(threading.Thread):
    """Increments the counter of the primary all the time, and notes when each was answered."""

    def __init__(self, primary):
        super().__init__(daemon=True)
        self.primary, self.answers, self.over = primary, [], False
        self.start()

    def run(self):
        sql = (f"with c as (update counter set n = n + 1 returning n) update ring set n = c.n from c "
               f"where slot = c.n % {RING} returning ring.n;\n")
        words = [f"{programs}/psql", "-h", self.primary.dir, "-U", "postgres", "-qAtX"]
        self.psql = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        while not self.over:
            try:
                self.psql.stdin.write(sql)
                self.psql.stdin.flush()
            except BrokenPipeError:
                return
            line = self.psql.stdout.readline()
            if not line:
                return
            self.answers.append((int(line), time.time()))
            time.sleep(0.002)

    def before(self, at):
        """The last one that was answered before then."""
        for count, when in reversed(self.answers):
            if when < at:
                return count
        return 0


class Stillness(threading.Thread):
    """Looks how long the members stand still, whatever they say of it themselves."""

    def __init__(self, members):
        super().__init__(daemon=True)
        self.members, self.since, self.longest, self.over = members, {}, {}, False
        self.start()

    def run(self):
        while not self.over:
            now = time.time()
            for member in self.members:
                if member.state() == "T":
                    since = self.since.setdefault(member.name, now)
                    self.longest[member.name] = max(self.longest.get(member.name, 0), now - since)
                else:
                    self.since.pop(member.name, None)
            time.sleep(0.01)


class Cluster:
    """Members with their databases, the server, and hosts to restore on."""

    def __init__(self, count):
        self.members, self.server, self.writer, self.stillness = [], None, None, None
        # Whether members give up a server soon that does not answer.
        self.brief = False
        self.names = [f"db{k}" for k in range(1, count + 1)]
        shutil.rmtree(base, ignore_errors=True)
        os.makedirs(f"{base}/srv")
        os.chmod(base, 0o755)
        with open(f"{base}/hook", "w") as f:
            f.write(HOOK)
        os.chmod(f"{base}/hook", 0o755)
        self.lan, self.other = Network("a"), Network("b")

    def begin(self):
        """Everything runs, and is written to."""
        server = self.lan.host("server", "10.77.0.254")
        self.other.host("server", "10.78.0.254", space=server)
        self.spaces = {name: self.lan.host(name, f"10.77.0.{k}") for k, name in enumerate(self.names, 1)}
        self.spaces["manager"] = self.lan.host("manager", "10.77.0.253")
        # The new hosts have the addresses of the old ones, on a network of their own.
        self.new = {name: self.other.host(name, f"10.77.0.{k}", f"10.78.0.{k}") for k, name in enumerate(self.names, 1)}
        self.serve(server)
        self.databases()
        for name in [*self.names, "manager"]:
            self.configure(name, f"{base}/{name}", "10.77.0.254", name)
        for name in self.names:
            self.configure(f"new-{name}", f"{base}/new-{name}", "10.78.0.254", name)
        self.caught_up()
        self.writer, self.stillness = Writer(self.members[0]), Stillness(self.members)
        until(lambda: len(self.writer.answers) > 100, "it counts")

    def serve(self, space):
        self.environment = {"HOME": base, "PATH": os.environ["PATH"]}
        own = {"env": self.environment, "check": True, "text": True, "capture_output": True}
        subprocess.run([yester, "-r", f"{base}/srv/cluster", "--key-file", f"{base}/key", "init"], **own)
        token = subprocess.run([yester, "serve", "token", "create", "cluster", "--append-only", "-q", "--root", f"{base}/srv"], **own)
        with open(os.open(f"{base}/token", os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write(token.stdout)
        words = ["ip", "netns", "exec", space, yester, "serve", "--json", "--root", f"{base}/srv", "--listen", "0.0.0.0:7070"]
        self.server = subprocess.Popen(words, env=self.environment, stdout=subprocess.PIPE, stderr=open(f"{base}/server.log", "wb"))
        self.fingerprint = json.loads(self.server.stdout.readline())["tls_fingerprint"]

    def databases(self):
        for k, name in enumerate(self.names, 1):
            dir = f"{base}/{name}"
            os.makedirs(dir)
            shutil.chown(dir, "postgres")
            inside = ["ip", "netns", "exec", self.spaces[name], *as_postgres]
            if k == 1:
                subprocess.run([*inside, f"{programs}/initdb", "-A", "trust", "-N", "--wal-segsize=1", "-D", f"{dir}/data"], check=True, cwd="/", **quiet)
                with open(f"{dir}/data/pg_hba.conf", "a") as f:
                    f.write("host all,replication all 10.77.0.0/24 trust\nhost replication all 10.77.0.0/24 trust\n")
            else:
                copy = [f"{programs}/pg_basebackup", "-D", f"{dir}/data", "-h", "10.77.0.1", "-U", "postgres", "-R", "-c", "fast"]
                subprocess.run([*inside, *copy], check=True, cwd="/", **quiet)
            with open(f"{dir}/data/postgresql.auto.conf", "a") as f:
                f.write(f"listen_addresses = '10.77.0.{k}'\n")
                if k > 1:
                    f.write(f"primary_conninfo = 'host=10.77.0.1 user=postgres application_name={name} connect_timeout=5'\n")
                else:
                    f.write("fsync = off\nshared_buffers = 4MB\nmax_connections = 20\nwal_keep_size = 256MB\nmin_wal_size = 2MB\nmax_wal_size = 16MB\n"
                            "wal_sender_timeout = 5s\nwal_receiver_timeout = 5s\nwal_retrieve_retry_interval = 300ms\njit = off\n"
                            "tcp_keepalives_idle = 2\ntcp_keepalives_interval = 1\ntcp_keepalives_count = 3\n")
            self.members.append(Database(name, self.spaces[name], dir).start())
            until(self.members[-1].is_up, f"{name} is up")
            if k == 1:
                self.members[0].ask("create table counter (n bigint); insert into counter values (0); create table ring (slot int primary key, n bigint) with "
                                    f"(fillfactor = 20); insert into ring select s, s - {RING} from generate_series(0, {RING} - 1) s; "
                                    f"update ring set n = 0 where slot = 0")
        self.answered_by(f"FIRST {len(self.names) - 1} ({', '.join(self.names[1:])})")

    def answered_by(self, names):
        """Who must have a commit before it is answered."""
        self.members[0].ask(f"alter system set synchronous_standby_names = '{names}'")
        self.members[0].ask("select pg_reload_conf()")

    def configure(self, name, dir, server, member):
        os.makedirs(dir, exist_ok=True)
        with open(f"{dir}/config.toml", "w") as f:
            f.write(f"""[repository]
location = "https://{server}:7070/cluster"
key-file = "{base}/key"
token-file = "{base}/token"
tls-fingerprint = "{self.fingerprint}"
[sets.db]
host = "{member}"
paths = ["{base}/{member}/data"]
exclude = ["postmaster.pid", "postmaster.opts"]
[sets.db.hooks]
freeze = ["{base}/hook", "freeze", "{base}/{member}/data", "{base}/{member}/times"]
thaw = ["{base}/hook", "thaw", "{base}/{member}/data", "{base}/{member}/times"]
""")

    def command(self, name, *args):
        space = self.new[name[4:]] if name.startswith("new-") else self.spaces[name]
        patience = ["--timeout", "5"] if self.brief and args[0] == "ingest" else []
        words = ["ip", "netns", "exec", space, yester, "--config", f"{base}/{name}/config.toml", *patience, *args]
        environment = {**self.environment, "HOME": f"{base}/{name}"}
        return subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def ended(self, what, process):
        try:
            return process.communicate(timeout=PATIENCE)[0], process.returncode
        except subprocess.TimeoutExpired:
            wrong(f"{what} hangs")

    def done(self, name, *args, codes=(0,)):
        out, code = self.ended(f"{name}: {' '.join(args)}", self.command(name, *args))
        need(code in codes, f"{name}: yester {' '.join(args)} ended with {code}: {out}")
        return out

    def open(self, *args):
        return self.done("manager", "-q", "group", "create", "--set", "db", "--members", ",".join(self.names), *args).strip()

    def status(self, id):
        return json.loads(self.done("manager", "--json", "group", "status", id))

    def take(self, id):
        """All take part; answers what each said, and its exit code."""
        for name in self.names:
            open(f"{base}/{name}/times", "w").close()
        return {name: self.command(name, "ingest", "--set", "db", "--group", id) for name in self.names}

    def times(self):
        """When each began to freeze, stood still, and was thawed first."""
        out = {}
        for name in self.names:
            said = [line.split() for line in open(f"{base}/{name}/times")]
            first = lambda word: next((float(at) for what, at in said if what == word), None)
            out[name] = [first("begin"), first("still"), first("thaw")]
        return out

    def caught_up(self):
        primary = self.members[0]
        sql = "select count(*) from pg_stat_replication where state = 'streaming' and replay_lsn >= '{}'"
        at = primary.ask("select pg_current_wal_lsn()")
        until(lambda: primary.try_ask(sql.format(at)) == str(len(self.names) - 1), "all members replicate again")

    def restored(self, id, together):
        """The databases of a group's parts on the new hosts, not started."""
        for name in self.names:
            shutil.rmtree(f"{base}/new-{name}/disk", ignore_errors=True)
            os.mkdir(f"{base}/new-{name}/disk")
        if together:
            to = [word for name in self.names for word in ("--to", f"{name}=new-{name}")]
            id = self.done("manager", "-q", "group", "restore", id, *to).strip()
        targets = {name: ["--", "--target", f"{base}/new-{name}/disk/data"] for name in self.names}
        runs = {name: self.command(f"new-{name}", "group", "restore", id, "--member", f"new-{name}" if together else name, *target)
                for name, target in targets.items()}
        ends = {name: self.ended(f"the restore of {name}", run) for name, run in runs.items()}
        need(not any(code for _, code in ends.values()), f"a restore of {id} failed: {ends}")
        found = []
        for name in self.names:
            dir = f"{base}/new-{name}/disk"
            data = f"{dir}/data{base}/{name}/data"
            for above in (dir, *[dir + data[len(dir):at] for at in range(len(dir), len(data)) if data[at] == "/"]):
                os.chmod(above, 0o755)
            shutil.chown(dir, "postgres")
            found.append(Database(f"restored {name}", self.new[name], dir, data))
        return found

    def counters(self, databases):
        """How far each of them counted, before they find each other."""
        primary, *standbys = databases
        for standby in standbys:
            standby.start()
        out = []
        for standby in standbys:
            # What it has is replayed when it asks the primary for more.
            until(lambda: standby.process.poll() is not None or "could not connect to the primary" in standby.said(), f"{standby.name} has replayed what it has")
            out.append(standby.counter())
        primary.start()
        return [primary.counter(), *out]

    def agree(self, id, databases, counters):
        """The restored databases find each other, come to the same, and go on."""
        primary, *standbys = databases
        until(lambda: primary.try_ask("select count(*) from pg_stat_replication where state = 'streaming'") == str(len(standbys)), f"the restored members of {id} find each other")
        primary.ask("begin; update counter set n = n + 1; update ring set n = c.n from counter c where slot = c.n % 1000; commit")
        for standby in standbys:
            until(lambda: standby.counter() == counters[0] + 1, f"{standby.name} goes on")
        digests = {database.ask("select count(*), md5(string_agg(slot || ' ' || n, ',' order by slot)) from ring") for database in databases}
        need(len(digests) == 1, f"the restored members of {id} differ: {digests}")

    def over(self):
        for thread in filter(None, [self.writer, self.stillness]):
            thread.over = True
        if self.writer:
            self.writer.psql.kill()
        for member in self.members:
            member.stop()
        if self.server:
            self.server.kill()
            self.server.wait()


def clean():
    for space in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split():
        if space.startswith(PREFIX):
            subprocess.run(["ip", "netns", "del", space], **quiet)


windows, spreads, stills, behind, lengths, restores = [], [], [], [], [], []


def check_counters(cluster, id, counters, exact):
    """What the parts of a group must be to each other; `exact`: every commit was answered by all."""
    times = cluster.times()
    first, last = min(at[0] for at in times.values()), max(at[1] for at in times.values())
    thaw = min(at[2] for at in times.values())
    need(last <= thaw, f"{id}: there was no moment at which all stood still: {times}")
    answered = cluster.writer.before(first)
    need(all(count <= counters[0] for count in counters), f"{id}: a member counts further than the primary: {counters}")
    if exact:
        need(all(count >= answered for count in counters), f"{id}: {answered} was answered before the first froze: {counters}")
        need(counters[0] - min(counters) <= 1, f"{id}: {counters}")
    else:
        need(sum(count >= answered for count in counters) > 1 and counters[0] >= answered, f"{id}: {answered} was answered: {counters}")
    need(not [at for _, at in cluster.writer.answers[-5000:] if last < at < thaw], f"{id}: something was written while all stood still")
    return (last - first) * 1000


def verified(cluster, id, together, exact=True):
    databases = cluster.restored(id, together)
    try:
        counters = cluster.counters(databases)
        spread = check_counters(cluster, id, counters, exact)
        cluster.agree(id, databases, counters)
        return counters, spread
    finally:
        for database in databases:
            database.stop()


def snapshots(cluster, count):
    for number in range(count):
        began = time.time()
        id = cluster.open("--still-limit", "5m", "--limit", "10m")
        before = cluster.writer.before(time.time())
        for name, run in cluster.take(id).items():
            out, code = cluster.ended(name, run)
            need(code == 0, f"{name} in group {id} ended with {code}: {out}")
        lengths.append(time.time() - began)
        status = cluster.status(id)
        need(status["state"] == "completed" and status["over"], f"{id} is {status}")
        began = time.time()
        counters, spread = verified(cluster, id, number % 2 == 1)
        restores.append(time.time() - began)
        need(min(counters) >= before, f"{id} lacks {before}: {counters}")
        windows.append(status["window_ms"]), spreads.append(spread)
        stills.extend(member["still_ms"] for member in status["members"])
        behind.append(counters[0] - min(counters))
        print(f"group {number + 1} of {count} on {len(cluster.names)}: counters {counters}, window {status['window_ms']} ms, frozen within {spread:.0f} ms", flush=True)


def control(cluster):
    """Without a barrier, one after the other: this must be seen."""
    id = cluster.open("--no-barrier")
    for name in cluster.names:
        now = cluster.writer.before(time.time())
        until(lambda: cluster.writer.before(time.time()) > now + 20, "it counts")
        cluster.done(name, "ingest", "--set", "db", "--group", id)
    databases = cluster.restored(id, False)
    try:
        counters = cluster.counters(databases)
    finally:
        for database in databases:
            database.stop()
    need(max(counters) - min(counters) > 1, f"parts of different moments are said to agree: {counters}")
    print(f"without a barrier, as it must be seen: {counters}", flush=True)


def cut(cluster, number, count, told):
    victim, silently, for_good, lacks = chance.choice(cluster.names), chance.random() < .5, chance.random() < .5, chance.random() < .5
    cluster.stillness.longest.clear()
    # By what it takes on this machine.
    length = sum(lengths) / len(lengths) if lengths else 3
    limit = max(4, round(2 * max(stills, default=0) / 1000))
    id = cluster.open("--still-limit", f"{limit}s", "--limit", f"{max(6, 2 * length):.0f}s", *(["--allow-missing"] if lacks else []))
    wait = cluster.command("manager", "group", "wait", id)
    runs = cluster.take(id)
    if chance.random() < .5:
        # Most of the time is reading before and uploading after: half of the cuts are about the moment that matters.
        started = time.time()
        while time.time() - started < 2 * length and not any(at[0] for at in cluster.times().values()):
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 1))
    else:
        time.sleep(chance.uniform(0, length))
    cluster.lan.cut(victim, silently)
    try:
        if not for_good:
            time.sleep(chance.uniform(0, limit * 1.5))
            cluster.lan.heal(victim)
        ends = {name: cluster.ended(f"{name} in group {id}", run) for name, run in runs.items()}
        waited = cluster.ended(f"the wait for {id}", wait)
    finally:
        cluster.lan.heal(victim)
    time.sleep(0.05)
    until(lambda: not cluster.stillness.since, "nobody stands still any more")
    longest = max(cluster.stillness.longest.values(), default=0)
    need(longest <= limit + GRACE, f"{id}: {cluster.stillness.longest} s frozen, {victim} cut off")
    status = cluster.status(id)
    state, members = status["state"], {member["name"]: member for member in status["members"]}
    what = f"{id}, {victim} cut off: {json.dumps(status)}, {ends}, {waited}"
    need(status["over"] and {"completed": 0, "incomplete": 3, "failed": 1}.get(state) == waited[1], f"the wait does not say what is: {what}")
    listed = {entry["id"]: entry for entry in map(json.loads, cluster.done("manager", "--json", "snapshots").splitlines()) if "id" in entry}
    for name, member in members.items():
        need(ends[name][1] != 0 or member["state"] == "completed", f"{name} ended well, and is not completed: {what}")
        need(member["state"] != "completed" or member["snapshot_id"] in listed, f"{name} is completed without a snapshot: {what}")
        need(member["state"] in ("completed", "failed", "missing"), f"{name} is not over: {what}")
    whole = all(member["state"] == "completed" for member in members.values())
    need((state == "completed") == whole and (state != "incomplete" or lacks), f"the state is wrong: {what}")
    cluster.caught_up()
    if whole:
        verified(cluster, id, False, exact=False)
    elif state == "failed":
        cluster.done("manager", "group", "restore", id, "--to", "db1=new-db1", codes=(1,))
    told[(state, "may lack members" if lacks else "all or none")] = told.get((state, "may lack members" if lacks else "all or none"), 0) + 1
    print(f"cut {number + 1} of {count} on {len(cluster.names)}: {victim}, {'silently' if silently else 'line down'}, {'to the end' if for_good else 'a while'}: "
          f"{state} ({', '.join(m['state'] for m in members.values())}), longest still {longest * 1000:.0f} ms of {limit} s", flush=True)
    return longest * 1000


sizes = [int(size) for size in options.members.split(",")]
share = lambda total, at: total // len(sizes) + (at < total % len(sizes))
told, longest, taken = {}, [], 0
began = time.time()
for at, size in enumerate(sizes):
    cluster = None
    try:
        cluster = Cluster(size)
        cluster.begin()
        snapshots(cluster, share(options.snapshots, at))
        control(cluster)
        cluster.answered_by(f"ANY 1 ({', '.join(cluster.names[1:])})")
        cluster.brief = True
        longest += [cut(cluster, number, share(options.cuts, at), told) for number in range(share(options.cuts, at))]
        taken += len(cluster.writer.answers)
    finally:
        if cluster:
            cluster.over()
        clean()
print(f"{options.snapshots} group snapshots on {options.members} hosts, {sum(told.values())} cuts, {taken} commits, {time.time() - began:.0f} s: all as it must be")
values = {
    "window, as the group says it": windows,
    "from the first that froze to the last, by one clock": spreads,
    "stood still, of each member": stills,
    "a group snapshot": [length * 1000 for length in lengths],
    "its restore and check": [length * 1000 for length in restores],
    "longest still of a cut": longest,
}
for name, of in values.items():
    figures(name, of)
print(f"counters that a part lacks, at the most: {max(behind, default=0)}")
if options.figures:
    with open(options.figures, "w") as f:
        json.dump(values, f)
for (state, kind), count in sorted(told.items()):
    print(f"cut off, {kind}: {state} {count} times")
shutil.rmtree(base, ignore_errors=True)
