"""Properties that all rules share: definitions, absent and bad rows, transformations."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import aggregators
from farsign_jax.aggregators import preaggregators
from farsign_jax.aggregators.registry import make
from farsign_jax.validation import InvalidConfig
from tests.aggregators.reference import (
    BOTH,
    BY_COORDINATE,
    DRAWS_NOTHING,
    EACH,
    RULES,
    D,
    N,
    admitted,
    build,
    close,
    sample,
    scope,
)


@EACH
@BOTH
def test_rules_match_their_definitions_with_absent_rows(text, dtype):
    mask = np.ones(N + 3, bool)
    mask[[0, 4, 10]] = False
    most = admitted(text, N)
    with scope(dtype):
        # The other values of f are tested below, with any number of present rows.
        for f in sorted({0, 1, most} if dtype == np.float64 and most else {most}):
            rule = build(text, f)
            for seed in range(2):
                x = sample(seed, N + 3, dtype=dtype)
                want = RULES[text][1](x[mask].astype(np.float64), f)
                got, alone = rule(x, mask), rule(x[mask])
                close(alone, want, dtype, 1e-7 if "geometric" in text else 1e-9)
                close(got, np.asarray(alone), dtype, 1e-9)


@EACH
def test_rules_with_any_number_of_present_rows(text):
    """Even and odd numbers down to one, with the largest f that they admit."""
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
def test_bad_rows_are_treated_as_absent(text, kind):
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
            continue  # a number like any other; test_coordinatewise tests the honest range
        if text.startswith("bucketing") and kind == "3e38":
            continue
        good = np.delete(x, rows, axis=0).astype(np.float64)
        left = min(f, admitted(text, len(good)))
        want = RULES[text][1](good, left) if len(good) else np.zeros(D)
        loose = 1e-4 if "geometric" in text else 1e-5  # the accuracy of float32
        np.testing.assert_allclose(got, want, rtol=loose, atol=loose)


@EACH
def test_jit_and_vmap_change_nothing(text):
    f = min(admitted(text, N), 1)
    rule = build(text, f)
    xs = jnp.asarray(np.stack([sample(s) for s in range(3)]))
    masks = np.ones((3, N), bool)
    masks[1, [2, 5]] = False
    masks[2] = False  # without rows the result is zero where this cannot be refused
    got = np.asarray(jax.jit(jax.vmap(rule))(xs, jnp.asarray(masks)))
    for i in range(2):
        np.testing.assert_allclose(got[i], rule(xs[i], masks[i]), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(got[2], 0)
    with pytest.raises(InvalidConfig, match="n >= 1: got n=0 present of 9 rows"):
        rule(xs[2], masks[2])


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
        about_zero = ("rfa", "centered_clipping", "clipping", "arc+mean", "majority_vote")
        if head in (*about_zero, "block_geometric_median"):
            continue
        shifted = rule(x + np.float32(3)) - 3
        np.testing.assert_allclose(shifted, want, rtol=1e-4, atol=1e-4, err_msg=text)
        np.testing.assert_allclose(rule(x * np.float32(4)) / 4, want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        make("arc+mean", f=2)(x * np.float32(4)), 4 * make("arc+mean", f=2)(x), rtol=1e-5
    )


@EACH
def test_equal_rows_are_the_result(text):
    row = np.float32([0.1, -7.3, 1 / 3, 0, 2.5, -1])
    if text.startswith(("centered_clipping", "clipping", "majority_vote")):
        row = np.sign(row) * np.float32(0.125)  # too short to be clipped
    got = np.asarray(build(text, admitted(text, N))(np.tile(row, (N, 1))))
    if text == "majority_vote":
        np.testing.assert_array_equal(got, np.sign(row))
    elif text.startswith("block"):
        np.testing.assert_array_equal(got, np.where(np.abs(row) >= 1, row, 0))
    elif "zero" in text or "+" in text:
        np.testing.assert_allclose(got, row, rtol=1e-6)
    else:
        np.testing.assert_array_equal(got, row)


def test_rules_that_coincide():
    x = sample(2)
    mean, median = make("mean")(x), make("median")(x)
    for text in (
        "trimmed_mean",
        "multi_krum:m=n-f",
        "mda",
        "meamed",
        "phocas",
        "bulyan",
        "iterative_filtering",
        "nnm+mean",
    ):
        np.testing.assert_allclose(make(text, f=0)(x), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(make("trimmed_mean", f=4)(x), median)
    np.testing.assert_array_equal(make("multi_krum", f=2, m=1)(x), make("krum", f=2)(x))
    np.testing.assert_allclose(make("bucketing:s=1+mean")(x), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(make("cc:tau=1e9")(x), mean, rtol=1e-5, atol=1e-6)
    assert any((np.asarray(make("krum", f=2)(x)) == row).all() for row in x)


def test_largest_numbers_do_not_overflow():
    top = np.finfo(np.float32).max / np.float32(1.001)
    x = np.asarray([[top, top], [top, -top], [top, top], [top, -top]], np.float32)
    for text in (
        "mean",
        "median",
        "trimmed_mean:f=1",
        "meamed:f=0",
        "phocas:f=0",
        "bucketing+mean",
    ):
        np.testing.assert_array_equal(make(text)(x), [top, 0], err_msg=text)


def test_one_program_for_a_sweep_over_f():
    x = sample()
    for text in (
        "trimmed_mean",
        "meamed",
        "phocas",
        "krum",
        "multi_krum",
        "iterative_filtering",
        "nnm+median",
        "arc+mean",
    ):
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


@pytest.mark.parametrize("name", sorted(aggregators.AGGREGATORS))
def test_registered_rules_keep_the_contract(name):
    """The properties in the docstring of `row_ops`, also for rules that are added later."""
    factory = aggregators.AGGREGATORS[name]
    takes_f = inspect.signature(factory).parameters.get("f")
    rule = make(name, f=1) if takes_f is not None else make(name)
    # These shapes are compiled already, for the tests above.
    more, mask = sample(n=N + 3), np.arange(N + 3) % 4 != 2
    x = more[mask]
    want = rule(x)
    assert want.shape == (D,) and want.dtype == jnp.float32
    np.testing.assert_allclose(rule(more, mask), want, rtol=1e-5, atol=1e-6)
    batched = jax.jit(jax.vmap(rule))(x[None])
    np.testing.assert_allclose(batched[0], want, rtol=1e-5, atol=1e-6)
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        attacked = x.copy()
        attacked[4] = bad
        assert np.isfinite(rule(attacked, start=jnp.zeros(D), key=jax.random.key(0))).all()
    wild = np.full_like(x, np.nan)
    np.testing.assert_array_equal(rule(wild), 0)
