"""Votes over the table: against NumPy, against floods, and what a vote keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import OracleConfig, SystemSpec, arrivals, directions, sweeps
from farsign_jax.base import Report
from farsign_jax.methods import average_storage, row_distances, table_vote
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.validation import InvalidConfig
from tests import helpers

M, D, K = 7, 11, 3
STEPS = {"step_size": 0.1, "average_step": 0.5}
NNM = "nnm:f=2+trimmed_mean:f=2"


def server_of(vote, m=M, storage=None, sign_of="new", average_step=0.5, **options):
    voting = table_vote.table_vote(m, D, vote, **options)
    steps = STEPS | {"average_step": average_step}
    dictionary = directions.identity(D, K)
    return far_sign(m, dictionary, vote=voting, storage=storage, sign_of=sign_of, **steps)


def random_answers(events, m=M, seed=0, workers=None):
    """Answers one by one, of which a fifth are no ordinary numbers."""
    rng = np.random.default_rng(seed)
    worker = rng.integers(0, m, events) if workers is None else rng.choice(workers, events)
    j = np.argsort(rng.random((events, D)), axis=1)[:, :K]
    value = rng.normal(size=(events, K)).astype(np.float32)
    strange = rng.choice([np.nan, np.inf, -np.inf, 3e38, -1e25, 1e-25, 0.0], (events, K))
    value = np.where(rng.random((events, K)) < 0.2, strange, value).astype(np.float32)
    return Report(
        jnp.asarray(worker[:, None], jnp.int32),
        jnp.zeros((events, 1), jnp.int32),
        jnp.asarray(j[:, None], jnp.int32),
        jnp.asarray(value[:, None]),
    )


@jax.jit(static_argnums=0)
def received(update, state, reports):
    return jax.lax.scan(lambda state, report: (update(state, report)[0], ()), state, reports)[0]


def after(server, reports):
    return received(server.update, server.init(jnp.zeros(D), None), reports)


def trimmed(values, f):
    f = max(min(f, (len(values) - 1) // 2), 0)
    return np.sort(values)[f : len(values) - f].mean() if len(values) else 0.0


def mixed_by_nnm(table, f):
    """Each row's mean over the rows nearest to it, in each column; NaN where none is heard."""
    m = len(table)
    apart = np.zeros((m, m))
    for a in range(m):
        for b in range(m):
            both = (table[a] != 0) & (table[b] != 0)
            if a != b:
                difference = np.clip(table[a][both] - table[b][both], -(2.0**31.5), 2.0**31.5)
                apart[a, b] = (difference**2).mean() if both.any() else np.finfo(float).max
    mixed = np.full(table.shape, np.nan)
    for a in range(m):
        near = table[np.argsort(apart[a], kind="stable")[: m - f]]
        for j in range(table.shape[1]):
            cast = near[near[:, j] != 0, j]
            if len(cast):
                mixed[a, j] = cast.mean()
    return mixed


