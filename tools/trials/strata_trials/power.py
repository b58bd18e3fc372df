"""Loss of power: what a disk may hold when only that is sure which was synced.

The injector records every change that a run makes below its checkpoints. From the record the states are rebuilt that a
disk may be in after a crash at any moment:

- a file's bytes up to its last fsync are there; those written since are there, or not, or half of them, or the file has
  its length and holds zeros (the length is metadata, and may be there before the data);
- names in a folder are there as of the folder's last fsync; of what was made, renamed or removed since, any part may be
  there, in any order but that of changes to the same name or the same file (a rename is whole).

That is weaker than any journalling file system, and a file's own fsync says nothing about its name."""

import hashlib
import itertools
import os
import random
import re
import shutil
import subprocess

from strata_trials.damage import flip_a_bit
from strata_trials.death import BASE, MIDDLE, NEXT
from strata_trials.registry import Tally, trial
from strata_trials.workshop import Run, check_finished, expect

RESTART_EVERY = 25  # states: then the run itself is started again, not its reader alone
MOST_A_MOMENT = 400  # states of one moment; what is more is drawn


class File:
    def __init__(self, content=b""):
        self.now = bytearray(content)
        self.synced = bytes(content)
        self.pending = []  # (offset, bytes) since the last fsync; bytes None: cut to the offset

    def write(self, offset, data):
        apply_write(self.now, offset, data)
        self.pending.append((offset, data))

    def sync(self):
        self.synced, self.pending = bytes(self.now), []

    def variants(self):
        """Contents that the disk may hold."""
        if not self.pending:
            return [self.synced]
        found = [bytes(self.now), self.synced]
        half = bytearray(self.synced)
        whole = self.pending[:len(self.pending) // 2]
        for offset, data in whole:
            apply_write(half, offset, data)
        torn, data = self.pending[len(whole)]
        if data:
            apply_write(half, torn, data[:len(data) // 2])
        zeros = bytearray(len(self.now))
        zeros[:len(self.synced)] = self.synced[:len(zeros)]
        return list(dict.fromkeys([*found, bytes(half), bytes(zeros)]))


def apply_write(content, offset, data):
    if data is None:
        del content[offset:]
    size = offset + len(data or b"")
    if len(content) < size:
        content.extend(bytes(size - len(content)))
    content[offset:size] = data or b""


class Folder:
    def __init__(self):
        self.now, self.synced = {}, {}
        self.pending = []  # ({name: node or None}, nodes) since the last fsync

    def change(self, names):
        """names: what each is from now on; None: gone."""
        nodes = {id(node) for node in (*names.values(), *(self.now.get(name) for name in names)) if node}
        self.pending.append((names, nodes))
        self.update(self.now, names)

    @staticmethod
    def update(entries, names):
        for name, node in names.items():
            if node is None:
                entries.pop(name, None)
            else:
                entries[name] = node

    def sync(self):
        self.synced, self.pending = dict(self.now), []

    def variants(self):
        """Entries that the disk may hold."""
        chosen = [[]]
        for i, (names, nodes) in enumerate(self.pending):
            before = [j for j in range(i) if set(names) & set(self.pending[j][0]) or nodes & self.pending[j][1]]
            chosen += [[*subset, i] for subset in chosen if all(j in subset for j in before)]
            if len(chosen) > MOST_A_MOMENT:  # the two ends always stay
                chosen = [chosen[0], *random.Random(i).sample(chosen[1:-1], MOST_A_MOMENT - 2), chosen[-1]]
        for subset in chosen:
            entries = dict(self.synced)
            for i in subset:
                self.update(entries, self.pending[i][0])
            yield entries


class Disk:
    """What the record says about everything below `root`, which it names by absolute paths."""

    def __init__(self, root):
        self.root, self.top = str(root), Folder()
        self.load(root, self.top)

    def load(self, path, folder):
        for entry in sorted(path.iterdir()):
            if entry.is_dir():
                node = Folder()
                self.load(entry, node)
            else:
                node = File(entry.read_bytes())
            folder.now[entry.name] = node
        folder.sync()

    def find(self, path):
        node = self.top
        for name in self.names(path):
            node = node.now[name]
        return node

    def names(self, path):
        if path != self.root and not path.startswith(self.root + "/"):
            raise ValueError(f"{path} is not below {self.root}")
        return path[len(self.root) + 1:].split("/") if path != self.root else []

    def parent(self, path):
        return self.find(os.path.dirname(path)), os.path.basename(path)

    def apply(self, call, offset, path, to, data):
        if call == "write":
            self.find(path).write(offset, data)
        elif call == "truncate":
            self.find(path).write(offset, None)
        elif call == "fsync":
            self.find(path).sync()
        elif call in ("create", "mkdir"):
            folder, name = self.parent(path)
            if name not in folder.now:
                folder.change({name: File() if call == "create" else Folder()})
        elif call == "unlink":
            folder, name = self.parent(path)
            folder.change({name: None})
        else:
            (folder, name), (target, new_name) = self.parent(path), self.parent(to)
            if folder is not target:
                raise ValueError(f"{path} goes to another folder: {to}")
            node, other = folder.now[name], folder.now.get(new_name)
            folder.change({name: other if call == "exchange" else None, new_name: node})

    def states(self, folder=None):
        """Every tree that the disk may hold now: {name: tree or bytes}."""
        for entries in (folder or self.top).variants():
            options = [list(itertools.islice(self.states(node), MOST_A_MOMENT)) if isinstance(node, Folder)
                       else node.variants() for node in entries.values()]
            for choice in itertools.product(*options):
                yield dict(zip(entries, choice))


def read_record(path):
    """[(call, offset, path, second path, bytes)] in the order in which they happened."""
    content = path.read_bytes()
    at, found = 0, []
    while at < len(content):
        end = content.index(b"\n", at)
        call, offset, *lengths = content[at:end].split()
        at, parts = end + 1, []
        for length in lengths:
            parts.append(content[at:at + int(length)])
            at += int(length)
        found.append((call.decode(), int(offset), parts[0].decode(), parts[1].decode(), parts[2]))
    return found


def digest(tree):
    """Of a tree's names and bytes; those of a long-lived content are computed once."""
    if isinstance(tree, bytes):
        if tree not in digest.known:
            digest.known[tree] = hashlib.sha256(tree).hexdigest()
        return digest.known[tree]
    return hashlib.sha256("".join(f"{name}/{digest(node)}\n" for name, node in sorted(tree.items())).encode()).hexdigest()


digest.known = {}


def write_tree(tree, folder):
    folder.mkdir()
    for name, node in tree.items():
        if isinstance(node, bytes):
            (folder / name).write_bytes(node)
        else:
            write_tree(node, folder / name)


def record_run(shop, ranks, damaged):
    """The record of a run from step 10 to 20 with its two saves and their retention, from the disk as it was before.
    damaged: a checkpoint of step 15 is there already and is replaced."""
    reference = shop.reference(ranks, {"train.steps": NEXT})
    run = shop.begun(reference, (*BASE, MIDDLE) if damaged else BASE)
    if damaged:
        flip_a_bit(random.Random(1))(next(run.folder_of(MIDDLE).glob("shard-*")))
    disk = Disk(run.checkpoints)
    path = shop.temporary / "record"
    path.unlink(missing_ok=True)
    shop.finish(run, ranks, {"train.steps": NEXT, "train.keep": 2}, inject={"RECORD": path, "UNDER": f"{run.path}/"})
    shop.remove(run)
    return disk, read_record(path)


def states_of(disk, record):
    """States of the disk at every moment of the record, each once, with the newest step whose checkpoint the log
    had announced by then: [(moment, step, tree)]."""
    announced, found = BASE[-1], {}
    changes = 0
    for call, offset, path, to, data in [("", 0, "", "", b""), *record]:
        if "/log/" in path:
            steps = [int(step) for step in re.findall(rb"(?m)^\S+ checkpoint \S*/step-(\d+) ", data)]
            announced = max([announced, *steps])
        elif path == disk.root or path.startswith(disk.root + "/"):
            disk.apply(call, offset, path, to, data)
            changes += 1
        elif call:
            continue
        # What lies under other names is never read: of such states one stands for all.
        for tree in itertools.islice(disk.states(), MOST_A_MOMENT):
            seen = {name: node for name, node in tree.items() if name.startswith("step-")}
            key = digest(seen), tuple(sorted(set(tree) - set(seen)))
            if key not in found or found[key][1] < announced:
                found[key] = changes, announced, tree
    return list(found.values())


def power_cases(shop):
    if not hasattr(shop, "power_states"):
        shop.power_states = [(ranks, damaged, *state) for ranks, damaged in ((2, False), (0, True))
                             for state in states_of(*record_run(shop, ranks, damaged))]
    return range(len(shop.power_states))


@trial("power-loss", "A3p", cases=power_cases, ci=25)
def power_loss(shop, case, rng):
    """Power goes at any moment of two saves and their retention, and what was not synced is there in part, or in
    another order: the newest checkpoint that was announced, or a newer one, is whole; in every 25th state the run is
    started again and continues bitwise."""
    ranks, damaged, moment, announced, tree = shop.power_states[case]
    reference = shop.reference(ranks, {"train.steps": NEXT})
    state = Run(shop.folder / "power")
    shop.discard(state.path)
    state.path.mkdir()
    write_tree(tree, state.checkpoints)
    name = subprocess.run([shop.flips, "--newest", state.checkpoints], check=True, capture_output=True, text=True).stdout
    what = f"after change {moment} of {'a replacing run' if damaged else f'{ranks} ranks'}"
    expect(name.strip(), f"{what}: all checkpoints are lost: {sorted(tree)}")
    step = int(name.strip()[5:])
    expect(step >= announced, f"{what}: checkpoint of step {announced} was announced and is lost: {step} is left")
    expect(state.digest(step) == reference.digests[step], f"{what}: checkpoint of step {step} differs")
    restarted = case % RESTART_EVERY == 0 and step < NEXT
    if restarted:
        run = shop.begun(reference, [s for s in reference.digests if s <= step])
        shop.discard(run.checkpoints)
        shutil.copytree(state.checkpoints, run.checkpoints)
        shop.finish(run, ranks, {"train.steps": NEXT, "train.keep": 2})
        check_finished(run, reference, NEXT)
        shop.remove(run)
    shop.discard(state.path)
    return Tally(bitwise=1, note=f"{what}: step {step} of {sorted(tree)}{', continued' if restarted else ''}")
