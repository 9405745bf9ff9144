"""Commands that lack the packages of an extra name the extra."""

import os
import pathlib
import subprocess
import sys

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

# Each command is a fork of one process that has imported everything but the extras.
CODE = """
import os, runpy, sys
from farsign_jax.harness import command, plots
from farsign_jax.runtime import core, replay, run_config, store

BLOCKED = ("grpc", "cryptography", "prometheus_client", "ray", "vl_convert")

class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if name == "google.protobuf" or top in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
for line in sys.stdin:
    if (pid := os.fork()) == 0:
        name, under, *flags = line.split()
        sys.argv, sys.stderr = [name, *flags], sys.stdout
        try:
            runpy.run_module(name, run_name=under, alter_sys=True)
        except SystemExit as end:
            print("exit", end.code, flush=True)
        except ModuleNotFoundError as error:
            print(f"raised {error}\\n{error.name}", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def without_extras(*lines):
    """The output of commands, each given as a module, the name it runs under, and flags."""
    root = pathlib.Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    return out.stdout.splitlines()


def test_a_missing_extra_is_an_error_of_one_line():
    lines = without_extras(*(f"{name} __main__" for name in COMMANDS))
    assert len(lines) == 2 * len(COMMANDS), lines
    for name, line, end in zip(COMMANDS, lines[::2], lines[1::2], strict=True):
        assert line.startswith("error: no module ") and end == "exit 2"
        assert f"pip install 'farsign_jax[{extra_of(name)}]'" in line


def extra_of(name):
    return "ray" if "on_ray" in name else "report" if "report" in name else "grpc"


def test_help_is_available_without_the_extra():
    text = "\n".join(without_extras(*(f"{name} __main__ --help" for name in COMMANDS)))
    *helps, rest = text.split("exit 0")
    assert len(helps) == len(COMMANDS) and not rest
    for name, text in zip(COMMANDS, helps, strict=True):
        assert f"    python -m {name}" in text
        assert text.strip().splitlines()[-1].startswith("Its options need more: no module ")
        assert f"pip install 'farsign_jax[{extra_of(name)}]'" in text


def test_importing_a_module_without_its_extra_raises_the_same_message():
    message, name, *rest = without_extras("farsign_jax.runtime.serve serve")
    assert message.startswith("raised no module ") and name in message and not rest
    assert "pip install 'farsign_jax[grpc]'" in message


def test_replay_needs_no_extra():
    lines = without_extras("farsign_jax.runtime.replay __main__ --help")
    assert "python -m farsign_jax.runtime.replay run" in "\n".join(lines)
    assert lines[-1] == "exit 0"
