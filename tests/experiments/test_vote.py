"""The experiment on votes, on a few answers."""

import pytest

from docs.figures import read as read_tables
from experiments import vote
from farsign_jax.config import systems
from farsign_jax.harness import figure_grid
from farsign_jax.io import run_folder
from tests.experiments.test_experiments import read, run

SMALL = ["--panels=flood", "--seeds=1", "--events=40", "--eval_every=20", "--directions=20"]


@pytest.fixture
def parsed_flags():
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["vote"])


def test_every_case_has_every_vote_and_settings_that_are_valid(parsed_flags):
    cells = [c for figure in vote.PANELS.values() for c in figure.cells(vote.CONFIG)]
    cases = {cell.x: set() for cell in cells if isinstance(cell.x, str)}
    for cell in cells:
        (method,) = cell.config.methods
        systems.parse_method(method, "paper")
        if cell.x in cases:
            cases[cell.x].add(cell.line)
        if cell.line.startswith("nnm"):
            # The rule does not know that nobody lies.
            assert "vote=nnm:f=5+trimmed_mean:f=5" in method
    assert len(cases) == 19
    assert all(lines == {*vote.VOTES, *vote.OTHERS} for lines in cases.values())
    honest = [cell for cell in cells if cell.config.byzantine == 0]
    assert {cell.config.attacks for cell in honest} == {("none",)}


@pytest.mark.parametrize("panel", vote.PANELS)
def test_every_panel_is_shown(panel, parsed_flags, tmp_path):
    figure = vote.PANELS[panel]
    rows = [
        {"facet": cell.facet, "x": cell.x, "line": cell.line, "seed": 0, "step_size": 1.0}
        | {"test_accuracy": 0.5, "validation_accuracy": 0.6, "virtual_seconds": 1.0}
        | {"mean_square_staleness": 4, "largest_staleness": 5}
        for cell in figure.cells(vote.CONFIG)
    ]
    figure_grid.show(panel, figure, rows, run_folder.open_folder(tmp_path, {}))
    header, *lines = read_tables(tmp_path / f"{panel}.md")[0]
    assert {len(line) for line in lines} == {len(header)}
    assert all(cell for line in lines for cell in line), "an empty cell"


@pytest.mark.slow
def test_vote_writes_what_it_shows_and_continues(tmp_path):
    command = ["experiments.vote", "--votes=median", "--out", tmp_path, *SMALL]
    code, out, err = run(*command)
    assert code == 0, err
    rows = read(tmp_path)
    assert {row["line"] for row in rows} == {"median"}
    # The flood answers for as long as the others: 40 * (1 + (100 - 1) / 5) answers.
    assert max(int(row["event"]) for row in rows) == 832
    table = (tmp_path / "flood.md").read_text()
    assert "| median " in table and "Floods" in out
    assert run(*command)[:2] == (0, out)


@pytest.mark.slow
def test_unknown_votes_are_refused_in_one_line():
    code, _, err = run("experiments.vote", "--votes=medain", "--dry_run")
    assert code == 2 and "did you mean 'median'" in err and err.count("\n") == 1
    code, _, err = run("experiments.vote", "--votes=basgd", "--panels=flood", "--dry_run")
    assert code == 2 and "panel flood has no line" in err and err.count("\n") == 1
