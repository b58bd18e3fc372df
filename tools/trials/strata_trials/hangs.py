"""B. Processes that stop, stall or wait."""

import re
import signal
import time

from strata_trials.death import BASE, NEXT
from strata_trials.registry import Tally, trial
from strata_trials.workshop import check_finished, check_records, check_saved, expect, kill

STEPS, TIMEOUT = 160, 3
SLOW = 10  # sections that load, save or make the first step have so many times as long


def worst_by_section(notes):
    worst = {}
    for section, seconds in re.findall(r"in section (.+?), found and ended in ([0-9.]+) s", " ".join(notes)):
        worst[section] = max(worst.get(section, 0), float(seconds))
    return "longest until all was ended: " + ", ".join(f"{s} {t:.1f} s" for s, t in sorted(worst.items()))


@trial("hang", "B8", cases=10, ci=1, summary=worst_by_section)
def hang(shop, case, rng):
    """SIGSTOP of a random rank for good, at a random moment from the load on, in every third case while slow saves
    hold the run up: exit 86 with the rank's name, section and step within the timeout (3 s; ten times that where the
    section is slow) and 10 s, nothing is left, and the restart continues bitwise."""
    ranks = rng.choice([2, 2, 2, 2, 4])
    reference = shop.reference(ranks, {"train.steps": STEPS})
    run = shop.new_run()
    settings = {"train.steps": STEPS, "train.hang_timeout": TIMEOUT}
    inject = None
    if case % 3 == 2:
        settings["train.checkpoint_background"] = "false"
        inject = {"FROM": 1, "DO": "SLEEP", "MS": 300, "UNDER": "/checkpoints", "CALLS": "fsync"}
    job = shop.train(run, ranks, settings, inject=inject)
    while not (run.path / ".owner").exists() and job.process.poll() is None:
        time.sleep(0.005)
    job.wait_for_moment(run, STEPS, rng)
    victim = rng.randrange(ranks)
    pids = job.rank_pids()
    if len(pids) < ranks:
        job.wait()
        return Tally(points=0, note="ended before")
    stopped = time.monotonic()
    kill(pids[victim], signal.SIGSTOP)
    outcome = job.wait()
    job.wait_until_gone()
    seconds = time.monotonic() - stopped
    note = run.exit_note()
    if outcome.code == 0:
        return Tally(points=0, note="ended before")
    expect(note and note["code"] == 86 and note["rank"] == victim, f"rank {victim} stopped: exit.json {note}")
    named = re.search(r"rank (\d+): hangs: .* section (.+?), step", note["cause"])
    expect(named and int(named[1]) == victim, f"the cause does not name rank {victim}: {note['cause']}")
    expect(seconds < TIMEOUT * SLOW + 10, f"{seconds:.1f} s until the end")
    expect(seconds < TIMEOUT + 10 or named[2] not in ("step", "data"), f"{seconds:.1f} s in section {named[2]}")
    check_records(run, reference)
    check_saved(run, reference)
    shop.finish(run, ranks, {"train.steps": STEPS})
    check_finished(run, reference, STEPS)
    shop.remove(run)
    return Tally(bitwise=1, note=f"rank {victim} of {ranks} in section {named[2]}, found and ended in {seconds:.1f} s")


def counted_messages(shop, ranks, rank, settings, calls):
    """How many of these calls a rank makes in an undisturbed run."""
    log = shop.temporary / "messages"
    log.unlink(missing_ok=True)
    run = shop.new_run()
    shop.finish(run, ranks, settings, inject={"LOG": log, "UNDER": "message/", "CALLS": calls, "RANK": rank})
    shop.remove(run)
    return len(log.read_text().splitlines())


PHASES = {  # what slows each down: part of the path, calls
    "start": ("/latents", "read,pread"), "load": ("/checkpoints/step", "read,pread"), "save": ("/checkpoints/.tmp", "fsync"),
}


def held_up_in(shop, phase):
    """(settings, injection, what is there once the phase has begun)."""
    if phase == "samples":
        (shop.folder / "prompts.txt").write_text("a red circle above a blue square\n" * 8)
        settings = {"samples.prompts": "prompts.txt", "samples.text_encoder": shop.study / "encoder", "samples.vae":
                    shop.study / "vae", "samples.every": 7, "samples.steps": 900}
        return settings, None, lambda run: any((run.path / "samples").glob("*.partial"))
    under, calls = PHASES[phase]
    log = shop.temporary / "phase"
    log.unlink(missing_ok=True)
    inject = {"FROM": 1, "DO": "SLEEP", "MS": 500, "UNDER": under, "CALLS": calls, "LOG": log}
    return {"train.checkpoint_background": "false"}, inject, lambda run: log.exists() and log.stat().st_size > 0


@trial("hang-phase", "B8p", cases=lambda shop: ["start", "load", "samples", "save"] * 3, ci=0, summary=worst_by_section)
def hang_phase(shop, phase, rng):
    """SIGSTOP of a random rank of two while caches are opened, a checkpoint is loaded, sample images are made or a save is
    waited for: exit 86 with its name and that section, within ten times the timeout (3 s) and 10 s."""
    ranks = 2
    reference = shop.reference(ranks, {"train.steps": NEXT})
    run = shop.begun(reference, BASE) if phase == "load" else shop.new_run()
    settings, inject, has_begun = held_up_in(shop, phase)
    job = shop.train(run, ranks, {**settings, "train.steps": STEPS, "train.hang_timeout": TIMEOUT}, inject=inject)
    while not has_begun(run):
        expect(job.process.poll() is None, f"the run ended before {phase}: {job.text()[-300:]}")
        time.sleep(0.01)
    time.sleep(rng.uniform(0.2, 1))
    victim = rng.randrange(ranks)
    stopped = time.monotonic()
    kill(job.rank_pids()[victim], signal.SIGSTOP)
    outcome = job.wait()
    job.wait_until_gone()
    seconds = time.monotonic() - stopped
    said = f"rank {victim}: hangs: no sign of life for"
    expect(outcome.code == 86 and said in outcome.cause and f"in section {phase}" in outcome.cause,
           f"rank {victim} stopped in {phase}: exit {outcome.code}: {outcome.cause}")
    note = run.exit_note()  # at the start the run folder is nobody's yet
    expect(phase == "start" or note and note["code"] == 86 and note["rank"] == victim, f"exit.json {note}")
    expect(seconds < TIMEOUT * SLOW + 10, f"{seconds:.1f} s until the end")
    shop.remove(run)
    return Tally(note=f"rank {victim} of {ranks} in section {phase}, found and ended in {seconds:.1f} s")


