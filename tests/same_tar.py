#!/usr/bin/env python3
"""same_tar.py A B: compares two tar archives entry by entry: headers, extended headers whatever their order, content."""
import hashlib, sys, tarfile

FIELDS = "name mode uid gid size mtime type linkname devmajor devminor uname gname pax_headers".split()


def entries(path):
    archive = tarfile.open(path, errors="surrogateescape")
    for member in archive:
        record = {field: getattr(member, field) for field in FIELDS}
        # Whether tar asks for holes at all depends on blocks that hold no content, such as those of attributes.
        record["pax_headers"] = {k: v for k, v in member.pax_headers.items() if not k.startswith("GNU.sparse.")}
        if member.isreg():
            digest, file = hashlib.blake2b(), archive.extractfile(member)
            while data := file.read(1 << 20):
                digest.update(data)
            record["data"] = digest.hexdigest()
        yield record


a, b = (list(entries(path)) for path in sys.argv[1:])
bad = [(x, y) for x, y in zip(a, b) if x != y]
for x, y in bad[:20]:
    print(repr(x["name"])[:200], {k: (str(v)[:200], str(y.get(k))[:200]) for k, v in x.items() if v != y.get(k)})
print(f"{len(a)} and {len(b)} entries, {len(bad)} differ")
sys.exit(bool(bad) or len(a) != len(b) or not a)
