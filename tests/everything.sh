#!/bin/bash
# everything.sh DIR: makes DIR/tree, which holds one of everything that a Linux file system holds, and DIR/beyond, with what
# many programs cannot walk or read: paths longer than PATH_MAX, a file of terabytes. DIR is absolute. Needs root and a
# file system with attributes. `chattr -R -ai DIR/tree` comes before removing it.
set -euo pipefail
export LC_ALL=C
umask 022
mkdir -p "$1/tree" "$1/beyond"
cd "$1/tree"

# Nothing at all, in each way.
: >empty; mkdir empty-dir; mkdir -p a/b/c/d/e/f/g/h; ln -s / a/b/c/root

# Every kind of node.
mkdir kinds
mkfifo -m 0604 kinds/fifo
mknod -m 0640 kinds/char c 1 3
mknod -m 0600 kinds/block b 7 250
mknod kinds/char-zero c 0 0
mknod kinds/large c 511 1048575
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("kinds/socket")'
ln -s target-that-is-not-there kinds/dangling
ln -s "$(printf 'x%.0s' {1..4000})" kinds/long-target
ln -s $'\xff\x01\n to' kinds/odd-target
echo content >kinds/file

# Hard links of every kind, within and across directories.
mkdir links links/sub
echo linked >links/file; ln links/file links/again; ln links/file links/sub/again
ln kinds/fifo links/fifo; ln kinds/char links/char; ln kinds/block links/block; ln kinds/socket links/socket
ln -s somewhere links/symlink; ln -P links/symlink links/sub/symlink
: >links/empty; ln links/empty links/sub/empty
head -c 2000000 /dev/urandom >links/big; ln links/big links/sub/big; ln links/big zzz-big

# Names are bytes.
mkdir names
for name in $'\x01\x02\x1b[31m' $'new\nline' $'tab\t' $'\xff\xfe\x80' $'caf\xc3\xa9' $'cafe\xcc\x81' ' ' '  lead' 'trail ' \
    '-rf' '*' '?' '[a]' "quote'\"" 'back\slash' '%s%n' '~' '...' '.hidden' "$(printf 'n%.0s' {1..255})" "$(printf '\xc3\xa4%.0s' {1..127})"; do
    printf '%s' "$name" >"names/$name"
done
mkdir "names/$(printf 'd%.0s' {1..255})"; echo in >"names/$(printf 'd%.0s' {1..255})/in"

# Sizes around limits, and content of every kind.
mkdir sizes
for size in 1 95 96 97 511 512 4095 4096 4097 65536 262143 262144 262145 524288 1048577; do
    head -c $size /dev/urandom >sizes/noise-$size
    head -c $size <(yes yester) >sizes/text-$size
done

# Holes at the start, in the middle, at the end; nothing else; allocated zeros.
mkdir holes
data() { head -c "$2" /dev/urandom | dd of="$1" bs=4096 seek="$3" conv=notrunc status=none; }
data holes/start 8192 256
data holes/middle 8192 0; data holes/middle 8192 512
data holes/end 8192 0; truncate -s 3M holes/end
data holes/small 4096 2; truncate -s 40000 holes/small
data holes/odd-end 5000 3; truncate -s 1234567 holes/odd-end
truncate -s 5M holes/only; truncate -s 100 holes/tiny; truncate -s 4096 holes/page
for n in {0..99}; do data holes/comb 4096 $((n * 3)); done
# Whose blocks are as many as their length needs, all the same: attributes and preallocated blocks are counted, too.
for name in attributed preallocated; do data holes/$name 8192 0; data holes/$name 7712 3; done
setfattr -n user.long -v "$(head -c 3000 /dev/zero | tr '\0' v)" holes/attributed
fallocate -n -o 20480 -l 40960 holes/preallocated
data holes/short-tail 100 7
dd if=/dev/zero of=holes/zeros bs=64k count=20 status=none
dd if=/dev/zero of=holes/zeros-small bs=1k count=20 status=none
cp --sparse=never holes/zeros holes/zeros-and-hole; truncate -s 4M holes/zeros-and-hole

# Extended attributes of every kind of entry, long and empty ones, odd names.
mkdir xattrs
for kind in file dir; do
    [ $kind = dir ] && mkdir xattrs/dir || echo x >xattrs/file
    setfattr -n user.plain -v value xattrs/$kind
    setfattr -n user.empty xattrs/$kind
    setfattr -n user.bytes -v 0x00ff0a1b xattrs/$kind
    setfattr -n $'user.odd \xff\n name' -v odd xattrs/$kind
    setfattr -n trusted.secret -v t xattrs/$kind
    setfattr -n security.yester -v s xattrs/$kind
