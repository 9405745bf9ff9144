"""Guards that turn common JAX mistakes into failures, for every test."""

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile

# Command lines started by tests must not touch the user's caches.
os.environ["FARSIGN_CACHE"] = tempfile.mkdtemp(prefix="farsign-tests-")

import jax
import pytest

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


# How XLA compiles in half the time; it reads this once in a process.
COMPILES_FAST = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def pytest_configure(config):
    """Lets XLA compile fast, unless tests are run that are marked `optimized`.

    Most of the time goes into compiling. Two programs that are to give the same bits are
    compared as users run them.
    """
    if PLATFORM != "cpu" or "optimized" in (config.option.markexpr or ""):
        return
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "True"  # of commands that tests start
    jax.config.update("jax_disable_most_optimizations", True)
    before = os.environ.get("XLA_FLAGS", "")
    if COMPILES_FAST in before:  # set by the process that has started this one
        return
    flags = {"XLA_FLAGS": f"{before} {COMPILES_FAST}".strip()}
    # XLA ends a process that has a flag which its version does not know.
    known = [sys.executable, "-c", "import jax; jax.devices()"]
    if not subprocess.run(known, env=os.environ | flags, capture_output=True).returncode:
        os.environ.update(flags)


def pytest_collection_modifyitems(config, items):
    """Leaves out tests marked `long` or `optimized` unless -m names the mark."""
    for mark in ("long", "optimized"):
        if mark in (config.option.markexpr or ""):
            continue
        left_out = [item for item in items if item.get_closest_marker(mark)]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker(mark)]


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
