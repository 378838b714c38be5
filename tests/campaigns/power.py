#!/usr/bin/env python3
"""power.py YESTER DIR [--cuts 200] [--system ext4] [--seed 1]: power cuts at random moments, in DIR. Needs root and a loop device.

The repository is on a file system of its own (ext4 or xfs), which is shut down without its journal being written
(FS_IOC_SHUTDOWN): what was not synced is lost, as when the power fails. It is mounted again, and all of lab.py must hold. What
this machine remembers outside of the repository (caches, state) stays in one half of the cuts, and is lost in the other.
Ends with 1 at the first violation, which is kept in DIR."""
import collections, fcntl, os, shutil, signal, struct, subprocess, sys, time

from lab import Lab, fresh, options

SHUTDOWN, WITHOUT_LOG = 0x8004587D, 2


class Disk:
    def __init__(self, base, system):
        self.image, self.place = f"{base}/image", f"{base}/disk"
        os.makedirs(self.place)
        with open(self.image, "wb") as file:
            file.truncate(512 << 20)
        subprocess.run([f"mkfs.{system}", "-q", self.image], check=True)
        self.mount()

    def mount(self):
        subprocess.run(["mount", "-o", "loop", self.image, self.place], check=True)

    def cut(self):
        fd = os.open(self.place, os.O_RDONLY)
        fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
        os.close(fd)

    def unmount(self):
        for _ in range(100):
            if subprocess.run(["umount", self.place], stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        sys.exit(f"{self.place} cannot be unmounted")


def cuts(lab, disk, count):
    lengths, told = collections.defaultdict(lambda: 0.2), collections.Counter()
    for number in range(count):
        commands = [command for command in lab.commands() if command[0] not in ("check", "restore")]
        name, words = commands[0] if lab.random.random() < 0.6 else lab.random.choice(commands)
        if name == "ingest":
            lab.edit()
        lab.begin(name)
        process = lab.start(*words)
        limit = lab.random.uniform(0, lengths[name] * 1.3)
        began = time.monotonic()
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            lengths[name] = max(lengths[name], limit)
        ended = process.poll() is not None
        if ended:
            lengths[name] = 0.7 * lengths[name] + 0.3 * (time.monotonic() - began)
        disk.cut()
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
        code, out, _ = lab.end(process)
        if ended:
            lab.acknowledged(name, code, out)
        told[name, "ended" if ended else "cut"] += 1
        disk.unmount()
        disk.mount()
        if lab.random.random() < 0.5:
            shutil.rmtree(f"{lab.base}/home")
            os.makedirs(f"{lab.base}/home")
        lab.verify(whole=number % 5 == 4)
        if number % 50 == 49:
            lab.tidy()
    return told


yester, base, given = options(__doc__, cuts=200, system="ext4", seed=1)
fresh(base)
disk = Disk(base, given["system"])
try:
    lab = Lab(yester, base, given["seed"], where=disk.place)
    lab.must("init")
    began = time.monotonic()
    told = cuts(lab, disk, given["cuts"])
    lab.verify()
finally:
    disk.unmount()
print(f"{told.total()} power cuts on {given['system']}; no violation; {time.monotonic() - began:.0f} s")
print("  " + ", ".join(f"{name} {how} {count}" for (name, how), count in sorted(told.items())))
shutil.rmtree(base)
