"""C. Storage that is full, slow, damaged or not ours."""

import os
import resource
import shutil
import subprocess

from strata_trials.death import BASE, NEXT, WHOLE_SAVE
from strata_trials.registry import Tally, trial
from strata_trials.workshop import Run, check_finished, check_records, check_saved, expect

CALLS_OF_BYTES = "read,pread,write,pwrite,writev"


def goes_on(shop, run, reference, ranks=0):
    shop.finish(run, ranks, {"train.steps": NEXT, "train.keep": 2})
    check_finished(run, reference, NEXT)
    shop.remove(run)


@trial("disk-full", "C12", cases=6, ci=2)
def disk_full(shop, case, rng):
    """The file system of the run folder is full for good in the middle of a save: the checkpoints that there
    are stay, exit 74 (or a run that went on without), and when there is space the same command continues
    bitwise. A real file system of its own size where this user may mount one, else an injected ENOSPC."""
    ranks = [0, 2][case % 2]
    reference = shop.reference(ranks, {"train.steps": NEXT})
    run = shop.begun(reference, BASE)
    real = case % 3 == 0 and os.geteuid() == 0
    size = sum(p.stat().st_size for p in run.path.rglob("*") if p.is_file())
    inject = None
    if real:
        kept = shop.folder / "kept"
        shop.discard(kept)
        run.path.rename(kept)
        run.path.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + rng.randrange(1 << 20, 3 << 20)}", "tmpfs",
                                  run.path], capture_output=True)
        real = mounted.returncode == 0
        shutil.copytree(kept, run.path, dirs_exist_ok=True)
        shop.discard(kept)
    if not real:
        inject = {"FROM": rng.randrange(1, 12), "DO": "ENOSPC", "TORN": 1, "UNDER": "/checkpoints/.tmp",
                  "CALLS": "write,pwrite,fsync,mkdir,close"}
    try:
        outcome = shop.train(run, ranks, WHOLE_SAVE, inject=inject).wait()
        expect(outcome.code in (0, 74), f"exit {outcome.code}: {outcome.cause}")
        check_records(run, reference)
        saved = check_saved(run, reference)
        expect(10 in saved and (5 in saved or 15 in saved), f"a committed checkpoint is lost: {saved} are left")
        expect(outcome.code or 15 in saved, "exit 0 without its checkpoint")
        if real:
            subprocess.run(["mount", "-o", f"remount,size={size * 4}", run.path], check=True)
        shop.finish(run, ranks, {"train.steps": NEXT, "train.keep": 2})
        check_finished(run, reference, NEXT)
    finally:
        if real:
            subprocess.run(["umount", "-l", run.path], check=True)
    shop.remove(run)
    where = "a full tmpfs" if real else "ENOSPC"
    return Tally(bitwise=1, note=f"{where}: exit {outcome.code}: {outcome.cause[-90:]}")


@trial("records-full", "C12r", cases=3, ci=3)
def records_full(shop, case, rng):
    """No space for metrics, TensorBoard events or log, from a random record on: training goes on to the last
    step, says so, and its checkpoints are the undisturbed ones."""
    what = ["/metrics.jsonl", "/tensorboard", "/log/"][case % 3]
    reference = shop.reference(0, {"train.steps": NEXT})
    run = shop.new_run()
    inject = {"FROM": rng.randrange(1, 20), "DO": "ENOSPC", "UNDER": what, "CALLS": "write,pwrite,writev"}
    outcome = shop.train(run, 0, {"train.steps": NEXT}, inject=inject).wait()
    expect(outcome.code == 0, f"{what}: exit {outcome.code}: {outcome.cause}")
    check_records(run, reference)
    expect(run.digest(NEXT) == reference.digests[NEXT], "the last checkpoint differs")
    shop.remove(run)
    return Tally(bitwise=1, note=f"{what} full: exit 0")


@trial("quota", "C13", cases=4, ci=2)
def quota(shop, case, rng):
    """A file size limit (SIGXFSZ, EFBIG) and a full quota (EDQUOT): as a full disk."""
    reference = shop.reference(0, {"train.steps": NEXT})
    run = shop.begun(reference, BASE)
    if case % 2 == 0:
        largest = rng.randrange(1 << 18, 3 << 20)
        how = {"limits": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))}
    else:
        how = {"inject": {"AT": rng.randrange(1, 6), "DO": "EDQUOT", "TORN": 1, "UNDER": "/checkpoints/.tmp",
                          "CALLS": "write,pwrite,mkdir"}}
    outcome = shop.train(run, 0, WHOLE_SAVE, **how).wait()
    expect(outcome.code in (0, 74), f"exit {outcome.code}: {outcome.cause}")
    saved = check_saved(run, reference)
    expect(10 in saved and (5 in saved or 15 in saved), f"a committed checkpoint is lost: {saved} are left")
    goes_on(shop, run, reference)
    return Tally(bitwise=1, note=f"exit {outcome.code}: {outcome.cause[-90:]}")


