"""Attacks: what a Byzantine worker says instead of its honest answer.

A liar sees everything (`View`): the server's state, who else lies, what everybody has reported
about the directions in question. It controls the numbers it sends and nothing else.
`report.value` is what it would have reported honestly, f32[k].

Where the field disagrees, the original paper's definition is the default and the others are
options. An omniscient attack reads its statistics off what honest workers reported, O(m k).

Every attack takes `space` (`make`): a worker of CYBER-0 measures k derivatives and sends a
gradient made of them, so its liar may make up the gradient ("message", the default but for
`constant`) or the derivatives ("measured"). Elsewhere these are the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from farsign_jax.base import Array, Attack, View
from farsign_jax.validation import lookup, require


def _stateless(forge, *, omniscient: bool = False) -> Attack:
    """An attack that remembers nothing, from `forge(report, view, key) -> value`."""

    def with_state(state, report, view, key):
        return state, forge(report, view, key)

    return Attack(lambda num_workers: (), with_state, omniscient)


def _honest(report: Any, view: View, ddof: int = 0) -> tuple[Array, Array]:
    """Mean and standard deviation of what honest workers reported, f32[k] each.

    Where fewer than two have been received there is nothing to imitate: the mean is then the
    liar's own honest answer and the deviation 0.
    """
    dtype = report.value.dtype
    received = view.received & ~view.byzantine[:, None]  # [m, k]

    def total(numbers):  # over workers; on a CPU ten times faster than a sum along axis 0
        ones = jnp.ones(numbers.shape[:1], dtype)
        return jnp.matmul(ones, numbers.astype(dtype), precision="highest")

    count = total(received)
    mean = total(jnp.where(received, view.reported, 0)) / jnp.maximum(count, 1)
    squares = total(jnp.where(received, (view.reported - mean[None]) ** 2, 0))
    std = jnp.sqrt(squares / jnp.maximum(count - ddof, 1))
    enough = count >= 2
    return jnp.where(enough, mean, report.value), jnp.where(enough, std, 0)


def none() -> Attack:
    """Tells the truth."""
    return _stateless(lambda report, view, key: report.value)


def sign_flip(scale: float = 1.0, source: str = "own") -> Attack:
    """-scale * g, where g is its own answer or the mean of honest ones.

    Args:
        scale: 1 in Damaskinos et al., ICML 2018; 10 in BASGD (Yang and Li, ICML 2021).
        source: "own", g is the liar's own honest answer; "honest_mean", the mean of what
            honest workers reported (ByzFL).
    """
    require(
        source in ("own", "honest_mean"), f"source is 'own' or 'honest_mean': got {source!r}"
    )
    if source == "own":
        return _stateless(lambda report, view, key: -scale * report.value)
    return ipm(epsilon=scale)


def constant(value: float = 100.0) -> Attack:
    """The same number everywhere ("same value", Li et al., "RSA", AAAI 2019).

    In space "measured": a gradient whose entries are all pulled the same way defeats even a
    coordinate-wise median.

    Args:
        value: the number, in the units of an answer.
    """
    lies = _stateless(lambda report, view, key: jnp.full_like(report.value, value))
    return lies._replace(space="measured")


def gaussian(std: float = 100.0) -> Attack:
    """Fresh N(0, std^2) numbers, nothing to do with the truth (Blanchard et al., 2017).

    Args:
        std: their standard deviation, >= 0, in the units of an answer.
    """
    require((std >= 0) & (std < float("inf")), f"gaussian needs a finite std >= 0: got {std}")

    def forge(report, view, key):
        return std * jax.random.normal(key, report.value.shape, report.value.dtype)

    return _stateless(forge)


def alie_z(num_workers: int, num_byzantine: Array | int) -> Array:
    """The largest z that majority rules let pass, Baruch et al., 2019, Algorithm 3.

    With s = floor(n / 2 + 1) - q supporters needed among the n - q honest workers,
    z = Phi^-1((n - q - s) / (n - q)). Where liars need no supporter (s <= 0) the formula is
    void and z is 1.5, as in the authors' experiments.
    """
    n, q = num_workers, jnp.asarray(num_byzantine, jnp.float32)
    supporters = n // 2 + 1 - q
    honest = n - q
    z = norm.ppf((honest - supporters) / honest)
    return jnp.where(supporters > 0, z, 1.5)


def alie(z: float | None = None, sign: int = -1, ddof: int = 0) -> Attack:
    """A little is enough: mean + sign * z * std of what honest workers reported, per number.

    Args:
        z: None, the paper's formula `alie_z`; or a fixed number, 1.5 in the authors' code
            and ByzFL, 1.035 in Garfield.
        sign: -1 as in the paper; +1 in ByzFL and Blades.
        ddof: 0 as in the authors' code; 1 in ByzFL and Blades.

    References:
        Baruch, Baruch and Goldberg, "A Little Is Enough", NeurIPS 2019, Algorithm 3.
    """
    require(sign in (-1, 1), f"alie needs sign -1 or 1: got {sign}")
    require(ddof in (0, 1), f"alie needs ddof 0 or 1: got {ddof}")

    def forge(report, view, key):
        mean, std = _honest(report, view, ddof)
        size = alie_z(view.byzantine.size, view.byzantine.sum()) if z is None else z
        return mean + sign * size * std

    return _stateless(forge, omniscient=True)


def ipm(epsilon: float = 0.1) -> Attack:
    """Inner product manipulation: -epsilon * mean of what honest workers reported.

    Args:
        epsilon: 0.1 hides below the honest noise; 2 in ByzFL; 10 in Garfield ("empire").

    References:
        Xie, Koyejo and Gupta, "Fall of Empires", UAI 2019.
    """
    return _stateless(
        lambda report, view, key: -epsilon * _honest(report, view)[0], omniscient=True
    )


def mimic(target: int | None = None, warmup: int = 100, among: str = "all") -> Attack:
    """Repeats one honest worker, so that its data counts q times more.

    The one to repeat maximises <z, g_i> for the direction z along which honest workers
    differ most. z lies in the span of their deviations, so it is kept as one coefficient
    per worker and found by power iteration on what they reported, for `warmup` messages.

    Args:
        target: the worker to repeat; None, the one found as above.
        warmup: messages after which the choice is final.
        among: whose number a `target` is: "all", a worker; "honest", as in ByzFL (epsilon), a
            place among those who do not lie. Where there is none, the liar tells the truth.

    References:
        Karimireddy, He and Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via
        Bucketing", ICLR 2022, Section 3.3 and Appendix B.
    """

    require(among in ("all", "honest"), f"mimic needs among 'all' or 'honest': got {among!r}")
    rule = f"mimic needs a target to find among the honest: got among={among!r} alone"
    require(among == "all" or target is not None, rule)

    def init(num_workers):
        if target is not None:
            rule = f"mimic needs a target in 0..{num_workers - 1}: got {target}"
            require(target in range(num_workers), rule)
        start = jnp.cos(jnp.arange(num_workers, dtype=jnp.float32))  # no worker is special
        return start, jnp.zeros((), jnp.int32)

    def forge(state, report, view, key):
        weights, count = state  # f32[m], i32[]
        honest = ~view.byzantine
        received = view.received & honest[:, None]
        mean, _ = _honest(report, view)
        deviation = jnp.where(received, view.reported - mean[None], 0).astype(jnp.float32)
        step = deviation @ (weights @ deviation)  # [m]
        norms = jnp.linalg.norm(step)
        step = jnp.where(norms > 0, step / jnp.maximum(norms, 1e-30), weights)
        newest = 1 / (count + 1).astype(jnp.float32)
        learned = (1 - newest) * weights + newest * step
        weights = jnp.where(count < warmup, learned, weights)
        if target is None:
            chosen = jnp.argmax(jnp.where(honest, weights, -jnp.inf))
        else:
            chosen = target
        known = view.received[chosen]
        if target is not None and among == "honest":
            here = honest & (jnp.cumsum(honest, dtype=jnp.int32) == target + 1)
            chosen = jnp.argmax(here)
            known = view.received[chosen] & here.any()
        value = jnp.where(known, view.reported[chosen], report.value)
        return (weights, count + 1), value.astype(report.value.dtype)

    return Attack(init, forge, omniscient=True)


def replay() -> Attack:
    """Says again what it reported before: every answer grows as stale as it can, and looks fresh.

    About directions, what the server remembers of it; a whole gradient, its first one.
    """

    def forge(report, view, key):
        i = report.worker
        return jnp.where(view.received[i], view.reported[i], report.value)

    return _stateless(forge, omniscient=True)


def nonfinite(kind: str = "mixed") -> Attack:
    """Numbers that break arithmetic: NaN, +inf, -inf and 3e38.

    Args:
        kind: "nan", "inf", "huge", or "mixed", one of the four at random for each number.
    """
    kind = str(kind)  # who reads options from a text may take "inf" for a number
    table = {"nan": jnp.nan, "inf": jnp.inf, "huge": 3e38}
    if kind != "mixed":
        return constant(lookup("kind of nonfinite", kind, table | {"mixed": None}))

    def forge(report, view, key):
        worst = jnp.asarray([jnp.nan, jnp.inf, -jnp.inf, 3e38], report.value.dtype)
        return worst[jax.random.randint(key, report.value.shape, 0, 4)]

    return _stateless(forge)
