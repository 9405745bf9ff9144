"""Rows and folders that the tests of the report share."""

import pathlib

import pandas as pd
from absl.testing import flagsaver

from experiments import report
from farsign_jax.harness.flags import FLAGS
from farsign_jax.harness.report import series
from farsign_jax.io import files, run_folder

EVIL = "</script><img src=x onerror=document.title='hit'>"


def rows_of(methods=("far_sign", "basgd"), attacks=("none", "alie:z=1.5"), seeds=(0, 3)):
    """Rows like those of a panel, whose accuracy encodes method, attack, seed and record."""
    return [
        {"method": method, "aggregator": "median" if method == "basgd" else ""}
        | {"attack": attack, "partition": "iid", "seed": seed, "event": 50 * record}
        | {"evaluations": 100 * record, "seconds": 0.1 * record, "bits_up": 10 * record}
        | {"test_accuracy": (40 * i + 10 * j + seed + record) / 100, "test_loss": 1 / record}
        for i, method in enumerate(methods)
        for j, attack in enumerate(attacks)
        for seed in seeds
        for record in (1, 2, 3, 4)
    ]


def curves_of(rows, varied=()):
    """The curves of rows, with their values as results.csv has them."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    texts = [{name: str(row.get(name, "")) for name in columns} for row in rows]
    return series.curves(pd.DataFrame(texts), varied)


def write(path, rows, table="| method | attack |\n|-|-|\n| far_sign | none |\n", **config):
    """A results folder with these rows and this table; returns its path."""
    folder = run_folder.RunFolder(
        path, {"experiment": "compare", "dataset": "mnist_subset"} | config
    )
    folder.write_rows(rows)
    if table:
        files.write_text(folder.path / "table.md", table)
    return folder.path


def make(out, *places):
    """The page that the command writes for these places, in this process."""
    with flagsaver.flagsaver():
        FLAGS(["report", f"--from={','.join(map(str, places))}", f"--out={out}"])
        report.report()
    return (pathlib.Path(out) / "index.html").read_text()
