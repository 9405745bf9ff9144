"""Figures whose points are methods in settings of their own."""

import dataclasses

import pytest

from experiments import asynchrony, vote
from farsign_jax.config import panel_config
from farsign_jax.harness import figure_grid


def test_who_waits_is_given_no_more_time():
    def row(line, seconds, accuracy, seed=0):
        given = {"facet": "f", "x": 1, "line": line, "seed": seed, "step_size": 1.0}
        told = {"virtual_seconds": seconds, "test_accuracy": accuracy}
        return given | told | {"mean_square_staleness": 0.0, "largest_staleness": 0}

    rows = [row("far_sign", 1.0, 0.4), row("far_sign", 2.0, 0.5)]
    rows += [row("sgd", t, 0.1 * t) for t in (1.0, 2.0, 3.0, 4.0)]
    rows += [row("far_sign", 9.0, 0.7, seed=1), row("sgd", 9.0, 0.8, seed=1)]
    found = {entry["line"]: entry["value"] for entry in figure_grid.shown(rows, of_time=False)}
    assert found == pytest.approx({"far_sign": 60.0, "sgd": 50.0})


def test_every_cell_of_every_panel_can_be_run():
    for one in asynchrony.PANELS.values():
        cells = list(one.cells(asynchrony.CONFIG))
        assert len({(cell.facet, cell.x, cell.line, cell.config) for cell in cells}) == len(
            cells
        )
        for cell in cells:
            panel_config.check(cell.config)


def test_the_best_step_of_a_cell_is_shown():
    common = {
        "facet": "f",
        "x": 1,
        "line": "m",
        "mean_square_staleness": 4,
        "largest_staleness": 5,
    }
    rows = [
        common | {"step_size": step, "seed": seed, "test_accuracy": a, "virtual_seconds": t}
        for step, curve in ((0.1, [0.5, 0.9]), (0.2, [0.82, 0.7]))
        for seed in (0, 1)
        for t, a in enumerate(curve, 1)
    ]
    (entry,) = figure_grid.shown(rows, of_time=False)
    assert (entry["value"], entry["step_size"]) == (pytest.approx(90), 0.1)
    (entry,) = figure_grid.shown(rows, of_time=True)
    assert (entry["value"], entry["step_size"]) == (1.0, 0.2)
    for row in rows:  # where examples are held out, these decide, and the test set is shown
        row["validation_accuracy"] = row["step_size"]
    (entry,) = figure_grid.shown(rows, of_time=False)
    assert (entry["value"], entry["step_size"]) == (pytest.approx(70), 0.2)


def test_held_out_examples_are_measured_beside_the_test_set():
    config = dataclasses.replace(vote.CONFIG, seeds=(0,), methods=("async_sgd",), events=20)
    config = dataclasses.replace(config, attacks=("backdoor",), directions=20)
    (group,) = figure_grid.prepare([figure_grid.Cell("", 1, config)], None)
    (run,) = group.runs
    test, held_out = run.spec.measure(run.data).data
    assert (len(held_out[1]), len(test[0][1])) == (1_667, 2_000)
    assert run.batch.problem.sizes.sum() == 3 * (10_000 - 1_667)  # three step sizes
    found = run.spec.measure(run.data)(run.batch.problem.x0[0])
    assert {"test_accuracy", "backdoor_success", "validation_accuracy"} <= found.keys()


def test_cells_in_different_subspaces_are_different_sweeps():
    """Directions of another rank have the same shapes, and are another problem."""
    base = dataclasses.replace(
        asynchrony.CONFIG,
        methods=("far_sign",),
        attacks=("none",),
        seeds=(0,),
        events=20,
        directions=4,
    )
    kinds = ("size=8,rank=1", "size=8,rank=2", "size=16,rank=1")
    configs = [dataclasses.replace(base, subspace=f"low_rank:{kind}") for kind in kinds]
    cells = [figure_grid.Cell("none", n, config) for n, config in enumerate(configs)]
    groups = figure_grid.prepare(cells, None)
    assert [len(group.runs) for group in groups] == [1, 1, 1]
