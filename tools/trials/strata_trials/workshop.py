"""What all trials need: small inputs, runs of `strata train` that can be watched and ended, and the
comparison of a run with an undisturbed one, bit for bit."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
STUDY = ROOT / "data/miniature"
UNET = {
    "_class_name": "UNet2DConditionModel", "attention_head_dim": [2, 4], "block_out_channels": [16, 32],
    "cross_attention_dim": 16, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "in_channels": 4, "layers_per_block": 1, "norm_num_groups": 4, "out_channels": 4, "sample_size": 8,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "use_linear_projection": True,
}
# Three, two, one or four ranks divide the batch; several buckets and blocks a shard; an average, so that
# all four kinds of state are saved.
CONFIG = {
    "model.unet": "unet", "train.batch": 12, "train.microbatch": 3, "train.steps": 40, "train.warmup": 4,
    "train.lr": 1e-3, "train.precision": "fp32", "train.threads": 1, "train.log_every": 1,
    "train.checkpoint_every": 5, "train.keep": 3, "train.bucket_mb": 0.05, "train.caption_drop": 0.25,
    "train.ema_decay": 0.99, "train.verify_every": 10, "train.hang_timeout": 30,
}
RECORD = ("samples", "epoch", "loss", "lr", "grad_norm")  # what a step leaves that takes no clock
GONE_WITHIN = 10.0  # seconds in which nothing of a broken job may be left


class Failure(Exception):
    """What a trial found that must not be."""


def expect(condition, text):
    if not condition:
        raise Failure(text)


@dataclasses.dataclass
class Outcome:
    code: int
    log: str
    seconds: float

    @property
    def cause(self):
        lines = [line for line in self.log.splitlines() if line.startswith("strata: error:")]
        return lines[-1] if lines else (self.log.strip().splitlines() or [""])[-1]


def processes_with(marker):
    """Ids of live processes whose environment holds `marker`."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            environment = pathlib.Path("/proc", entry, "environ").read_bytes()
            state = pathlib.Path("/proc", entry, "stat").read_text().rsplit(")", 1)[1].split()[0]
            if marker.encode() in environment.split(b"\0") and state not in "ZX":
                found.append(int(entry))
    return found


def children_of(pid):
    with contextlib.suppress(OSError):
        return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def described(pid):
    """What a process is, where it came from and what it does."""
    with contextlib.suppress(OSError):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:60]
        waits_in = pathlib.Path(f"/proc/{pid}/wchan").read_text()
        return f"{pid} ({fields[0]}, child of {fields[1]}, in {waits_in}): {command}"
    return f"{pid}, gone since"


def kill(pid, number=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Job:
    """One start of strata, alone (ranks = 0) or under mpirun."""

    count = 0

    def __init__(self, shop, arguments, ranks=0, inject=None, prefix=(), limits=None, environment=None):
        Job.count += 1
        self.marker = f"STRATA_TRIAL={os.getpid()}.{Job.count}"
        self.patience = shop.patience
        self.ranks = ranks
        environment = {**os.environ, **dict([self.marker.split("=")]), "OMP_NUM_THREADS": "1",
                       "TMPDIR": str(shop.temporary), **(environment or {})}
        command = [*prefix, str(shop.strata), *arguments]
        if inject:
            settings = [f"INJECT_{key}={value}" for key, value in inject.items()]
            command = ["env", f"LD_PRELOAD={shop.injector}", *settings, *command]
        if ranks:
            command = [str(ROOT / "tools/mpirun-test"), str(ranks), *command]
        self.log = shop.temporary / f"job-{Job.count}.log"
        self.started = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment,
                                            cwd=shop.folder, preexec_fn=limits)
        shop.jobs.append(self)

    def rank_pids(self):
        """By rank; those that have started."""
        if not self.ranks:
            return [self.process.pid]
        found = {}
        for pid in children_of(self.process.pid):
            with contextlib.suppress(OSError):
                environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
                rank = re.search(rb"\0OMPI_COMM_WORLD_RANK=(\d+)\0", environment)
                if rank:
                    found[int(rank[1])] = pid
        return [found[rank] for rank in sorted(found)]

    def wait_for_ranks(self, count):
        while len(pids := self.rank_pids()) < count and self.process.poll() is None:
            time.sleep(0.01)
        return pids

    def wait_for_moment(self, run, steps, rng):
        """A random moment of a run of so many steps: in one case of six while it starts, else within a step drawn
        among all. False when the run ended before."""
        if rng.randrange(6) == 0:
            time.sleep(rng.uniform(0, 1))
            return self.process.poll() is None
        step, pause = rng.randrange(steps), rng.uniform(0, 0.05)
        while run.step() < step and self.process.poll() is None:
            time.sleep(0.005)
        time.sleep(pause)
        return self.process.poll() is None

    def wait(self):
        try:
            self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.end()
            raise Failure(f"still running after {self.patience} s: {self.text()[-300:]}") from None
        return Outcome(self.process.returncode, self.text(), time.monotonic() - self.started)

    def text(self):
        return self.log.read_text(errors="replace")

    def left(self):
        return processes_with(self.marker)

    def wait_until_gone(self):
        """Seconds until no process of the job is left."""
        start = time.monotonic()
        while True:
            self.process.poll()
            left = self.left()
            if not left:
                break
            if time.monotonic() - start > GONE_WITHIN:
                what = "; ".join(described(pid) for pid in left)
                log = self.text()[-500:]
                self.end()
                raise Failure(f"left {GONE_WITHIN:.0f} s later: {what}; log: {log}")
            time.sleep(0.02)
        self.process.wait()
        return time.monotonic() - start

    def end(self):
        for pid in self.left():
            kill(pid, signal.SIGCONT)
            kill(pid)
        self.process.wait()


