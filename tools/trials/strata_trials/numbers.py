"""E. Numbers that are not finite, and bits that turn in memory."""

import hashlib
import json
import re
import shutil
import signal
import struct
import time

from strata_trials.registry import Tally, trial
from strata_trials.workshop import expect, kill

CRC_TABLE = []
for byte in range(256):
    crc = byte
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    CRC_TABLE.append(crc)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def poison(folder, rows):
    """Writes NaN into these rows of a latent cache and makes every checksum right again."""
    path = folder / "shard-00000.h5"
    manifest = json.loads((folder / "manifest.json").read_text())
    content = bytearray(path.read_bytes())
    count, row_bytes = manifest["count"], 2
    for extent in manifest["shape"]:
        row_bytes *= extent
    values = len(content) - count * row_bytes
    row = lambda i: content[values + i * row_bytes:values + (i + 1) * row_bytes]
    crcs = lambda: b"".join(struct.pack("<I", crc32c(struct.pack("<q", i) + row(i))) for i in range(count))
    at = content.find(crcs())
    expect(at > 0, "the cache's CRCs are not where they are looked for")
    for i in rows:
        content[values + i * row_bytes:values + (i + 1) * row_bytes] = b"\xc0\x7f" * (row_bytes // 2)
    content[at:at + 4 * count] = crcs()
    path.write_bytes(content)
    shard = manifest["shards"][0]
    shard["meta_sha256"] = hashlib.sha256(content[:values]).hexdigest()
    shard["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


@trial("not-finite", "E31", cases=4, ci=2)
def not_finite(shop, case, rng):
    """One latent of a cache is NaN: the steps that meet it are skipped on all ranks and named, the run ends with
    finite weights and is the same when it is interrupted. All latents are NaN: exit 87 after three skipped
    steps, and nothing but finite weights was ever saved."""
    every = case % 2 == 1
    ranks = 2
    folder = shop.folder / "poisoned"
    shop.discard(folder)
    shutil.copytree(shop.folder / "latents", folder)
    poison(folder, range(64) if every else [rng.randrange(64)])
    settings = {"train.steps": 20, "data.latents": folder}
    run = shop.new_run()
    outcome = shop.train(run, ranks, settings).wait()
    if every:
        code = run.exit_note()["code"]
        expect(code == 87, f"exit {outcome.code}, exit.json {code}: {outcome.cause}")
        expect(not run.steps_saved(), f"checkpoints {run.steps_saved()} of a run that never updated")
        shop.remove(run)
        return Tally(note=f"exit 87: {outcome.cause[-120:]}")
    expect(outcome.code == 0, f"exit {outcome.code}: {outcome.cause}")
    skipped = re.findall(r"step (\d+): the gradient is not finite", outcome.log)
    expect(skipped, "no step was skipped")
    again = shop.new_run()
    shop.finish(again, ranks, {**settings, "train.steps": 10})
    shop.finish(again, ranks, settings)
    expect(again.records() == run.records() and again.digest(20) == run.digest(20), "an interrupted run differs")
    for path in run.folder_of(20).glob("shard-*"):
        for bits in struct.unpack(f"<{path.stat().st_size // 4}I", path.read_bytes()):
            expect(bits & 0x7F800000 != 0x7F800000, f"{path.name} holds what is not finite")
    shop.remove(run), shop.remove(again)
    return Tally(bitwise=1, note=f"steps {', '.join(skipped)} skipped")


def weights_at(shop, run, step, rank, ranks):
    """A pattern of 64 bytes of master weights that another rank than `rank` keeps."""
    manifest = json.loads((run.folder_of(step) / "MANIFEST.json").read_text())
    for tensor in manifest["tensors"]:
        file, offset, _, count = tensor["pieces"]["master"][0]
        if file != rank and count >= 64:
            with open(run.folder_of(step) / manifest["files"][file]["name"], "rb") as shard:
                shard.seek(offset + 64)
                yield tensor["name"], shard.read(64)


def find_in_memory(pid, pattern):
    places = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            region = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if not region:
                continue
            begin, end = (int(x, 16) for x in region.groups())
            if end - begin > 1 << 30:
                continue
            try:
                memory.seek(begin)
                content = memory.read(end - begin)
            except OSError:
                continue
            at = content.find(pattern)
            while at >= 0:
                places.append(begin + at)
                at = content.find(pattern, at + 1)
    return places


def turned_summary(notes):
    found = sum(note.startswith("found") for note in notes)
    return f"{found} of {len(notes)} turned bits were found, the others healed by the next gathering"


@trial("turned-bit", "E32", cases=10, ci=1, summary=turned_summary)
def turned_bit(shop, case, rng):
    """One bit turns in one rank's copy of the weights while it trains (written through /proc/PID/mem; the learning
    rate is 0, so that the copy can be recognised). Weights are compared every step: exit 88, or the bit was
    healed by the next gathering before a comparison saw it. Never another end."""
    ranks, victim = 2, rng.randrange(2)
    settings = {"train.steps": 2000, "train.lr": 0, "train.weight_decay": 0, "train.verify_every": 1,
                "train.checkpoint_every": 1000, "train.ema_decay": 0}
    run = shop.new_run()
    shop.finish(run, ranks, {**settings, "train.steps": 1})
    name, pattern = rng.choice(list(weights_at(shop, run, 1, victim, ranks)))
    job = shop.train(run, ranks, settings)
    pid = job.wait_for_ranks(ranks)[victim]
    while len(run.records()) < 20 and job.process.poll() is None:
        time.sleep(0.05)
    kill(pid, signal.SIGSTOP)
    places = find_in_memory(pid, pattern)
    for place in places:
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(place)
            value = memory.read(1)[0]
            memory.seek(place)
            memory.write(bytes([value ^ 1 << rng.randrange(8)]))
    kill(pid, signal.SIGCONT)
    turned = max(run.records())
    while job.process.poll() is None and max(run.records()) < turned + 20:
        time.sleep(0.02)
    alive = job.process.poll() is None
    if alive:
        for rank in job.rank_pids():
            kill(rank, signal.SIGUSR1)
    outcome = job.wait()
    code = (run.exit_note() or {"code": outcome.code})["code"]
    shop.remove(run)
    expect(places, "the copy of the weights was not found")
    expect(code in (88, 75), f"exit {code}: {outcome.cause}")
    found = "found: 88" if code == 88 else "healed unseen"
    return Tally(note=f"{found} ({name}, {len(places)} copies): {outcome.cause[-80:] if code == 88 else ''}")

