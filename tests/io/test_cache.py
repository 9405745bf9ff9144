"""Without a home folder, or where the cache cannot be written, commands do without one."""

import os
import pathlib
import subprocess
import sys

import pytest

from farsign_jax.data import datasets
from farsign_jax.io import cache
from tests.data.test_datasets import assert_equal, fake, write_idx

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def anew():
    cache._usable.cache_clear()
    yield
    cache._usable.cache_clear()


@pytest.mark.parametrize("place", ["/proc/cache", "~nobody-here/cache", "file/cache"])
def test_a_cache_that_cannot_be_written_is_one_warning(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARSIGN_CACHE", place)
    assert cache.folder() is None and cache.folder() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: nothing is kept in the cache: ") and place[:5] in line


def test_data_are_loaded_without_a_cache(tmp_path, monkeypatch, capsys):
    mnist = datasets.DATASETS["mnist"]._replace(contents=None)
    monkeypatch.setitem(datasets.DATASETS, "mnist", mnist)
    write_idx(tmp_path / "data", fake(), False)
    assert_equal(datasets.load("mnist", str(tmp_path / "data"), "/proc/cache"), fake())
    full = OSError(28, "No space left on device", "x.npz")

    def fail(path, arrays):
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(datasets.files, "save_arrays", fail)
        assert_equal(
            datasets.load("mnist", str(tmp_path / "data"), str(tmp_path / "c")), fake()
        )
    first, second = capsys.readouterr().err.splitlines()
    assert "cannot write in /proc" in first and "No space left on device: 'x.npz'" in second


@pytest.mark.slow
def test_an_unknown_user_without_a_home_can_list_names():
    """As in a container that runs under the number of a user that it does not know."""
    told = {name: text for name, text in os.environ.items() if name not in ("HOME", "USER")}
    del told["FARSIGN_CACHE"]
    told |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    code = "import os, runpy, sys\nfrom farsign_jax.harness import command\n"
    code += "import experiments.list\n"  # read before the user may no longer be allowed to
    code += "os.getuid() or os.setuid(54321)\n"
    code += "sys.argv = ['experiments.list', 'models']\n"
    code += "runpy.run_module('experiments.list', run_name='__main__', alter_sys=True)\n"
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", code]
    done = subprocess.run(command, cwd="/", env=told, capture_output=True, text=True)
    assert done.returncode == 0 and "softmax_regression" in done.stdout, done.stderr
    if os.getuid() == 0:
        (line,) = done.stderr.splitlines()
        assert "warning: nothing is kept" in line and "the home folder is unknown" in line