def digest_of(folder):
    """Everything a checkpoint says, but for the run folder's name, how long the run was to be
    and how often it saved."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("MANIFEST.json")) + sorted(folder.glob("shard-*")):
        content = path.read_bytes()
        if path.name == "MANIFEST.json":
            manifest = json.loads(content)
            del manifest["sha256"]
            host = manifest["host"]
            host["config"] = re.sub(r"(?m)^(steps|keep|checkpoint_every|checkpoint_background|hang_timeout|dir) = .*$", "", host["config"])
            content = json.dumps(manifest, sort_keys=True).encode()
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


class Run:
    """A run folder."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    @property
    def checkpoints(self):
        return self.path / "checkpoints"

    def steps_saved(self):
        if not self.checkpoints.exists():
            return []
        return sorted(int(p.name[5:]) for p in self.checkpoints.iterdir() if re.fullmatch(r"step-\d{8}", p.name))

    def folder_of(self, step):
        return self.checkpoints / f"step-{step:08d}"

    def digest(self, step):
        return digest_of(self.folder_of(step))

    def announced(self):
        """Steps that the log of rank 0 calls saved."""
        log = self.path / "log/rank-00000.log"
        if not log.exists():
            return []
        return [int(step) for step in
                re.findall(r"(?m)^\S+ checkpoint \S*/step-(\d+) ", log.read_text(errors="replace"))]

    def records(self):
        """The last record of each step; a torn last line is none."""
        found = {}
        path = self.path / "metrics.jsonl"
        if path.exists():
            for line in path.read_text(errors="replace").splitlines(keepends=True):
                if line.endswith("\n"):
                    record = json.loads(line)
                    found[record["step"]] = tuple(record[key] for key in RECORD)
        return found

    def debris(self):
        if not self.checkpoints.exists():
            return []
        return [p.name for p in self.checkpoints.iterdir() if not re.fullmatch(r"step-\d{8}|BAD.*", p.name)]

    def step(self):
        """The last one recorded."""
        return max(self.records(), default=0)

    def exit_note(self):
        path = self.path / "exit.json"
        return json.loads(path.read_text()) if path.exists() else None


@dataclasses.dataclass
class Reference:
    run: Run
    records: dict
    digests: dict


