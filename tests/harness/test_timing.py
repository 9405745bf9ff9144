"""Timings are measured again where clock.json does not hold for this machine and code."""

import json

import pytest

from farsign_jax.harness import timing
from farsign_jax.io import provenance, run_folder

ENTRY = {"method": "sgd", "aggregator": "median", "us": 1.5}


def write(path, **changes):
    record = {"environment": provenance.environment(), "clock": [ENTRY]} | changes
    (path / "clock.json").write_text(json.dumps(record))


def test_clocks_are_read_on_the_same_machine(tmp_path, capsys):
    folder = run_folder.RunFolder(tmp_path, {})
    assert timing._read(folder) == {}
    write(tmp_path)
    assert timing._read(folder) == {("sgd", "median"): ENTRY}
    for name in provenance.environment():
        write(tmp_path, environment=provenance.environment() | {name: "other"})
        assert timing._read(folder) == {}
    assert "on another machine or version: measuring again" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"clock": [{}]}', "\xff"])
def test_a_damaged_clock_is_measured_again(tmp_path, capsys, text):
    (tmp_path / "clock.json").write_bytes(text.encode("latin-1"))
    assert timing._read(run_folder.RunFolder(tmp_path, {})) == {}
    assert "clock.json is damaged" in capsys.readouterr().err
