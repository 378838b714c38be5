#!/usr/bin/env python3
"""Exhaustive small-model check of the repository protocol (design, part 5).

usage: repository_model.py [--writers W] [--pruners P] [--mergers M] [--rounds R] [--retry 0|1] [--uploads K]
                           [--unknown] [--repack] [--reland] [--delta] [--wait] [--reload] [--variant NAME[+NAME]] [--limit STATES]
                           [--list]

What is modelled, one storage operation to a step, every interleaving:
  packs        a pack is a set of chunks; pack 0 holds chunk a
  segments     segment i names pack i; replacement and merged segments name many packs and replace segments
  snapshots    snapshot 0 = {a}; every writer ingests {a, b}: a is in the old snapshot, b is new to all
  sessions, fences, forgotten, condemned deletion lists, commits still in flight
A crash is an actor that is never scheduled again (no property here asks for progress), so every crash at every
step is included. --unknown: a commit lands at any later time, again and again, or never; so does a segment.
--delta: chunk b is stored as a difference against a and writers' snapshots hold b alone: b can be read only where a
can. --repack: a pruner may copy live chunks to a new pack. --reland: a repeated upload lands after its pack was deleted.
--wait: prune leaves open sessions alone where it may (prune --wait): segments that others have replaced stay while any
session is open, and a deletion list stays when one is. In every run the mark and the deletion list come before any session is
settled, and only older sessions are: that is the order of --wait, and that of prune without it (which settles all of
them before it marks) is a part of what is explored.
--reload: before a writer uploads it may load segments, condemned and packs/ again, in this order, as often as it likes,
and uploads only what is in none of them; what it counted on before it does not look for again.
A deletion list lists what its author's mark found dead; with `any_list` it lists any packs at all.

Properties, in every state: (1) each chunk of each snapshot not forgotten is in a present pack; (2) a visible segment
names such a pack (else the result says "only by a scan of packs"); (3) a fenced id never becomes a snapshot;
(4) a forgotten snapshot never comes back.

The protocol that holds (variant `repaired`) is design part 5 with these rules made exact:
  R1  a deletion list has a name never used before (in place of the number highest + 1); a session records which lists
      existed just before it was created, and is older than every deletion list that it does not record;
  R2  after the segments and condemned/, packs/ is listed, always, by writers and by prune: a pair counts only if its
      pack is there (a fenced writer, or a merge, may write a segment after its packs are gone and their deletion list too);
  R3  a fenced writer begins again: new session, segments, condemned and packs read again, every chunk looked up;
  R4  prune counts another copy of a live chunk only in a pack that is present, visible and under no deletion list;
  R5  a deletion list goes only when all its packs are deleted and, after that, every open session has ended or is fenced;
  R6  an upload of unknown outcome is never sent again under the same name (see --reland).
and, with --delta, those of differences:
  D1  a writer counts a difference only where it counts its base, and stores the base again where it does not;
  D2  prune needs the bases of what it needs, for the mark, and looks for another copy of a base as for one of a chunk.

Simplifications, each of which only adds behaviour or cannot be observed: a LIST is one step; a writer's list of
snapshots minus forgotten is one step (choosing the parent is free anyway); settling a session (create the fence or
find the snapshot, then delete the session) is one step; the mark before a deletion list is one step (`any_list` covers
the rest); prune reads the segments and condemned/ in one step (older segments only hide copies, or name packs that
the listing after it does not show); each writer uploads at most K packs, then stops; prune may fence any older
session, dead or alive. Readers are property 2. Exit status: 0 safe, 1 violation, 2 limit reached.
"""
import argparse, sys, time
from array import array
from collections import deque
VARIANTS = {
 'repaired':        'the protocol with R1 to R6; every other variant changes only what it names',
 'written':         'the protocol as first written: numbers + presence_some + cond_present',
 'numbers':         'deletion lists are numbered highest+1 and sessions record the highest number (names come back after removal)',
 'presence_some':   'packs/ is listed only while a deletion list exists',
 'no_presence':     'packs/ is not listed: a pair in a segment counts although its pack may be gone',
 'presence_first':  'packs/ is listed before condemned/ instead of after',
 'no_fence':        'prune does not wait for or fence older sessions',
 'snaps_first':     'prune lists snapshots before it settles the sessions',
 'adopt_unchecked': 'subtrees are adopted unchecked although deletion lists exist',
 'no_reread':       'condemned is not read again before the commit',
 'late_session':    'the session is created after the lists are read',
 'cond_before_del': 'a deletion list is removed before its dead packs are deleted',
 'cond_no_wait':    'a deletion list is removed once its packs are deleted: no wait for sessions, segments may still name them',
 'cond_present':    'a deletion list goes when no segment names its packs, though they may be there still',
 'cond_named':      'a deletion list goes when its packs are deleted and sessions ended, though segments may name them',
 'replaced_count':  'replaced segments are read like all others',
 'merge_drops':     'a merge keeps one pair per chunk instead of all',
 'forget_delete':   'forget deletes snapshots/<id> and leaves no forgotten/<id>',
 'forgotten_drop':  'prune deletes forgotten/<id> together with snapshots/<id>',
 'fence_drop':      'prune deletes the fence together with the session',
 'end_unread':      'a writer deletes its session without reading the outcome of its commit',
 'resurrect':       'prune takes a pack found live out of its deletion list',
 'dup_condemned':   'prune counts copies in condemned packs when it looks for another copy of a live chunk',
 'retry_stale':     'a fenced writer re-checks against the segments it loaded before the fence',
 'reload_all':      'with --reload: a writer that loads the index again does not look which packs are condemned',
 'kept':            'another repair: deletion lists are numbered and never removed; done/<n> says that n is carried out',
 'base_uncounted':  'with --delta: a writer counts a difference whose base may be gone (D1 broken)',
 'base_unmarked':   'with --delta: prune does not need the bases of what it needs (D2 broken)',
 'any_list':        'a deletion list may name any packs (not a mutant: shows that the mark before a deletion list is only a hint)',
}
ap = argparse.ArgumentParser()
for n, d in (('writers', 1), ('pruners', 1), ('mergers', 0), ('rounds', 1), ('retry', 1), ('uploads', 3)):
    ap.add_argument('--' + n, type=int, default=d)