done
echo x >xattrs/long; setfattr -n user.long -v "$(head -c 3000 /dev/zero | tr '\0' v)" xattrs/long
echo x >xattrs/many; for n in {1..60}; do setfattr -n user.n$n -v $n xattrs/many; done
echo x >xattrs/capable; setcap cap_net_raw,cap_net_admin+ep xattrs/capable
ln -s target xattrs/symlink; mkfifo xattrs/fifo; mknod xattrs/null c 1 3
for entry in symlink fifo null; do setfattr -h -n trusted.node -v $entry xattrs/$entry; done

# ACLs, default ones too, and for users without a name.
mkdir acls acls/default acls/both
echo x >acls/file; chmod 640 acls/file; setfacl -m u:65534:rw,u:12345:r,g:54321:rwx,m::r acls/file
setfacl -d -m u:12345:rwx,g::- acls/default; echo inherits >acls/default/inherits; mkdir acls/default/sub
setfacl -m u:12345:rwx acls/both; setfacl -d -m o::rwx acls/both
mkfifo acls/fifo; setfacl -m u:12345:rw acls/fifo

# Modes and owners.
mkdir modes
for mode in 0000 0001 0400 0777 1777 2755 4755 6755 7777 4000; do
    echo $mode >modes/file-$mode; mkdir modes/dir-$mode; echo in >modes/dir-$mode/in
done
mkdir owners
for owner in 0:0 1:2 65534:65534 12345:54321 4294967294:4294967294 2147483648:0; do
    echo "$owner" >"owners/file-$owner"; mkdir "owners/dir-$owner"; ln -s x "owners/link-$owner"; mkfifo "owners/fifo-$owner"
    chown -h "$owner" "owners/file-$owner" "owners/dir-$owner" "owners/link-$owner" "owners/fifo-$owner"
done
for mode in 0000 0001 0400 0777 1777 2755 4755 6755 7777 4000; do chmod $mode modes/file-$mode modes/dir-$mode; done
echo suid >owners/suid; chown 12345:54321 owners/suid; chmod 6755 owners/suid

# Times: before 1970, after 2038 and 2106, to the nanosecond; of every kind of entry.
mkdir times
stamp() { echo "$1" >"times/$1"; ln -s x "times/$1-link"; mkdir "times/$1-dir"; touch -h -d "$2" "times/$1" "times/$1-link" "times/$1-dir"; }
stamp before-1970 '1932-05-17 03:04:05.678901234 UTC'; stamp just-before @-0.000000001; stamp minus-one @-1
stamp zero @0; stamp nano @1.000000001; stamp last-nano @1234567890.999999999
stamp after-2038 '2040-01-01 00:00:00.5 UTC'; stamp after-2106 '2200-02-28 23:59:59.999999999 UTC'; stamp last @15032385535
touch -h -d @-2.5 kinds/fifo kinds/socket kinds/block kinds/dangling

# Many in one directory.
mkdir many; for n in {1..1500}; do echo $n >many/$n; done

# Flags, where the file system has them.
mkdir flags flags/append-dir flags/locked-dir flags/plain-dir
for name in append locked nodump noatime several linked flags/locked-dir/in flags/append-dir/in; do echo $name >flags/${name#flags/}; done
ln flags/linked flags/linked-too
head -c 400000 /dev/urandom >flags/big
chattr +A flags/plain-dir flags/big flags/noatime 2>/dev/null || true
chattr +dAS flags/several 2>/dev/null || true
chattr +d flags/nodump flags/linked flags/plain-dir 2>/dev/null || true
touch -d @1000000000.123456789 flags/* flags
chattr +a flags/append flags/append-dir 2>/dev/null || true
chattr +i flags/locked flags/locked-dir 2>/dev/null || true

# Larger than the disk.
huge="$1/beyond/huge"
truncate -s 8T "$huge" 2>/dev/null || truncate -s 200G "$huge"
data "$huge" 4096 1000000

# Deeper than PATH_MAX: 30 names of 200 bytes.
python3 - "$1/beyond" <<'END'
import os, sys
os.chdir(sys.argv[1])
for n in range(30):
    name = f"{n:02}" + "p" * 198
    os.mkdir(name)
    os.chdir(name)
open("bottom", "w").write("bottom\n")
os.link("bottom", "also")
os.symlink("bottom", "link")
os.mkfifo("fifo")
os.truncate(os.open("hole", os.O_WRONLY | os.O_CREAT), 1 << 20)
os.setxattr("bottom", "user.deep", b"yes")
for name in "bottom", "link", "fifo":
    os.utime(name, ns=(0, -5_500_000_001), follow_symlinks=False)
END
