#!/usr/bin/env python3
"""many_agents.py YESTER DIR [--agents 200] [--jobs 10000] [--runs 600] [--kills 300] [--seed N]: many agents at one server, in DIR.

1. JOBS jobs for AGENTS hosts. The agents speak the API as `yester agent` does, and run nothing. Each job is taken once, and
   done. Meanwhile somebody else asks for a page of jobs, for one job and for the hosts; the times and the memory of the server
   are printed.
2. RUNS jobs for AGENTS processes `yester agent`, each with a set of its own, which really take snapshots. Meanwhile the server,
   an agent, or an agent with all that it has started is killed (SIGKILL) KILLS times, most of them while they are at work, and
   started again. At the end every job is over and in a true state: what is done has the snapshot that it names, no snapshot
   is there that no job has made, and no set was run more often than it was asked for.

The script ends with 1 at the first thing that is not so."""
import argparse, collections, http.client, json, os, random, shutil, signal, ssl, subprocess, sys, threading, time
from multiprocessing import Process, Queue

options = argparse.ArgumentParser()
options.add_argument("yester"), options.add_argument("dir")
for name, size in (("agents", 200), ("jobs", 10_000), ("runs", 600), ("kills", 300), ("seed", None)):
    options.add_argument(f"--{name}", type=int, default=size)
options = options.parse_args()
yester, base = os.path.abspath(options.yester), os.path.abspath(options.dir)
chance = random.Random(options.seed)
environment = {"HOME": base, "PATH": os.environ["PATH"]}
trust = ssl._create_unverified_context()
PROCESSES = 8       # the agents of the first part are threads of so many
PATIENCE = 900      # nothing takes so many seconds
SHARE = 10          # so many agents have a token together: one has at most 64 connections


# What it has started is ended also if it is.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def need(truth, text):
    if not truth:
        raise SystemExit(f"WRONG: {text}")


def call(*args):
    return subprocess.run([yester, *args], env=environment, check=True, capture_output=True, text=True).stdout


class Api:
    """A connection to the server, made anew when it breaks."""

    def __init__(self, port, token):
        self.port, self.headers, self.line = port, {"Authorization": f"Bearer {token}"}, None

    def ask(self, method, path, body=None, key=None):
        if self.line is None:
            self.line = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=90, context=trust)
        headers = {**self.headers, **({"Content-Type": "application/json"} if body is not None else {}), **({"Idempotency-Key": key} if key else {})}
        try:
            self.line.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = self.line.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self.line.close()
            self.line = None
            raise
        return answer.status, json.loads(text) if text else None

    def surely(self, method, path, body=None, key=None):
        """The same until it is answered. What it asks for is the same if it is asked twice."""
        began = time.time()
        while time.time() - began < PATIENCE:
            try:
                status, answer = self.ask(method, path, body, key)
                if status not in (429, 503):
                    return status, answer
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(random.uniform(0, 0.3))
        need(False, f"{method} {path} is not answered")


class Server:
    def __init__(self):
        self.port, self.most, self.turn = 0, 0, threading.Lock()
        self.start()
        threading.Thread(target=self.watch, daemon=True).start()

    def start(self):
        words = [yester, "serve", "--json", "--root", f"{base}/root", "--listen", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=open(f"{base}/server.log", "ab"))
        self.port = int(json.loads(self.process.stdout.readline())["address"].rsplit(":", 1)[1])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def watch(self):
        while True:
            try:
                with open(f"/proc/{self.process.pid}/status") as f:
                    self.most = max([self.most, *(int(line.split()[1]) for line in f if line.startswith("VmHWM"))])
            except OSError:
                pass
            time.sleep(0.3)


def all_jobs(api):
    found, after = [], ""
    while True:
        status, page = api.surely("GET", f"/api/v1/jobs?limit=1000{after}")
        need(status == 200, f"the jobs are not listed: {page}")
        found += page["jobs"]
        if "next" not in page:
            return found
        after = f"&after={page['next']}"


def figures(what, times):
    times = sorted(times)
    at = lambda part: times[min(len(times) - 1, int(part * len(times)))] * 1000
    print(f"{what}: p50 {at(.5):.1f}, p99 {at(.99):.1f}, most {at(1):.1f} ms ({len(times)} times)", flush=True)


def probe(port, token, stop, out):
    """Asks as somebody who looks, all the time."""
    api, times = Api(port, token), collections.defaultdict(list)
    while stop.empty():
        _, page = api.surely("GET", "/api/v1/jobs?limit=1")
        one = page["jobs"][0]["id"] if page["jobs"] else None
        for what, path in (("a page of 100 jobs", "/api/v1/jobs?limit=100"), ("one job", f"/api/v1/jobs/{one}"), ("the hosts", "/api/v1/hosts")):
            if one:
                began = time.time()
                api.surely("GET", path)
                times[what].append(time.time() - began)
        time.sleep(0.05)
    out.put(dict(times))