class Workshop:
    study = STUDY

    def __init__(self, folder, build, patience, captions, bit_flips):
        self.folder = pathlib.Path(folder)
        self.strata = build / "strata"
        self.injector = build / "libstrata_inject.so"
        self.flips = build / "strata_flips"
        self.patience = patience
        self.captions = captions
        self.bit_flips = bit_flips
        self.jobs = []
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.references = {}
        self.fresh = 0

    def prepare(self):
        """Pictures and captions of the small world, cached by the miniature's models; a U-Net of 200,000
        parameters."""
        if (self.folder / "text/last/manifest.json").exists():
            return
        for arguments in (
                ["world", "render", "--count", "64", "--seed", "3", "--format", "tar", "--out", "world"],
                ["index", "--input", "world", "--out", "index.jsonl"],
                ["cache", "latents", "--vae", str(STUDY / "vae"), "--index", "index.jsonl", "--resolution",
                 "32", "--out", "latents"],
                ["cache", "text", "--encoder", str(STUDY / "encoder"), "--index", "index.jsonl",
                 "--strategy", "last", "--pooled", "--out", "text"]):
            outcome = Job(self, arguments).wait()
            expect(outcome.code == 0, f"inputs: {outcome.cause}")
        (self.folder / "unet").mkdir(exist_ok=True)
        (self.folder / "unet/config.json").write_text(json.dumps(UNET))
        (self.folder / "empty.toml").write_text("")

    def new_run(self, like=None):
        """A run folder of its own, empty or a copy of another."""
        self.fresh += 1
        path = self.folder / f"run-{self.fresh}"
        shutil.rmtree(path, ignore_errors=True)
        if like:
            shutil.copytree(like.path, path)
            shutil.rmtree(path / ".owner", ignore_errors=True)
        return Run(path)

    def train(self, run, ranks=0, settings=None, options=(), **how):
        config = {"data.latents": "latents", "data.text": "text/last", "output.dir": run.path, **CONFIG,
                  **(settings or {})}
        sets = [word for key, value in config.items() for word in ("--set", f"{key}={value}")]
        return Job(self, ["train", "--config", "empty.toml", *sets, *options], ranks, **how)

    def finish(self, run, ranks=0, settings=None, **how):
        outcome = self.train(run, ranks, settings, **how).wait()
        expect(outcome.code == 0, f"the restart ended with {outcome.code}: {outcome.cause}")
        return outcome

    def reference(self, ranks=0, settings=None):
        """The undisturbed run, with every checkpoint made and kept; made once in a work folder."""
        key = json.dumps([ranks, settings], sort_keys=True, default=str)
        if key not in self.references:
            run = Run(self.folder / f"reference-{hashlib.sha256(key.encode()).hexdigest()[:12]}")
            if not (run.path / "done").exists():
                self.discard(run.path)
                self.finish(run, ranks, {**(settings or {}), "train.keep": 0, "train.checkpoint_background": "false"})
                (run.path / "done").touch()
            self.references[key] = Reference(run, run.records(), {s: run.digest(s) for s in run.steps_saved()})
        return self.references[key]

    def begun(self, reference, steps):
        """A copy of the reference that ended at the last of `steps`, with the checkpoints of these."""
        run = self.new_run(reference.run)
        for step in run.steps_saved():
            if step not in steps:
                shutil.rmtree(run.folder_of(step))
        lines = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run.path / "metrics.jsonl").write_text("".join(
            line for line in lines if json.loads(line)["step"] <= max(steps)))
        log = run.path / "log/rank-00000.log"
        log.write_text("".join(f"T checkpoint {run.folder_of(step)} in 0 s\n" for step in steps))
        return run

    def other_latents(self):
        """A cache of the same shape with other values."""
        folder = self.folder / "other-latents"
        if not folder.exists():
            outcome = Job(self, ["cache", "latents", "--vae", str(STUDY / "vae"), "--index", "index.jsonl",
                                 "--resolution", "32", "--seed", "5", "--out", str(folder)]).wait()
            expect(outcome.code == 0, outcome.cause)
        return folder

    def make_image(self, path):
        """A picture as `strata sample` writes them."""
        (self.folder / "prompts.txt").write_text("a red circle above a blue square\n")
        outcome = Job(self, ["sample", "--checkpoint", str(self.reference(0, {"train.steps": 20}).run.path),
                             "--encoder", str(STUDY / "encoder"), "--vae", str(STUDY / "vae"), "--prompts",
                             "prompts.txt", "--steps", "2", "--out", "images", "--overwrite"]).wait()
        expect(outcome.code == 0, outcome.cause)
        shutil.copyfile(self.folder / "images/00000.png", path)

    def tensors_hash(self, run, step):
        """Of a checkpoint's tensors, whatever the ranks that saved them."""
        return subprocess.run([self.flips, "--hash", run.folder_of(step)], check=True, capture_output=True,
                              text=True).stdout

    def remove(self, run):
        self.discard(run.path)

    def discard(self, folder):
        shutil.rmtree(folder, ignore_errors=True)

    def end_all(self):
        """What an interrupted trial left running."""
        for job in self.jobs:
            if job.process.poll() is None:
                job.end()


def check_saved(run, reference, keep=2):
    """Nothing under a checkpoint's name is other than in the reference, and what was announced is there, or
    `keep` newer ones are. Returns the steps saved."""
    saved = run.steps_saved()
    for step in saved:
        expect(step in reference.digests, f"a checkpoint of step {step}, which is not due")
        expect(run.digest(step) == reference.digests[step], f"checkpoint of step {step} differs")
    for step in set(run.announced()):
        newer = sum(other > step for other in saved)
        expect(step in saved or newer >= keep, f"checkpoint of step {step} was announced and is lost")
    return saved


def check_records(run, reference, upto=None):
    """Every step recorded so far is the reference's, bit for bit."""
    records = run.records()
    for step, record in records.items():
        expect(record == reference.records[step],
               f"step {step}: {dict(zip(RECORD, record))}, undisturbed {reference.records[step]}")
    if upto:
        missing = set(range(1, upto + 1)) - set(records)
        expect(not missing, f"no record of steps {sorted(missing)}")


def check_finished(run, reference, last, keep=2):
    check_records(run, reference, last)
    saved = check_saved(run, reference, keep)
    expect(saved and saved[-1] == last, f"the last checkpoint is of step {saved[-1:]}, not {last}")
    expect(not run.debris(), f"left beside the checkpoints: {run.debris()}")
