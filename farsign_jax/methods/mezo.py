"""MeZO as a parameter server: one number per answer along a direction that a seed names.

Asked at a possibly stale iterate, a worker draws n directions u_l ~ N(0, I) from the seed of
the question and sends n numbers. The server draws the directions too, and moves x:

    D_l = [F(x + delta u_l; xi) - F(x - delta u_l; xi)] / (2 delta)
    x <- x - eta_n * (1/n) sum_l D_l u_l

There is no defence. In a subspace, x is z and u_l has K entries.

References:
    Malladi et al., "Fine-Tuning Language Models with Just Forward Passes", NeurIPS 2023,
    Algorithm 1 (n-SPSA).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax import oracles
from farsign_jax.base import Array, Key, Problem, Report, Schedule, Server, Worker
from farsign_jax.directions.random_directions import RandomDirections, random_directions
from farsign_jax.methods.gradient_server import ask_along
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, require, sanitize


class SeedState(NamedTuple):
    """The state for d parameters."""

    params: Array  # f32[d], x
    step: Array  # i32[], updates applied so far


def along_seeds(
    num_workers: int,
    directions: RandomDirections,
    *,
    step_size: float | Array | Schedule,
    signs: bool = False,
) -> Server:
    """The server: it draws the directions of every answer again and moves x along them.

    Args:
        num_workers: m (static).
        directions: of the questions; each has directions of its own.
        step_size: eta, a number, a tracer or a schedule of the number of updates so far. The
            answers of one event are added.
        signs: whether only the sign of each number counts.

    Returns:
        A `Server` for m workers. Non-finite numbers count as 0 and are clipped to 1e6.

    Raises:
        InvalidConfig: if m < 1 or the step size is not positive.
    """
    m = num_workers
    require(m > 0, f"mezo needs at least one worker: got num_workers={m}")
    eta_of = check_step_size("mezo", step_size)

    def init(params: Array, key: Key | None = None) -> SeedState:
        del key  # nothing is drawn
        d = params.shape[-1]
        require(directions.dim == d, f"the directions are for d={directions.dim}: got d={d}")
        return SeedState(params, jnp.zeros((), jnp.int32))

    def update(state: SeedState, reports: Report) -> tuple[SeedState, dict[str, Array]]:
        shape, k = reports.value.shape[1:], directions.k
        require(shape == (k,), f"an answer is f32[{k}]: got {list(shape)}")
        answer = jnp.where((reports.worker < m)[:, None], sanitize(reports.value), 0)
        answer = jnp.sign(answer) if signs else answer
        moves = jax.vmap(directions.rebuild)(reports.direction, answer)
        eta = jnp.asarray(eta_of(state.step), state.params.dtype)
        return SeedState(state.params - eta * moves.sum(axis=0), state.step + 1), {}

    return Server(init, ask_along(directions), update, m)


def scalar_worker(
    problem: Problem, oracle: OracleConfig, directions: RandomDirections
) -> Worker:
    """The honest worker that sends differences along the directions of a seed, f32[k]."""
    return oracles.random_two_point(
        problem,
        directions,
        batch_size=oracle.batch_size,
        delta=oracle.delta,
        coupled=oracle.coupled,
        message="scalar",
    )


def build(
    problem: Problem, oracle: OracleConfig, hyper: Hyper, *, samples: int = 1
) -> tuple[Server, Worker]:
    """Two-point differences along Gaussian directions from seeds, no defence.

    Args:
        step_size: eta, the initial step size.
        samples: n, the directions of a question.
    """
    samples = check_integer("mezo", "samples", samples, 1)
    directions = random_directions(problem.x0.shape[-1], samples, "gaussian")
    step_size = oracle.schedule(hyper["step_size"])
    server = along_seeds(problem.num_workers, directions, step_size=step_size)
    return server, scalar_worker(problem, oracle, directions)


# The best of 3e-5, 1e-4 and 3e-4 after 2,000 answers on the embedded digits.
METHOD = Method(build, step_size_presets(0.0003))
