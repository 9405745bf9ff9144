"""Robust aggregation: definitions, other libraries' numbers, guarantees, and how to ask."""

import functools
import inspect
import itertools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import aggregators
from farsign_jax.aggregators import coordinatewise, distance_based, preaggregators, row_ops
from farsign_jax.aggregators.registry import make, parse
from farsign_jax.validation import InvalidConfig
from tests.helpers import assert_same, float64

DATA = json.loads(
    (pathlib.Path(__file__).parents[1] / "data/aggregator_vectors.json").read_text()
)
X7 = [[1, 1], [2, 1], [1, 2], [2, 2], [3, 2], [2, 3], [50, -50]]
N, D = 9, 6
BOTH = pytest.mark.parametrize("dtype", (np.float32, np.float64))

# References: slow NumPy, one loop per definition, no masks.


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


def around(x, keep):
    order = np.argsort(np.abs(x - np.median(x, axis=0)), axis=0, kind="stable")[:keep]
    return np.take_along_axis(x, order, axis=0).mean(0)


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


# text -> (times, plus) of n >= times f + plus, and the reference; times = 0: it takes no f.
RULES = {
    "mean": ((0, 1), lambda x, f: x.mean(0)),
    "median": ((0, 1), lambda x, f: np.median(x, axis=0)),
    "median:even=low": ((0, 1), lambda x, f: np.sort(x, axis=0)[(len(x) - 1) // 2]),
    "trimmed_mean": ((2, 1), trimmed),
    "meamed": ((2, 1), lambda x, f: around(x, len(x) - f)),
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
BY_COORDINATE = ("mean", "median", "median:even=low", "trimmed_mean", "meamed")
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


@EACH
@BOTH
def test_every_rule_is_its_definition_also_with_absent_rows(text, dtype):
    mask = np.ones(N + 3, bool)
    mask[[0, 4, 10]] = False
    most = admitted(text, N)
    with scope(dtype):
        # All others are tried below, with any number of present rows.
        for f in sorted({0, 1, most} if dtype == np.float64 and most else {most}):
            rule = build(text, f)
            for seed in range(2):
                x = sample(seed, N + 3, dtype=dtype)
                want = RULES[text][1](x[mask].astype(np.float64), f)
                got, alone = rule(x, mask), rule(x[mask])
                close(alone, want, dtype, 1e-7 if "geometric" in text else 1e-9)
                close(got, np.asarray(alone), dtype, 1e-9)


@EACH
def test_any_number_of_present_rows(text):
    """Even and odd, down to one; f as large as they admit."""
    rng = np.random.default_rng(1)
    x = sample(5, N + 3)
    for present in range(1, N + 4):
        mask = rng.permutation(N + 3) < present
        f = admitted(text, present)
        if present < RULES[text][0][1]:
            with pytest.raises(InvalidConfig, match=f"n={present} present of {N + 3}"):
                build(text, f)(x, mask)
            continue
        rule = build(text, f)
        close(rule(x, mask), RULES[text][1](x[mask].astype(np.float64), f), np.float32)


@EACH
@pytest.mark.parametrize("kind", ("nan", "inf", "-inf", "mixed", "3e38"))
def test_bad_rows_are_as_if_absent(text, kind):
    kinds = ["nan", "inf", "-inf"] if kind == "mixed" else [kind]
    f = admitted(text, N)
    rule = build(text, f)
    for bad in range(1, N + 1):
        x = sample(7)
        rows = np.random.default_rng(bad).permutation(N)[:bad]
        for n, row in enumerate(rows):
            x[row, n % D] = float(kinds[n % len(kinds)])
            if n % 2:
                x[row] = float(kinds[n % len(kinds)])
        got = np.asarray(rule(x))
        assert np.isfinite(got).all()
        if kind == "3e38" and text.split(":")[0] in (*BY_COORDINATE, "majority_vote"):
            continue  # a number like any other; the honest range is tested below
        if text.startswith("bucketing") and kind == "3e38":
            continue
        good = np.delete(x, rows, axis=0).astype(np.float64)
        left = min(f, admitted(text, len(good)))
        want = RULES[text][1](good, left) if len(good) else np.zeros(D)
        loose = 1e-4 if "geometric" in text else 1e-5  # how far float32 steps get
        np.testing.assert_allclose(got, want, rtol=loose, atol=loose)


@EACH
def test_jit_and_vmap_change_nothing(text):
    f = min(admitted(text, N), 1)
    rule = build(text, f)
    xs = jnp.asarray(np.stack([sample(s) for s in range(3)]))
    masks = np.ones((3, N), bool)
    masks[1, [2, 5]] = False
    masks[2] = False  # nobody: zeros, where it cannot be refused
    got = np.asarray(jax.jit(jax.vmap(rule))(xs, jnp.asarray(masks)))
    for i in range(2):
        np.testing.assert_allclose(got[i], rule(xs[i], masks[i]), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(got[2], 0)
    with pytest.raises(InvalidConfig, match="n >= 1: got n=0 present of 9 rows"):
        rule(xs[2], masks[2])


# float32 for the inputs of ten rows alone: every rule is among them, and compiling is slow.
VECTORS = [(case, np.float64) for case in DATA["vectors"]]
VECTORS += [(case, np.float32) for case, _ in VECTORS if case["id"].startswith("gen10")]


@pytest.mark.parametrize(
    ("case", "dtype"), VECTORS, ids=lambda v: v["id"] if isinstance(v, dict) else v.__name__
)
def test_numbers_of_other_libraries(case, dtype):
    with scope(dtype):
        x = np.asarray(DATA["inputs"][case["input"]], dtype)
        stages = parse(case["spec"])
        if stages[-1][0] in preaggregators.PREAGGREGATORS:
            ((name, options),) = stages
            got, mask = preaggregators.PREAGGREGATORS[name](**options)(x)
            assert mask.all()
        else:
            got = make(case["spec"])(x)
        tolerance = case["atol64"] if dtype == np.float64 else 1e-4
        np.testing.assert_allclose(got, case["output"], rtol=0, atol=tolerance)


def test_krum_by_the_conventions_of_the_field():
    case = DATA["krum_conventions"]
    x = np.asarray(DATA["inputs"][case["input"]], np.float32)
    winners = [w["winner"] for w in case["winners"]]
    assert winners == [0, 5, 2, 5, 0]
    for want in case["winners"]:
        rule = aggregators.krum(case["f"], want["neighbours"], want["power"])
        np.testing.assert_array_equal(rule(x), x[want["winner"]])
    # A fourth power of these distances is beyond float32; the order is not.
    np.testing.assert_array_equal(
        aggregators.krum(2, power=4)(x * np.float32(2.0**36)), x[5] * np.float32(2.0**36)
    )


def test_bulyan_scores_again_after_each_selection():
    case = next(c for c in DATA["vectors"] if c["id"] == "bulyan_gen11_f1")
    x = np.asarray(DATA["inputs"][case["input"]], np.float32)
    got = aggregators.bulyan(2)(x)
    np.testing.assert_allclose(got, [-0.331, 0.109, -0.423, -0.877, -0.009], atol=6e-4)
    one_shot = around(x[np.sort(krum_order(x, 2)[:7])], 3)
    np.testing.assert_allclose(one_shot, [-0.662, -0.069, -0.236, -0.628, -0.009], atol=6e-4)


def test_golden_values():
    for text, want in (
        ("krum:f=1", [2, 2]),
        ("multi_krum:f=1,m=4", [1.5, 1.5]),  # rows 0, 4 and 5 tie
        ("bulyan:f=1", [1.6666667, 2]),
        ("meamed:f=1", [1.8333333, 1.8333333]),
        ("meamed:f=2", [1.6, 1.6]),
        ("trimmed_mean:f=1", [2, 1.6]),
        ("median", [2, 2]),
        ("RFA:nu=1e-6,T=3", [2.016284, 1.593728]),
        ("CC:tau=2", [1.326459, 0.922398]),
        ("CC:tau=2,L=3", [2.045002, 1.572810]),
        ("majority_vote", [1, 1]),
    ):
        np.testing.assert_allclose(make(text)(X7), want, atol=1e-6, err_msg=text)
    rows, mask = preaggregators.nnm(1)(X7)
    np.testing.assert_allclose(rows[:6], np.full((6, 2), 1.8333333), atol=1e-6)
    np.testing.assert_allclose(rows[6], [9.8333333, -7], atol=1e-6)
    assert mask.all()
    # Two middles, and votes that tie.
    np.testing.assert_array_equal(make("median")([[1], [2], [3], [10]]), [2.5])
    np.testing.assert_array_equal(make("median:even=low")([[1], [2], [3], [10]]), [2])
    np.testing.assert_array_equal(make("majority_vote")([[1, 0], [-5, 0], [0, -3]]), [0, -1])


def test_geometric_median_stops_at_a_row_that_it_is():
    # Three of five rows are the same: they are the minimiser, and the median is there.
    x = np.asarray([[1, 1], [1, 1], [1, 1], [9, 0], [0, 7]], np.float32)
    np.testing.assert_array_equal(make("geometric_median")(x), [1, 1])
    # The coordinate-wise median is a row that is not the minimiser: it must leave.
    x = np.asarray([[0, 0], [3, 0.1], [3, -0.1], [-1, 3], [-1, -3]], np.float64)

    def objective(z):
        return np.sqrt(((x - z) ** 2).sum(1)).sum()

    assert (np.median(x, axis=0) == 0).all()
    away = np.sqrt((x[1:] ** 2).sum(1))[:, None]
    pull = np.linalg.norm((x[1:] / away).sum(0))
    assert pull > 1
    first = (1 - 1 / pull) * (x[1:] / away).sum(0) / (1 / away).sum()
    with float64():
        np.testing.assert_allclose(make("geometric_median:iterations=1")(x), first, atol=1e-12)
        z = np.asarray(make("geometric_median:iterations=1000,tolerance=1e-12")(x))
    around_z = [objective(z + 1e-3 * np.asarray(s)) for s in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    assert objective(z) < min(around_z)


def test_trimmed_fraction_counts_like_arithmetic():
    for n, fraction, f in (
        (10, 0.2, 2),
        (4, 0.2, 0),
        (100, 0.29, 29),
        (9, 0.1, 0),
        (9, 0.4, 3),
    ):
        assert coordinatewise._share(fraction, n)[n] == f
    x = sample(n=12)
    # Of the rows present: 0.2 of 10, not of 12.
    mask = np.arange(12) < 10
    want = make("trimmed_mean:f=2")(x[:10])
    np.testing.assert_allclose(make("trimmed_mean:fraction=0.2")(x[:12], mask), want, rtol=1e-6)
    with pytest.raises(InvalidConfig, match=re.escape("0 <= fraction < 0.5: got 0.5")):
        make("trimmed_mean:fraction=0.5")
    traced = jax.jit(lambda share: make("trimmed_mean", fraction=share)(x[:10]))(0.2)
    np.testing.assert_allclose(traced, want, rtol=1e-6)


def test_permutation_translation_and_scale():
    x = sample(3)
    order = np.random.default_rng(0).permutation(N)
    for text in DRAWS_NOTHING:
        rule = build(text, 1)
        want = np.asarray(rule(x))
        if text != "bulyan":  # with one neighbour the two closest rows always tie
            got = rule(x[order])
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=text)
        head = text.split(":")[0]
        if head in ("rfa", "centered_clipping", "clipping", "arc+mean", "majority_vote"):
            continue
        shifted = rule(x + np.float32(3)) - 3
        np.testing.assert_allclose(shifted, want, rtol=1e-4, atol=1e-4, err_msg=text)
        np.testing.assert_allclose(rule(x * np.float32(4)) / 4, want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        make("arc+mean", f=2)(x * np.float32(4)), 4 * make("arc+mean", f=2)(x), rtol=1e-5
    )


@EACH
def test_equal_rows_are_the_answer(text):
    row = np.float32([0.1, -7.3, 1 / 3, 0, 2.5, -1])
    if text.startswith(("centered_clipping", "clipping", "majority_vote")):
        row = np.sign(row) * np.float32(0.125)  # short enough not to be clipped
    got = np.asarray(build(text, admitted(text, N))(np.tile(row, (N, 1))))
    if text == "majority_vote":
        np.testing.assert_array_equal(got, np.sign(row))
    elif "zero" in text or "+" in text:
        np.testing.assert_allclose(got, row, rtol=1e-6)
    else:
        np.testing.assert_array_equal(got, row)


def test_rules_that_coincide():
    x = sample(2)
    mean, median = make("mean")(x), make("median")(x)
    for text in ("trimmed_mean", "multi_krum:m=n-f", "mda", "meamed", "bulyan", "nnm+mean"):
        np.testing.assert_allclose(make(text, f=0)(x), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(make("trimmed_mean", f=4)(x), median)
    np.testing.assert_array_equal(make("multi_krum", f=2, m=1)(x), make("krum", f=2)(x))
    np.testing.assert_allclose(make("bucketing:s=1+mean")(x), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(make("cc:tau=1e9")(x), mean, rtol=1e-5, atol=1e-6)
    assert any((np.asarray(make("krum", f=2)(x)) == row).all() for row in x)


def test_what_liars_say_stays_within_the_honest_range():
    f, honest = 4, sample(4)[:5]
    low, high = honest.min(0), honest.max(0)
    for lie in (1e6, -1e6, 3e38, -3e38, 0.5):
        x = np.concatenate([np.full((f, D), lie, np.float32), honest])
        for text in ("median", "trimmed_mean:f=4", "meamed:f=4"):
            got = np.asarray(make(text)(x))
            assert (got >= low - 1e-6).all() and (got <= high + 1e-6).all(), (text, lie)


def test_largest_numbers_do_not_overflow():
    top = np.finfo(np.float32).max / np.float32(1.001)
    x = np.asarray([[top, top], [top, -top], [top, top], [top, -top]], np.float32)
    for text in ("mean", "median", "trimmed_mean:f=1", "meamed:f=0", "bucketing+mean"):
        np.testing.assert_array_equal(make(text)(x), [top, 0], err_msg=text)


def test_clipping_is_bounded():
    x = sample(6)
    start = np.full(D, 2, np.float32)
    step = make("centered_clipping:tau=0.5")(x, start=start) - start
    assert 0.1 < float(jnp.linalg.norm(step)) <= 0.5 * (1 + 1e-6)
    rows, _ = preaggregators.clipping(2.5)(x)
    lengths = np.linalg.norm(rows, axis=1)
    assert (lengths <= 2.5 * (1 + 1e-6)).all()
    short = np.linalg.norm(x, axis=1) <= 2.5
    np.testing.assert_array_equal(np.asarray(rows)[short], x[short])
    assert 0 < short.sum() < N
    rows, _ = preaggregators.arc(2)(x)
    changed = (np.asarray(rows) != x).any(1)
    assert changed.sum() == 2 * 2 * 7 // 9
    third = np.sort(np.linalg.norm(x, axis=1))[N - 3 - 1]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1).max(), third, rtol=1e-6)


def test_centered_clipping_goes_on_from_its_start():
    x = jnp.asarray(sample(8))
    rule = make("centered_clipping:tau=0.3")

    def advance(v, _):
        v = jax.lax.cond(v.sum() < jnp.inf, lambda v: rule(x, start=v), lambda v: v, v)
        return v, v

    last, _ = jax.lax.scan(advance, jnp.zeros(D), length=3)
    np.testing.assert_allclose(last, make("cc:tau=0.3,L=3")(x), rtol=1e-6)
    with pytest.raises(InvalidConfig, match=re.escape("start of shape (6,): got (5,)")):
        rule(x, start=jnp.zeros(5))


def test_close_rows_far_from_the_origin():
    """|a|^2 + |b|^2 - 2ab has no correct digit here: distances are of differences."""
    rng = np.random.default_rng(0)
    far = 1e4 * rng.normal(size=40_000)
    x = (far + 0.05 * rng.normal(size=(30, 40_000)) * rng.uniform(1, 2, (30, 1))).astype(
        np.float32
    )
    exact = squares(x.astype(np.float64))
    got = np.asarray(jax.jit(row_ops.square_distances)(x))
    np.testing.assert_allclose(got, exact, rtol=1e-5)
    np.testing.assert_array_equal(got, got.T)
    np.testing.assert_array_equal(np.diag(got), 0)
    n, f = 30, 6
    best = np.sort(exact, axis=1)[:, 1 : n - f - 1].sum(1).argmin()
    np.testing.assert_array_equal(make("krum", f=f)(x), x[best])
    gram = (x**2).sum(1)[:, None] + (x**2).sum(1)[None] - 2 * x @ x.T
    assert np.abs(gram - exact).max() > 0.1 * exact.max()


def test_more_rows_than_a_network_sorts(monkeypatch):
    monkeypatch.setattr(row_ops, "NETWORK_ROWS", 5)
    x = sample(n=8, d=4)  # a shape of its own: compiled here
    assert len(x) > row_ops.NETWORK_ROWS
    np.testing.assert_allclose(make("meamed:f=3")(x), around(x, 5), rtol=1e-5, atol=1e-6)
    mask = np.arange(8) != 3
    want = np.median(x[mask], axis=0)
    np.testing.assert_allclose(make("median")(x, mask), want, rtol=1e-6)


def test_the_network_sorts_whatever_the_number_of_rows():
    for n in range(1, 13):  # by the 0-1 principle: all inputs of zeros and ones
        bits = (np.arange(2**n)[None] >> np.arange(n)[:, None]) & 1
        rows = list(bits)
        for low, high in row_ops.network(n):
            rows[low], rows[high] = (
                np.minimum(rows[low], rows[high]),
                np.maximum(rows[low], rows[high]),
            )
        assert (np.diff(rows, axis=0) >= 0).all()


def test_subsets_come_in_lexicographic_order():
    for n, f in ((5, 0), (5, 2), (6, 1), (7, 3)):
        want = [list(s) for s in itertools.combinations(range(n), n - f)]
        kept = jax.jit(distance_based._subsets, static_argnums=(0, 1))(n, f)
        got = [list(np.flatnonzero(row)) for row in np.asarray(kept)]
        assert got == want
    np.testing.assert_array_equal(make("mda:f=1")([[0.0], [1], [2]]), [0.5])  # a tie


def test_bucketing_shuffles_by_its_key():
    x = np.arange(1, 6, dtype=np.float32)[:, None]
    pre = preaggregators.bucketing(2)
    rows, mask = pre(x)
    np.testing.assert_array_equal(rows, [[1.5], [3.5], [5]])
    seen = set()
    for seed in range(8):
        rows, mask = pre(x, key=jax.random.key(seed))
        assert rows.shape == (3, 1) and mask.all()
        total = 2 * rows[0, 0] + 2 * rows[1, 0] + rows[2, 0]
        assert float(total) == 15
        seen.add(tuple(np.asarray(rows)[:, 0].tolist()))
    assert len(seen) > 3
    rows, mask = pre(x, np.asarray([False, True, True, False, True]))
    np.testing.assert_array_equal(mask, [True, True, False])
    np.testing.assert_array_equal(rows[:2], [[2.5], [5]])
    # In a pipeline: the caller's key where one stage draws, one each where several do.
    key = jax.random.key(3)
    np.testing.assert_array_equal(
        make("bucketing+median")(x, key=key), np.median(pre(x, key=key)[0], axis=0)
    )
    twice = make("bucketing+bucketing+mean")
    first, second = jax.random.split(key)
    rows, mask = pre(x, key=first)
    rows, mask = pre(rows, mask, key=second)
    np.testing.assert_allclose(twice(x, key=key), rows.mean(0), rtol=1e-6)
    # ceil(9 / 2) = 5 rows reach the rule.
    with pytest.raises(InvalidConfig, match="krum needs n >= 2f \\+ 3: got n=5, f=2"):
        make("bucketing+krum:f=2")(sample())


@pytest.mark.parametrize(
    ("text", "n", "message"),
    (
        ("krum:f=1", 4, "krum needs n >= 2f + 3: got n=4, f=1"),
        ("multi_krum:f=1", 4, "multi_krum needs n >= 2f + 3: got n=4, f=1"),
        ("multi_krum:f=2,m=6", 9, "multi_krum needs 1 <= m <= n - f - 2: got m=6, n=9, f=2"),
        (
            "multi_krum:f=2,m=8,neighbours=n-f-1",
            9,
            "multi_krum needs 1 <= m <= n - f: got m=8, n=9, f=2",
        ),
        ("multi_krum:f=2,m=0", 9, "multi_krum needs a whole number m >= 1: got 0"),
        ("multi_krum:f=2,m=most", 9, "needs m of n-f-2, n-f or a number: got 'most'"),
        ("bulyan:f=2", 10, "bulyan needs n >= 4f + 3: got n=10, f=2"),
        ("trimmed_mean:f=2", 4, "trimmed_mean needs n > 2f: got n=4, f=2"),
        ("meamed:f=2", 4, "meamed needs n > 2f: got n=4, f=2"),
        ("mda:f=2", 4, "mda needs n > 2f: got n=4, f=2"),
        ("mda:f=12", 30, "mda tries all C(n, f) <= 200,000 sets: got n=30, f=12"),
        ("nnm:f=2+mean", 4, "nnm needs n > 2f: got n=4, f=2"),
        ("arc:f=2+mean", 4, "arc needs n > 2f: got n=4, f=2"),
        ("nnm:f=1+krum:f=1", 4, "krum needs n >= 2f + 3: got n=4, f=1"),
        ("krum:f=-1", 9, "krum needs a whole number f >= 0: got -1"),
        ("trimmed_mean:f=1.5", 9, "trimmed_mean needs a whole number f >= 0: got 1.5"),
        ("trimmed_mean:f=true", 9, "trimmed_mean needs a whole number f >= 0: got 'true'"),
        ("nnm:f=many+mean", 9, "nnm needs a whole number f >= 0: got 'many'"),
        ("krum:f=1,power=3", 9, "krum needs power 1, 2 or 4: got 3"),
        ("krum:f=1,neighbours=n", 9, "krum needs neighbours of n-f-2, n-f-1, n-f: got 'n'"),
        ("median:even=high", 9, "median needs even 'mean' or 'low': got 'high'"),
        ("cc:tau=0", 9, "centered_clipping needs tau > 0: got 0"),
        ("cc:tau=x", 9, "centered_clipping needs tau > 0: got 'x'"),
        ("cc:iterations=0", 9, "centered_clipping needs a whole number iterations >= 1: got 0"),
        ("rfa:nu=0", 9, "rfa needs nu > 0: got 0"),
        ("rfa:iterations=0", 9, "rfa needs a whole number iterations >= 1: got 0"),
        ("rfa:start=one", 9, "rfa needs start of mean, zero, median: got 'one'"),
        ("geometric_median:iterations=0", 9, "needs a whole number iterations >= 1: got 0"),
        ("geometric_median:tolerance=0", 9, "geometric_median needs tolerance > 0: got 0"),
        ("clipping:c=-1+mean", 9, "clipping needs c > 0: got -1"),
        ("bucketing:s=0+mean", 9, "bucketing needs a whole number s >= 1: got 0"),
        ("trimmed_mean", 9, "trimmed_mean needs f, or a fraction"),
        ("trimmed_mean:f=1,fraction=0.1", 9, "trimmed_mean needs f, or a fraction"),
        ("trimmed_mean:fraction=-0.1", 9, "trimmed_mean needs 0 <= fraction < 0.5: got -0.1"),
    ),
)  # fmt: skip
def test_preconditions_name_their_numbers(text, n, message):
    with pytest.raises(InvalidConfig, match=re.escape(message)):
        make(text)(sample(n=n))


def test_preconditions_count_present_rows_where_the_mask_is_known():
    x, mask = sample(), np.arange(N) < 4
    message = re.escape("krum needs n >= 2f + 3: got n=4 present of 9 rows, f=1")
    for rule in (make("krum:f=1"), make("nnm+krum", f=1)):
        with pytest.raises(InvalidConfig, match=message):
            rule(x, mask)
        # Not known under jit: f shrinks to what four rows admit, 0.
        got = jax.jit(rule)(x, jnp.asarray(mask))
        assert np.isfinite(got).all()
    np.testing.assert_array_equal(
        jax.jit(make("krum:f=1"))(x, jnp.asarray(mask)), make("krum:f=0")(x[:4])
    )


def test_strict_false_takes_the_largest_f_that_fits():
    x = sample()
    for text, most in (("krum", 3), ("multi_krum", 3), ("bulyan", 1)):
        with pytest.raises(InvalidConfig, match=f"{text} needs"):
            make(text, f=5)(x)
        got = make(text, f=5, strict=False)(x)
        np.testing.assert_array_equal(got, make(text, f=most)(x))


def test_what_is_handed_over():
    x = sample(1)
    rule = make("trimmed_mean:f=2")
    want = rule(x)
    kept = x.copy()
    for text in RULES:
        build(text, 1)(x)
    np.testing.assert_array_equal(x, kept)  # nobody writes to the caller's array
    assert_same(rule(list(x)), want)
    assert_same(rule([jnp.asarray(row) for row in x]), want)
    assert_same(rule(x.astype(np.float16)), rule(x.astype(np.float16).astype(np.float32)))
    assert rule(np.arange(12).reshape(6, 2)).dtype == np.float32
    np.testing.assert_array_equal(rule(np.arange(12).reshape(6, 2)), [5, 6])
    assert_same(make("mean")([[1, 2], [2, 4]]), jnp.asarray([1.5, 3.0]))
    assert_same(rule(x, [True] * N, start=jnp.zeros(D), key=jax.random.key(0)), want)
    for bad, message in (
        (x[0], "x of shape [n, d]: got shape (6,)"),
        (x[:0], "n >= 1: got n=0"),
        (x * 1j, "real numbers: got complex64"),
        ([[1.0, 2.0], [3.0]], "rows of one length"),
    ):
        with pytest.raises(InvalidConfig, match=re.escape(message)):
            rule(bad)
    with pytest.raises(InvalidConfig, match=re.escape("a mask of 9 rows: got shape (8,)")):
        rule(x, np.ones(8, bool))


def test_one_program_for_a_sweep_over_f():
    x = sample()
    for text in ("trimmed_mean", "meamed", "krum", "multi_krum", "nnm+median", "arc+mean"):
        most = admitted(text, N)
        swept = jax.vmap(lambda f, text=text: make(text, f=f)(x))(jnp.arange(most + 1))
        for f in range(most + 1):
            np.testing.assert_allclose(swept[f], make(text, f=f)(x), rtol=1e-5, atol=1e-6)
    tau = jnp.asarray([0.5, 2.0])
    swept = jax.vmap(lambda tau: make("clipping+cc", c=tau, tau=tau)(x))(tau)
    want = make("clipping:c=2+cc:tau=2")(x)
    np.testing.assert_allclose(swept[1], want, rtol=1e-6, atol=1e-6)

    for name in ("mda", "bucketing"):
        option = {"mda": "f", "bucketing": "s"}[name]
        factory = (aggregators.AGGREGATORS | preaggregators.PREAGGREGATORS)[name]
        with pytest.raises(InvalidConfig, match=f"{name} needs an {option} that is known"):
            jax.jit(lambda v, factory=factory: factory(v) and 0)(1)


def test_ways_to_ask_for_the_same():
    x = sample()
    want = make("clipping:c=2+nnm:f=3+trimmed_mean:f=3")(x)
    stages = [
        {"name": "Clipping", "parameters": {"c": 2}},
        {"name": "NNM", "parameters": {"f": 3}},
        {"name": "TrMean", "parameters": {"f": 3}},
    ]
    for spec, options in (
        (stages, {}),
        (tuple(stages), {}),
        (["clipping", "nnm", "CWTM"], {"f": 3}),
        ("Clipping + NNM + TrMean", {"f": 3, "c": 2.0}),
        ("clipping:c=2e+0+nnm:f=3+trimmed_mean", {"f": 3, "c": 9}),  # its own come first
        ([{"name": "clipping"}, "nnm+trimmed_mean:f=3"], {"f": 3}),
    ):
        assert_same(make(spec, **options)(x), want)
    assert make("nnm+krum", f=2).name == "nnm+krum"
    assert parse("NNM:f=2+CC:tau=1e+1,start=x") == (
        ("nnm", {"f": 2}),
        ("centered_clipping", {"tau": 10.0, "start": "x"}),
    )


def test_names_of_byzfl_and_of_papers():
    for name, want in aggregators.ALIASES.items():
        for spelling in (name, name.lower(), name.upper()):
            assert parse(spelling)[0][0] == want
    for name in ("Mean", "Median", "Krum", "Bulyan", "Meamed", "MDA", "RFA", "NNM", "ARC"):
        assert parse(name)[0][0] == name.lower()
    assert make("GeometricMedian").name == "rfa"  # ByzFL's
    assert make("geometric_median").name == "geometric_median"
    x = sample()
    parameters = {"nu": 0.1, "T": 3, "start": "zero"}
    got = make({"name": "GeometricMedian", "parameters": parameters})(x)
    assert_same(got, aggregators.rfa(0.1, 3, "zero")(x))
    # An alias changes the name, not the convention.
    assert_same(make("Krum", f=2)(x), aggregators.krum(2)(x))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    (
        ("krun", {"f": 1}, "unknown aggregator 'krun': did you mean 'krum'?"),
        ("nmm+krum", {"f": 1}, "unknown aggregator 'nmm': did you mean 'nnm'?"),
        ("", {}, "unknown aggregator ''"),
        ("nnm", {"f": 1}, "nnm is a pre-aggregator: a rule must follow"),
        ("krum+nnm", {"f": 1}, "nnm is a pre-aggregator: a rule must follow"),
        ("krum+mean", {"f": 1}, "krum is a rule: only the last stage can be one"),
        ("krum", {}, "krum needs f"),
        ("nnm+mean", {}, "nnm needs f"),
        ("krum:q=1", {}, "krum has no option 'q': it has f, neighbours, power, strict"),
        ("mean", {"f": 1}, "mean has no option 'f': it has none"),
        ("nnm+mean", {"f": 1, "tau": 2}, "nnm+mean has no option 'tau'"),
        ("krum:f", {}, "options are written option=value: got 'f' in 'krum:f'"),
        ("krum:f=1,f=2", {}, "'f' is given twice in 'krum:f=1,f=2'"),
        ("rfa:T=3,iterations=4", {}, "rfa is given iterations twice"),
        ({"name": "krum", "f": 1}, {}, "an aggregator has a name and parameters: got f"),
        ({"parameters": {}}, {}, "an aggregator needs a name"),
        ([], {}, "an aggregator is a text, a dict"),
        (3, {}, "an aggregator is a text, a dict"),
        ({"name": "CenteredClipping", "parameters": {"m": 0}}, {}, "has no option 'm'"),
    ),
)
def test_what_cannot_be_made(spec, options, message):
    with pytest.raises(InvalidConfig, match=re.escape(message)):
        make(spec, **options)


@pytest.mark.parametrize("name", sorted(aggregators.AGGREGATORS))
def test_whatever_is_registered_keeps_the_contract(name):
    """What `rows` promises for all rules; a new one is found here."""
    factory = aggregators.AGGREGATORS[name]
    takes_f = inspect.signature(factory).parameters.get("f")
    rule = make(name, f=1) if takes_f is not None else make(name)
    more, mask = sample(n=N + 3), np.arange(N + 3) % 4 != 2  # shapes of the tests above
    x = more[mask]
    want = rule(x)
    assert want.shape == (D,) and want.dtype == jnp.float32
    np.testing.assert_allclose(rule(more, mask), want, rtol=1e-5, atol=1e-6)
    batched = jax.jit(jax.vmap(rule))(x[None])
    np.testing.assert_allclose(batched[0], want, rtol=1e-5, atol=1e-6)
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        lie = x.copy()
        lie[4] = bad
        assert np.isfinite(rule(lie, start=jnp.zeros(D), key=jax.random.key(0))).all()
    wild = np.full_like(x, np.nan)
    np.testing.assert_array_equal(rule(wild), 0)


@functools.cache
def rows_and_median(seed):
    x = np.random.default_rng(seed).normal(size=(4 if seed == 48 else 9, 2))
    want = weiszfeld(x, x.mean(0) + 1e-3, 1e-12, 20_000)
    for row in x:  # a row may be better than anything near it
        cost = [np.sqrt(((x - z) ** 2).sum(1)).sum() for z in (row, want)]
        want = row if cost[0] <= cost[1] + 1e-12 else want
    return x, want


@BOTH
@pytest.mark.parametrize("offset", [0, 1e3, 1e6])
def test_the_geometric_median_is_found_wherever_it_lies(dtype, offset):
    """Also where it is one of the rows, towards which Weiszfeld's steps creep."""
    with float64():
        for seed in (8, 48, 3):
            x, want = rows_and_median(seed)
            got = np.asarray(make("geometric_median")((x + offset).astype(dtype))) - offset
            rounding = np.finfo(dtype).eps * max(offset, 1)
            assert np.abs(got - want).max() < max(20 * rounding, 1e-6)


def test_centered_clipping_recovers_from_a_start_that_is_not_finite():
    x = sample()
    rule = make("centered_clipping", tau=1.0)
    for bad in (np.nan, np.inf):
        start = np.zeros(D, np.float32)
        start[2] = bad
        assert_same(rule(x, start=start), rule(x))


@pytest.mark.parametrize("scale", [1e2, 1e8, 1e14])
def test_the_geometric_median_is_found_at_a_row_however_far_liars_are(scale):
    """Distances to far rows are alike but for rounding; the others still count."""
    rng, rule, found = np.random.default_rng(0), make("geometric_median"), 0
    for _ in range(20):
        x = rng.normal(size=(9, 3))
        x[1] = x[2:7].mean(axis=0)
        x[7:] = scale * rng.normal(size=(2, 3))
        x = x.astype(np.float32).astype(np.float64)
        away = np.delete(x - x[1], 1, axis=0)
        pull = np.linalg.norm((away / np.linalg.norm(away, axis=1, keepdims=True)).sum(axis=0))
        if pull < 0.99:
            found += 1
            np.testing.assert_array_equal(rule(x.astype(np.float32)), x[1])
    assert found > 1
