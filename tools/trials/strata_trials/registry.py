"""The list of trials, and how one is run."""

import dataclasses
import random
import time

from strata_trials.workshop import Failure

TRIALS = []


@dataclasses.dataclass
class Tally:
    """What one case found: points of fault, checkpoints lost, continued bitwise, a word on what happened."""
    points: int = 1
    lost: int = 0
    bitwise: int = 0
    note: str = ""


@dataclasses.dataclass
class Trial:
    name: str
    group: str
    number: str  # of the list in docs/trials.md
    about: str
    cases: object  # (shop) -> list of cases, or a number: that many, drawn from the seed
    run: object    # (shop, case, rng) -> Tally
    ci: int        # cases of the sample that CI runs; 0: none
    summary: object


def trial(name, number, cases, ci=0, summary=None):
    """Declares a trial; its text is the function's."""
    def declare(function):
        TRIALS.append(Trial(name, number[0], number[1:], " ".join(function.__doc__.split()), cases, function,
                            ci, summary))
        return function
    return declare


@dataclasses.dataclass
class Result:
    trial: Trial
    cases: int
    tally: Tally
    failures: list
    seconds: float
    notes: list


def run_trial(trial, shop, seed, first, count, only, sample, until, say):
    """Cases [first, first + count) of the trial, or a sample of `count` of those that it lists; none is begun after
    the moment `until`."""
    started = time.monotonic()
    if callable(trial.cases):
        cases = list(enumerate(trial.cases(shop)))
        if sample and count < len(cases):
            cases = sorted(random.Random(f"{seed}/{trial.name}").sample(cases, count))
        else:
            cases = cases[first:][:count]
    else:
        cases = [(i, i) for i in range(first, first + (trial.cases if count is None else count))]
    if only is not None:
        cases = [case for case in cases if case[0] == only] or [(only, only)]
    total, failures, notes = Tally(points=0), [], []
    tried = 0
    for index, case in cases:
        if time.monotonic() > until:
            break
        tried += 1
        try:
            tally = trial.run(shop, case, random.Random(f"{seed}/{trial.name}/{index}"))
            total.points += tally.points
            total.lost += tally.lost
            total.bitwise += tally.bitwise
            notes.append(tally.note)
            say(f"{trial.name} {index}: {tally.note or 'as it must be'}")
        except Failure as failure:
            total.points += 1
            total.lost += " lost" in str(failure)
            failures.append((index, case, str(failure)))
            say(f"{trial.name} {index} ({case}): FAILED: {failure}")
    return Result(trial, tried, total, failures, time.monotonic() - started, notes)
