"""Attacks on messages: the numbers that a Byzantine worker sends instead of its honest answer.

A Byzantine worker sees everything (`View`): the state of the server, which workers are
Byzantine, and what every worker has reported about the directions in question. It controls the
numbers that it sends and nothing else. `report.value` is its honest answer, f32[k].

Where the field disagrees, the definition of the original paper is the default and the others
are options. An omniscient attack computes its statistics from what honest workers reported, in
O(m k).

`make` adds the option `space` to every attack. A worker of CYBER-0 measures k derivatives and
sends a gradient made of them, so that a Byzantine worker may replace the gradient ("message",
the default of all attacks but `constant`) or the derivatives ("measured"). For all other
methods the two are the same.
"""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Protocol

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from farsign_jax.base import Array, Attack, Key, Report, View
from farsign_jax.validation import lookup, require


class Forge(Protocol):
    """The message of an attack without state.

    Args:
        report: the honest report of the Byzantine worker, without a leading axis.
        view: all that the adversary may look at.
        key: a key of this message alone.

    Returns:
        The value to send, of the shape and type of `report.value`.
    """

    def __call__(self, report: Report, view: View, key: Key, /) -> Array: ...


def _stateless(forge: Forge, *, omniscient: bool = False) -> Attack:
    """An attack without state."""

    def init(num_workers: int) -> tuple[()]:
        return ()

    def with_state(
        state: tuple[()], report: Report, view: View, key: Key
    ) -> tuple[tuple[()], Array]:
        return state, forge(report, view, key)

    return Attack(init, with_state, omniscient)


def _honest(report: Report, view: View, ddof: int = 0) -> tuple[Array, Array]:
    """The mean and the standard deviation of what honest workers reported, f32[k] each.

    Where fewer than two honest reports have been received, the mean is the Byzantine worker's
    own honest answer and the deviation is 0.
    """
    dtype = report.value.dtype
    received = view.received & ~view.byzantine[:, None]  # [m, k]

    def total(numbers: Array) -> Array:
        """The sum over workers, on a CPU ten times faster than a sum along axis 0."""
        ones = jnp.ones(numbers.shape[:1], dtype)
        return jnp.matmul(ones, numbers.astype(dtype), precision="highest")

    count = total(received)
    mean = total(jnp.where(received, view.reported, 0)) / jnp.maximum(count, 1)
    squares = total(jnp.where(received, (view.reported - mean[None]) ** 2, 0))
    std = jnp.sqrt(squares / jnp.maximum(count - ddof, 1))
    enough = count >= 2
    return jnp.where(enough, mean, report.value), jnp.where(enough, std, 0)


def none() -> Attack:
    """Sends the honest answer."""
    return _stateless(lambda report, view, key: report.value)


def sign_flip(scale: float = 1.0, source: str = "own") -> Attack:
    """Sends -scale * g, where g is its own honest answer or the mean of the honest answers.

    Args:
        scale: the factor; 1 in Damaskinos et al., ICML 2018; 10 in BASGD (Yang and Li, ICML
            2021).
        source: "own", where g is the Byzantine worker's own honest answer, or "honest_mean",
            the mean of what honest workers reported (ByzFL).

    Raises:
        InvalidConfig: if `source` is neither.
    """
    require(
        source in ("own", "honest_mean"), f"source is 'own' or 'honest_mean': got {source!r}"
    )
    if source == "own":
        return _stateless(lambda report, view, key: -scale * report.value)
    return ipm(epsilon=scale)


def constant(value: float = 100.0) -> Attack:
    """Sends the same number in every entry ("same value", Li et al., "RSA", AAAI 2019).

    Its space is "measured": a gradient whose entries are all moved in the same direction
    defeats even a coordinate-wise median.

    Args:
        value: the number, in the units of an answer.
    """
    attack = _stateless(lambda report, view, key: jnp.full_like(report.value, value))
    return attack._replace(space="measured")


def gaussian(std: float = 100.0) -> Attack:
    """Sends fresh N(0, std^2) numbers, whatever the honest answer is (Blanchard et al., 2017).

    Args:
        std: the standard deviation, >= 0, in the units of an answer.

    Raises:
        InvalidConfig: if std is negative or not finite.
    """
    require((std >= 0) & (std < float("inf")), f"gaussian needs a finite std >= 0: got {std}")

    def forge(report: Report, view: View, key: Key) -> Array:
        return std * jax.random.normal(key, report.value.shape, report.value.dtype)

    return _stateless(forge)


def alie_z(num_workers: int, num_byzantine: Array | int) -> Array:
    """The largest z that rules by majority accept, Baruch et al., 2019, Algorithm 3.

    With s = floor(n / 2 + 1) - q supporters needed among the n - q honest workers,
    z = Phi^-1((n - q - s) / (n - q)). Where the Byzantine workers need no supporter (s <= 0),
    the formula does not apply and z is 1.5, as in the authors' experiments.

    Args:
        num_workers: n.
        num_byzantine: q.

    Returns:
        z, f32[].
    """
    n, q = num_workers, jnp.asarray(num_byzantine, jnp.float32)
    supporters = n // 2 + 1 - q
    honest = n - q
    z = norm.ppf((honest - supporters) / honest)
    return jnp.where(supporters > 0, z, 1.5)