for n in ('unknown', 'repack', 'reland', 'delta', 'wait', 'reload', 'list'): ap.add_argument('--' + n, action='store_true')
ap.add_argument('--variant', default='repaired'); ap.add_argument('--limit', type=int, default=12_000_000)
opt = ap.parse_args()
if opt.list:
    for k, v in VARIANTS.items(): print(f'{k:16} {v}')
    sys.exit(0)
V, W, P, M, K, ROUNDS = set(opt.variant.split('+')), opt.writers, opt.pruners, opt.mergers, opt.uploads, opt.rounds
if V - set(VARIANTS): ap.error('unknown variant; see --list')
if 'written' in V: V |= {'numbers', 'presence_some', 'cond_present'}
NUMBERED = bool(V & {'numbers', 'kept'})                # deletion lists are numbers, not random names
CHECK_ALWAYS = not V & {'presence_some', 'no_presence'}
A, B, AB = 1, 2, 3                                      # chunks, as bits
# ---- the state: a flat array of small numbers; masks are bit sets -------------------------------------------------
NP = 1 + W * K + P * opt.repack                         # packs; segment i < NP names exactly pack i
NV = P * ROUNDS + M                                     # further segments: replacements by prune, merges
NS = P * ROUNDS                                         # deletion lists
NI = 1 + 2 * W                                          # snapshot ids: 0 old; 1+2i and 2+2i for writer i
assert NP + NV <= 16 and NI <= 16
_n = 0
def field(k=1): global _n; _n += k; return _n - k
PRES, HASA, HASB, SEG = field(), field(), field(), field()   # packs present; packs holding a, b; segments present
SM, SR = field(NV), field(NV)                           # of the further segments: packs named, segments replaced
SN, FE, FO, PEND, GFE, GFO = field(), field(), field(), field(), field(), field()
#   snapshots, fences, forgotten, commits in flight; ghosts: ever fenced, ever forgotten
SE, T0 = field(), field(NI)                             # open sessions; what each knew of condemned when created
CE, CP, CD = field(), field(NS), field()                # deletion lists present; the packs of each; carried out (variant kept)
WR = field(6 * W); PC, ATT, UP, KN, CS, U = range(6)    # writer: step, attempt, uploads, packs known, deletion lists seen, chunks
PR = field(6 * P); RD, T, C, X, L = range(1, 6)         # pruner: step, round, deletion list, packs, two working sets
ME = field(3 * M)                                       # merger: step, segments read, packs named
init = array('H', [0] * _n)
init[PRES] = init[HASA] = init[SEG] = 1; init[SN] = 1

