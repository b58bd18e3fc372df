"""What the races share: a process that works when told to, and ratios of what ran in turns."""
import json
import statistics
import subprocess


class Worker:
    """A process that answers each line on its standard input with one JSON value on a line."""

    def __init__(self, command, **how):
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, **how)

    def ask(self, line="again"):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args[0]} ended with exit code {self.process.wait()}")
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def middle(values):
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def ratios(theirs, ours):
    """How many times theirs' seconds ours' are, turn by turn."""
    return middle([b / a for a, b in zip(ours, theirs)])


def said(found, digits=2):
    return "{:.{d}f} ({:.{d}f}-{:.{d}f})".format(found["median"], found["least"], found["most"],
                                                 d=digits)
