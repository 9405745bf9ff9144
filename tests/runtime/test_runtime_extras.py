"""Commands that lack what an extra brings say what to install."""

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

# Each command is a fork of what is imported once: of all but what the extra brings.
CODE = """
import os, runpy, sys
from farsign_jax.harness import command, plots
from farsign_jax.runtime import core, replay, run_config, store

class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if name == "google.protobuf" or top in ("grpc", "cryptography", "ray", "vl_convert"):
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
    """What these say: a module, the name it runs under, flags."""
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


def test_a_missing_extra_is_one_line_that_says_what_to_install():
    lines = without_extras(*(f"{name} __main__" for name in COMMANDS))
    assert len(lines) == 2 * len(COMMANDS), lines
    for name, said, end in zip(COMMANDS, lines[::2], lines[1::2], strict=True):
        assert said.startswith("error: no module ") and end == "exit 2"
        assert f"pip install 'farsign_jax[{extra_of(name)}]'" in said


def extra_of(name):
    return "ray" if "on_ray" in name else "report" if "report" in name else "grpc"


def test_help_says_what_a_command_is_for_without_its_extra():
    text = "\n".join(without_extras(*(f"{name} __main__ --help" for name in COMMANDS)))
    *told, rest = text.split("exit 0")
    assert len(told) == len(COMMANDS) and not rest
    for name, said in zip(COMMANDS, told, strict=True):
        assert f"    python -m {name}" in said
        assert said.strip().splitlines()[-1].startswith("Its options need more: no module ")
        assert f"pip install 'farsign_jax[{extra_of(name)}]'" in said


def test_who_imports_a_module_without_its_extra_is_told_the_same():
    said, name, *rest = without_extras("farsign_jax.runtime.serve serve")
    assert said.startswith("raised no module ") and name in said and not rest
    assert "pip install 'farsign_jax[grpc]'" in said


def test_what_was_recorded_can_be_replayed_without_any_extra():
    lines = without_extras("farsign_jax.runtime.replay __main__ --help")
    assert "python -m farsign_jax.runtime.replay run" in "\n".join(lines)
    assert lines[-1] == "exit 0"