(W_START, W_SESSION, W_LIST, W_SEGS, W_COND, W_PACKS, W_UP, W_SEG, W_REREAD, W_COMMIT, W_READ, W_END, W_DONE,
 W_RSEGS, W_RCOND, W_RPACKS) = range(16)
(P_IDLE, P_REPACK, P_COND, P_READY, B_SESS, B_FENCE, B_SNAPS, B_FORG, B_COND, B_PACKS, B_DEL, B_SEGS, B_WSEG, B_DSEG,
 B_DROP, B_DSESS, B_DFENCE, B_RM) = range(18)
FIXED = (1 << NP) - 1

def bits(m):
    while m: b = m & -m; yield b; m ^= b
def names(s, segs):                                     # packs that these segments name
    packs = segs & FIXED
    for v in range(NV):
        if segs >> (NP + v) & 1: packs |= s[SM + v]
    return packs

def segments(s):                                        # (visible segments, packs they name)
    vis = s[SEG]
    for v in range(NV):
        if s[SEG] >> (NP + v) & 1 and 'replaced_count' not in V: vis &= ~s[SR + v]
    return vis, names(s, vis)
def condemned(s):                                       # packs under any deletion list
    c = 0
    for n in range(NS):
        if s[CE] >> n & 1: c |= s[CP + n]
    return c
def content(ids):                                       # chunks of a set of snapshots
    return (A if ids & 1 else 0) | ((B if opt.delta else AB) if ids & ~1 else 0)
def needed(ids):                                        # the same, and the bases of what is in them
    live = content(ids); return AB if opt.delta and live & B and 'base_unmarked' not in V else live
def missing(s, packs):                                  # which of a, b cannot be read from these packs
    m = (0 if s[HASA] & packs else A) | (0 if s[HASB] & packs else B)
    return AB if opt.delta and m & A else m
def uploads(s, packs):                                  # what a writer that counts on these packs stores
    if not opt.delta: return missing(s, packs)
    if 'base_uncounted' in V: return 0 if s[HASB] & packs else B
    return missing(s, packs) if missing(s, packs) & B else 0
def chunks_of(s, p): return (A if s[HASA] & p else 0) | (B if s[HASB] & p else 0)
def hold(t, p, chunks):                                 # pack p holds these chunks
    if chunks & A: t[HASA] |= p
    if chunks & B: t[HASB] |= p

def fence(t, b):                                        # create snapshots/<id> as a fence, if absent
    if not (t[SN] | t[FE]) & b:
        t[FE] |= b; t[GFE] |= b; t[PEND] &= ~b          # (a request that will be refused is dropped)
def end_session(t, b):
    t[SE] &= ~b; t[T0 + b.bit_length() - 1] = 0
def settle(t, b):                                       # prune: the session ended, or is fenced; then its object goes
    fence(t, b); end_session(t, b)
    if 'fence_drop' in V: t[FE] &= ~b

