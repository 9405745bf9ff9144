"""A page of results that several files test."""

import datetime
import json
import math
import os

import pytest
from absl.testing import flagsaver

from experiments import compare
from farsign_jax.harness.flags import FLAGS
from tests.harness.report.samples import EVIL, make, rows_of, write


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A folder whose root/page shows root/r: the results of a real sweep, a folder that tries
    to inject code, and folders that are unfinished, damaged or empty."""
    root = tmp_path_factory.mktemp("report")
    flags = ["--methods=far_sign,async_sgd", "--attacks=none,sign_flip:scale=10", "--events=60"]
    flags += ["--model=softmax_regression", "--workers=5", "--byzantine=1", "--batch_size=4"]
    flags += ["--eval_every=20", "--seeds=2", f"--out={root}/r/a run, 100 %"]
    with flagsaver.flagsaver():
        FLAGS(["compare", *flags])
        compare.compare()
    rows = rows_of((EVIL, "basgd"), (EVIL, "none"))
    rows[1]["test_accuracy"], rows[2]["test_loss"] = math.nan, math.inf
    table = f"# {EVIL}\n\n{EVIL} [a](javascript:alert(1)) ![b](http://127.0.0.1:9/b.png)\n\n"
    table += f"| method | {EVIL} | none |\n|-|-|-|\n| {EVIL} | 9.5 | 1 |\n| basgd | 10 | - |\n"
    evil = write(root / "r" / "evil<img src=x onerror=alert()>", rows, table, model=EVIL)
    (evil / "figure.png").write_bytes(next((root / "r").glob("a run*/*.png")).read_bytes())
    config = json.loads((evil / "config.json").read_text())
    (root / "r" / "begun").mkdir()
    (root / "r" / "begun" / "config.json").write_text(json.dumps(config))
    write(root / "r" / "torn", rows_of()[:3])
    torn = root / "r" / "torn" / "results.json"
    torn.write_text(torn.read_text()[:100])
    write(root / "r" / "going on", rows_of()[:3], table=None)
    for folder, month in (("begun", 11), ("torn", 9)):
        written = datetime.datetime(2025, month, 22, 5, 16, tzinfo=datetime.UTC).timestamp()
        for path in (root / "r" / folder).iterdir():
            os.utime(path, (written, written))
    (root / "r" / "nothing").mkdir()
    make(root / "page", root / "r")
    return root
