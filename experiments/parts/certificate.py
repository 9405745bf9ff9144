"""What no value of a Byzantine worker can do to a method that moves by signs: a prediction.

If every answer moves x equally far along each of its directions, the most that a lie can do is
to have the wrong sign along all of them. Let s be the share of the greatest possible descent
that honest answers achieve at x,

    s = sum -<g, dx> / sum <|g|, |dx|>        over honest events, g = grad f(x).

If a share b of the answers is Byzantine, an event descends on average by (1 - b) s - b of the
greatest possible descent, where without Byzantine workers it is s. So progress is at least

    rho = (1 - b) - b / s

times as fast; with signs that are always right, s = 1, this is (m - 2 q) / m. A run of T events
then comes at least as far as a run without attack in the time t that solves dt/dn = rho(s(t)),
t(0) = 0, with time in units of the step size; it stops where s = b / (1 - b). Control of time
is not covered: it changes b.
"""

import dataclasses
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import sweeps
from farsign_jax.base import Array, Problem, System
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import PanelData, sweep_specs
from farsign_jax.harness.sums import summed
from farsign_jax.methods import SystemSpec

RECORDS = 32


@dataclasses.dataclass(frozen=True)
class Observed:
    """A method that sums up how much its steps descend, and how much they could."""

    build: SystemSpec

    def __call__(self, problem: Problem, hyper: Any) -> System:
        system = self.build(problem, hyper)
        some = jax.tree.map(lambda leaf: leaf[::5], problem.data)
        gradient = jax.grad(lambda x: jnp.mean(problem.losses(x, some)))

        def descent(before: Any, after: Any) -> Array:
            g, step = gradient(before.params), after.params - before.params
            return jnp.stack([-(g @ step), jnp.abs(g) @ jnp.abs(step)])

        return system._replace(server=summed(system.server, descent, (2,)))


class Certificate(NamedTuple):
    """What a run without attack says about runs with one.

    Attributes:
        shares: f[records], s along the run, the mean over seeds.
        clean: f[seeds], the final accuracies without attack.
        predicted: f[seeds], the accuracies that no value of a Byzantine worker can undercut.
    """

    shares: np.ndarray
    clean: np.ndarray
    predicted: np.ndarray


def certificate(config: PanelConfig, data: PanelData, multiple: float) -> Certificate:
    """Runs one method without attack, and predicts the worst case.

    Args:
        config: of one method; its seeds are those of the runs.
        data: of the panel.
        multiple: of the step size of the preset.
    """
    spec = sweep_specs(dataclasses.replace(config, attacks=("none",)), (multiple,))[0]
    batch = spec.run_batch(data)
    batch = dataclasses.replace(batch, byzantine=np.zeros_like(batch.byzantine))

    def measure(state: Any) -> dict[str, Array]:
        return data.measure(state.params) | {
            "descent": state.total[..., 0],
            "greatest": state.total[..., 1],
        }

    columns, _ = sweeps.sweep(
        Observed(spec.builds[0]),
        batch,
        every=max(config.events // RECORDS, 1),
        measure=jax.jit(measure),
        delivery=spec.delivery(config),
        of=operator.attrgetter("server"),
    )
    shares = _of_segments(columns["descent"]) / _of_segments(columns["greatest"])
    share = config.byzantine / config.workers
    steps = np.cumsum(config.decay ** (np.arange(config.events) // config.decay_every))
    times = steps[columns["event"].astype(int) - 1]
    predicted = [
        predict(*run, share)
        for run in zip(times, columns["test_accuracy"], shares, strict=True)
    ]
    clean = columns["test_accuracy"][:, -1]
    return Certificate(shares.mean(axis=0), clean, np.array(predicted))


def _of_segments(sums: np.ndarray) -> np.ndarray:
    return np.diff(sums, axis=1, prepend=0)


def predict(
    times: np.ndarray, accuracy: np.ndarray, shares: np.ndarray, byzantine: float
) -> float:
    """The accuracy that a run comes to at least, from one without attack.

    Args:
        times: f[E], when it was measured, in units of the step size.
        accuracy: f[E], of the run without attack.
        shares: f[E], s between two measurements.
        byzantine: b, the share of Byzantine answers.
    """
    left, reached = float(times[-1]), 0.0
    for length, s in zip(np.diff(times, prepend=0), shares, strict=True):
        rho = (1 - byzantine) - byzantine / s if s > 0 else 0.0
        if rho * left < length:
            reached += max(rho * left, 0.0)
            break
        left -= length / rho
        reached += length
    return float(np.interp(reached, [0, *times], [accuracy[0], *accuracy]))