# ---- writer -------------------------------------------------------------------------------------------------------
def writer(s, i, emit):
    w = WR + 6 * i; pc, att = s[w], s[w + ATT]; b = 1 << (1 + 2 * i + att); t = s[:]; say = None
    def decide(adopt):                                  # what is still to be uploaded
        t[w + U] = uploads(t, t[w + KN]) & ~adopt; t[w] = W_UP if t[w + U] else W_REREAD
    late = 'late_session' in V
    if pc == W_START:
        t[w + U] = (s[CE].bit_length() if NUMBERED else s[CE]); t[w] = W_LIST if late else W_SESSION
        if late: t[T0 + b.bit_length() - 1] = t[w + U]; t[w + U] = 0
        say = 'reads the names in condemned'
    elif pc == W_SESSION:
        t[SE] |= b; say = 'creates its session'
        if late: t[w] = W_UP if s[w + U] else W_REREAD
        else:
            t[T0 + b.bit_length() - 1] = s[w + U]; t[w + U] = 0
            t[w] = W_REREAD if 'retry_stale' in V and att else W_LIST
    elif pc == W_LIST:                                  # adoption is for the first attempt: a retry looks everything up
        live = s[SN] & ~s[FO]; t[w] = W_SEGS; say = 'lists snapshots minus forgotten'
        for adopt in ({0, A if live & 1 else 0, AB if live & ~1 else 0} if not att else {0}):
            if adopt: q = t[:]; q[w + U] = adopt; emit('W%d' % i, 'lists snapshots, takes a parent', q)
    elif pc == W_SEGS:
        t[w + KN] = segments(s)[1] & (s[PRES] if 'presence_first' in V else ~0); t[w] = W_COND; say = 'loads the segments'
    elif pc == W_COND:
        t[w + CS] = s[CE]; t[w + KN] &= ~condemned(s); say = 'reads condemned'
        adopt = 0 if s[CE] & ~s[CD] and 'adopt_unchecked' not in V else s[w + U]
        if CHECK_ALWAYS and 'presence_first' not in V or 'presence_some' in V and s[CE]: t[w + U] = adopt; t[w] = W_PACKS
        else: decide(adopt)
    elif pc == W_PACKS: t[w + KN] &= s[PRES]; decide(s[w + U]); say = 'lists packs'
    elif pc == W_RSEGS:                                 # what was counted on stays so; only what is missing is looked for
        t[w + KN] = segments(s)[1]; t[w] = W_RCOND; say = 'loads the segments again'
    elif pc == W_RCOND:
        t[w] = W_RPACKS; say = 'reads condemned for them'
        if 'reload_all' not in V: t[w + KN] &= ~condemned(s)
    elif pc == W_RPACKS:
        t[w + KN] &= s[PRES]; t[w + U] = s[w + U] & uploads(t, t[w + KN]); say = 'lists packs for them'
        t[w] = W_UP if t[w + U] else W_REREAD
    elif pc == W_UP:
        if opt.reload: q = t[:]; q[w] = W_RSEGS; emit('W%d' % i, 'sees other segments', q)
        if s[w + UP] == K: return                       # the model's bound
        p = 1 << (1 + i * K + s[w + UP]); t[PRES] |= p; t[w + KN] |= p
        hold(t, p, s[w + U]); t[w + U] = 0; t[w] = W_SEG; say = 'uploads a pack with ' + ' a b ab'.split(' ')[s[w + U]]
    elif pc == W_SEG:
        t[SEG] |= 1 << (1 + i * K + s[w + UP]); t[w + UP] += 1; t[w] = W_REREAD; say = 'writes its segment'
    elif pc == W_REREAD:
        say = 'reads condemned again'; t[w] = W_COMMIT
        if 'no_reread' in V: say = 'does not read condemned again'
        elif s[CE] & ~s[w + CS] or 'retry_stale' in V and att:
            t[w + KN] &= ~condemned(s); t[w + CS] |= s[CE]; t[w + U] = uploads(t, t[w + KN])
            if t[w + U]: t[w] = W_UP
            say += ' (it grew: checks all references)'
    elif pc == W_COMMIT:
        t[w + KN] = t[w + CS] = t[w + U] = 0; t[w] = W_READ; say = 'sends its commit'
        if 'retry_stale' in V: t[w + KN], t[w + CS] = s[w + KN], s[w + CS]
        if opt.unknown: t[PEND] |= b & ~s[FE]
        elif not (s[SN] | s[FE]) & b: t[SN] |= b; say = 'commits'
        if 'end_unread' in V: end_session(t, b); t[w] = W_DONE; say += ', deletes its session'
    elif pc == W_READ:
        if s[SN] & b: t[w] = W_END; say = 'reads its snapshot'
        elif s[FE] & b:
            end_session(t, b); say = 'reads a fence'; t[w] = W_DONE
            if not att and opt.retry: t[w + ATT] = 1; t[w] = W_START; say += ', takes a new id'
        elif opt.unknown: fence(t, b); t[w] = W_END; say = 'gives up with its own fence'
        else: t[w] = W_END; say = 'reads nothing: committed, forgotten and deleted'
    elif pc == W_END: end_session(t, b); t[w] = W_DONE; say = 'deletes its session'
    if say: emit('W%d' % i, say, t)