@pytest.mark.parametrize("rule", ["median", "majority_vote", "trimmed_mean:f=2", NNM])
@pytest.mark.parametrize("sign_of", ["new", "old"])
def test_it_is_its_description_in_numpy(rule, sign_of):
    reports = random_answers(80)
    # Every worker is heard first: NNM of absent rows is another test.
    reports = reports._replace(worker=reports.worker.at[:M, 0].set(jnp.arange(M)))
    state = after(server_of(rule, sign_of=sign_of), reports)
    table, x = np.zeros((M, D), np.float32), np.zeros(D, np.float32)
    fold = {"majority_vote": lambda v: np.sign(v).sum(), "median": np.median}
    fold = fold.get(rule, lambda values: trimmed(values, 2))
    for n in range(80):
        i, _, j, value, _ = (np.asarray(leaf)[n, 0] if len(leaf) else () for leaf in reports)
        value = np.clip(np.nan_to_num(value, nan=0, posinf=0, neginf=0), -1e30, 1e30)
        before = table.copy()
        table[i, j] += np.float32(0.5) * (value.astype(np.float32) - table[i, j])
        deciding = table if sign_of == "new" else before
        votes = deciding
        if rule == NNM:
            heard = min(n + (sign_of == "new"), M)
            votes = np.full(deciding.shape, np.nan)
            known = deciding[:heard].astype(float)
            f = max(min(2, (heard - 1) // 2), 0)
            votes[:heard] = mixed_by_nnm(known, f) if heard else np.nan
        for one in j:
            column = votes[:, one]
            cast = column[~np.isnan(column)] if rule == NNM else column[column != 0]
            x[one] -= np.float32(0.1) * np.sign(fold(cast) if len(cast) else 0)
    np.testing.assert_allclose(state.params, x, atol=1e-5)
    np.testing.assert_array_equal(state.averages, table)


@pytest.mark.optimized
def test_distances_are_those_of_the_table_after_10_000_answers_to_the_bit():
    # With averages of one answer, rows leave a column where it is 0 or NaN, and return.
    state = after(server_of(NNM, average_step=1.0), random_answers(10_000))
    assert np.isfinite(np.asarray(state.params)).all()
    assert (np.asarray(state.averages) == 0).any()
    helpers.assert_same(state.votes.distances, row_distances.of_table(state.averages))


def test_distances_are_means_over_common_directions():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(M, D)) * (rng.random((M, D)) < 0.7)
    table[3] = 0
    found = row_distances.of_table(jnp.asarray(table, jnp.float32)).mean_squares()
    both = (table[:, None] != 0) & (table[None] != 0)
    squares = np.where(both, (table[:, None] - table[None]) ** 2, 0).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        expected = np.where(both.any(-1), squares / both.sum(-1), np.inf)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_of_one_worker_it_is_the_rule_of_the_paper():
    reports = random_answers(50, m=1)
    own = after(server_of("own", m=1), reports)
    for rule in ("median", "trimmed_mean:f=0", "nnm:f=0+median"):
        voted = after(server_of(rule, m=1), reports)
        np.testing.assert_array_equal(voted.params, own.params)


@pytest.mark.parametrize("rule", ["median", NNM, "krum:f=2"])
def test_workers_that_were_never_heard_have_no_vote(rule):
    """Two that are silent from the start change nothing: the rest are as if alone."""
    reports = random_answers(60, workers=range(5))
    m = 5 if rule != NNM and "krum" not in rule else M
    voted = after(server_of(rule), reports)
    assert (np.asarray(voted.votes.heard[5:]) == -1).all()
    alone = after(server_of(rule, m=m), reports)
    np.testing.assert_array_equal(voted.params, alone.params)
    assert (np.asarray(voted.params) != 0).any()


def one(worker, value, direction=(0, 1, 2)):
    return Report(
        jnp.full(1, worker, jnp.int32),
        jnp.zeros(1, jnp.int32),
        jnp.asarray([direction], jnp.int32),
        jnp.full((1, K), value, jnp.float32),
    )


def test_workers_vote_until_they_are_too_old_and_again_when_they_return():
    server = server_of("majority_vote", max_age=3)
    state = server.init(jnp.zeros(D), None)
    moves = []
    for worker, value in [(0, -1), (1, -1), (2, 1), (2, 1), (2, 1), (0, -1), (1, -1)]:
        new, _ = server.update(state, one(worker, value))
        moves.append(float(np.sign(new.params - state.params)[0]))
        state = new
    # Worker 0 is too old at the fifth answer, as worker 1 is at the sixth; both return.
    assert moves == [1, 1, 1, 1, 0, 0, 1]


def test_age_makes_an_average_smaller():
    server = server_of("mean", age_decay=0.5)
    state, _ = server.update(server.init(jnp.zeros(D), None), one(0, -3.0))
    state, _ = server.update(state, one(1, 2.0))  # -3 / 2 weighs 0.75, and 1 weighs 1
    np.testing.assert_allclose(state.params[:3], [0.0] * 3, atol=1e-7)


def test_answers_of_an_event_are_heard_one_after_the_other():
    server = server_of(NNM)
    reports = random_answers(40)
    by_one = after(server, reports)
    together = jax.tree.map(lambda leaf: leaf.reshape(10, 4, *leaf.shape[2:]), reports)
    by_four = after(server, together)
    np.testing.assert_array_equal(by_four.averages, by_one.averages)
    helpers.assert_same(by_four.votes.distances, by_one.votes.distances)
    np.testing.assert_allclose(by_four.params, by_one.params, atol=1e-6)  # summed otherwise
    assert int(by_four.step) == 10
    empty = jax.tree.map(lambda leaf: leaf[0], together)
    empty = empty._replace(worker=jnp.full(4, M, jnp.int32))
    helpers.assert_same(server.update(by_four, empty)[0]._replace(step=by_four.step), by_four)


@pytest.mark.parametrize("storage", sorted(average_storage.STORAGE))
def test_every_storage_can_be_voted_on(storage):
    kept = average_storage.make(storage, M, D, 4)
    reports = random_answers(60)
    state = after(server_of("median", storage=kept), reports)
    assert np.isfinite(np.asarray(state.params)).all()
    if storage == "float32":
        assert after(server_of(NNM, storage=kept), reports).votes.distances
    else:
        with pytest.raises(InvalidConfig, match="storage=float32"):
            server_of(NNM, storage=kept)


FEEDBACK = OracleConfig(batch_size=8, directions=5, decay_every=500)


def build_of(vote, attack="sign_flip"):
    return SystemSpec("far_sign", attack, (), FEEDBACK, (("vote", vote),))


def batch_of(problem, schedules, byzantine, step_size=0.1):
    count, steps = len(schedules), STEPS | {"step_size": step_size}
    return sweeps.RunBatch(
        sweeps.RunBatch.repeated(problem, count),
        np.arange(count, dtype=np.int32),
        {k: np.full(count, v, np.float32) for k, v in steps.items()},
        np.tile(np.arange(helpers.M) < byzantine, (count, 1)),
        np.stack(schedules),
    )


def distance(problem):
    center = problem.data[1][0]
    return lambda x: {"distance": jnp.linalg.norm(x - center[None], axis=-1)}


def test_a_flood_has_one_vote():
    """Two of seven workers answer ten times as often, and lie."""
    problem = helpers.quadratic()
    rates = np.where(np.arange(helpers.M) < 2, 10.0, 1.0)
    schedules = [arrivals.weighted(jax.random.key(seed), rates, 6000) for seed in range(3)]
    ends = {}
    for vote in ("own", "median", NNM):
        # Honest rows are refreshed rarely, and x moves at every answer: a small step.
        batch = batch_of(problem, schedules, 2, step_size=0.02)
        columns, _ = sweeps.sweep(build_of(vote), batch, every=6000, measure=distance(problem))
        ends[vote] = columns["distance"][:, -1]
    start = float(distance(problem)(problem.x0[None])["distance"][0])
    assert (ends["own"] > start).all()
    assert (ends["median"] < 0.5 * start).all() and (ends[NNM] < 0.2 * start).all()


@pytest.mark.slow
@pytest.mark.optimized
def test_runs_side_by_side_are_each_run_alone():
    problem = helpers.quadratic()
    schedules = [arrivals.uniform(jax.random.key(n), helpers.M, 60) for n in range(3)]
    batch, build = batch_of(problem, schedules, 2), build_of(NNM, "alie")
    options = {"every": 60, "measure": distance(problem)}
    _, together = sweeps.sweep(build, batch, **options)
    _, alone = sweeps.sweep(build, batch.take(np.array([1])), **options)
    helpers.assert_same(jax.tree.map(lambda leaf: leaf[1:2], together), alone)


@pytest.mark.parametrize(
    ("vote", "options", "message"),
    [
        ("medain", {}, "did you mean 'median'"),
        ("krum:f=3", {}, r"krum needs n >= 2f \+ 3: got n=7, f=3"),
        ("trimmed_mean:f=4", {}, "trimmed_mean needs n > 2f: got n=7, f=4"),
        ("nnm:f=2", {}, "nnm is a pre-aggregator: a rule must follow"),
        ("trimmed_mean:f", {}, "options are written option=value"),
        ("median", {"max_age": 0}, "need.* max_age >= 1: got 0"),
        ("median", {"age_decay": 0.0}, "far_sign needs 0 < age_decay <= 1: got 0"),
        ("own", {"max_age": 5}, "max_age and age_decay are about a vote: got vote=own"),
    ],
)
def test_bad_votes_are_refused_in_one_line(vote, options, message):
    with pytest.raises(InvalidConfig, match=message):
        server_of(vote, **options)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InvalidConfig, match="nnm needs K <= 65536: got K=70000"):
        table_vote.table_vote(M, 70_000, NNM)
    own = directions.seeded(D, 8, K, jax.random.key(0), shared=False)
    with pytest.raises(InvalidConfig, match="directions that all of them share"):
        far_sign(M, own, vote=table_vote.table_vote(M, 8, "median"), **STEPS)