@trial("short-calls", "C15", cases=4, ci=2)
def short_calls(shop, case, rng):
    """Nine in ten reads and writes of a run move half of what was asked, or end with EINTR: every byte is the
    undisturbed one's."""
    ranks, what = [0, 2][case // 2 % 2], ["SHORT", "EINTR"][case % 2]
    reference = shop.reference(ranks, {"train.steps": NEXT})
    run = shop.new_run()
    inject = {"SHARE": 90, "SEED": rng.randrange(1 << 30), "DO": what, "UNDER": str(shop.folder), "CALLS": CALLS_OF_BYTES}
    shop.finish(run, ranks, {"train.steps": NEXT}, inject=inject)
    check_finished(run, reference, NEXT)
    shop.remove(run)
    return Tally(bitwise=1, note=f"{what}, {max(ranks, 1)} ranks")


@trial("unreadable-cache", "C19", cases=8, ci=2)
def unreadable_cache(shop, case, rng):
    """EIO for good from a random read of a cache on, on one rank: exit 74 with the file's name, no rank is left
    waiting, and the same command continues bitwise. A read that takes half a second changes nothing."""
    ranks = 2
    reference = shop.reference(ranks, {"train.steps": NEXT})
    run = shop.new_run()
    cache = rng.choice(["latents", "text"])
    victim = rng.randrange(ranks)
    slow = case % 4 == 3
    inject = {"RANK": victim, "UNDER": f"{shop.folder}/{cache}", "CALLS": "read,pread"}
    inject |= {"SHARE": 5, "DO": "SLEEP", "MS": 500} if slow else {"FROM": rng.randrange(1, 60), "DO": "EIO"}
    job = shop.train(run, ranks, {"train.steps": NEXT}, inject=inject)
    outcome = job.wait()
    job.wait_until_gone()
    note = run.exit_note()
    if not slow:
        code = note["code"] if note else outcome.code
        expect(code == 74, f"exit {outcome.code}, exit.json {note}: {outcome.cause}")
        expect(cache in outcome.cause and ".h5" in outcome.cause or "manifest.json" in outcome.cause,
               f"the cause names no file: {outcome.cause}")
    check_records(run, reference)
    goes_on(shop, run, reference, ranks)
    return Tally(bitwise=1, note=f"{cache}, rank {victim}: exit {outcome.code}: {outcome.cause[-90:]}")


def as_nobody():
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@trial("output-folder", "C20", cases=5, ci=5)
def output_folder(shop, case, rng):
    """An output folder that is not ours, read-only, a file, too long a name, or behind a dangling link: exit 73
    or 77 with its name, and nothing is written elsewhere."""
    base = shop.folder / "outputs"
    shop.discard(base)
    base.mkdir()
    prefix, target = [], base / "run"
    if case in (0, 1):
        if os.geteuid() != 0:
            return Tally(points=0, note="skipped: not root")
        os.chmod(shop.temporary, 0o777)
        prefix = as_nobody()
        base.chmod(0o755 if case == 0 else 0o555)
    elif case == 2:
        target.write_text("a file")
    elif case == 3:
        target = base / ("x" * 300)
    else:
        target.symlink_to(base / "nowhere")
    before = sorted(p.name for p in base.rglob("*"))
    outcome = shop.train(Run(target), 0, {"train.steps": 5}, prefix=prefix).wait()
    expect(outcome.code in (73, 77), f"exit {outcome.code}: {outcome.cause}")
    expect(str(target)[:200] in outcome.cause, f"the cause does not name the folder: {outcome.cause}")
    expect(sorted(p.name for p in base.rglob("*")) == before, "something was written")
    shop.discard(base)
    return Tally(bitwise=1, note=f"exit {outcome.code}: {outcome.cause[-100:]}")


@trial("late-visibility", "C21", cases=4, ci=1)
def late_visibility(shop, case, rng):
    """Files of checkpoints are not there for a rank other than 0 in the first two seconds, as behind the attribute
    cache of a network file system: it waits, and all ranks load the same checkpoint."""
    ranks = rng.choice([2, 2, 2, 2, 4])
    reference = shop.reference(ranks, {"train.steps": NEXT})
    run = shop.begun(reference, BASE)
    inject = {"RANK": rng.randrange(1, ranks), "FROM": 1, "FOR_MS": rng.randrange(100, 2000), "DO": "ENOENT",
              "UNDER": "/checkpoints/step", "CALLS": "open"}
    outcome = shop.finish(run, ranks, {"train.steps": NEXT}, inject=inject)
    expect("continued from" in outcome.log and "step-00000010" in outcome.log, "another checkpoint was loaded")
    check_finished(run, reference, NEXT)
    shop.remove(run)
    return Tally(bitwise=1, note=f"{inject['FOR_MS']} ms")