# ---- pruner -------------------------------------------------------------------------------------------------------
def dead_packs(s, among, live, avail, greedy):          # packs whose live chunks all have another usable copy
    dead = 0
    for p in bits(among):
        rest = avail & ~p & ~(dead if greedy else 0); need = chunks_of(s, p) & live
        if not need & missing(s, rest): dead |= p
    return dead

def pruner(s, j, emit):
    p = PR + 6 * j; pc, n, own = s[p], s[p + T], s[p + C]; t = s[:]; say = None
    def clear(*fields):
        for f in fields or (T, C, X, L): t[p + f] = 0
    def finish(): clear(); t[p + RD] += 1; t[p] = P_IDLE
    if pc in (P_IDLE, P_READY) and s[p + RD] < ROUNDS:
        for m in range(NS):                             # carry out any deletion list that exists
            if s[CE] >> m & 1:
                q = s[:]; q[p + T] = m; q[p + C] = s[CP + m]
                q[p] = B_SNAPS if V & {'no_fence', 'snaps_first'} else B_SESS
                emit('P%d' % j, 'reads deletion list %d: packs %s' % (m, bin(s[CP + m])[2:]), q)
    if pc == P_IDLE and s[p + RD] < ROUNDS:             # mark, to write a deletion list
        c = condemned(s); live = needed(s[SN] & ~s[FO]); avail = segments(s)[1] & s[PRES] & ~c
        if 'any_list' in V:
            sets = [m for m in range(1, 1 << NP) if not m & ~(s[PRES] & ~c)]
        else: sets = [m for m in [dead_packs(s, s[PRES] & ~c, live, avail, True)] if m]
        n = s[CE].bit_length() if NUMBERED else j * ROUNDS + s[p + RD]
        if n < NS:
            for m in sets:
                q = s[:]; q[p + T] = n; q[p + C] = m; q[p] = P_COND; emit('P%d' % j, 'marks; dead: ' + bin(m)[2:], q)
        if opt.repack and not s[PRES] >> (NP - P + j) & 1 and not (s[HASA] | s[HASB]) >> (NP - P + j) & 1:
            r = 1 << (NP - P + j)                       # copy the live chunks of any pack (it may hold dead ones too)
            for o in bits(s[PRES]):
                h = chunks_of(s, o) & live
                if h:
                    q = s[:]; q[PRES] |= r; q[p] = P_REPACK; hold(q, r, h)
                    emit('P%d' % j, 'repacks pack %d' % (o.bit_length() - 1), q)
    elif pc == P_REPACK:
        t[SEG] |= 1 << (NP - P + j); t[p] = P_IDLE; say = 'writes the segment of the repacked pack'
    elif pc == P_COND:
        if s[CE] >> n & 1: t[p] = P_IDLE; say = 'finds the deletion list name taken'
        else: t[CE] |= 1 << n; t[CP + n] = own; t[p] = P_READY; say = 'writes deletion list %d: packs %s' % (n, bin(own)[2:])
        clear()
    elif pc == B_SESS:                                  # sessions that did not know the deletion list when they were created
        for k in range(1, NI):
            if s[SE] >> k & 1 and (s[T0 + k] <= n if NUMBERED else not s[T0 + k] >> n & 1): t[p + X] |= 1 << k
        t[p] = B_FENCE if t[p + X] else (B_FORG if 'snaps_first' in V else B_SNAPS); say = 'lists sessions'
    elif pc in (B_FENCE, B_DFENCE):
        b = s[p + X] & -s[p + X]; settle(t, b); t[p + X] &= ~b; say = 'settles session %d' % (b.bit_length() - 1)
        if not t[p + X]: t[p] = B_RM if pc == B_DFENCE else B_FORG if 'snaps_first' in V else B_SNAPS
    elif pc == B_SNAPS:
        t[p + L] = s[SN]; t[p] = B_SESS if 'snaps_first' in V else B_FORG; say = 'lists snapshots'
    elif pc == B_FORG:
        t[p + L] = needed(s[p + L] & ~s[FO]); t[p] = B_COND; say = 'lists forgotten, marks'
    elif pc == B_COND:
        t[p + X] = segments(s)[1] & ~(own if 'dup_condemned' in V else condemned(s) | own)
        if 'presence_first' in V: t[p + X] &= s[PRES]
        t[p] = B_PACKS; say = 'loads the segments, reads condemned'
    elif pc == B_PACKS:
        if not V & {'presence_first', 'no_presence'}: t[p + X] &= s[PRES]
        dead = dead_packs(s, own & s[PRES], s[p + L], t[p + X], False); say = 'lists packs; dead: ' + bin(dead)[2:]
        clear(X, L); t[p + X] = dead; t[p] = B_DEL if dead else B_SEGS
        if 'cond_before_del' in V and dead == own & s[PRES]: t[CE] &= ~(1 << n); t[CP + n] = 0
        if 'resurrect' in V and s[CE] >> n & 1: t[CP + n] &= dead | ~s[PRES]
    elif pc == B_DEL:
        b = s[p + X] & -s[p + X]; t[p + X] &= ~b; t[PRES] &= ~b; say = 'deletes pack %d' % (b.bit_length() - 1)
        if not t[p + X]: t[p] = B_SEGS
    elif pc == B_SEGS:                                  # segments that name packs now gone, and those already replaced
        gone = own & ~s[PRES]; vis, _ = segments(s); bad = s[SEG] & ~vis | s[SEG] & gone; keep = 0
        if opt.wait and s[SE]: bad &= vis               # replaced ones stay while any session is open
        for v in range(NV):
            if s[SEG] >> (NP + v) & 1 and s[SM + v] & gone and not (opt.wait and s[SE] and not vis >> (NP + v) & 1):
                bad |= 1 << (NP + v)
                if vis >> (NP + v) & 1: keep |= s[SM + v] & ~gone
        t[p + X], t[p + L] = bad, keep; say = 'reads the segments'
        t[p] = B_DROP if not bad else B_WSEG if keep else B_DSEG
    elif pc == B_WSEG:
        v = j * ROUNDS + s[p + RD]; t[SEG] |= 1 << (NP + v); t[SM + v] = s[p + L]; t[SR + v] = s[p + X]; t[p + L] = 0
        t[p] = B_DSEG; say = 'writes a replacement segment'
    elif pc == B_DSEG:
        b = s[p + X] & -s[p + X]; t[SEG] &= ~b; t[p + X] &= ~b; v = b.bit_length() - 1 - NP; say = 'deletes segment %d' % (v + NP)
        if v >= 0: t[SM + v] = t[SR + v] = 0
        if not t[p + X]: t[p] = B_DROP
    elif pc == B_DROP:                                  # may the deletion list go?
        named = (0 if 'cond_present' in V else s[PRES]) | (0 if V & {'cond_no_wait', 'cond_named'} else names(s, s[SEG]))
        say = 'looks whether deletion list %d may go' % n
        if named & own or opt.wait and s[SE]: finish()
        else: t[p] = B_RM if V & {'cond_no_wait', 'no_fence'} else B_DSESS
    elif pc == B_DSESS:                                 # wait for, or fence, all that may have loaded a segment naming them
        t[p + X] = s[SE]; t[p] = B_DFENCE if s[SE] else B_RM; say = 'lists sessions'
    elif pc == B_RM:
        finish(); say = 'removes deletion list %d' % n
        if 'kept' in V: t[CD] |= 1 << n; say = 'marks deletion list %d carried out' % n
        else: t[CE] &= ~(1 << n); t[CP + n] = 0
    if say: emit('P%d' % j, say, t)

