"""Honest answers: what is computed, and how exactly."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import RunConfig, directions, models, oracles, problems
from farsign_jax.base import Query
from farsign_jax.oracles import coordinate_mlp
from farsign_jax.problems import metrics
from farsign_jax.validation import InvalidConfig
from tests import helpers, reference

CLASSES = 4


def smooth(z):
    return nn.softplus(z) - nn.silu(0.3 * z)


def kinked(z):
    return jnp.abs(z) + 0.1 * jnp.sin(z)


ACTIVATIONS = [nn.relu, nn.tanh, nn.sigmoid, nn.gelu, nn.leaky_relu, nn.elu, smooth, kinked]


def ask(oracle, problem, x, j, seed=0):
    """The answer of worker 1 about the directions j at x."""
    worker, version = jnp.asarray(1, jnp.int32), jnp.asarray(3, jnp.int32)
    query = Query(x, worker, j, version)
    shard = problem.shard(worker)
    return oracle.respond((), query, shard, jax.random.key(seed))[1]


def perturbed(problem, seed=5, scale=0.3):
    """x0 with biases that are not zero, so that every coordinate matters."""
    noise = jax.random.normal(jax.random.key(seed), problem.x0.shape, problem.x0.dtype)
    return problem.x0 + scale * noise


@pytest.mark.parametrize(
    ("hidden", "activation", "coupled", "scheme"),
    # Every activation and every depth; one batch and two, one further point and two, at one
    # hidden layer and at two.
    [((), nn.relu, True, "central"), ((8, 6), nn.tanh, False, "central")]
    + helpers.slow([((5, 6), nn.gelu, True, "forward")])
    + [
        pytest.param(*case, marks=helpers.LONG)
        for case in [
            ((7, 6, 5), nn.relu, True, "central"),
            ((4, 5, 6, 3), kinked, True, "central"),
        ]
        + [((8,), f, True, "central") for f in (nn.relu, nn.sigmoid, nn.leaky_relu, smooth)]
        + [((8,), nn.elu, False, "central"), ((8,), nn.tanh, False, "forward")]
        + [((8,), nn.relu, True, "forward")]
    ],
)
def test_structured_equals_generic_in_float64(hidden, activation, coupled, scheme):
    module = models.MLP((*hidden, CLASSES), activation)
    with helpers.float64():
        problem = helpers.digits(module)
        x = perturbed(problem).astype(jnp.float64)
        d = x.size
        every = directions.identity(d, d)
        j = jnp.arange(d, dtype=jnp.int32)

        @jax.jit
        def both(delta):
            options = {"batch_size": 16, "coupled": coupled, "delta": delta, "scheme": scheme}
            fast = coordinate_mlp.coordinate_two_point(problem.structure, k=d, **options)
            slow = oracles.two_point(problem.losses, every, **options)
            return ask(fast, problem, x, j), ask(slow, problem, x, j)

        for delta in (1e-2, 1e-3):
            a, b = both(delta)
            # Rounding of the losses themselves limits the generic one: 1e-16 / delta.
            floor = 1e-10 * np.abs(b) + 1e-15 / delta * (1 if coupled else 10)
            assert (np.abs(a - b) <= floor).all()


def float32_errors(hidden=(32,), steps=(1e-2, 1e-3, 1e-4, 1e-5, 1e-6), k=200, seed=0):
    """Rows (delta, error of generic, of structured): median |float32 - float64| over k
    coordinates of an MNIST-sized MLP with a loss near 2.3, and the fractions of wrong signs."""
    shape, classes = (28, 28, 1), 10
    module = models.MLP((*hidden, classes))
    rows = []
    with helpers.float64():
        problem = helpers.digits(module, workers=2, examples=64, shape=shape, classes=classes)
        x32 = problem.x0.astype(jnp.float32)
        # Weights of both layers, the last one as often as the first.
        d = x32.size
        first = jax.random.choice(jax.random.key(seed), d - 330, (k // 2,), replace=False)
        last = d - 1 - jax.random.choice(jax.random.key(seed), 330, (k // 2,), replace=False)
        j = jnp.concatenate([first, last]).astype(jnp.int32)

        @jax.jit
        def answers(delta):
            options = {"batch_size": 64, "delta": delta}
            fast = coordinate_mlp.coordinate_two_point(problem.structure, k=k, **options)
            slow = oracles.two_point(problem.losses, directions.identity(d, k), **options)
            wide = x32.astype(jnp.float64)
            return [ask(o, problem, x, j) for o, x in ((slow, wide), (slow, x32), (fast, x32))]

        for delta in steps:
            truth, *single = (np.asarray(a, np.float64) for a in answers(delta))
            row = [delta]
            for got in single:
                wrong = np.sign(got) != np.sign(truth)
                row += [np.median(np.abs(got - truth)), wrong[truth != 0].mean()]
            rows.append(row)
    return rows


@pytest.mark.slow
def test_structured_is_closer_to_the_truth_in_float32_at_every_step():
    rows = float32_errors()
    print("\ndelta    generic error, wrong signs    structured error, wrong signs")
    for delta, slow, slow_wrong, fast, fast_wrong in rows:
        print(f"{delta:.0e}  {slow:.1e}  {slow_wrong:6.1%}  {fast:.1e}  {fast_wrong:6.1%}")
        assert fast < slow
        assert fast_wrong <= slow_wrong
        assert fast < 1e-7


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_change_is_exact_where_the_difference_cancels(activation):
    z = jnp.asarray(np.random.default_rng(0).normal(size=2000), jnp.float32)
    z = jnp.concatenate([z, jnp.asarray([0.0, 1e-7, -1e-7, 3.0, -3.0], jnp.float32)])
    for step in (1e-1, 1e-3, 1e-6):
        change = step * jnp.where(jnp.arange(z.size) % 2 == 0, 1.0, -1.0).astype(z.dtype)
        got = coordinate_mlp.activation_change(activation, z, change)
        with helpers.float64():
            wide, by = z.astype(jnp.float64), change.astype(jnp.float64)
            truth = np.asarray(activation(wide + by) - activation(wide))
        plain = activation(z + change) - activation(z)
        error, plain_error = np.abs(got - truth), np.abs(plain - truth)
        assert error.mean() <= plain_error.mean()
        assert np.quantile(error, 0.99) <= 2e-6 * step


@pytest.mark.slow
def test_two_point_is_the_formula_on_any_model_and_direction():
    problem = helpers.digits(models.CNN(channels=(3,), num_classes=CLASSES))
    dictionary = directions.seeded(problem.x0.size, 9, 4, jax.random.key(1))
    assert problem.structure is None  # so the generic oracle is what `zeroth_order` picks
    oracle = oracles.zeroth_order(problem, dictionary, batch_size=8, delta=1e-2)
    j = jnp.asarray([0, 8, 3, 2])
    x = perturbed(problem)
    got = jax.jit(lambda: ask(oracle, problem, x, j))()
    plus, *_ = jax.random.split(jax.random.key(0), 3)
    batch = problem.shard(jnp.asarray(1)).batch(plus, 8)
    vectors = [
        dictionary.move(jnp.zeros_like(x), jnp.asarray(1), j[i : i + 1], jnp.ones(1))
        for i in range(4)
    ]
    want = reference.two_point(problem.losses, x, batch, batch, vectors, 1e-2)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_coupled_noise_cancels_and_independent_noise_has_its_size():
    problem = helpers.quadratic(noise=0.0)  # all batches equal: only `noise_std` differs
    k, delta, std = 16, 0.1, 0.01
    dictionary = directions.identity(helpers.D, k)
    j = jnp.arange(k, dtype=jnp.int32)

    def answers(coupled, seeds=200):
        options = {"batch_size": 1, "delta": delta, "coupled": coupled, "noise_std": std}
        oracle = oracles.two_point(problem.losses, dictionary, **options)
        one = jax.jit(jax.vmap(lambda s: ask(oracle, problem, problem.x0, j, s)))
        return np.asarray(one(jnp.arange(seeds)))

    gradient = np.asarray(
        jax.grad(lambda x: problem.losses(x, problem.data).mean())(problem.x0)
    )
    np.testing.assert_allclose(answers(True), np.tile(gradient[:k], (200, 1)), atol=1e-3)
    noisy = answers(False) - gradient[:k]
    expected = np.sqrt(2) * std / (2 * delta)
    samples = noisy.size
    assert abs(noisy.std() / expected - 1) < 5 / np.sqrt(2 * samples)
    assert abs(noisy.mean()) < 5 * expected / np.sqrt(samples) + 1e-4


def test_forward_differences_cost_half_and_are_off_by_half_the_curvature():
    problem, delta = helpers.quadratic(noise=0.0), 0.5
    dictionary = directions.identity(helpers.D, 4)
    settings = {"batch_size": 1, "delta": delta}
    forward = oracles.two_point(problem.losses, dictionary, **settings, scheme="forward")
    central = oracles.two_point(problem.losses, dictionary, **settings)
    assert (forward.evaluations, central.evaluations) == (5, 8)
    j = jnp.arange(4, dtype=jnp.int32)
    ahead, middle = (ask(oracle, problem, problem.x0, j) for oracle in (forward, central))
    curvature = jnp.diag(
        jax.hessian(lambda x: problem.losses(x, problem.data).mean())(problem.x0)
    )
    np.testing.assert_allclose(ahead - middle, delta / 2 * curvature[:4], rtol=1e-4)


def test_structured_oracle_takes_the_same_noise():
    problem = helpers.digits()
    options = {"batch_size": 4, "coupled": False, "noise_std": 0.5}
    dictionary = directions.identity(problem.x0.size, 3)
    j = jnp.asarray([0, 5, 9])
    fast = oracles.zeroth_order(problem, dictionary, **options)
    slow = oracles.two_point(problem.losses, dictionary, **options)
    a, b = (jax.jit(lambda o=o: ask(o, problem, problem.x0, j))() for o in (fast, slow))
    assert np.abs(a).max() > 50  # 0.5 / 1e-3 drowns the slope
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2)


def test_schedule_of_the_perturbation_is_read_at_the_version_asked():
    problem = helpers.quadratic(noise=0.0)
    dictionary = directions.identity(helpers.D, 1)
    seen = []

    def delta(step):
        seen.append(int(step))
        return 0.1

    oracle = oracles.two_point(problem.losses, dictionary, batch_size=1, delta=delta)
    ask(oracle, problem, problem.x0, jnp.asarray([0]))
    assert seen == [3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["identity", "matrix"])
def test_first_order_answers_are_the_gradient_along_the_directions(name):
    problem = helpers.digits()
    d = problem.x0.size
    rows = jax.random.normal(jax.random.key(1), (5, 6, d))
    dictionary = {"identity": directions.identity(d, 3), "matrix": directions.matrix(rows, 3)}[
        name
    ]
    j = jnp.asarray([4, 0, 2])
    options = {"batch_size": 8}
    x = perturbed(problem)
    batch = problem.shard(jnp.asarray(1)).batch(jax.random.key(0), 8)
    gradient = jax.grad(lambda x: problem.losses(x, batch).mean())(x)
    full = oracles.stochastic_gradient(problem.losses, **options)
    np.testing.assert_allclose(ask(full, problem, x, ()), gradient, rtol=1e-6)
    want = dictionary.project(gradient, jnp.asarray(1), j)
    for mode in ("jvp", "grad"):
        oracle = oracles.directional_derivative(
            problem.losses, dictionary, mode=mode, **options
        )
        got = jax.jit(lambda o=oracle: ask(o, problem, x, j))()
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_point_tends_to_the_gradient_as_the_step_shrinks():
    with helpers.float64():
        problem = helpers.digits(models.MLP((8, CLASSES), nn.tanh))
        x = perturbed(problem).astype(jnp.float64)
        d = x.size
        j = jnp.arange(d, dtype=jnp.int32)
        dictionary = directions.identity(d, d)
        options = {"batch_size": 8}
        plus, *_ = jax.random.split(jax.random.key(0), 3)
        batch = problem.shard(jnp.asarray(1)).batch(plus, 8)
        gradient = jax.jit(jax.grad(lambda x: problem.losses(x, batch).mean()))(x)

        @jax.jit
        def answer(delta):
            oracle = oracles.zeroth_order(problem, dictionary, delta=delta, **options)
            return ask(oracle, problem, x, j)

        errors = [float(jnp.abs(answer(d) - gradient).max()) for d in (1e-1, 1e-2, 1e-3)]
        slopes = np.diff(np.log10(errors))
        np.testing.assert_allclose(slopes, -2, atol=0.1)  # smooth: the bias is O(delta^2)


def test_structured_keeps_its_accuracy_on_a_confident_network():
    """Where the loss is small, its change is a difference of nearly equal numbers."""
    with helpers.float64():
        problem = helpers.digits(models.MLP((8, CLASSES)))
        j = jnp.arange(problem.x0.size, dtype=jnp.int32)
        x = (problem.x0 * 6).astype(jnp.float32)  # margins of tens
        every = directions.identity(x.size, x.size)

        @jax.jit
        def both(delta):
            options = {"batch_size": 16, "delta": delta}
            fast = coordinate_mlp.coordinate_two_point(problem.structure, k=x.size, **options)
            slow = oracles.two_point(problem.losses, every, **options)
            return ask(fast, problem, x, j), ask(slow, problem, x.astype(jnp.float64), j)

        for delta in (1e-2, 1e-4):
            got, truth = (np.asarray(a, np.float64) for a in both(delta))
            large = np.abs(truth) > 1e-6 * np.abs(truth).max()
            assert (np.sign(got) == np.sign(truth))[large].mean() > 0.995
            np.testing.assert_allclose(
                got[large], truth[large], rtol=1e-3, atol=1e-5 * np.abs(truth).max()
            )


def test_only_what_is_an_mlp_gets_the_fast_oracle():
    class Twice(models.MLP):
        def __call__(self, inputs):
            return 2 * super().__call__(inputs)

    assert helpers.digits(models.MLP((8, CLASSES), nn.tanh)).structure is not None
    assert helpers.digits(models.MLP((8, CLASSES), nn.softmax)).structure is None
    assert helpers.digits(Twice((8, CLASSES))).structure is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(50, 5)}, "labels are 0..4 for this model: got 5..5"),
        ({"labels": np.full(50, -1)}, "got -1..-1"),
        ({"labels": np.zeros(50)}, "labels are integers: got float64"),
        ({"labels": np.zeros(49, int)}, "one label per input"),
        ({"rows": np.full((5, 10), 50)}, "rows number 50 examples: got 50..50"),
        ({"sizes": np.full(5, 11)}, "sizes are at most n=10: got 11"),
        ({"sizes": np.asarray([1, 0, 1, 1, 1])}, "worker 1 has 0"),
    ],
)
def test_labels_and_rows_that_are_not_there_are_refused(change, message):
    given = {"labels": np.zeros(50, int), "rows": np.arange(50).reshape(5, 10)}
    given |= {"sizes": np.full(5, 10)} | change
    images = np.zeros((50, 2, 2, 1), np.uint8)
    model, key = models.softmax_regression(5), jax.random.key(0)
    with pytest.raises(InvalidConfig, match=message):
        problems.classification(model, images, key=key, **given)


def test_batches_come_from_the_workers_own_shard():
    labels = np.repeat(np.arange(5), 10)  # worker i holds label i only
    images = np.zeros((50, 2, 2, 1), np.uint8)
    rows = np.arange(50).reshape(5, 10)
    sizes = np.asarray([10, 10, 3, 10, 10])
    problem = problems.classification(
        models.softmax_regression(5), images, labels, rows, sizes, jax.random.key(0)
    )
    for worker in range(5):
        _, got = problem.shard(jnp.asarray(worker)).batch(jax.random.key(worker), 100)
        assert (np.asarray(got) == worker).all()
    tagged = problem.__class__(
        jnp.arange(50), problem.rows, problem.sizes, problem.x0, problem.losses
    )
    drawn = np.asarray(tagged.shard(jnp.asarray(2)).batch(jax.random.key(0), 200))
    assert set(drawn.tolist()) == {20, 21, 22}  # padding beyond the size is never drawn


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, d: oracles.zeroth_order(p, d, batch_size=0), "batch_size >= 1: got 0"),
        (lambda p, d: oracles.zeroth_order(p, d, batch_size=1, delta=0.0), "delta > 0: got 0"),
        (
            lambda p, d: oracles.directional_derivative(p.losses, d, batch_size=1, mode="x"),
            "'jvp' or 'grad': got 'x'",
        ),
        (lambda p, d: oracles.stochastic_gradient(p.losses, batch_size=-1), "got -1"),
    ],
)
def test_bad_values_are_refused_by_name(make, message):
    problem = helpers.digits()
    with pytest.raises(InvalidConfig, match=message):
        make(problem, directions.identity(problem.x0.size, 1))


def test_a_model_that_keeps_state_is_refused():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            h = nn.BatchNorm(use_running_average=True)(inputs.reshape(inputs.shape[0], -1))
            return nn.Dense(CLASSES)(h)

    with pytest.raises(InvalidConfig, match=r"only 'params'.*batch_stats"):
        helpers.digits(Normed())


class Drawing(nn.Module):
    """A module that draws, keeps state, or cannot be called as it is."""

    part: object

    @nn.compact
    def __call__(self, inputs):
        h = nn.Dense(5)(inputs.reshape(inputs.shape[0], -1))
        return nn.Dense(CLASSES)(self.part(self, h))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda m, h: nn.Dropout(0.5, deterministic=False)(h), "may draw no random numbers"),
        (lambda m, h: h + jax.random.normal(m.make_rng("params")), "may draw no random"),
        (lambda m, h: h + jax.random.normal(m.make_rng("noise")), "may draw no random"),
        (lambda m, h: nn.Dropout(0.5)(h), "cannot be initialised: .*deterministic"),
        (lambda m, h: nn.BatchNorm()(h), "cannot be initialised: .*use_running_average"),
        (lambda m, h: nn.BatchNorm(False)(h), "only 'params'.*batch_stats"),
        (
            lambda m, h: h + m.variable("cache", "n", jnp.zeros, ()).value,
            "only 'params'.*cache",
        ),
    ],
)
def test_a_model_that_draws_or_keeps_state_is_refused_in_one_line(part, message):
    for construct in (
        lambda: helpers.digits(Drawing(part)),
        lambda: problems.cross_entropy(Drawing(part), (6, 6, 1)),
        lambda: metrics.classification(Drawing(part), np.zeros((2, 6, 6, 1)), np.zeros(2, int)),
        lambda: RunConfig(model=Drawing(part), events=10).run(),
    ):
        with pytest.raises(InvalidConfig, match=message) as caught:
            construct()
        assert "\n" not in str(caught.value)


def test_dropout_that_is_switched_off_is_accepted():
    model = Drawing(lambda m, h: nn.Dropout(0.5, deterministic=True)(h))
    assert helpers.digits(model).x0.dtype == jnp.float32


def test_a_text_names_a_model_and_its_hidden_layers():
    assert models.make("mlp", 7).features == (32, 7)
    assert models.make("mlp:hidden=256x128", 10).features == (256, 128, 10)
    for text, rule in (
        ("mlp:hidden=0x3", r"widths of hidden layers are positive, .*: got \(0, 3\)"),
        ("mlp:hidden=3xa", "mlp needs whole numbers as in 256x128 for hidden: got '3xa'"),
        ("mlp:depth=3", "unknown option of mlp 'depth': known: hidden"),
        ("cnn:hidden=3", "cnn takes no options: got 'hidden'"),
    ):
        with pytest.raises(InvalidConfig, match=rule):
            models.make(text)
