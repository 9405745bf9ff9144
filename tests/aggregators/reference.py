"""Reference implementations: slow NumPy, one loop per definition, without masks."""

import itertools

import jax
import numpy as np
import pytest

from farsign_jax.aggregators.registry import make
from tests import helpers
from tests.helpers import float64

N, D = 9, 6
BOTH = pytest.mark.parametrize("dtype", [np.float32, *helpers.slow([np.float64])])


def squares(x):
    return np.array([[((a - b) ** 2).sum() for b in x] for a in x])


def krum_order(x, f, neighbours=2, power=2):
    n = len(x)
    d = squares(x) ** (power / 2)
    scores = []
    for i in range(n):
        others = np.sort(np.delete(d[i], i))
        scores.append(others[: max(n - f - neighbours, 1)].sum())
    return np.argsort(scores, kind="stable")


def trimmed(x, f):
    return np.sort(x, axis=0)[f : len(x) - f].mean(0)


def around(x, keep, center=None):
    center = np.median(x, axis=0) if center is None else center
    order = np.argsort(np.abs(x - center), axis=0, kind="stable")[:keep]
    return np.take_along_axis(x, order, axis=0).mean(0)


def shortest(x, f):
    return x[np.argsort((x**2).sum(1), kind="stable")[: len(x) - f]].mean(0)


def bulyan(x, f):
    left, chosen = list(range(len(x))), []
    while len(chosen) < len(x) - 2 * f:
        winner = krum_order(x[left], f)[0]
        chosen.append(left.pop(winner))
    return around(x[sorted(chosen)], len(chosen) - 2 * f)


def mda(x, f):
    d = squares(x)
    sets = itertools.combinations(range(len(x)), len(x) - f)
    best = min(sets, key=lambda s: d[np.ix_(s, s)].max())
    return x[list(best)].mean(0)


def weiszfeld(x, z, floor, steps):
    for _ in range(steps):
        w = 1 / np.maximum(np.sqrt(((x - z) ** 2).sum(1)), floor)
        z = (w[:, None] * x).sum(0) / w.sum()
    return z


def filtered(x, f):
    """With the power iteration in d dimensions; 30 steps may be too few to converge."""
    c = np.ones(len(x))
    while True:
        mean = c @ x / c.sum()
        y = x - mean
        v = y[np.argmax(c * (y**2).sum(1))]
        for _ in range(30):
            v = (c * (y @ v)) @ y
            v /= np.linalg.norm(v) or 1
        tau = (y @ v) ** 2
        share = tau / (tau[c > 0].max() or 1)
        share[share > 1 - 1e-5] = 1
        most, taken = c.sum() - (len(x) - 2 * f), c @ share
        if most <= taken:
            c = c * (1 - most / (taken or 1) * share)
            return c @ x / c.sum()
        if not (c * tau).any():
            return mean
        c = c * (1 - share)


def on_block(x, f):
    chosen = np.argsort(-(x**2).sum(0), kind="stable")[: x.shape[1] // 2]
    z = np.zeros(x.shape[1])
    z[chosen] = weiszfeld(x[:, chosen], x[:, chosen].mean(0), 1e-14, 2000)
    return z


def clipped_steps(x, tau, steps):
    v = np.zeros(x.shape[1])
    for _ in range(steps):
        r = np.sqrt(((x - v) ** 2).sum(1))
        v = v + ((x - v) * np.minimum(1, tau / r)[:, None]).mean(0)
    return v


def mixed(x, f):
    keep = len(x) - f
    return np.array([x[np.argsort(d, kind="stable")[:keep]].mean(0) for d in squares(x)])


def clip(x, c):
    return x * np.minimum(1, c / np.sqrt((x**2).sum(1)))[:, None]


def arc(x, f):
    n = len(x)
    k = 2 * f * (n - f) // n
    return clip(x, np.sort(np.sqrt((x**2).sum(1)))[n - k - 1])


def pairs(x):
    return np.array([x[i : i + 2].mean(0) for i in range(0, len(x), 2)])


# Description -> (times, plus) of the precondition n >= times f + plus, and the reference.
# times = 0 stands for a rule without f.
RULES = {
    "mean": ((0, 1), lambda x, f: x.mean(0)),
    "median": ((0, 1), lambda x, f: np.median(x, axis=0)),
    "median:even=low": ((0, 1), lambda x, f: np.sort(x, axis=0)[(len(x) - 1) // 2]),
    "trimmed_mean": ((2, 1), trimmed),
    "meamed": ((2, 1), lambda x, f: around(x, len(x) - f)),
    "phocas": ((2, 1), lambda x, f: around(x, len(x) - f, trimmed(x, f))),
    "comparative_elimination": ((2, 1), shortest),
    "majority_vote": ((0, 1), lambda x, f: np.sign(np.sign(x).sum(0))),
    "krum": ((2, 3), lambda x, f: x[krum_order(x, f)[0]]),
    "krum:power=4": ((2, 3), lambda x, f: x[krum_order(x, f, 2, 4)[0]]),
    "multi_krum": (
        (2, 3),
        lambda x, f: x[krum_order(x, f)[: max(len(x) - f - 2, 1)]].mean(0),
    ),
    "multi_krum:m=n-f,neighbours=n-f-1": (
        (2, 3),
        lambda x, f: x[krum_order(x, f, 1)[: len(x) - f]].mean(0),
    ),
    "bulyan": ((4, 3), bulyan),
    "mda": ((2, 1), mda),
    "geometric_median:iterations=500,tolerance=1e-13": (
        (0, 1),
        lambda x, f: weiszfeld(x, x.mean(0), 1e-14, 2000),
    ),
    "iterative_filtering": ((2, 1), filtered),
    "block_geometric_median:block=0.5,tolerance=1e-13": ((0, 1), on_block),
    "rfa": ((0, 1), lambda x, f: weiszfeld(x, x.mean(0), 1e-6, 4)),
    "rfa:start=zero,nu=0.1": ((0, 1), lambda x, f: weiszfeld(x, 0 * x[0], 0.1, 4)),
    "rfa:start=median": ((0, 1), lambda x, f: weiszfeld(x, np.median(x, axis=0), 1e-6, 4)),
    "centered_clipping:tau=1,iterations=2": ((0, 1), lambda x, f: clipped_steps(x, 1, 2)),
    "nnm+median": ((2, 1), lambda x, f: np.median(mixed(x, f), axis=0)),
    "bucketing+median": ((0, 1), lambda x, f: np.median(pairs(x), axis=0)),
    "clipping:c=1.5+mean": ((0, 1), lambda x, f: clip(x, 1.5).mean(0)),
    "arc+mean": ((2, 1), lambda x, f: arc(x, f).mean(0)),
}
EACH = pytest.mark.parametrize("text", RULES)
BY_COORDINATE = ("mean", "median", "median:even=low", "trimmed_mean", "meamed", "phocas")
DRAWS_NOTHING = [text for text in RULES if "bucketing" not in text]


def build(text, f):
    return make(text, **({"f": f} if RULES[text][0][0] else {}))


def admitted(text, n):
    times, plus = RULES[text][0]
    return max((n - plus) // times, 0) if times else 0


def sample(seed=0, n=N, d=D, dtype=np.float32):
    x = np.random.default_rng(seed).normal(size=(n, d))
    x[-2:] += 6
    return x.astype(dtype)


def scope(dtype):
    return float64() if dtype == np.float64 else jax.default_device(None)


def close(got, want, dtype, f64=1e-9):
    assert got.dtype == dtype
    tight = f64 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(np.asarray(got), want, rtol=tight, atol=tight)
