"""README.md of a folder of results: how it was made, and what its files are."""

import shlex
import sys

MARK = "<!-- Written with the results; the command below writes it again. -->"

TEXT = """{mark}
# {title}

{command}- `config.json`: the configuration; a folder belongs to one.
- `code.json`: revision and digest of each code that wrote here.
- `results.csv`: one row for each run and record. `seconds` (wall clock, without measuring) and
  `virtual_seconds` (simulated) are in s, `test_loss` is in nats, `test_accuracy` from 0 to 1;
  `event`, `evaluations`, `bits_up` count from the beginning; `staleness` (in updates, the
  largest) and `nonfinite` (messages with NaN or infinity) count since the record before.
- `results.json`, written in the end: these rows, configuration, versions, device and summary.
- `checkpoints/`: from where the same command continues; without them it begins anew.
- `*.md`, `*.tex`: tables; `*.png`, `*.pdf`: figures; `staleness.json`: of each worker.
"""


def made_by() -> tuple[str, str]:
    """Returns the purpose and the command line of a command of this project, else ("", "")."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", "")
    if name.partition(".")[0] not in ("experiments", "benchmarks", "farsign_jax"):
        return "", ""
    title = (main.__doc__ or "").strip().partition("\n\n")[0]
    started = [name] if name in sys.orig_argv else ["farsign_jax", name.rpartition(".")[2]]
    return " ".join(title.split()), shlex.join(["python", "-m", *started, *sys.argv[1:]])


def text(title: str = "", command: str = "") -> str:
    """Returns README.md of a folder that a command has made."""
    asked = f"Made by the following command, which continues here:\n\n```sh\n{command}\n```\n\n"
    title = title or "Results of farsign_jax"
    return TEXT.format(mark=MARK, title=title, command=asked if command else "")
