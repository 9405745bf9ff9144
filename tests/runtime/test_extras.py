"""Commands that lack the packages of an extra name the extra."""

import pytest

from tests import forks

COMMANDS = [
    "farsign_jax.runtime.serve",
    "farsign_jax.runtime.work",
    "farsign_jax.runtime.tls",
    "experiments.cluster",
    "farsign_jax.runtime.testing.adversarial_client",
    "benchmarks.runtime",
    "farsign_jax.runtime.on_ray",
    "experiments.report",
]

IMPORTS = """
from farsign_jax.harness import command, plots
from farsign_jax.runtime import core, replay, run_config, store

BLOCKED = ("grpc", "cryptography", "prometheus_client", "ray", "vl_convert")

class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if name == "google.protobuf" or top in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def run():
    with forks.server(IMPORTS) as run:
        yield run


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_extra_is_an_error_of_one_line(name, run):
    code, out, err = run(name)
    assert (code, out, err.count("\n")) == (2, "", 1), out + err
    assert err.startswith("error: no module ")
    assert f"pip install 'farsign_jax[{extra_of(name)}]'" in err


def extra_of(name):
    return "ray" if "on_ray" in name else "report" if "report" in name else "grpc"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_available_without_the_extra(name, run):
    code, out, err = run(name, "--help")
    assert code == 0 and not err and f"    python -m {name}" in out
    assert out.strip().splitlines()[-1].startswith("Its options need more: no module ")
    assert f"pip install 'farsign_jax[{extra_of(name)}]'" in out


def test_importing_a_module_without_its_extra_raises_the_same_message(run):
    code, _, err = run("farsign_jax.runtime.serve", run_name="serve")
    *_, message = err.splitlines()
    assert code == 1 and message.startswith("ModuleNotFoundError: no module ")
    assert "pip install 'farsign_jax[grpc]'" in message


def test_replay_needs_no_extra(run):
    code, out, err = run("farsign_jax.runtime.replay", "--help")
    assert code == 0 and "python -m farsign_jax.runtime.replay run" in out, err
