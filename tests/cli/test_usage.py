"""The command line as a product: help, names, examples, errors; nothing is run here."""

import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from experiments import list as listing
from farsign_jax.cli import help
from farsign_jax.io import files
from farsign_jax.validation import InvalidConfig
from tests import forks

ROOT = pathlib.Path(__file__).parents[2]
MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for folder in (
        "experiments",
        "benchmarks",
        "docs",
        "farsign_jax/runtime",
        "farsign_jax/data",
    )
    for path in (ROOT / folder).glob("*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)
COMMANDS = [
    pytest.param(name, marks=pytest.mark.skipif(skip, reason="needs the extra ray"))
    for name in MODULES
    for skip in [name.endswith("on_ray") and not importlib.util.find_spec("ray")]
]

# `check` takes the place of `main`: it parses the examples, and makes the configuration of
# those that have one.
IMPORTS = """
from absl.testing import flagsaver
from farsign_jax.cli import commands as runtime
from farsign_jax.harness import command, figure_grid, flags
from farsign_jax.runtime import service as serving
import jax

def check(experiment, many=False, *, base=None, own=(), reads=None, positional=False, **_):
    for argv in examples:
        with flagsaver.flagsaver():
            command._parse(argv, positional)
            assert reads is None or flags.refuse_others(*reads) is None
            if base is not None:
                flags.configure(base)
            if positional and not reads:  # it lists names, and needs nothing
                experiment(*argv[1:])
            print("parsed")

def check_values(experiment, values, doc, own=None):
    for argv in examples:
        values(argv)
        if "decay_every" in values:
            serving.config_of(values)
        print("parsed")
"""


@pytest.fixture(scope="module")
def run():
    with forks.server(IMPORTS) as run:
        yield run


def parsed(run, name, examples):
    """How many of the examples, each a list of words, the command parses."""
    before = f"examples = {examples}; command.main, runtime.main = check, check_values"
    code, out, err = run(name, before=before)
    assert code == 0, out + err
    return out.splitlines().count("parsed")


def words(example):
    """A command of a docstring as an argument vector, without what is said beside it."""
    line = re.split(r" {3,}", re.sub(r"\s*\\\n\s*", " ", example))[0]
    return line.split()[2:]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "pages").glob("*.md"))]


def examples():
    """Every `python -m` in a block of shell of README and documentation, as words."""
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                for command in re.findall(r"python -m (.*?)(?:&&|$)", line):
                    yield shlex.split(command, comments=True)


def mentioned():
    """Every command that they name within a line."""
    for page in PAGES:
        for told in re.findall(r"`(?:[\w./]+/)?python\s+-m\s+([^`]+)`", page.read_text()):
            yield shlex.split(told)


NAMED = {}
for argv in (*examples(), *mentioned()):
    NAMED.setdefault(argv[0], []).append(argv)


@pytest.mark.parametrize("name", [p for p in COMMANDS if p.values[0] in NAMED])
def test_commands_of_the_pages_are_right(name, run):
    words = name.endswith(("list", "report", "replay"))
    told = [argv for argv in NAMED[name] if not words or len(argv) == 1]
    assert not told or parsed(run, name, told) == len(told)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_its_examples_are_right(name, run):
    # Help must not wait for a device: to look for one fails.
    before = 'jax.config.update("jax_platforms", "none")'
    code, out, err = run(name, "--help", before=before)
    told = out.splitlines()
    assert code == 0 and not err, out + err
    assert 0 < len(told) <= 40 and max(map(len, told)) <= 96
    shown = [words(example) for example in help.examples(out)]
    assert len(shown) == 2 and {argv[0] for argv in shown} == {name}
    if name.endswith(("replay", "build_mnist_subset")):  # which have no flags of absl
        return
    assert any(line.startswith("  --") for line in told) or name.endswith("list")
    assert parsed(run, name, shown) == 2
    code, out, err = run(name, "--helpfull", before=before)
    assert code == 0 and not err, out + err
    assert len(out.splitlines()) >= len(told) - 1  # without the line that names --helpfull


def test_every_name_has_a_line(capsys):
    for name, registry in listing.REGISTRIES.items():
        entries = registry()
        assert entries, name
        for entry in entries:
            assert len(entry.description) > 8 and "\n" not in entry.description, entry
        assert len({entry.name for entry in entries}) == len(entries)
    listing.show()
    told = capsys.readouterr().out.splitlines()
    assert max(map(len, told)) <= 96 and len(told) < 200
    listing.show("attacks")
    told = capsys.readouterr().out
    assert "z=" not in told.split("alie")[0]
    assert "sign=-1, ddof=0, space=message; not set: z; alie alone is alie:z=1.5" in " ".join(
        told.split()
    )
    with pytest.raises(InvalidConfig, match="unknown name 'atacks': did you mean 'attacks'"):
        listing.show("atacks")


def test_an_entry_is_listed_whatever_its_registry(capsys):
    listing.show("krum", "attacks")
    told = capsys.readouterr().out
    assert told.startswith("aggregators\n  krum  ") and "krum alone is krum:f=4" in told
    assert "multi_krum" not in told and "\nattacks\n" in told


def test_where_no_folder_can_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidConfig, match="file is a file: --out names a folder"):
            files.check_writable(path)
    with pytest.raises(InvalidConfig, match="--out names a folder: got ''"):
        files.check_writable("")
    files.check_writable(tmp_path / "new" / "one")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_where_nothing_can_be_written_is_refused():
    with pytest.raises(
        InvalidConfig, match=r"cannot write in /proc \(.*\): --out is /proc/x/y"
    ):
        files.check_writable("/proc/x/y")
    with pytest.raises(InvalidConfig, match="~nobody-here/x: the home folder is unknown"):
        files.check_writable("~nobody-here/x")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["experiments.quickstart", "benchmarks.throughput"])
def test_a_device_that_is_not_there_is_refused(command, tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "nonsense"}
    words = [sys.executable, "-m", command, f"--out={tmp_path / 'out'}"]
    found = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert found.returncode == 2
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error")]
    assert line.startswith("error: JAX_PLATFORMS=nonsense has no device here: ")
    assert "Traceback" not in found.stderr
