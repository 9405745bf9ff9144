"""Weights and caps against workers that answer more often than others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    arrivals,
    attacks,
    directions,
    oracles,
)
from farsign_jax.base import Problem, Report, System
from farsign_jax.problems.synthetic import _quadratic_losses
from farsign_jax.validation import InvalidConfig
from tests import helpers, reference
from tests.helpers import far_sign_of as far_sign
from tests.simulation.fleets import (
    ALPHA,
    BETA,
    EVENTS,
    EXP,
    FLEETS,
    PROBLEM,
    D,
    K,
    M,
    derivative_system,
    first,
    history,
)


def split_problem(fast=3):
    """(x - c_i)^2 / 2 in each of four coordinates: c is +1 for the first workers, else -1."""
    centers = np.repeat(np.where(np.arange(M) < fast, 1.0, -1.0), 2)
    centers = np.broadcast_to(centers[:, None], (2 * M, 4)).astype(np.float32)
    ones = np.ones_like(centers)
    return Problem(
        data=tuple(map(jnp.asarray, (ones, centers, 0 * ones))),
        rows=jnp.arange(2 * M, dtype=jnp.int32).reshape(M, 2),
        sizes=jnp.full((M,), 2, jnp.int32),
        x0=jnp.zeros(4),
        losses=_quadratic_losses,
    )


SPLIT, ALIKE = split_problem(), split_problem(fast=0)
FULL = directions.identity(4, 4)
DERIVATIVE = oracles.directional_derivative(_quadratic_losses, FULL, batch_size=1)
SPEEDS = np.where(np.arange(M) < 3, 10.0, 1.0)


@functools.cache
def weighing_system(rates=None, cap=None):
    rates = SPEEDS if rates == "known" else rates
    options = {"arrival_rates": rates, "rate_cap": cap}
    server = far_sign(M, FULL, step_size=0.005, average_step=0.9, **options)
    return System(server, DERIVATIVE, attacks.sign_flip())


def end_of(problem, speeds, byzantine=0, **options):
    fleet = [EXP.at_speed(speed) for speed in speeds]
    schedule = arrivals.by_time(jax.random.key(4), fleet, 6000)
    end, *_ = history(weighing_system(**options), problem, schedule.workers, first(byzantine))
    return np.asarray(end.server.params), end


@pytest.mark.slow
def test_weights_count_slow_workers_like_fast_ones():
    """Three fast workers pull to +1, four slow ones to -1: without weights, speed decides."""
    assert np.all(np.abs(end_of(SPLIT, SPEEDS)[0] - 1) < 0.1)
    for rates in ("known", "estimate"):
        x, _ = end_of(SPLIT, SPEEDS, rates=rates)
        assert np.all(np.abs(x + 1) < 0.3)


@pytest.mark.parametrize(
    ("byzantine", "options"),
    # At the cap, q of them have q * cap votes against m - q: two of seven, but not three.
    helpers.slow([(2, {"cap": 1.5}), (3, {"rates": "estimate"})]),
)
def test_workers_that_flood_win_unless_their_answers_are_weighted_or_capped(byzantine, options):
    """Honest workers pull to -1; Byzantine ones flip signs, and answer ten times as often."""
    flood = np.where(np.arange(M) < byzantine, 10.0, 1.0)
    astray, _ = end_of(ALIKE, flood, byzantine)
    assert np.all(astray > 1)
    x, end = end_of(ALIKE, flood, byzantine, **options)
    assert np.all(np.abs(x + 1) < 0.4)
    if "cap" in options:
        counts, answered = np.asarray(end.server.counts), np.asarray(end.staleness.answers)
        np.testing.assert_array_equal(
            counts[byzantine:], answered[byzantine:]
        )  # all of the honest
        assert counts.sum() == int(end.server.step) < 6000 == int(end.events)
        # The median of counts is that of an honest worker, and nobody is far ahead of it.
        most = counts[byzantine:].max()
        assert np.all(counts[:byzantine] <= 10 + options["cap"] * most + 1)
        assert np.all(answered[:byzantine] > 5 * most)


def random_sets(events, size, seed=0):
    """Uneven arrivals in sets, with empty slots and empty events."""
    rng = np.random.default_rng(seed)
    rates = np.array([30.0, 20.0, 10.0, 1.0, 1.0, 1.0, 0.5])
    rows = [rng.choice(M, size, replace=False, p=rates / rates.sum()) for _ in range(events)]
    return np.where(rng.random((events, size)) < 0.2, -1, np.stack(rows))


@pytest.mark.parametrize(("size", "rank"), [(1, None), (3, 5), (3, M)])
def test_the_cap_follows_its_definition(size, rank):
    cap, ahead = 1.5, 4
    dictionary = directions.identity(D, K)
    options = {"rate_cap": cap, "cap_rank": rank, "cap_burst": ahead}
    server = far_sign(M, dictionary, step_size=ALPHA, average_step=BETA, **options)
    update = jax.jit(server.update)
    rng = np.random.default_rng(1)
    state = server.init(jnp.asarray(rng.normal(size=D), jnp.float32))
    x, y = np.asarray(state.params), np.asarray(state.averages)
    counts, events, dropped = [0] * M, 0, 0
    for workers in random_sets(150, size):
        asked = np.stack([rng.choice(D, K, replace=False) for _ in workers])
        value = rng.normal(size=(size, K)).astype(np.float32)
        slots = np.where(workers < 0, M, workers).astype(np.int32)
        fields = map(jnp.asarray, (slots, 0 * slots, asked.astype(np.int32), value))
        before, (state, _) = state, update(state, Report(*fields))
        level = sorted(counts, reverse=True)[M // 2 if rank is None else rank - 1]
        valid = [s for s, i in enumerate(workers) if i >= 0 and counts[i] < ahead + cap * level]
        dropped += int((workers >= 0).sum()) - len(valid)
        for s in valid:
            counts[workers[s]] += 1
        assert state.counts.tolist() == counts
        if not valid:
            helpers.assert_same(before, state)  # as if it had not answered
            continue
        answers = [(workers[s], asked[s], value[s]) for s in valid]
        x, y = reference.far_sign_event(x, y, answers, ALPHA(events), BETA(events))
        events += 1
        assert int(state.step) == events
        np.testing.assert_allclose(state.params, x, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.averages, y, rtol=1e-5, atol=1e-6)
    assert dropped > 20


@pytest.mark.slow
def test_a_cap_that_no_worker_reaches_changes_no_bit():
    schedule = arrivals.by_time(jax.random.key(3), FLEETS["timing_attack"], EVENTS)
    ends = [
        history(derivative_system("sign_flip", **options), PROBLEM, schedule.workers, first(2))
        for options in ({}, {"rate_cap": 2.0, "cap_burst": 10**6})
    ]
    helpers.assert_same(*ends)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_cap": 0.5}, "rate_cap >= 1 or None: got 0.5"),
        ({"rate_cap": -1.0}, "rate_cap >= 1 or None: got -1"),
        ({"rate_cap": float("nan")}, "rate_cap >= 1 or None: got nan"),
        ({"rate_cap": float("inf")}, "rate_cap >= 1 or None: got inf"),
        ({"rate_cap": 2.0, "cap_rank": 0}, f"1 <= cap_rank <= m={M}: got 0"),
        ({"rate_cap": 2.0, "cap_rank": M + 1}, f"1 <= cap_rank <= m={M}: got {M + 1}"),
        ({"rate_cap": 2.0, "cap_burst": 0}, "cap_burst >= 1: got 0"),
        ({"arrival_rates": [1.0] * 6 + [np.nan]}, "must be positive"),
        ({"arrival_rates": [1.0] * 6 + [0.0]}, "must be positive"),
        ({"arrival_rates": "known"}, "'estimate' or m rates: got 'known'"),
        ({"arrival_rates": [1.0] * 6 + [np.inf]}, "arrival rates must be"),
        ({"arrival_rates": "estimate", "max_weight": -1.0}, "max_weight"),
        ({"arrival_rates": "estimate", "max_weight": float("nan")}, "max_weight"),
    ],
)
def test_invalid_options_raise_and_name_the_value(options, message):
    with pytest.raises(InvalidConfig, match=message):
        far_sign(M, FULL, step_size=0.1, average_step=0.5, **options)
