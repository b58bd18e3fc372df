"""A. Death of processes."""

import re
import signal
import time

from strata_trials.registry import Tally, trial
from strata_trials.workshop import Job, check_finished, check_records, check_saved, expect, kill

LAST = 40  # steps of a run
BASE, MIDDLE, NEXT = (5, 10), 15, 20
SAVE_CALLS = "open,write,pwrite,writev,fsync,fdatasync,close,ftruncate,fallocate,rename,mkdir,link,unlink"
LOAD_CALLS = "open,read,pread"


def continued_from(outcome):
    found = re.search(r"continued from \S+/step-(\d+)", outcome.log)
    return int(found[1]) if found else 0


def interrupted(shop, rng, ranks, how, steps=LAST):
    """A run that `how(job, pids)` breaks at a moment drawn over its whole length, then the same command
    again."""
    settings = {"train.steps": steps}
    reference = shop.reference(ranks, settings)
    run = shop.new_run()
    saving = {"train.checkpoint_background": rng.choice(["true", "false"])}
    job = shop.train(run, ranks, settings | saving)
    job.wait_for_ranks(1)
    struck = how(job, job.rank_pids()) if job.wait_for_moment(run, steps, rng) and job.rank_pids() else None
    moment = run.step()
    gone = job.wait_until_gone() if struck else 0
    code = job.wait().code
    if struck:
        expect(code != 0 or run.steps_saved()[-1:] == [steps], f"exit 0 after {struck}")
    check_records(run, reference)
    saved = check_saved(run, reference)
    outcome = shop.finish(run, ranks, settings)
    newest = saved[-1] if saved else 0
    expect(continued_from(outcome) == newest, f"continued from {continued_from(outcome)}, not {newest}")
    check_finished(run, reference, steps)
    shop.remove(run)
    if not struck:
        return Tally(bitwise=1, note="ended before")
    return Tally(bitwise=1, note=f"{struck} at step {moment}: all gone {gone:.1f} s later, exit {code}, "
                                 f"continued from step {newest}")


@trial("kill-rank", "A1", cases=20, ci=3)
def kill_rank(shop, case, rng):
    """kill -9 of a random rank at a random moment: all ranks gone within 10 s, the same command continues
    bitwise from the newest checkpoint that was announced."""
    ranks = rng.choice([2, 2, 2, 2, 4])

    def strike(job, pids):
        victim = rng.randrange(len(pids))
        kill(pids[victim])
        return f"rank {victim} of {ranks} killed"
    return interrupted(shop, rng, ranks, strike)


@trial("kill-launcher", "A4", cases=20, ci=1)
def kill_launcher(shop, case, rng):
    """kill -9 of mpirun alone at a random moment: the ranks end by themselves within 10 s, the next start
    takes the run folder over and continues bitwise."""
    def strike(job, pids):
        kill(job.process.pid)
        return "mpirun killed"
    return interrupted(shop, rng, 2, strike, 2 * LAST)  # the ranks go on for up to a second


@trial("kill-all", "A3", cases=10, ci=1)
def kill_all(shop, case, rng):
    """kill -9 of mpirun and all ranks at once, as when a node is lost. (What was not synced stays in the
    page cache: this is the death of processes, not of power.)"""
    def strike(job, pids):
        for pid in job.left():
            kill(pid)
        return "everything killed"
    return interrupted(shop, rng, rng.choice([0, 2]), strike)


@trial("crash", "A7", cases=12, ci=1)
def crash(shop, case, rng):
    """SIGSEGV, SIGBUS, SIGFPE or SIGABRT in a random rank of two at a random moment, as by a bug: exit.json says 70, the
    rank, the signal and the step; all are gone within 10 s, and the same command continues bitwise."""
    number = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT)[case % 4]
    reference = shop.reference(2, {"train.steps": LAST})
    run = shop.new_run()
    job = shop.train(run, 2, {"train.steps": LAST})
    while run.step() < 1 + rng.randrange(LAST - 10) and job.process.poll() is None:
        time.sleep(0.005)
    victim = rng.randrange(2)
    kill(job.rank_pids()[victim], number)
    outcome = job.wait()
    gone = job.wait_until_gone()
    note = run.exit_note()
    expect(note and note["code"] == 70 and note["rank"] == victim and not note["restart"],
           f"{number.name} in rank {victim}: exit {outcome.code}, exit.json {note}")
    expect(f"crashed with {number.name} in section" in note["cause"], f"the cause is {note['cause']}")
    check_records(run, reference)
    check_saved(run, reference)
    shop.finish(run, 2, {"train.steps": LAST})
    check_finished(run, reference, LAST)
    shop.remove(run)
    return Tally(bitwise=1, note=f"{note['cause']}: all gone {gone:.1f} s later")