def by_code(notes):
    codes = [note.split(":")[0] for note in notes]
    return ", ".join(f"{code} {codes.count(code)} times" for code in sorted(set(codes)))


@trial("left-out", "B11", cases=20, ci=2, summary=by_code)
def left_out(shop, case, rng):
    """A rank of two or four leaves out one collective call of a run, or one message that it sends is lost, at random: 70
    naming both ranks' calls, or 86 where nothing more comes; no wrong step is recorded, no wrong checkpoint made, and the
    same command continues bitwise."""
    ranks, steps = [2, 4][case // 2 % 2], NEXT
    settings = {"train.steps": steps, "train.hang_timeout": TIMEOUT}
    whole = case % 2 == 0
    calls, times = ("isend,irecv", 2 * (ranks - 1)) if whole else ("isend", 1)
    reference = shop.reference(ranks, {"train.steps": steps})
    victim = rng.randrange(ranks)
    made = counted_messages(shop, ranks, victim, settings, calls)
    run = shop.new_run()
    inject = {"AT": 1 + rng.randrange(made // times) * times, "TIMES": times, "DO": "LOSE", "CALLS": calls, "RANK": victim}
    outcome = (job := shop.train(run, ranks, settings, inject=inject)).wait()
    job.wait_until_gone()
    note = run.exit_note()
    code = note["code"] if note else outcome.code
    cause = note["cause"] if note else outcome.cause
    expect(code in (70, 86), f"{inject}: exit {outcome.code}, exit.json {note}: {outcome.cause}")
    named = r"number \d+ \(step \d+\): rank \d+ (is at \w+ number \d+|does not send)|rank \d+: hangs: .* in section"
    expect(re.search(named, cause), f"{inject}: the cause is {cause}")
    check_records(run, reference)
    check_saved(run, reference)
    shop.finish(run, ranks, {"train.steps": steps})
    check_finished(run, reference, steps)
    shop.remove(run)
    what = "a call left out" if whole else "a message lost"
    return Tally(bitwise=1, note=f"{code}: {what} by rank {victim} of {ranks}: {cause[:90]} ({outcome.seconds:.1f} s)")


@trial("stall", "B9", cases=20, ci=1)
def stall(shop, case, rng):
    """SIGSTOP of a random rank for a second, ten times in a run, with a timeout of three seconds: no alarm, and the run
    is the undisturbed one bit for bit."""
    ranks, stalls, steps = rng.choice([2, 2, 2, 2, 4]), 10, 2 * STEPS
    reference = shop.reference(ranks, {"train.steps": steps})
    run = shop.new_run()
    job = shop.train(run, ranks, {"train.steps": steps, "train.hang_timeout": TIMEOUT})
    job.wait_for_ranks(ranks)
    made = 0
    for _ in range(stalls):
        time.sleep(rng.uniform(0, 0.5))
        pids = job.rank_pids()
        if not pids or job.process.poll() is not None:
            break
        victim = rng.choice(pids)
        kill(victim, signal.SIGSTOP)
        time.sleep(1)
        kill(victim, signal.SIGCONT)
        made += 1
    outcome = job.wait()
    expect(outcome.code == 0, f"a stall of a second ended the run with {outcome.code}: {outcome.cause}")
    check_finished(run, reference, steps)
    shop.remove(run)
    return Tally(points=made, bitwise=made, note=f"{made} stalls of one of {ranks} ranks")


@trial("slow-fsync", "B10", cases=4, ci=1)
def slow_fsync(shop, case, rng):
    """Every fsync of a checkpoint takes a second or more: training does not wait for it, saves that come too early are
    left out and said, and what is announced is there and right."""
    ranks, wait = [0, 2][case % 2], [1, 3][case // 2 % 2]
    reference = shop.reference(ranks, {"train.steps": STEPS})
    run = shop.new_run()
    inject = {"FROM": 1, "DO": "SLEEP", "MS": 1000 * wait, "UNDER": "/checkpoints", "CALLS": "fsync,fdatasync"}
    job = shop.train(run, ranks, {"train.steps": STEPS}, inject=inject)
    while run.step() < STEPS and job.process.poll() is None:
        time.sleep(0.05)
    trained = time.monotonic() - job.started
    outcome = job.wait()
    expect(outcome.code == 0, f"exit {outcome.code}: {outcome.cause}")
    check_finished(run, reference, STEPS)
    missed = (run.path / "log/rank-00000.log").read_text().count("(missed:")
    # A save has four of them, so that the 32 that are due would take longer than this alone.
    expect(trained < 64 * wait, f"the last step came after {trained:.1f} s")
    expect(missed > 0, "no save was left out")
    shop.remove(run)
    return Tally(bitwise=1, note=f"fsync of {wait} s: last step after {trained:.1f} s, {missed} saves "
                                 f"left out, end after {outcome.seconds:.1f} s")
