"""C. Files that are damaged: by hand, and bit by bit."""

import json
import os
import shutil
import subprocess
import time

from strata_trials.death import BASE, NEXT, continued_from
from strata_trials.registry import Tally, trial
from strata_trials.workshop import check_finished, check_records, expect


def cut(size):
    def damage(path):
        content = path.read_bytes()
        path.write_bytes(content[:size(len(content))])
    return damage


def flip_a_bit(rng):
    def damage(path):
        content = bytearray(path.read_bytes())
        bit = rng.randrange(len(content) * 8)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
    return damage


def swap_shards(folder):
    first, second = sorted(folder.glob("shard-*"))[:2]
    aside = folder / "aside"
    first.rename(aside), second.rename(first), aside.rename(second)


def edit_manifest(folder):
    path = folder / "MANIFEST.json"
    path.write_text(path.read_text().replace('"step":10', '"step":11'))


def older_shard(folder):
    for path in sorted(folder.glob("shard-*")):
        shutil.copyfile(folder.parent / "step-00000005" / path.name, path)


def damages(rng):
    """(what, function of a checkpoint's folder, whether it must be refused)"""
    for name in ("shard-00000-of-00002.bin", "shard-00001-of-00002.bin", "MANIFEST.json"):
        for what, size in (("cut to 0", lambda n: 0), ("cut to 1", lambda n: 1), ("cut in half", lambda n: n // 2),
                           ("one byte short", lambda n: n - 1)):
            yield f"{name} {what}", lambda f, n=name, s=size: cut(s)(f / n), True
        yield f"{name} deleted", lambda f, n=name: (f / n).unlink(), True
        yield f"{name} a folder", lambda f, n=name: ((f / n).unlink(), (f / n).mkdir()), True
        yield f"{name} a link", lambda f, n=name: ((f / n).rename(f.parent.parent / n),
                                                   (f / n).symlink_to(f.parent.parent / n)), n_is_shard(name)
        for _ in range(3):
            yield f"{name} a bit", lambda f, n=name: flip_a_bit(rng)(f / n), True
    yield "shards swapped", swap_shards, True
    yield "shards of an older checkpoint", older_shard, True
    yield "manifest edited", edit_manifest, True
    yield "a further file", lambda f: (f / "further").write_bytes(b"x"), False


def n_is_shard(name):
    return name.startswith("shard")


@trial("damaged-newest", "C16", cases=lambda shop: range(34), ci=4)
def damaged_newest(shop, case, rng):
    """The newest checkpoint cut, flipped, swapped, edited or partly gone: refused by name and reason, said
    loudly, and the run continues bitwise from the one before."""
    what, damage, refused = list(damages(rng))[case]
    reference = shop.reference(2, {"train.steps": NEXT})
    run = shop.begun(reference, BASE)
    damage(run.folder_of(10))
    outcome = shop.finish(run, 2, {"train.steps": NEXT})
    start = continued_from(outcome)
    expect(start == (5 if refused else 10), f"{what}: continued from {start}")
    expect(not refused or "step-00000010" in outcome.log and "refused" in outcome.log,
           f"{what}: the log does not say that step 10 was refused")
    check_finished(run, reference, NEXT)
    shop.remove(run)
    return Tally(bitwise=1, note=f"{what}: continued from step {start}")


@trial("damaged-all", "C17", cases=6, ci=2)
def damaged_all(shop, case, rng):
    """Every checkpoint damaged, or the folders empty: exit 66 with each one's name and reason, never a start from
    step 0, and nothing is changed."""
    reference = shop.reference(0, {"train.steps": NEXT})
    run = shop.begun(reference, BASE)
    for step in BASE:
        files = sorted(run.folder_of(step).iterdir())
        if case == 0:
            for path in files:
                path.unlink()
        else:
            flip_a_bit(rng)(rng.choice(files))
    before = {p: p.read_bytes() for p in run.checkpoints.rglob("*") if p.is_file()}
    outcome = shop.train(run, 0, {"train.steps": NEXT}).wait()
    expect(outcome.code == 66, f"exit {outcome.code}: {outcome.cause}")
    for step in BASE:
        expect(f"step-{step:08d}" in outcome.cause, f"the cause does not name step {step}: {outcome.cause}")
    expect(before == {p: p.read_bytes() for p in run.checkpoints.rglob("*") if p.is_file()}, "something was changed")
    expect(run.exit_note() and run.exit_note()["code"] == 66, "exit.json does not say 66")
    shop.remove(run)
    return Tally(note="exit 66")


def cache_damages(rng):
    def shard(change):
        def damage(folder):
            path = folder / "shard-00000.h5"
            content = bytearray(path.read_bytes())
            change(content)
            path.write_bytes(content)
        return damage

    def flip(begin, end):
        def change(content):
            at = rng.randrange(begin(len(content)), end(len(content)))
            content[at] ^= 1 << rng.randrange(8)
        return shard(change)

    def drop_last(content):
        del content[-rng.randrange(1, 2000):]

    def of_another(folder):
        shutil.copyfile(folder.parent / "other" / "shard-00000.h5", folder / "shard-00000.h5")

    def manifest(old, new):
        def damage(folder):
            path = folder / "manifest.json"
            text = path.read_text()
            expect(old in text, f"no {old} in {path}")
            path.write_text(text.replace(old, new, 1))
        return damage

    def delete(folder):
        (folder / "shard-00000.h5").unlink()
    yield "a bit of the values", flip(lambda n: n * 3 // 4, lambda n: n), 65
    yield "a bit of the metadata", flip(lambda n: 0, lambda n: 2048), 65
    yield "cut short", shard(drop_last), 65
    yield "a byte more", shard(lambda content: content.extend(b"x")), 65
    yield "a shard of the same shape from other latents", of_another, 65
    yield "deleted", delete, 65
    yield "row count off by one", manifest('"count": 64', '"count": 63'), 65
    yield "another dtype", manifest('"bfloat16"', '"float16"'), 65
    yield "another index", manifest('"index_sha256": "', '"index_sha256": "0'), 65


@trial("damaged-cache", "C18", cases=lambda shop: range(18), ci=3)
def damaged_cache(shop, case, rng):
    """A latent cache damaged, cut, swapped or edited: exit 65 before a wrong sample reaches a step, naming the
    file and, for a row, the sample."""
    what, damage, code = list(cache_damages(rng))[case % 9]
    folder = shop.folder / "damaged"
    shop.discard(folder)
    shutil.copytree(shop.folder / "latents", folder / "latents")
    shutil.copytree(shop.other_latents(), folder / "other")
    damage(folder / "latents")
    run = shop.new_run()
    settings = {"train.steps": NEXT, "data.latents": folder / "latents"}
    outcome = shop.train(run, 0, settings).wait()
    expect(outcome.code == code, f"{what}: exit {outcome.code}: {outcome.cause}")
    expect("shard-00000.h5" in outcome.cause or "manifest.json" in outcome.cause, f"no file is named: {outcome.cause}")
    expect(what != "a bit of the values" or "sample" in outcome.cause, f"no sample is named: {outcome.cause}")
    shop.remove(run)
    shop.discard(folder)
    return Tally(note=f"{what}: {outcome.cause[-100:]}")


@trial("cut-in-use", "A7c", cases=4, ci=1)
def cut_in_use(shop, case, rng):
    """A cache file becomes shorter while two ranks read it: exit 65 or 74 with the file's name, all are gone within 10 s,
    and with the file restored the same command continues bitwise."""
    cache = ["latents", "text/last"][case % 2]
    folder = shop.folder / "cut"
    shop.discard(folder)
    shutil.copytree(shop.folder / cache, folder)
    whole = (folder / "shard-00000.h5").read_bytes()
    reference = shop.reference(2, {"train.steps": 160})
    run = shop.new_run()
    settings = {"train.steps": 160, f"data.{cache.split('/')[0]}": folder}
    job = shop.train(run, 2, settings)
    while run.step() < 5 + rng.randrange(60) and job.process.poll() is None:
        time.sleep(0.005)
    os.truncate(folder / "shard-00000.h5", rng.randrange(len(whole) // 2))
    outcome = job.wait()
    job.wait_until_gone()
    note = run.exit_note()
    expect(note and note["code"] in (65, 74), f"exit {outcome.code}, exit.json {note}")
    expect("shard-00000.h5" in note["cause"], f"no file is named: {note['cause']}")
    check_records(run, reference)
    (folder / "shard-00000.h5").write_bytes(whole)
    shop.finish(run, 2, settings)
    check_records(run, reference, 160)
    shop.remove(run), shop.discard(folder)
    return Tally(bitwise=1, note=f"{cache}: exit {note['code']}: {note['cause'][-90:]}")


def flip_table(notes):
    lines = ["", "| class | bytes | flips | refused | read as before | read otherwise | of these, noticed by the recorded "
             "hash |", "|---|---|---|---|---|---|---|"]
    for note in notes:
        for line in filter(None, note.splitlines()):
            c = json.loads(line)
            lines.append("| {class} | {bytes} | {flips} | {refused} | {same} | {silent} | {noticed} |".format(**c))
    return "\n".join(lines)


# Formats of others carry no checksum; of those files a hash is recorded wherever they were used.
WITHOUT_CHECKSUM = ("index.jsonl", "weights (safetensors)", "tokenizer.json")


@trial("bit-flips", "C18f", cases=1, ci=1, summary=flip_table)
def bit_flips(shop, case, rng):
    """10,000 flips of one bit over all classes of files, each read by the product's own reader: none is read
    otherwise without a word, but in formats that carry no checksum."""
    folder = shop.folder / "flips"
    shop.discard(folder)
    reference = shop.reference(0, {"train.steps": NEXT})
    shutil.copytree(reference.run.folder_of(5), folder / "checkpoint")
    shutil.copytree(shop.folder / "latents", folder / "latents")
    shutil.copytree(shop.folder / "text/last", folder / "text")
    shutil.copytree(shop.study / "encoder", folder / "encoder")
    shutil.copyfile(shop.folder / "index.jsonl", folder / "index.jsonl")
    shop.make_image(folder / "image.png")
    done = subprocess.run([shop.flips, "--dir", folder, "--seed", str(rng.randrange(1 << 30)), "--count",
                           str(shop.bit_flips)], capture_output=True, text=True)
    expect(done.returncode == 0, done.stderr)
    flips = 0
    for line in done.stdout.splitlines():
        counts = json.loads(line)
        flips += counts["flips"]
        silent = counts["silent"] - (counts["noticed"] if counts["class"] in WITHOUT_CHECKSUM else 0)
        expect(silent == 0, f"{counts['class']}: {silent} flips were read without a word")
    shop.discard(folder)
    return Tally(points=flips, note=done.stdout)
