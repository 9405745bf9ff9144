"""What a folder of results says of itself: the text of its README.md."""

import csv
import fnmatch
import json
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# Who finds another first line leaves the file alone: somebody else has written it.
MARK = "<!-- Written with the results; the command below writes it again. -->"


FILES = {
    "config.json": "what decides the numbers; a folder belongs to one configuration",
    "code.json": "the code that wrote it, first one first: revision, and digest of its files",
    "results.csv": "one row for each run and record, columns as below",
    "results.json": "the same rows, with configuration, summary, versions and device",
    "table.md": "the table that is printed in the end",
    "table.tex": "the same for LaTeX",
    "wins.md": "FAR-SIGN against every other method",
    "workers.md": "each worker: what was heard, refused and held against it",
    "staleness.json": "of each worker in each run: answers and their staleness, in updates",
    "clock.json": "microseconds of an event, each method alone on the machine",
    "checkpoints": "from where the same command continues; without them it begins anew",
    "tensorboard": "event files: tensorboard --logdir tensorboard",
    "arrivals.log": "every accepted answer, in order; farsign_jax.runtime.replay reads it",
    "checkpoint.npz": "the server's state, from where it goes on",
    "strikes.json": "what was held against each worker",
    "index.html": "the page, which needs no network and nothing beside it",
    "README.md": "",
    "*.json": "all figures, with configuration, versions and device",
    "*.md": "tables",
    "*.tex": "tables for LaTeX",
    "*.png": "figures",
    "*.pdf": "the same figures for print",
}


COLUMNS = {
    "method": "server and workers, with the options given",
    "aggregator": "its rule, where it takes one",
    "attack": "what liars say",
    "partition": "who holds which examples",
    "arrivals": "who comes when",
    "seed": "of everything random",
    "event": "updates so far: answers heard, or rounds of methods that wait",
    "evaluations": "mini-batch losses or gradients that workers computed so far",
    "seconds": "s, wall clock so far, measuring apart",
    "virtual_seconds": "s, the simulated clock",
    "bits_up": "bits that workers sent so far",
    "test_accuracy": "share of the test examples that are classified right, 0 to 1",
    "test_loss": "mean cross-entropy on the test examples, nats",
    "worst_class": "share of the test examples of its worst class that are classified right",
    "staleness": "of the stalest answer since the last record, in updates",
    "nonfinite": "messages with NaN or infinity in them since the last record",
    "largest_staleness": "of the stalest answer in the run, in updates",
    "mean_square_staleness": "of all answers of the run, in updates squared",
    "step_size": "the first one",
    "delivery": "fresh, or outstanding: as stale as arrivals make answers",
    "timing_attack": "what liars do with time",
    "rounds": "whom servers that work in rounds wait for",
    "byzantine_placement": "who lies",
    "byzantine": "q, how many lie",
    "variant": "the variant, described in table.md",
    "figure": "which figure it is drawn in",
    "facet": "which of the figure's plots",
    "line": "which line there",
    "x": "where on its horizontal axis",
    "gradient": "norm of the gradient of what is minimised",
    "ergodic": "mean of these norms so far, weighted by the step sizes",
    "tracking": "squared distance of the averages from the derivatives they are of",
    "run": "the number of the run",
    "alpha": "step size",
    "beta": "of the averages",
    "power": "p, of steps that shrink as k^-p",
    "min": "least gradient norm so far, mean over runs",
    "expected": "gradient norm of the iterate drawn at random, mean over runs",
    "margin": "eta, how robust the directions are",
    "noise": "how noisy the examples are",
    "error": "squared distance from what the theorem says",
}


def made_by() -> tuple[str, str]:
    """What the command that runs is for, and the command; empty where none of ours runs."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", "")
    if name.partition(".")[0] not in ("experiments", "benchmarks", "farsign_jax"):
        return "", ""
    title = (main.__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(title.split()), shlex.join(["python", "-m", name, *sys.argv[1:]])


def text(
    path: pathlib.Path, environment: Mapping[str, Any], revisions: Sequence[str] = ()
) -> str:
    """README.md of a folder as it is now, to which code of these revisions has written."""
    title, command = made_by()
    parts = [MARK, f"# {title or 'Results of farsign_jax'}"]
    config = path / "config.json"
    if command:
        ends = "continues here" if config.exists() else "begins anew"
        parts += ["Made by", f"```sh\n{command}\n```", f"The same command {ends}."]
    parts += ["## Files", _table(("file", "what it is"), _files(path))]
    if columns := _columns(path / "results.csv"):
        parts += ["## Columns of results.csv", _table(("column", "what it is"), columns)]
    if config.exists():
        told = json.loads(config.read_text())
        told = {n: v for n, v in told.items() if v is not None}
        varied = told.pop("varied", {})
        told |= varied if isinstance(varied, dict) else {}
        settings = [(f"`{n}`", f"`{_plain(v)}`") for n, v in told.items()]
        parts += ["## Configuration", _table(("setting", "value"), settings)]
    versions = ", ".join(f"{name} {v}" for name, v in environment["versions"].items())
    told = ", then ".join(revisions or [environment["git_revision"]])
    cpu = f"{environment['cpu']}, {environment['cpu_cores']} CPU cores"
    parts += [
        "## Made with",
        f"Python {environment['python']}, {versions}; revision {told}.",
        f"{environment['devices']} x {environment['device']}; {cpu}.",
    ]
    return "\n\n".join(parts) + "\n"


def _files(path: pathlib.Path) -> list[tuple[str, str]]:
    found = []
    for one in sorted(path.iterdir()):
        if one.name.startswith("."):
            continue
        of = next((says for glob, says in FILES.items() if fnmatch.fnmatch(one.name, glob)), "")
        if one.is_dir() and (one / "README.md").exists():
            of = "a run of its own, with its own README"
        if of:
            found.append((f"`{one.name}{'/' if one.is_dir() else ''}`", of))
    return found


def _columns(path: pathlib.Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    with open(path) as file:
        names = next(csv.reader(file), [])
    other = "the setting or measure of that name"
    return [(f"`{name}`", COLUMNS.get(name, other)) for name in names]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_plain, value))
    return value if isinstance(value, str) else json.dumps(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(row):
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"

    return "\n".join(map(line, [header, ["---"] * len(header), *rows]))
