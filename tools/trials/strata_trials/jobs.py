"""D. Stops on request, numbers of ranks, owners of a folder, clocks."""

import concurrent.futures
import json
import os
import re
import signal
import struct
import time

from strata_trials.death import LAST, continued_from
from strata_trials.registry import Tally, trial
from strata_trials.workshop import Job, check_finished, check_records, check_saved, expect, kill


def asked_to_stop(shop, rng, run, ranks, steps):
    """Starts a run and asks it to stop at a random moment. Returns (job, what was sent)."""
    job = shop.train(run, ranks, {"train.steps": steps})
    pids = job.wait_for_ranks(max(ranks, 1))
    job.wait_for_moment(run, steps, rng)
    number = rng.choice([signal.SIGUSR1, signal.SIGTERM])
    whom = rng.choice(["one rank", "all ranks", "mpirun"] if ranks else ["the process"])
    if whom == "mpirun":
        number = signal.SIGUSR1  # mpirun answers TERM by killing
        kill(job.process.pid, number)
    else:
        for pid in [rng.choice(pids)] if whom == "one rank" else pids:
            kill(pid, number)
    return job, f"{number.name} to {whom} at step {run.step()}"


@trial("stop", "D22", cases=20, ci=2)
def stop(shop, case, rng):
    """USR1 or TERM to one rank, to all, or USR1 to mpirun, at a random moment: one step is agreed on and saved,
    exit 75 within 10 s, and the restart continues from that step bitwise."""
    ranks = rng.choice([0, 2])
    reference = shop.reference(ranks, {"train.steps": LAST, "train.checkpoint_every": 1})
    run = shop.new_run()
    job, what = asked_to_stop(shop, rng, run, ranks, LAST)
    sent = time.monotonic()
    outcome = job.wait()
    seconds = time.monotonic() - sent
    finished = outcome.code == 0 and run.steps_saved()[-1:] == [LAST]
    # Before main has begun, nothing of ours can hold a signal.
    unborn = not (run.path / ".owner").exists() and outcome.code != 0
    expect(outcome.code == 75 or finished or unborn, f"{what}: exit {outcome.code}: {outcome.cause}")
    check_records(run, reference)
    saved = check_saved(run, reference)
    if outcome.code == 75:
        expect(seconds < 10, f"{seconds:.1f} s until the end")
        expect(run.exit_note()["code"] == 75, "exit.json does not say 75")
        expect(saved and max(run.records()) == saved[-1], f"step {max(run.records())} is lost: saved are {saved}")
    again = shop.finish(run, ranks, {"train.steps": LAST})
    if outcome.code == 75:
        expect(continued_from(again) == saved[-1] or saved[-1] == LAST, f"continued from {continued_from(again)}")
    check_records(run, reference, LAST)
    expect(run.digest(LAST) == reference.digests[LAST], "the last checkpoint differs")
    shop.remove(run)
    what_then = "not begun yet" if unborn else "had ended" if finished else f"saved step {saved[-1]} in {seconds:.1f} s"
    return Tally(bitwise=1, note=f"{what} of {max(ranks, 1)}: exit {outcome.code}, {what_then}")


@trial("stop-then-kill", "D23", cases=10, ci=1)
def stop_then_kill(shop, case, rng):
    """USR1 or TERM, and kill -9 of everything a moment later, so that it often hits the save: the new checkpoint is
    whole, or there is none and the one before holds."""
    ranks = rng.choice([0, 2])
    reference = shop.reference(ranks, {"train.steps": LAST, "train.checkpoint_every": 1})
    run = shop.new_run()
    job, what = asked_to_stop(shop, rng, run, ranks, LAST)
    grace = rng.uniform(0, 0.08)
    time.sleep(grace)
    for pid in job.left():
        kill(pid)
    job.wait_until_gone()
    check_records(run, reference)
    saved = check_saved(run, reference)
    again = shop.finish(run, ranks, {"train.steps": LAST})
    expect(continued_from(again) == (saved[-1] if saved else 0), f"continued from {continued_from(again)}, not {saved}")
    check_records(run, reference, LAST)
    expect(run.digest(LAST) == reference.digests[LAST], "the last checkpoint differs")
    shop.remove(run)
    return Tally(bitwise=1, note=f"{what}, killed {grace * 1000:.0f} ms later: {len(saved)} saved")


# --- ranks ---------------------------------------------------------------------------------------