def alie(z: float | None = None, sign: int = -1, ddof: int = 0) -> Attack:
    """A little is enough: mean + sign * z * std of what honest workers reported, per entry.

    Args:
        z: the number of standard deviations: None for the paper's formula `alie_z`, or a fixed
            number, 1.5 in the authors' code and ByzFL, 1.035 in Garfield.
        sign: -1 as in the paper; +1 in ByzFL and Blades.
        ddof: the degrees of freedom that the variance is corrected for: 0 as in the authors'
            code; 1 in ByzFL and Blades.

    Raises:
        InvalidConfig: if sign or ddof is none of these.

    References:
        Baruch, Baruch and Goldberg, "A Little Is Enough", NeurIPS 2019, Algorithm 3.
    """
    require(sign in (-1, 1), f"alie needs sign -1 or 1: got {sign}")
    require(ddof in (0, 1), f"alie needs ddof 0 or 1: got {ddof}")

    def forge(report: Report, view: View, key: Key) -> Array:
        mean, std = _honest(report, view, ddof)
        size = alie_z(view.byzantine.size, view.byzantine.sum()) if z is None else z
        return mean + sign * size * std

    return _stateless(forge, omniscient=True)


def ipm(epsilon: float = 0.1) -> Attack:
    """Inner product manipulation: sends -epsilon * the mean of what honest workers reported.

    Args:
        epsilon: the factor; 0.1 hides below the honest noise; 2 in ByzFL; 10 in Garfield
            ("empire").

    References:
        Xie, Koyejo and Gupta, "Fall of Empires", UAI 2019.
    """
    return _stateless(
        lambda report, view, key: -epsilon * _honest(report, view)[0], omniscient=True
    )


def mimic(target: int | None = None, warmup: int = 100, among: str = "all") -> Attack:
    """Sends what one honest worker reported, so that its data count q times more.

    The worker to imitate maximises <z, g_i> for the direction z along which honest workers
    differ most. z lies in the span of their deviations, so it is kept as one coefficient per
    worker and found by power iteration on what they reported, for `warmup` messages.

    Args:
        target: the worker to imitate; None for the one found as above.
        warmup: the number of messages after which the choice is final.
        among: what `target` counts: "all", the id of a worker, or "honest", the position among
            the honest workers, as in ByzFL (epsilon). If there is no such honest worker, or it
            has not reported yet, the honest answer is sent.

    Raises:
        InvalidConfig: if `among` is neither, or "honest" without a target; from `init`, if the
            target is not a worker.

    References:
        Karimireddy, He and Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via
        Bucketing", ICLR 2022, Section 3.3 and Appendix B.
    """

    require(among in ("all", "honest"), f"mimic needs among 'all' or 'honest': got {among!r}")
    rule = f"mimic needs a target to find among the honest: got among={among!r} alone"
    require(among == "all" or target is not None, rule)

    def init(num_workers: int) -> tuple[Array, Array]:
        if target is not None:
            rule = f"mimic needs a target in 0..{num_workers - 1}: got {target}"
            require(target in range(num_workers), rule)
        start = jnp.cos(jnp.arange(num_workers, dtype=jnp.float32))  # no worker is special
        return start, jnp.zeros((), jnp.int32)

    def forge(
        state: tuple[Array, Array], report: Report, view: View, key: Key
    ) -> tuple[tuple[Array, Array], Array]:
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
            at_target = honest & (jnp.cumsum(honest, dtype=jnp.int32) == target + 1)
            chosen = jnp.argmax(at_target)
            known = view.received[chosen] & at_target.any()
        value = jnp.where(known, view.reported[chosen], report.value)
        return (weights, count + 1), value.astype(report.value.dtype)

    return Attack(init, forge, omniscient=True)


def replay() -> Attack:
    """Sends its earlier report again, which is as stale as possible and looks fresh.

    For a method with directions, this is what the server remembers of the worker about these
    directions; for whole gradients, it is the worker's first gradient.
    """

    def forge(report: Report, view: View, key: Key) -> Array:
        i = report.worker
        return jnp.where(view.received[i], view.reported[i], report.value)

    return _stateless(forge, omniscient=True)


def nonfinite(kind: str = "mixed") -> Attack:
    """Sends numbers that break arithmetic: NaN, +inf, -inf and 3e38.

    Args:
        kind: "nan", "inf", "huge", or "mixed", which draws one of the four for each entry.

    Raises:
        InvalidConfig: if `kind` is none of these.
    """
    kind = str(kind)  # a parser of options may have read "inf" as a number
    table = {"nan": jnp.nan, "inf": jnp.inf, "huge": 3e38}
    if kind != "mixed":
        return constant(lookup("kind of nonfinite", kind, table | {"mixed": None}))

    def forge(report: Report, view: View, key: Key) -> Array:
        worst = jnp.asarray([jnp.nan, jnp.inf, -jnp.inf, 3e38], report.value.dtype)
        return worst[jax.random.randint(key, report.value.shape, 0, 4)]

    return _stateless(forge)
