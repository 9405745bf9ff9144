"""FAR-SIGN along random directions that a seed names, in the place of coordinates."""

import numpy as np
import pytest

from farsign_jax import InvalidConfig, RunConfig
from farsign_jax.methods import far_sign_parts

RUN = {"model": "softmax_regression", "workers": 5, "byzantine": 1, "directions": 8}


@pytest.mark.parametrize("method", ["far_sign", "far_sign_first_order"])
@pytest.mark.slow
def test_x_moves_in_the_span_of_the_directions(method):
    config = RunConfig(
        method=f"{method}:seeded=32,vote=median,step_size=0.3", events=200, **RUN
    )
    problem, measure = config.problem()
    run = config.run()
    moved = np.asarray(run.params - problem.x0, np.float64)
    d = len(moved)
    seeded = far_sign_parts.make_dictionary(d, 8, 32)
    zero, worker = np.zeros(d, np.float32), np.int32(0)
    rows = [seeded.move(zero, worker, np.array([j]), np.ones(1, np.float32)) for j in range(32)]
    basis = np.asarray(rows, np.float64).T
    rest = moved - basis @ np.linalg.lstsq(basis, moved, rcond=None)[0]
    assert np.linalg.norm(moved) > 1
    assert np.linalg.norm(rest) < 1e-4 * np.linalg.norm(moved)
    assert measure(run.params)["test_loss"] < measure(problem.x0)["test_loss"] - 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("seeded=4", "a question needs k <= number of directions: got k=8, K=4"),
        ("seeded=64,averaging=1", "iterates are averaged where x moves along coordinates"),
        ("seeded=64,last_layer=0.5", "last_layer=0.5 needs steps along coordinates"),
    ],
)
def test_what_needs_coordinates_is_refused(options, message):
    with pytest.raises(InvalidConfig, match=message):
        RunConfig(method=f"far_sign:{options}", events=10, **RUN).run()