@trial("no-memory", "A6", cases=12, ci=1)
def no_memory(shop, case, rng):
    """From a random call of a save on, a rank gets no more memory, or 1 or 4 MiB more: the run ends by itself with 70 or
    74, or goes on; never a hang, nothing committed is lost, and the same command continues bitwise."""
    ranks = [0, 2][case % 2]
    reference = shop.reference(ranks, {"train.steps": NEXT})
    run = shop.begun(reference, BASE)
    inject = {"AT": rng.randrange(1, 24), "DO": "MEMORY", "MB": (0, 1, 4)[case % 3], "UNDER": "/checkpoints",
              "CALLS": SAVE_CALLS, "RANK": rng.randrange(max(ranks, 1))}
    job = shop.train(run, ranks, {"train.steps": NEXT, "train.keep": 2}, inject=inject)
    outcome = job.wait()
    job.wait_until_gone()
    note = run.exit_note()
    code = note["code"] if note else outcome.code
    expect(code in (0, 70, 74), f"exit {outcome.code}, exit.json {note}: {outcome.cause}")
    check_records(run, reference)
    saved = check_saved(run, reference)
    expect(10 in saved or 15 in saved, f"a committed checkpoint is lost: {saved} are left")
    shop.finish(run, ranks, {"train.steps": NEXT, "train.keep": 2})
    check_finished(run, reference, NEXT)
    shop.remove(run)
    return Tally(bitwise=1, note=f"from call {inject['AT']} on {inject['MB']} MiB: exit {code}: {outcome.cause[-80:]}")


# --- every call of a save ------------------------------------------------------------------------

WHOLE_SAVE = {"train.steps": MIDDLE, "train.keep": 2}


def counted_calls(shop, reference, ranks, rank, calls):
    """The counted calls of an undisturbed start: [(number, call)]."""
    run = shop.begun(reference, BASE)
    log = shop.temporary / "calls"
    log.unlink(missing_ok=True)
    shop.finish(run, ranks, WHOLE_SAVE, inject={"LOG": log, "UNDER": "/checkpoints", "CALLS": calls, "RANK": rank})
    shop.remove(run)
    lines = [line.split() for line in log.read_text().splitlines()]
    return [(int(number), call, path) for number, call, path in lines]


def sweep_cases(ranks, rank):
    def cases(shop):
        reference = shop.reference(ranks, {"train.steps": NEXT})
        calls = counted_calls(shop, reference, ranks, rank, SAVE_CALLS)
        points = []
        for number, call, path in calls + [(len(calls) + 1, "none", "")]:
            for what in ("KILL", "EIO", "ENOSPC"):
                points.append((what, 0, number, call))
                if call in ("write", "pwrite", "writev"):
                    points.append((what, 1, number, call))
        return points
    return cases


def check_point(shop, ranks, rank, point, calls):
    what, torn, number, call = point
    reference = shop.reference(ranks, {"train.steps": NEXT})
    run = shop.begun(reference, BASE)
    inject = {"AT": number, "DO": what, "TORN": torn, "UNDER": "/checkpoints", "CALLS": calls, "RANK": rank}
    job = shop.train(run, ranks, WHOLE_SAVE, inject=inject)
    outcome = job.wait()
    job.wait_until_gone()
    name = f"{what}{' torn' if torn else ''} at call {number} ({call})"
    if what == "KILL":
        expect(outcome.code != 0 or call == "none", f"{name}: exit 0 after a kill")
    else:
        expect(outcome.code in (0, 74), f"{name}: exit {outcome.code}: {outcome.cause}")
    check_records(run, reference)
    saved = check_saved(run, reference)
    expect(10 in saved and (5 in saved or 15 in saved), f"{name}: a committed checkpoint is lost: {saved} are left")
    expect(outcome.code != 0 or 15 in saved, f"{name}: exit 0 without its checkpoint")
    shop.finish(run, ranks, {"train.steps": NEXT, "train.keep": 2})
    check_finished(run, reference, NEXT)
    shop.remove(run)
    return Tally(bitwise=1, note=f"{name}: exit {outcome.code}, checkpoints {saved}")


