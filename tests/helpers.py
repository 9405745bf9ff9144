"""Small problems and assertions that many tests share."""

import contextlib
import logging
import pathlib
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import attacks, directions, models, oracles, problems, programs
from farsign_jax.base import System
from farsign_jax.methods import far_sign_parts as parts
from farsign_jax.methods.far_sign import far_sign

LONG = (pytest.mark.slow, pytest.mark.long)


@contextlib.contextmanager
def files_of_at_most(size):
    """The limit of a full disk: what does not fit is not written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def slow(cases):
    """The cases of a parametrised test, each a value or a tuple of them, marked as slow."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]


M, D = 7, 20  # workers and parameters of the small quadratic
KEY = jax.random.key(0)


def quadratic(noise=0.3, dim=D, workers=M, seed=0):
    return problems.quadratic(dim, workers, jax.random.key(seed), noise=noise)


def digits(module=None, workers=5, examples=40, seed=0, shape=(6, 6, 1), classes=4):
    """A tiny classification problem with bytes as images."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (workers * examples, *shape), dtype=np.uint8)
    labels = rng.integers(0, classes, workers * examples)
    rows = rng.permutation(workers * examples).reshape(workers, examples)
    module = models.MLP((8, classes)) if module is None else module
    sizes = np.full(workers, examples)
    return problems.classification(module, images, labels, rows, sizes, jax.random.key(seed))


def far_sign_of(
    num_workers, dictionary, *, arrival_rates=None, max_weight=10.0, rate_cap=None,
    cap_rank=None, cap_burst=10, soft=0.0, **options,
):  # fmt: skip
    """`far_sign` with its parts given by numbers, as on a command line."""
    return far_sign(
        num_workers,
        dictionary,
        arrival_weights=parts.arrival_weights(num_workers, arrival_rates, max_weight),
        admit=parts.rate_cap(num_workers, rate_cap, cap_rank, cap_burst),
        sign=parts.soft_sign(soft),
        **options,
    )


def far_sign_system(problem, attack=None, k=3, dictionary=None, worker=None, **options):
    if dictionary is None:
        dictionary = directions.identity(problem.x0.size, k)
    options = {"step_size": 0.05, "average_step": 0.3} | options
    server = far_sign_of(problem.num_workers, dictionary, **options)
    if worker is None:
        worker = oracles.zeroth_order(problem, dictionary, batch_size=8)
    return System(server, worker, attack or attacks.none())


def distance(problem):
    """Measure of a quadratic: how far from the minimiser."""
    center = problem.data[1][0]
    return lambda x: {"distance": jnp.linalg.norm(x - center)}


def assert_same(a, b):
    """Bitwise equality of two pytrees, NaN equal to itself."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_array_equal(x, y)


def memory_of(pid):
    """Bytes of a process that are its own, and its share of others."""
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no Pss")


@contextlib.contextmanager
def compilations():
    """Collects the names of the programs compiled inside the block.

    Nothing is released there: a program would be compiled again, and be counted.
    """
    names: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record):
            message = record.getMessage()
            # JAX also compiles a program for each shape that it copies from the host.
            if message.startswith("Compiling ") and "jit(stage)" not in message:
                names.append(message.split()[1])

    logger, handler = logging.getLogger("jax"), Handler()
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    jax.config.update("jax_log_compiles", True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(programs, "MAX_MAPS", 60_000)
            yield names
    finally:
        jax.config.update("jax_log_compiles", False)
        logger.removeHandler(handler)
        logger.propagate = before


@contextlib.contextmanager
def float64():
    scope = getattr(jax, "enable_x64", None)
    if scope is None or not callable(scope):
        from jax.experimental import enable_x64 as scope
    with scope(True):
        yield


def stream(key, worker):
    """The random generator of one worker's delays, as the library documents it."""
    return np.random.default_rng([*np.asarray(jax.random.key_data(key)), worker])


def at_wall(windows, work):
    """When a worker that works only in these windows has worked for `work` seconds."""
    for begin, end in windows:
        if work <= end - begin:
            return begin + work
        work -= end - begin
    return np.inf