def samples_of_dumps(run, steps):
    """Sample ids of each step, over its ranks and microbatches, sorted."""
    found = {}
    for path in (run.path / "dump").glob("step-*.rank-*.safetensors"):
        step = int(re.match(r"step-(\d+)", path.name)[1])
        content = path.read_bytes()
        length, = struct.unpack_from("<Q", content)
        entry = json.loads(content[8:8 + length])["sample"]
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        found.setdefault(step, []).extend(struct.unpack(f"<{(end - begin) // 8}q", content[begin:end]))
    expect(sorted(found) == list(range(1, steps + 1)), f"dumps of steps {sorted(found)}")
    return {step: sorted(ids) for step, ids in found.items()}


@trial("rank-counts", "D26", cases=2, ci=1)
def rank_counts(shop, case, rng):
    """4 -> 2 -> 1 -> 3 -> 4 ranks, each continuing the one before: every step has the samples of the undisturbed
    run, its loss within 1e-5. Then 4 -> 2 -> 1 -> 4 with the sum in a tree: every record and every checkpoint's
    tensors bit for bit, so that what one count saves another reads to the last bit."""
    options = ["--dump-steps", str(NEXT_STEPS[-1])]
    settings = {"train.microbatch": 1, "train.verify_every": 5}
    whole = shop.new_run()
    shop.finish(whole, 1, {**settings, "train.steps": NEXT_STEPS[-1]}, options=options)
    right = samples_of_dumps(whole, NEXT_STEPS[-1])
    chained = shop.new_run()
    for ranks, steps in zip((4, 2, 1, 3, 4), NEXT_STEPS):
        shop.finish(chained, ranks, {**settings, "train.steps": steps}, options=options)
    expect(samples_of_dumps(chained, NEXT_STEPS[-1]) == right, "other samples")
    losses, undisturbed = chained.records(), whole.records()
    worst = max(abs(losses[s][2] - undisturbed[s][2]) / abs(undisturbed[s][2]) for s in undisturbed)
    expect(worst < 1e-5, f"loss differs by {worst:.2g}")
    tree = {"train.reduction": "tree", "train.batch": 16, "train.microbatch": 2, "train.keep": 0}
    straight, hops = shop.new_run(), shop.new_run()
    shop.finish(straight, 1, {**tree, "train.steps": NEXT_STEPS[3]})
    for ranks, steps in zip((4, 2, 1, 2), NEXT_STEPS):
        shop.finish(hops, ranks, {**tree, "train.steps": steps})
    expect(hops.records() == straight.records(), "tree: a record differs")
    expect(shop.tensors_hash(hops, NEXT_STEPS[3]) == shop.tensors_hash(straight, NEXT_STEPS[3]),
           "tree: the last checkpoint's tensors differ")
    for run in (whole, chained, straight, hops):
        shop.remove(run)
    return Tally(points=9, bitwise=9, note=f"samples equal, loss within {worst:.1e}; tree: all bits equal")


NEXT_STEPS = (5, 10, 15, 20, 25)


# --- owners --------------------------------------------------------------------------------------

@trial("two-owners", "D27", cases=5, ci=1)
def two_owners(shop, case, rng):
    """Eight jobs start on one folder within 50 ms: one owns it and ends as the undisturbed run, the others end
    with 76 within seconds and say who owns it."""
    steps = 1500  # so many that all have looked before the owner is done
    reference = shop.reference(0, {"train.steps": steps})
    run = shop.new_run()
    started = []
    for _ in range(8):
        started.append(shop.train(run, 0, {"train.steps": steps}))
        time.sleep(rng.uniform(0, 0.05) / 8)
    with concurrent.futures.ThreadPoolExecutor() as pool:  # each as it ends, whoever owns the folder
        outcomes = list(pool.map(Job.wait, started))
    codes = sorted(outcome.code for outcome in outcomes)
    expect(codes == [0] + [76] * 7, f"exits {codes}: {[o.cause for o in outcomes if o.code not in (0, 76)]}")
    losers = [outcome for outcome in outcomes if outcome.code == 76]
    expect(all("owned by a live job" in o.cause for o in losers), f"{losers[0].cause}")
    slowest = max(outcome.seconds for outcome in losers)
    expect(slowest < 15, f"76 came after {slowest:.1f} s")  # three where the cores have no other work
    check_finished(run, reference, steps)
    shop.remove(run)
    return Tally(bitwise=1, note=f"one owner, seven 76 within {slowest:.1f} s")


