"""Names outside the package: --import, and the commands from any folder."""

import json
import os
import subprocess
import sys

import pytest
from absl import flags

from farsign_jax import models
from farsign_jax.attacks.registry import ATTACKS
from farsign_jax.cli import imports, launcher
from farsign_jax.io import provenance
from farsign_jax.models.networks import MODELS
from farsign_jax.validation import InvalidConfig

MODULE = """
import flax.linen as nn
from farsign_jax import Attack, attacks, models


class Narrow(nn.Module):
    width: int = 3
    num_classes: int = 10

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(self.num_classes)(nn.Dense(self.width)(inputs.reshape(len(inputs), -1)))


models.MODELS["narrow"] = Narrow
attacks.ATTACKS["silent"] = lambda: Attack(lambda m: (), lambda s, r, v, k: (s, 0 * r.value))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_names.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(provenance, "_own", {})
    provenance.code.cache_clear()
    yield tmp_path
    sys.modules.pop("own_names", None)
    MODELS.pop("narrow", None)
    ATTACKS.pop("silent", None)
    provenance.code.cache_clear()


def test_a_module_is_imported_and_its_digest_recorded(folder):
    before = provenance.code()
    imports.load(["own_names"])
    assert models.make("narrow:width=5", 4).width == 5
    assert models.make("narrow", 4).num_classes == 4  # whatever the order of the fields
    first = provenance.code()
    assert first["imports"].startswith("own_names ") and "imports" not in before
    assert first["digest"] != before["digest"] and first["revision"] == before["revision"]
    (folder / "code.json").write_text(json.dumps([first]))
    assert provenance.codes(folder) == [first] and not provenance.is_other_code([first])
    (folder / "own_names.py").write_text(MODULE + "# changed")
    provenance.code.cache_clear()
    assert provenance.is_other_code([first])


def test_the_flag_is_a_list_that_other_commands_can_be_given():
    values = flags.FlagValues()
    imports.define(values)
    values(["command", "--import=a,b.c", "--import", "d"])
    assert imports.asked(values) == ["a", "b.c", "d"]
    assert imports.again(values) == ["--import=a", "--import=b.c", "--import=d"]


@pytest.mark.parametrize("name", ["no_such_module", "own_names.no", "", "..", "a b"])
def test_what_cannot_be_imported_is_named_in_one_line(folder, name):
    with pytest.raises(InvalidConfig, match="--import") as error:
        imports.load([name])
    assert "\n" not in str(error.value)


def test_a_module_without_a_file_is_imported(folder):
    before = provenance.code()
    imports.load(["sys"])  # which is built in
    provenance.code.cache_clear()
    assert provenance.code() == before


def test_what_a_module_lacks_itself_is_its_own_error(folder):
    (folder / "own_names.py").write_text("import no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        imports.load(["own_names"])


def test_help_lists_every_command_with_its_purpose():
    text = launcher.usage()
    for name in ("compare", "table3", "report", "serve", "work", "replay"):
        assert f"\n  {name} " in text
    assert "Compares any methods" in text
    for module in launcher.names().values():
        assert launcher.BESIDE.joinpath(*module.split(".")).with_suffix(".py").exists()


def test_an_unknown_command_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["farsign", "compere"])
    with pytest.raises(SystemExit) as ended:
        launcher.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith("error: unknown command 'compere'")
    assert "did you mean 'compare'" in told and told.count("\n") == 1


@pytest.mark.slow
def test_a_command_finds_own_names_beside_a_folder_called_experiments(folder):
    (folder / "experiments").mkdir()
    (folder / "experiments" / "compare.py").write_text("raise SystemExit(7)")
    flags_of_run = ["--import=own_names", "--model=narrow:width=8", "--attacks=silent"]
    flags_of_run += ["--methods=async_sgd", "--seeds=1", "--events=100", "--out=made"]
    command = [sys.executable, "-m", "farsign_jax", "compare", *flags_of_run]
    path = os.pathsep.join([str(launcher.BESIDE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (folder / "made" / "README.md").read_text()
    assert f"python -m farsign_jax compare {' '.join(flags_of_run)}" in text
    assert "own_names" in json.loads((folder / "made" / "code.json").read_text())[0]["imports"]
    (folder / "own_names.py").write_text(MODULE + "# changed")
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "was written by other code" in again.stderr