def light(port, tokens, numbers, wanted, out):
    """Some agents; each has taken all of its jobs when it ends."""
    taken = []

    def one(number):
        api, count = Api(port, tokens[number // SHARE]), wanted[number]
        for n in range(count):
            claim = f"{number:08x}{n:024x}"
            job = None
            while job is None:
                body = {"host": f"h{number}", "claim": claim, "kinds": ["check"], "wait": 55}
                status, job = api.surely("POST", "/api/v1/agent/claim", body)
                need(status in (200, 204), f"a claim is answered with {status}: {job}")
            api.surely("POST", f"/api/v1/agent/jobs/{job['id']}/progress", {"claim": claim, "progress": {"percent": 50.0}})
            status, answer = api.surely("POST", f"/api/v1/agent/jobs/{job['id']}/end", {"claim": claim, "outcome": "done", "exit_code": 0})
            need(status == 204, f"the end of {job['id']} is answered with {status}: {answer}")
            taken.append(job["id"])

    threads = [threading.Thread(target=one, args=(number,)) for number in numbers]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    out.put(taken)


def ask_for(port, token, jobs, prefix):
    """Asks for all of them, from four connections; answers the ids."""
    ids, turn = {}, threading.Lock()

    def some(at):
        api = Api(port, token)
        for n in range(at, len(jobs), 4):
            status, job = api.surely("POST", "/api/v1/jobs", jobs[n], f"{prefix}-{n}")
            need(status == 202, f"a job is answered with {status}: {job}")
            with turn:
                ids[n] = job["id"]

    threads = [threading.Thread(target=some, args=(at,)) for at in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    need(len(set(ids.values())) == len(jobs), f"{len(jobs)} jobs were asked for, {len(set(ids.values()))} are there")
    return set(ids.values())


def many(server, asker, tokens):
    began, stop, times, out = time.time(), Queue(), Queue(), Queue()
    wanted = [options.jobs // options.agents + (at < options.jobs % options.agents) for at in range(options.agents)]
    watching = Process(target=probe, args=(server.port, asker, stop, times))
    agents = [Process(target=light, args=(server.port, tokens, range(at, options.agents, PROCESSES), wanted, out)) for at in range(PROCESSES)]
    [process.start() for process in (watching, *agents)]
    ids = ask_for(server.port, asker, [{"kind": "check", "host": f"h{n % options.agents}"} for n in range(options.jobs)], "many")
    taken = [id for _ in agents for id in out.get(timeout=PATIENCE)]
    length = time.time() - began
    stop.put(None)
    times = times.get(timeout=PATIENCE)
    [process.join() for process in (watching, *agents)]
    need(len(taken) == len(set(taken)) == options.jobs and set(taken) == ids, f"{len(taken)} were taken, {len(set(taken))} of them different")
    listed = all_jobs(Api(server.port, asker))
    need({job["id"] for job in listed} == ids and all(job["state"] == "done" for job in listed), f"{len(listed)} are listed, {collections.Counter(job['state'] for job in listed)}")
    print(f"{options.jobs} jobs of {options.agents} agents in {length:.0f} s: each was taken once, and is done; the server took {server.most // 1024} MiB at the most", flush=True)
    for what, of in times.items():
        figures(what, of)


class Agent:
    """A process, with a home and a set of its own."""

    def __init__(self, server, number, token, fingerprint):
        self.number, self.home, self.set = number, f"{base}/a{number}", f"s{number}"
        os.makedirs(f"{self.home}/.config/yester")
        os.mkdir(f"{self.home}/data")
        with open(os.open(f"{self.home}/token", os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write(token)
        with open(f"{self.home}/.config/yester/config.toml", "w") as f:
            f.write(f"""[repository]
location = "https://localhost:{server.port}/pg"
key-file = "{base}/key"
token-file = "{self.home}/token"
tls-fingerprint = "{fingerprint}"
[agent]
host = "r{number}"
jobs = ["ingest"]
[sets.{self.set}]
paths = ["{self.home}/data"]
host = "r{number}"
hooks = {{ before = "echo run >> {self.home}/runs; date +%N > {self.home}/data/now" }}
""")
        self.start()

    def start(self):
        log = open(f"{self.home}/log", "ab")
        self.process = subprocess.Popen([yester, "agent"], env={**environment, "HOME": self.home}, stdout=log, stderr=log)

    def is_at_work(self):
        try:
            with open(f"{self.home}/.local/state/yester/agent/job") as f:
                return json.load(f).get("job") is not None
        except (OSError, ValueError):
            return False

    def kill(self, everything):
        children = collections.defaultdict(list)
        for pid in filter(str.isdigit, os.listdir("/proc")) if everything else ():
            try:
                with open(f"/proc/{pid}/stat") as f:
                    children[int(f.read().rsplit(") ", 1)[1].split()[1])].append(int(pid))
            except OSError:
                pass
        found = [self.process.pid]
        for pid in found:
            found += children[pid]
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def runs(self):
        try:
            return len(open(f"{self.home}/runs").readlines())
        except OSError:
            return 0


def killed(server, asker, tokens):
    fingerprint = call("serve", "fingerprint", "--root", f"{base}/root").strip()
    agents = [Agent(server, number, tokens[number // SHARE], fingerprint) for number in range(options.agents)]
    began, ids, told = time.time(), set(), collections.Counter()
    jobs = [{"kind": "ingest", "host": f"r{n % options.agents}", "set": f"s{n % options.agents}"} for n in range(options.runs)]
    try:
        asking = threading.Thread(target=lambda: ids.update(ask_for(server.port, asker, jobs, "runs")))
        asking.start()
        for number in range(options.kills):
            time.sleep(chance.uniform(0, 1))
            if chance.random() < 0.2:
                told["the server"] += 1
                server.kill()
                time.sleep(chance.uniform(0, 0.3))
                server.start()
                continue
            everything = chance.random() < 0.3
            at_work = [agent for agent in agents if agent.is_at_work()]
            agent = chance.choice(at_work if at_work and chance.random() < 0.8 else agents)
            told[("an agent with what it had started" if everything else "an agent") + (" at work" if agent.is_at_work() else "")] += 1
            agent.kill(everything)
            agent.start()
        print(f"killed after {time.time() - began:.0f} s: {dict(told)}", flush=True)
        asking.join()
        api, until, mine = Api(server.port, asker), time.time() + PATIENCE, []
        while time.time() < until:
            mine = [job for job in all_jobs(api) if job["id"] in ids]
            open_still = [job for job in mine if job["state"] in ("queued", "running") or job["lost"]]
            if not open_still:
                break
            time.sleep(2)
        need(len(mine) == options.runs, f"{options.runs} jobs were asked for, {len(mine)} are listed")
        need(not open_still, f"{len(open_still)} jobs never end: {open_still[:3]}")
    finally:
        for agent in agents:
            agent.process.terminate()
        for agent in agents:
            agent.process.wait()
    judge(agents, mine)
    print(f"{options.runs} jobs of {options.agents} processes, {options.kills} kills, {time.time() - began:.0f} s: {dict(collections.Counter(job['state'] for job in mine))}", flush=True)
    for message, count in collections.Counter(job.get("message") for job in mine if job["state"] == "failed").most_common(8):
        print(f"  failed {count} times: {message}")
    print(f"the server took {server.most // 1024} MiB at the most", flush=True)


def judge(agents, jobs):
    """What jobs say, against what the repository and the hosts have."""
    environment["HOME"] = agents[0].home
    listed = [entry for entry in map(json.loads, call("snapshots", "--json").splitlines()) if "hostname" in entry]
    environment["HOME"] = base
    there = collections.defaultdict(set)
    for entry in listed:
        there[entry["hostname"]].add(entry["id"])
    unsaid = 0
    for agent in agents:
        host = f"r{agent.number}"
        of = [job for job in jobs if job["host"] == host]
        done = [job for job in of if job["state"] == "done"]
        made = {job.get("snapshot") for job in done}
        need(len(made) == len(done) and made <= there[host], f"{host}: jobs are done whose snapshots are not there, or the same: {done}, {there[host]}")
        need(all(job.get("message") for job in of if job["state"] == "failed"), f"{host}: a job failed and does not say why: {of}")
        need(len(done) <= agent.runs() <= len(of), f"{host}: {agent.runs()} runs of {len(of)} jobs, {len(done)} done: {of}")
        # Killed after the snapshot and before it was said: the job says that it did not come to its end.
        more = there[host] - made
        failed = [job for job in of if job["state"] == "failed" and "does not say that it came to its end" in job["message"]]
        need(len(more) <= len(failed), f"{host}: snapshots that no job has made: {more}, {of}")
        unsaid += len(more)
    print(f"snapshots of runs that were killed between the snapshot and their end: {unsaid}")


shutil.rmtree(base, ignore_errors=True)
os.makedirs(f"{base}/root")
server = Server()
try:
    grant = lambda can: call("serve", "token", "create", "pg", "-q", "--root", f"{base}/root", "--can", can).strip()
    asker, tokens = grant("jobs"), [grant("put,get,list,agent") for _ in range((options.agents + SHARE - 1) // SHARE)]
    environment.update(YESTER_TOKEN=tokens[0], YESTER_TLS_FINGERPRINT=call("serve", "fingerprint", "--root", f"{base}/root").strip())
    call("-r", f"https://localhost:{server.port}/pg", "--key-file", f"{base}/key", "init")
    for name in ("YESTER_TOKEN", "YESTER_TLS_FINGERPRINT"):
        environment.pop(name)
    if options.jobs:
        many(server, asker, tokens)
    server.most = 0
    if options.runs:
        killed(server, asker, tokens)
finally:
    server.kill()
shutil.rmtree(base, ignore_errors=True)