@trial("stale-owner", "D28", cases=6, ci=2)
def stale_owner(shop, case, rng):
    """The last owner's note is empty, garbage, torn, of the highest epoch there can be, of a process that is gone,
    or of one whose id another process has: taken over, and the run continues bitwise. (A note that says nothing
    is believed for a minute: then the lease ends.)"""
    reference = shop.reference(0, {"train.steps": 20})
    run = shop.begun(reference, (5, 10))
    first = shop.new_run()
    shop.finish(first, 0, {"train.steps": 1})
    note = next((first.path / ".owner").glob("epoch-*.json")).read_text()
    owner = json.loads(note)
    owner["ended"] = False
    (run.path / ".owner").mkdir()
    waits = False
    if case % 6 == 0:
        content = json.dumps(owner)
    elif case % 6 == 1:
        content = json.dumps({**owner, "pid": os.getpid()})
    elif case % 6 == 2:
        content, waits = "", True
    elif case % 6 == 3:
        content, waits = "\0garbage{" * 100, True
    elif case % 6 == 4:
        content, waits = json.dumps(owner)[:100], True
    else:
        content, waits = json.dumps({**owner, "host": "elsewhere", "boot": "x"}), True
    (run.path / ".owner/epoch-00000007.json").write_text(content)
    outcome = shop.finish(run, 0, {"train.steps": 20})
    expect(outcome.seconds > 55 if waits else outcome.seconds < 20, f"taken over after {outcome.seconds:.0f} s")
    check_finished(run, reference, 20)
    shop.remove(run), shop.remove(first)
    return Tally(bitwise=1, note=f"taken over in {outcome.seconds:.0f} s")


@trial("fenced", "D27f", cases=2)
def fenced(shop, case, rng):
    """A job that stood still as a whole (else its monitor ends it) for longer than its lease, between saves or in the
    middle of one, finds another owner when it goes on: it ends with 76, publishes and touches nothing, and the new owner's run is the undisturbed one."""
    steps = 3000
    reference = shop.reference(0, {"train.steps": 160})
    run = shop.new_run()
    inject = {"FROM": 1, "DO": "SLEEP", "MS": 500, "UNDER": "/checkpoints/.tmp", "CALLS": "fsync"} if case % 2 else None
    old = shop.train(run, 0, {"train.steps": steps}, inject=inject)
    is_there = lambda: any(run.checkpoints.glob(".tmp-*/shard-*")) if inject else run.steps_saved()
    while not is_there():
        expect(old.process.poll() is None, f"the first job ended: {old.text()[-200:]}")
        time.sleep(0.01)
    whole = old.left()
    for pid in whole:
        kill(pid, signal.SIGSTOP)
    young = shop.train(run, 0, {"train.steps": 160})
    while not (run.path / ".owner/epoch-00000002.json").exists():
        expect(young.process.poll() is None, f"the second job ended: {young.text()[-200:]}")
        time.sleep(0.1)
    for pid in whole:
        kill(pid, signal.SIGCONT)
    outcome = old.wait()
    expect(outcome.code == 76, f"the old owner ended with {outcome.code}: {outcome.cause}")
    expect("was taken over by epoch 2" in outcome.cause, f"the cause is {outcome.cause}")
    code = young.wait().code
    expect(code == 0, f"the new owner ended with {code}")
    check_finished(run, reference, 160)
    shop.remove(run)
    return Tally(bitwise=1, note=f"stopped {'in' if inject else 'between'} saves: {outcome.cause[-100:]}")


@trial("clock-skew", "D29", cases=4, ci=1)
def clock_skew(shop, case, rng):
    """One rank's wall clock an hour ahead or behind, and files of the run dated 2099: the undisturbed run bit for
    bit, interrupted and continued."""
    ranks, skew = 2, [3600, -3600][case % 2]
    reference = shop.reference(ranks, {"train.steps": 20})
    run = shop.begun(reference, (5, 10))
    future = 4070908800
    for path in run.path.rglob("*"):
        os.utime(path, (future, future))
    shop.finish(run, ranks, {"train.steps": 20}, inject={"CLOCK": skew, "RANK": rng.randrange(ranks)})
    check_finished(run, reference, 20)
    shop.remove(run)
    return Tally(bitwise=1, note=f"{skew:+d} s")
