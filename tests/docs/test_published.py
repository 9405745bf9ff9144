"""At least one row of every published table is measured again, by the command that made it.

The tables from all of MNIST are skipped unless the environment variable FARSIGN_DATA_DIR names
a folder with it, as --data_dir does. Rows take a minute or more each and are long tests.
"""

import os

import pytest

from docs.figures import RESULTS, read
from tests import helpers
from tests.experiments.test_experiments import start

pytestmark = pytest.mark.optimized  # compiled otherwise, long runs end with other digits

MNIST = os.environ.get("FARSIGN_DATA_DIR")
# What names a row; other columns have figures.
NAMES = ("method", "attack", "step size", "source", "claim", "aggregator", "idea")
# These differ from machine to machine, or compare with rows that are not measured again.
OTHERS = ("seconds", "to 85 %", "worst", "survives", "what")
FAR_SIGN = ("--methods=far_sign", "--attacks=none")
FLOOD = ("--attacks=sign_flip", "--arrivals=exponential", "--timing_attack=flood:rate=5")
TRUSTED = ("--methods=zeno_pp", "--attacks=none", "--seeds=2", "--eval_every=250")
# Name of the table, command, what restricts it to a few rows, and the file that it writes.
EMBEDDED = [
    ("tune-text", "tune", (*FAR_SIGN, "--dataset=license_text", "--events=4000"), "table.md"),
    *((f"asynchrony-{p}", "asynchrony", (f"--panels={p}", "--methods=zeno_pp"), f"{p}.md")
      for p in "abe"),
    ("asynchrony-c", "asynchrony", ("--panels=c", "--methods=far_sign"), "c.md"),
    ("asynchrony-d", "asynchrony", ("--panels=d", "--methods=far_sign"), "d.md"),
    ("rates", "rates", ("--claims=estimation",), "table.md"),
    ("brsgd", "brsgd", ("--claims=network",), "table.md"),
    ("brsgd-assumptions", "brsgd", ("--claims=assumptions",), "table.md"),
    ("rates-recursion", "rates", ("--claims=recursion",), "table.md"),
    *((f"vote-{p}", "vote", (f"--panels={p}", "--votes=own"), f"{p}.md")
      for p in ("cases", "flood", "tables", "visits")),
    ("rates-votes", "rates", ("--claims=votes",), "table.md"),
    ("prior-art-1", "prior_art", ("--tables=1", "--attacks=none"), "table1.md"),
    ("worst-case", "worst_case", ("--methods=async_sign_sgd",), "table.md"),
    ("brsgd-resilience", "brsgd", ("--claims=resilience",), "resilience.md"),
]  # fmt: skip
ALL_OF_MNIST = [
    ("table3-paper", "table3", FAR_SIGN, "table.md"),
    ("table3-tuned", "table3", (*FAR_SIGN, "--preset=tuned"), "table.md"),
    ("table3-asynchronous", "table3", TRUSTED, "table.md"),
    ("tune", "tune", FAR_SIGN, "table.md"),
    ("ablation", "ablation", ("--variants=tuned", "--attacks=none"), "table.md"),
    ("ablation-flood", "ablation", ("--variants=weighted", *FLOOD), "table.md"),
    (
        "ablation-rfa",
        "ablation",
        ("--variants=combined", "--attacks=none", "--seeds=0,"),
        "table.md",
    ),
    ("asynrsa", "asynrsa", ("--claims=theorem",), "table.md"),
]


def cells(path):
    """From the number of a table, the names in a row and the name of a column to the cell."""
    found = {}
    for number, (header, *rows) in enumerate(read(path)):
        header = [name if name not in header[:at] else "" for at, name in enumerate(header)]
        named = [at for at, name in enumerate(header) if name in NAMES] or [0]
        for row in rows:
            key = tuple(row[at].replace(" (chosen)", "") for at in named)
            for at, name in enumerate(header):
                if at not in named and name and not name.startswith(OTHERS):
                    found[number, key, name] = row[at]
    return found


CASES = [
    pytest.param(*case, id=case[0], marks=helpers.LONG) for case in EMBEDDED + ALL_OF_MNIST
]


@pytest.mark.parametrize(("table", "command", "flags", "file"), CASES)
def test_rows_of_a_published_table_are_measured_again(table, command, flags, file, tmp_path):
    needs_mnist = table in {case[0] for case in ALL_OF_MNIST}
    if needs_mnist and not MNIST:
        pytest.skip("FARSIGN_DATA_DIR names no folder with MNIST")
    data = (f"--data_dir={MNIST}",) if needs_mnist else ()
    process = start(
        f"experiments.{command}", *flags, *data, f"--out={tmp_path}", env={"XLA_FLAGS": ""}
    )
    _, err = process.communicate(timeout=1800)
    assert process.returncode == 0, err
    published, measured = cells(RESULTS / f"{table}.md"), cells(tmp_path / file)
    again = published.keys() & measured.keys()
    assert again, (sorted(published)[:5], sorted(measured)[:5])
    different = {
        key: (published[key], measured[key]) for key in again if published[key] != measured[key]
    }
    assert not different
