"""Guards that turn common JAX mistakes into failures, for every test."""

import atexit
import gc
import os
import shutil
import tempfile

# Command lines started by tests must not touch the user's caches.
os.environ["FARSIGN_CACHE"] = tempfile.mkdtemp(prefix="farsign-tests-")

import jax
import pytest

from farsign_jax.runtime import numpy_server

atexit.register(shutil.rmtree, os.environ["FARSIGN_CACHE"], ignore_errors=True)

# The first process of pytest makes this folder; those that it starts find it.
if "FARSIGN_TESTS_PROGRAMS" not in os.environ:
    os.environ["FARSIGN_TESTS_PROGRAMS"] = tempfile.mkdtemp(prefix="farsign-programs-")
    atexit.register(shutil.rmtree, os.environ["FARSIGN_TESTS_PROGRAMS"], ignore_errors=True)

# An accelerator is used only where it is asked for: FARSIGN_TESTS_ON=cuda.
PLATFORM = os.environ.get("FARSIGN_TESTS_ON", "cpu")
jax.config.update("jax_platforms", PLATFORM)
# Most of the time goes into compiling, often the same program in two tests. The processes of
# pytest share what they compile, and commands have a cache of their own: JAX does not write
# programs atomically, and a command that a test kills leaves half of one.
jax.config.update("jax_compilation_cache_dir", os.environ["FARSIGN_TESTS_PROGRAMS"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
if hasattr(jax.config, "jax_captured_constants_warn_bytes"):  # since jax 0.7
    jax.config.update("jax_captured_constants_warn_bytes", 1_000_000)


def pytest_collection_modifyitems(config, items):
    """Leaves out the tests marked `long` unless the expression after -m names them.

    Of each file, tests marked `optimized` come last: whatever was compiled before is dropped
    when one follows that is not, or the other way round.
    """
    order = {item.path: number for number, item in reversed([*enumerate(items)])}
    items.sort(key=lambda i: (order[i.path], i.get_closest_marker("optimized") is not None))
    if "long" in (config.option.markexpr or ""):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_runtest_setup(item):
    """Lets XLA optimise only in tests marked `optimized`, before their fixtures.

    Four fifths of the time goes into compiling, which takes half as long without. Two programs
    that are to give the same bits are compared as users run them.
    """
    variable = "JAX_DISABLE_MOST_OPTIMIZATIONS"
    fast = PLATFORM == "cpu" and item.get_closest_marker("optimized") is None
    if os.environ.get(variable) != str(fast):
        os.environ[variable] = str(fast)  # for commands that the test starts
        jax.config.update("jax_disable_most_optimizations", fast)
        jax.clear_caches()
        numpy_server.uses_multiply_add.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file():
    """Drops compiled programs: they hold memory maps, of which a process has 65,530."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def key_reuse_checked():
    """Fails where one key is consumed twice; slow to compile, so not for every test."""
    before = jax.config.jax_debug_key_reuse
    jax.config.update("jax_debug_key_reuse", True)
    yield
    jax.config.update("jax_debug_key_reuse", before)
