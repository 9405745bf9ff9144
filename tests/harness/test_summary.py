"""Summaries of rows, and the marks of runs that have diverged."""

import math

import pytest

from farsign_jax.harness import figure_grid, summary


def rows_of(losses):
    """One run per loss, whose accuracy is 0.1 in the end."""
    return [
        {"method": "sgd", "aggregator": "", "attack": "none", "seed": seed, "event": event}
        | {"evaluations": event, "seconds": 0.5, "bits_up": 1}
        | {
            "test_accuracy": 0.2 if event == 1 else 0.1,
            "test_loss": 1.0 if event == 1 else loss,
        }
        for seed, loss in enumerate(losses)
        for event in (1, 2)
    ]


@pytest.mark.parametrize(
    ("losses", "shown"),
    [
        ((2.3, 2.3), "10.0"),
        ((math.nan, 2.3, math.inf), "10.0 (2 of 3 diverged)"),
        ((math.nan,), "10.0 (diverged)"),
    ],
)
def test_diverged_runs_are_marked(losses, shown):
    (entry,) = summary.summarise(rows_of(losses))
    assert summary.accuracy(entry, "last") == shown
    best = summary.accuracy(entry, "best", with_std=True)
    assert best == shown.replace("10.0", "20.0 ± 0.0")
    cells = [
        row | {"facet": "f", "x": 1, "line": "sgd", "step_size": 0.1} for row in rows_of(losses)
    ]
    cells = [cell | {"mean_square_staleness": 1, "largest_staleness": 1} for cell in cells]
    (cell,) = figure_grid.shown(cells, of_time=False)
    assert figure_grid._cell(cell) == shown


def test_rows_without_a_loss_have_not_diverged():
    rows = [{n: v for n, v in row.items() if n != "test_loss"} for row in rows_of((1.0,))]
    assert summary.summarise(rows)[0]["diverged"] == 0


def test_the_success_of_a_backdoor_is_that_of_the_last_record():
    rows = rows_of((1.0, 1.0))
    attacked = [
        row | {"attack": "backdoor", "backdoor_success": (row["event"] + row["seed"]) / 4}
        for row in rows
    ]
    without, entry = summary.summarise(rows + attacked)
    assert "backdoor_success" not in without
    assert entry["backdoor_success_per_seed"] == [0.5, 0.75]
    assert summary.accuracy(entry, "backdoor_success") == "62.5"
