"""NumPy arrays, PyTorch tensors and others with DLPack: what comes back, and what is copied."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from farsign_jax import aggregators, arrivals, base, interop, oracles, simulation
from farsign_jax import keys as keys_lib
from farsign_jax.attacks.messages import none
from farsign_jax.base import System
from farsign_jax.directions.dictionary import identity
from farsign_jax.interop import arrays
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.validation import InvalidConfig
from tests import helpers

N, D = 9, 24
ROWS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
RULES = ("nnm:f=2+krum:f=2", "median", "centered_clipping", "bucketing+mean", "rfa")


def aligned(x, off=0):
    """The same array at a multiple of 64 bytes, or `off` bytes after one."""
    room = np.zeros(x.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + off
    made = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    made[...] = x
    return made


class Foreign:
    """An array of a library that nobody knows: DLPack is all it speaks."""

    def __init__(self, x):
        self.array, self.shape, self.dtype = x, x.shape, x.dtype

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def address(x):
    return x.unsafe_buffer_pointer()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_makes_of_each_kind_what_it_makes_of_ours(rule):
    want = aggregators.make(rule)(jnp.asarray(ROWS), key=jax.random.key(3))
    for messages in (ROWS, list(ROWS), jnp.asarray(ROWS), Foreign(ROWS)):
        got = interop.aggregate(rule, messages, seed=3)
        known = np.ndarray if isinstance(messages, np.ndarray | list) else jax.Array
        assert isinstance(got, known)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    got = interop.aggregate(rule, ROWS, [True] * 8 + [False], seed=3)
    np.testing.assert_allclose(
        got,
        aggregators.make(rule)(ROWS, [True] * 8 + [False], key=jax.random.key(3)),
        rtol=1e-6,
    )


def test_trees_of_any_shape_go_in_and_come_out():
    trees = [{"w": row[:20].reshape(4, 5), "b": [row[20:]]} for row in ROWS]
    got = interop.aggregate("median", trees)
    want = np.median(ROWS, axis=0)
    assert got["w"].shape == (4, 5)
    np.testing.assert_allclose(got["w"].reshape(-1), want[:20], rtol=1e-6)
    np.testing.assert_allclose(got["b"][0], want[20:], rtol=1e-6)
    cube = interop.aggregate("median", ROWS.reshape(N, 4, 6))
    np.testing.assert_allclose(cube, want.reshape(4, 6), rtol=1e-6)
    lies = interop.Attack("constant:value=7", 2)(trees)
    assert [type(x) for x in lies[0]["b"]] == [np.ndarray]
    assert (lies[1]["w"] == 7).all() and (lies[2]["w"] == trees[2]["w"]).all()


def test_what_is_not_copied():
    x = aligned(ROWS)
    assert address(arrays.to_jax(x)) == x.ctypes.data
    assert address(arrays.to_jax(Foreign(x))) == x.ctypes.data
    assert address(arrays.to_jax(own := jnp.ones(3))) == address(own)
    assert arrays.from_jax(own, x).ctypes.data == address(own)
    shifted, fixed = aligned(ROWS, 4), aligned(ROWS)
    fixed.flags.writeable = False
    for copied in (shifted, fixed, x[:, ::2], x.T, x[:0], np.arange(6)):
        got = arrays.to_jax(copied)
        np.testing.assert_array_equal(got, copied.astype(np.float32))
        if copied.size:
            assert address(got) != copied.ctypes.data
    said = interop.Attack("sign_flip", 1)(x)
    x[:] = 0  # it is over: nothing reads x any more
    assert (said[0] == -ROWS[0]).all() and (said[1:] == ROWS[1:]).all()


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "bool"]
)
def test_types_stay_what_they_are(dtype):
    name = getattr(ml_dtypes, dtype, dtype)
    x = (100 * ROWS).astype(name)
    want = np.median(x.astype(np.float64), axis=0)
    result = dtype if "float" in dtype else "float32"
    for got in (interop.aggregate("median", x), interop.Attack("alie:z=0", 4)(x)[0]):
        assert str(got.dtype) == result
    got = interop.aggregate("median", x)
    np.testing.assert_array_equal(got, want.astype(got.dtype))
    assert not jax.config.jax_enable_x64


def test_doubles_are_not_rounded_on_the_way():
    x = np.asarray([[1 + 1e-12, 1.0], [1 + 2e-12, 1.0], [1 + 3e-12, 1.0]])
    assert interop.aggregate("median", list(x))[0] == x[1, 0]
    assert interop.Attack("mimic:target=2", 1)(x)[0, 0] == x[2, 0]
    server = interop.FarSign(np.ones(2), 1, step_size=1e-12, average_step=1.0)
    server.tell(server.ask(0), [-1.0, -1.0])
    assert (server.params == 1 + 1e-12).all()


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "need n >= 1 messages: got none"),
        (ROWS[:0], "n >= 1: got n=0"),
        ([1.0, 2.0], "need arrays or tensors: got float"),
        ("text", "need arrays or tensors: got str"),
        (ROWS + 1j, "need real numbers: got complex64"),
        (np.asarray(["a"]), "JAX cannot read an array of <U1 of numpy"),
        (np.float32(1), "need arrays or tensors|need n messages"),
        ([ROWS[0], ROWS[1][:3]], r"need messages of one shape: got \(\(3,\),\) in message 1"),
        ([ROWS[0], [ROWS[1]]], "message 1 is a"),
        ([ROWS[0], jnp.asarray(ROWS[1])], "need messages of one kind: got jaxlib, numpy"),
        ([{}], "got messages without any"),
    ],
)
def test_what_cannot_be_aggregated(messages, message):
    with pytest.raises(InvalidConfig, match=message):
        interop.aggregate("median", messages)


def test_messages_without_numbers():
    for rule in ("mean", "median", "krum:f=2", "rfa", "trimmed_mean:f=1"):
        assert interop.aggregate(rule, ROWS[:, :0]).shape == (0,)
    assert interop.Attack("alie", 2)(ROWS[:, :0]).shape == (N, 0)


def test_attacks_are_those_of_the_library():
    mask = np.arange(N) % 4 == 1
    honest = ROWS[~mask]
    for text, want in (
        ("none", ROWS[mask]),
        ("sign_flip:scale=3", -3 * ROWS[mask]),
        ("ipm:epsilon=2", -2 * honest.mean(0)),
        ("alie:z=1.5,sign=1,ddof=1", honest.mean(0) + 1.5 * honest.std(0, ddof=1)),
        ("mimic:target=4", ROWS[4]),
        ("nonfinite:kind=inf", np.inf),
    ):
        heard = interop.Attack(text, mask)(ROWS)
        np.testing.assert_array_equal(heard[~mask], honest)
        np.testing.assert_allclose(
            heard[mask], np.broadcast_to(want, (2, D)), rtol=1e-5, atol=1e-5
        )
    gaussian = interop.Attack("gaussian:std=2", mask, seed=1)
    first, second = gaussian(ROWS), gaussian(ROWS)
    assert (first[mask] != second[mask]).all() and (first[1] != first[5]).all()
    again = interop.Attack("gaussian:std=2", mask, seed=1)
    np.testing.assert_array_equal(again(ROWS), first)
    for bad, byzantine, message in (
        ("gausian", 2, "did you mean 'gaussian'"),
        ("alie:w=1", 2, "unknown option of alie 'w'"),
        ("alie", N, "0 <= byzantine < workers"),
        (3, 2, "an attack is a text or a farsign_jax.Attack: got 3"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            interop.Attack(bad, byzantine)(ROWS)
    with pytest.raises(InvalidConfig, match=r"the last messages were \(9, 24\): got \(8, 24\)"):
        gaussian(ROWS[:8])


def test_attacks_remember():
    replay, mimic = interop.Attack("replay", 2), interop.Attack("mimic:warmup=3", 2)
    first = replay(ROWS)
    np.testing.assert_array_equal(first, ROWS)
    later = replay(ROWS + 1)
    np.testing.assert_array_equal(later[:2], ROWS[:2])  # stale, and looks fresh
    np.testing.assert_array_equal(later[2:], ROWS[2:] + 1)
    outlier = ROWS.copy()
    outlier[6] += 10
    for _ in range(3):
        heard = mimic(outlier)
    np.testing.assert_array_equal(heard[0], outlier[6])


def test_the_server_makes_the_run_of_the_simulator():
    problem = helpers.quadratic()
    dictionary = identity(helpers.D, 4)
    worker = oracles.directional_derivative(problem.losses, dictionary, batch_size=8)
    told = {"step_size": optax.exponential_decay(0.1, 10, 0.9), "average_step": 0.3}
    system = System(far_sign(helpers.M, dictionary, **told), worker, none())
    schedule = arrivals.uniform(jax.random.key(5), helpers.M, 40)
    keys = keys_lib.split(2)
    run, _ = simulation.run(problem, system, schedule, seed=2)

    server = interop.FarSign(np.asarray(problem.x0), helpers.M, directions=4, seed=2, **told)
    respond = jax.jit(worker.respond)
    for event, i in enumerate(np.asarray(schedule)):
        question = server.ask(i)
        assert question.directions.dtype == np.int64
        ids = jnp.asarray(question.directions, jnp.int32)
        query = base.Query(jnp.asarray(question.params), i, ids, jnp.int32(event))
        key = keys_lib.message(keys.batches, i, event)
        _, value = respond((), query, problem.shard(i), key)
        server.tell(question, np.asarray(value))
    np.testing.assert_array_equal(server.params, run.server.params)
    assert server.step == 40
    snapshot = server.params
    snapshot[:] = 0  # the caller's own
    np.testing.assert_array_equal(server.params, run.server.params)


def test_answers_come_late_in_any_order_and_are_checked():
    server = interop.FarSign(np.zeros(5), 3, step_size=0.5, average_step=1.0)
    early, late = server.ask(0), server.ask(1)
    server.tell(late, np.ones(5, np.float16))
    server.tell(early, [np.nan, np.inf, 0, -3, -1e38])
    want = np.zeros(5)
    want[late.directions] -= 0.5
    want[early.directions[3:]] += 0.5
    np.testing.assert_array_equal(server.params, want)
    last = server.ask(np.int64(2))
    wrong = last._replace(directions=np.arange(5) - 1)
    for bad, message in (
        (lambda: server.ask(3), r"workers 0..2: got worker=3"),
        (lambda: server.ask("a"), r"workers 0..2: got worker='a'"),
        (lambda: server.ask(1.5), r"workers 0..2: got worker=1.5"),
        (lambda: server.tell(early, np.ones(5)), "answered once, .* number 0 is not open"),
        (lambda: server.tell(last, np.ones(4)), r"per direction, 5 here: got shape \(4,\)"),
        (lambda: server.tell(last, ["a"] * 5), r"of real numbers: got \['a', "),
        (lambda: server.tell(last, np.ma.ones(5)), "without a mask: got MaskedArray"),
        (lambda: server.tell("last", np.ones(5)), "a question of ask: got str"),
        (lambda: server.tell(last._replace(worker=77), np.ones(5)), "worker 2: got 77"),
        (lambda: server.tell(wrong, np.ones(5)), r"directions 0..4: got \[-1, "),
        (lambda: interop.FarSign(np.zeros((2, 2)), 3, step_size=1, average_step=1), r"\[d\]"),
        (lambda: interop.FarSign(np.zeros(2), 3, step_size=0, average_step=1), "step_size > 0"),
        (
            lambda: interop.FarSign(np.zeros(2), 3, directions=0, step_size=1, average_step=1),
            "k=0",
        ),
    ):
        with pytest.raises(InvalidConfig, match=message):
            bad()
    np.testing.assert_array_equal(server.params, want)
    server.tell(last, np.zeros(5))  # what was refused did not close it
    assert server.step == 3


def test_tensors_are_read_where_they_lie(torch):
    x = torch.from_numpy(aligned(ROWS))
    assert address(arrays.to_jax(x)) == x.data_ptr()
    got = arrays.from_jax(own := jnp.arange(5.0), x)
    assert isinstance(got, torch.Tensor) and got.data_ptr() == address(own)
    for copied in (x[:, ::2], x[:0], torch.arange(6), x.bool()):
        np.testing.assert_array_equal(arrays.to_jax(copied), copied.float().numpy())
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        for got in (
            interop.aggregate("median", x.to(dtype)),
            interop.aggregate("median", list(x.to(dtype))),
            interop.Attack("ipm", 2)(x.to(dtype))[0],
        ):
            assert got.dtype == dtype and got.device == x.device
    heard = interop.Attack("sign_flip", 2)(list(x))
    assert torch.equal(heard[0], -x[0]) and torch.equal(heard[8], x[8])
    heard[8] += 1  # a result is the caller's
    assert torch.equal(x[8], torch.from_numpy(ROWS[8]))
    layer = torch.nn.Linear(3, 2)
    layer(torch.ones(4, 3)).sum().backward()
    grads = [p.grad for p in layer.parameters()]
    update = interop.aggregate("median", [grads, grads, grads])
    assert all(torch.equal(u, g) for u, g in zip(update, grads, strict=True))
    mask = torch.tensor([True] * 7 + [False] * 2)
    want = interop.aggregate("median", ROWS, mask.numpy())
    assert torch.equal(interop.aggregate("median", x, mask), torch.from_numpy(want.copy()))
    for bad, message in (
        (layer.weight, r"need tensors that require no grad: detach\(\) these"),
        (x.to_sparse(), "JAX cannot read an array of float32 of torch on cpu"),
        (x.to("meta"), "torch on meta"),
        ([x[0], ROWS[1]], "of one kind: got numpy, torch on cpu"),
        (x.to(torch.complex64), "need real numbers: got complex64"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            interop.aggregate("median", bad)


def test_a_loop_of_pytorch_survives_liars(torch):
    target = torch.linspace(-1, 1, 10)
    generator = torch.Generator().manual_seed(0)
    server = interop.FarSign(torch.zeros(10), 7, directions=5, step_size=0.02, average_step=0.5)
    for event in range(600):
        question = server.ask(event % 7)
        noise = 0.1 * torch.randn(10, generator=generator)
        gradient = question.params - target + noise
        if question.worker < 2:
            gradient *= -10
        server.tell(question, gradient[question.directions])
    assert isinstance(server.params, torch.Tensor)
    assert (server.params - target).abs().max() < 0.15