def declare_sweep(name, ranks, rank, ci):
    @trial(name, "A2" if ranks == 0 else "A2m", cases=sweep_cases(ranks, rank), ci=ci)
    def sweep(shop, case, rng):
        """kill, EIO and ENOSPC at every call that a save and its retention make to the file system, writes
        whole and torn: nothing committed is lost, nothing bad is published, the next start continues
        bitwise and clears up."""
        return check_point(shop, ranks, rank, case, SAVE_CALLS)


declare_sweep("sweep-save", 0, 0, 20)
declare_sweep("sweep-save-rank-0", 2, 0, 2)
declare_sweep("sweep-save-rank-1", 2, 1, 2)


def resume_cases(shop):
    reference = shop.reference(0, {"train.steps": NEXT})
    return [(what, 0, number, call) for number, call, path in counted_calls(shop, reference, 0, 0, LOAD_CALLS)
            for what in ("KILL", "EIO")]


@trial("sweep-resume", "A5", cases=resume_cases, ci=4)
def sweep_resume(shop, case, rng):
    """kill and EIO at every open and read of a resume and of the retention behind it: resuming changes
    nothing, so that the next start finds what this one found."""
    return check_point(shop, 0, 0, case, LOAD_CALLS)


# --- caches --------------------------------------------------------------------------------------

def cache_files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def cache_text(shop, out, captions):
    return Job(shop, ["cache", "text", "--encoder", str(shop.study / "encoder"), "--index",
                      f"captions-{captions}.jsonl", "--strategy", "last,norm_avg", "--rows-per-shard",
                      str(max(1, captions // 200)), "--out", str(out)], ranks=2)


@trial("kill-caching", "A5c", cases=2, ci=1)
def kill_caching(shop, case, rng):
    """Text caches of two strategies on two ranks, everything killed three times: the same bytes as undisturbed
    ones, and sound."""
    captions, kills, shards = shop.captions, 3, 200
    whole, killed = shop.folder / f"captions-{captions}", shop.folder / "captions-killed"
    if not whole.exists():
        for arguments in (["world", "render", "--format", "tar", "--seed", "17", "--count", str(captions), "--out",
                           f"world-{captions}"],
                          ["index", "--input", f"world-{captions}", "--out", f"captions-{captions}.jsonl"]):
            expect(Job(shop, arguments).wait().code == 0, "inputs")
        expect(cache_text(shop, whole, captions).wait().code == 0, "the undisturbed cache")
    shop.discard(killed)
    done = lambda: len(list((killed / "norm_avg/.partial").glob("*.h5.json")))
    moments = []
    for strike in range(kills):
        span = shards // (kills + 1)
        after = strike * span + 1 + rng.randrange(span)
        job = cache_text(shop, killed, captions)
        while done() < after and job.process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        for pid in job.left():
            kill(pid)
        job.wait_until_gone()
        expect(not (killed / "norm_avg/manifest.json").exists(), "the kill came too late to mean anything")
        moments.append(done())
    expect(cache_text(shop, killed, captions).wait().code == 0, "the restart")
    expect(cache_files(killed) == cache_files(whole), "bytes differ")
    verify = Job(shop, ["cache", "verify", str(killed / "last"), str(killed / "norm_avg")]).wait()
    expect(verify.code == 0, verify.cause)
    shop.discard(killed)
    return Tally(points=kills, bitwise=1, note=f"{captions} captions, killed after {moments} of {shards} shards")