# ---- merger, and what anybody may do ------------------------------------------------------------------------------
def merger(s, k, emit):
    m = ME + 3 * k; v = P * ROUNDS + k
    if s[m] == 0:
        vis = list(bits(segments(s)[0]))
        for x, one in enumerate(vis):
            for two in vis[x:]:                         # (rewriting one segment is a merge too)
                packs = names(s, one | two)
                if 'merge_drops' in V:
                    for b in bits(packs):
                        if not chunks_of(s, b) & missing(s, packs & ~b): packs &= ~b
                t = s[:]; t[m], t[m + 1], t[m + 2] = 1, one | two, packs
                emit('M%d' % k, 'reads segments ' + bin(one | two)[2:], t)
    elif s[m] == 1:
        t = s[:]; t[SEG] |= 1 << (NP + v); t[SM + v] = s[m + 2]; t[SR + v] = s[m + 1]; t[m], t[m + 1], t[m + 2] = 2, 0, 0
        emit('M%d' % k, 'writes the merged segment', t)
def anybody(s, emit):
    for b in bits(s[SN] & ~s[FO]):
        t = s[:]; t[GFO] |= b
        if 'forget_delete' in V: t[SN] &= ~b
        else: t[FO] |= b
        emit('user', 'forgets snapshot %d' % (b.bit_length() - 1), t)
    for b in bits(s[PEND] & ~(s[SN] | s[FE])):
        t = s[:]; t[SN] |= b; emit('store', 'commit %d takes effect' % (b.bit_length() - 1), t)
    if opt.reland:                                      # R6 broken
        for b in bits((s[HASA] | s[HASB]) & ~s[PRES] & ((1 << 1 + W * K) - 2)):
            t = s[:]; t[PRES] |= b; emit('store', 'pack %d arrives again' % (b.bit_length() - 1), t)
    if opt.unknown and P:                               # elsewhere a forgotten snapshot's object is of no consequence
        for i in range(W):                              # a repeated segment arrives after prune deleted it
            for b in bits(((1 << s[WR + 6 * i + UP]) - 1 << 1 + i * K) & ~s[SEG]):
                t = s[:]; t[SEG] |= b; emit('store', 'segment %d arrives again' % (b.bit_length() - 1), t)
        for b in bits(s[SN] & s[FO] & ~1):
            t = s[:]; t[SN] &= ~b
            if 'forgotten_drop' in V: t[FO] &= ~b
            emit('prune', 'deletes forgotten snapshot %d' % (b.bit_length() - 1), t)
