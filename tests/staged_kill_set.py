#!/usr/bin/env python3
"""staged_kill_set.py YESTER DIR [RUNS]: kills a staged restore of a set at random moments (200, unless told), in DIR: three
directories and a database of a PostgreSQL of its own (root, `postgresql`). After each, the next call is one of: the same
restore, --rollback, --discard-old. Then the directories must be wholly as they were or wholly as in the snapshot, and so must
the database, which goes after them: after the same restore both are new; --rollback is for directories only. Ends with 1 at the
first that are not."""
import glob, os, random, shutil, signal, subprocess, sys, time

yester, base = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
runs = int(sys.argv[3]) if len(sys.argv) > 3 else 200
names = ["one", "in/two", "in/three"]
shutil.rmtree(base, ignore_errors=True)
os.makedirs(f"{base}/.config/yester")
os.chmod(base, 0o755)
environment = {"HOME": base, "PATH": os.environ["PATH"]}
programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
as_postgres = ["runuser", "-u", "postgres", "--"]
os.mkdir(f"{base}/pg")
shutil.chown(f"{base}/pg", "postgres")
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
subprocess.run([*as_postgres, f"{programs}/initdb", "-A", "trust", "-N", "-D", f"{base}/pg/data"], check=True, cwd="/", **quiet)
server = subprocess.Popen([*as_postgres, f"{programs}/postgres", "-D", f"{base}/pg/data", "-k", f"{base}/pg", "-c", "listen_addresses=", "-c", "fsync=off"], cwd="/", **quiet)
psql = ["psql", "-h", f"{base}/pg", "-U", "postgres", "-qAtX", "-v", "ON_ERROR_STOP=1"]


def ask(sql):
    return subprocess.run([*psql, "-c", sql], capture_output=True, text=True)


while ask("select 1").returncode != 0:
    time.sleep(0.05)


def call(*args):
    return subprocess.Popen([yester, *args], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def done(*args):
    process = call(*args)
    return process.communicate()[0].decode(), process.returncode


def fill(state, files):
    shutil.rmtree(f"{base}/live", ignore_errors=True)
    for name in names:
        os.makedirs(f"{base}/live/{name}/sub")
        for number in range(files):
            with open(f"{base}/live/{name}/sub/{number}", "w") as f:
                f.write(f"{state} {number}\n" * (number * 37 % 400))
    # A restore that was killed may still be on its way to be rolled back.
    sql = f"drop table if exists t; create table t as select n, '{state}' as v, repeat(md5(n::text), 20) as pad from generate_series(1, 4000) n"
    answer = ask(sql)
    assert answer.returncode == 0, answer.stderr


def tree():
    found = []
    for name in names:
        for at, _, files in sorted(os.walk(f"{base}/live/{name}")):
            found += [(os.path.join(at, file), open(os.path.join(at, file)).read()) for file in sorted(files)]
    return found


def table():
    return ask("select count(*), min(v), max(v), count(distinct n) from t").stdout.strip()


places = [f"{base}/live/{name}" for name in names]
with open(f"{base}/.config/yester/config.toml", "w") as f:
    f.write(f"""[repository]
location = "{base}/repo"
key-file = "{base}/key"
[sets.s]
paths = {places!r}
[[sets.s.streams]]
at = "/db.sql"
command = ["pg_dump", "-h", "{base}/pg", "-U", "postgres", "--clean", "--if-exists", "postgres"]
restore = ["psql", "-h", "{base}/pg", "-U", "postgres", "-qX", "-v", "ON_ERROR_STOP=1", "-1", "-f", "-", "postgres"]
""")
try:
    done("init")
    fill("new", 60)
    out, code = done("ingest", "--set", "s")
    assert code == 0, out
    new, new_table = tree(), table()
    fill("old", 50)
    old, old_table = tree(), table()
    assert new_table != old_table and new_table
    restore = ["restore", "--set", "s", "--staged"]
    began = time.time()
    out, code = done(*restore)
    assert code == 0 and tree() == new and table() == new_table, out
    length = time.time() - began
    told = {}
    for number in range(runs):
        done("restore", "--set", "s", "--discard-old")
        fill("old", 50)
        process = call(*restore)
        time.sleep(random.uniform(0, length * 1.05))
        process.kill()
        process.communicate()
        what = random.choice(["again", "--rollback", "--discard-old"])
        out, code = done(*restore) if what == "again" else done("restore", "--set", "s", what)
        if "before its commands were done" in out:
            out, code = done(*restore)
        # The command of the killed one is killed, too; the server takes back what it had begun.
        database = table()
        state = "new" if tree() == new else "old" if tree() == old else "mixed"
        rows = "new" if database == new_table else "old" if database == old_table else "mixed"
        kept = code == 1 and "--discard-old" in out
        right = state == "new" if what == "again" else state == "old" if what == "--rollback" else state != "mixed"
        right = right and rows != "mixed" and not (what == "again" and code == 0 and rows != "new")
        if not right or what == "again" and code != 0 and not kept:
            sys.exit(f"{number}: {what} after a kill left directories that are {state} and a database that is {rows} ({database}): {out}")
        told[(what, state, rows)] = told.get((what, state, rows), 0) + 1
    for (what, state, rows), count in sorted(told.items()):
        print(f"{what}: directories {state}, database {rows}: {count} times")
finally:
    pid = int(open(f"{base}/pg/data/postmaster.pid").readline())
    os.kill(pid, signal.SIGINT)
    server.wait()
