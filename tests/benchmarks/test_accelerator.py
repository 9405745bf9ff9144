"""The record of an accelerator, reduced as on a CPU."""

import json

import pytest
from absl.testing import flagsaver

from benchmarks import accelerator, ceilings
from farsign_jax.harness.flags import FLAGS


@pytest.mark.slow
def test_a_record_has_all_parts(tmp_path):
    with flagsaver.flagsaver(), pytest.MonkeyPatch.context() as patch:
        tiny = accelerator.REDUCED._replace(lanes=(1, 2), events=20)
        patch.setattr(accelerator, "REDUCED", tiny)
        for name, value in (("ENOUGH_S", 0.0), ("SIDE", 64), ("NUMBERS", (2**8,))):
            patch.setattr(ceilings, name, value)
        patch.setattr(ceilings, "COPIES", (2**10, 2**12))
        FLAGS(["accelerator", f"--out={tmp_path}", "--repeats=1", "--timed_events=4"])
        accelerator.accelerator()
    record = json.loads((tmp_path / "accelerator.json").read_text())
    assert [row["runs"] for row in record["lanes"]] == [1, 2]
    assert [row["runs"] for row in record["cyber0"]] == [35]
    assert {row["what"] for row in record["finetune"]} >= {"inference", "subspace"}
    assert [row["sweep"] for row in record["launches"]] == ["far_sign-none", "cyber0"]
    # The device is the CPU itself.
    assert record["bits"]["equal"] == 1.0 and record["bits"]["largest"] == 0.0
    text = (tmp_path / "accelerator.md").read_text()
    assert "a row of Table 3" in text and "have the bits of the CPU" in text