def successors(s, emit):
    for i in range(W):
        writer(s, i, emit)
        if s[WR + 6 * i] == s[WR + 6 * i + ATT] == 0: break         # writers are alike: they start in order
    for j in range(P): pruner(s, j, emit)
    for k in range(M): merger(s, k, emit)
    anybody(s, emit)
def violation(s):                                       # (is it fatal, what)
    if s[SN] & s[GFE]: return 1, 'a fenced id became a snapshot'
    if s[SN] & s[GFO] & ~s[FO]: return 1, 'a forgotten snapshot came back'
    need = content(s[SN] & ~s[FO])
    if need & missing(s, s[PRES]): return 1, 'a snapshot lost a chunk: no present pack holds it'
    if need & missing(s, s[PRES] & segments(s)[1]): return 0, 'a chunk is in a pack that no visible segment names'
    return None

# ---- breadth-first search, shortest trace first --------------------------------------------------------------------
def trace(seen, key):
    path = [key]
    while seen[path[-1]] is not None: path.append(seen[path[-1]])
    path.reverse()
    for a, b in zip(path, path[1:]):
        s = array('H'); s.frombytes(a); hit = []
        successors(s, lambda who, what, t: hit.append((who, what)) if t.tobytes() == b else None)
        print('   %-6s %s' % hit[0])
def main():
    start = time.time(); first = init.tobytes(); seen = {first: None}; queue = deque([first]); unfindable = None
    name = '%s W%d P%d M%d rounds %d retry %d%s%s' % (opt.variant, W, P, M, ROUNDS, opt.retry, ' unknown' * opt.unknown, ' delta' * opt.delta + ' repack' * opt.repack + ' reland' * opt.reland + ' wait' * opt.wait)
    def result(word): print('%-10s %s: %d states, %.0f s' % (word, name, len(seen), time.time() - start), flush=True)
    while queue:
        key = queue.popleft(); s = array('H'); s.frombytes(key)
        def emit(who, what, t):
            k = t.tobytes()
            if k not in seen: seen[k] = key; queue.append(k)
        bad = violation(s)
        if bad and bad[0]: result('VIOLATION'); print('  ' + bad[1]); trace(seen, key); return 1
        if bad and not unfindable: unfindable = (key, bad[1])
        if len(seen) > opt.limit: break
        successors(s, emit)
    result('LIMIT' if queue else 'SAFE')
    if unfindable: print('  but only by a scan of packs: ' + unfindable[1]); trace(seen, unfindable[0])
    return 2 if queue else 0
sys.exit(main())
