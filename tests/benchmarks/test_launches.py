"""Kernels per event, counted in programs that XLA made."""

import re

import jax
import jax.numpy as jnp
import pytest

from benchmarks import launches
from farsign_jax import sweeps
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import prepare, sweep_specs
from farsign_jax.validation import InvalidConfig

TINY = PanelConfig(
    dataset="mnist_subset", events=60, seeds=(0, 1), attacks=("none", "alie"), workers=5,
    byzantine=1, directions=10, methods=("far_sign", "cyber0"), aggregators=("median",),
    buffers=3,
)  # fmt: skip


def compiled(f, *args):
    return jax.jit(f).lower(*args).compile().as_text()


def events(body):
    """A loop over events, as `lanes.advance`'s, with something in it that nothing merges."""
    return lambda x: jax.lax.scan(body, x, None, length=50)


def test_loops_count_as_often_as_they_turn_and_conditions_by_both_ways():
    x = jnp.arange(128.0)

    def sorts(times):
        def body(x, _):
            return jax.lax.fori_loop(0, times, lambda i, x: jnp.sort(x + i), x), None

        return launches.per_event(compiled(events(body), x))

    three, seven = sorts(3), sorts(7)
    assert three.kinds["sort"] == 3 and seven.kinds["sort"] == 7
    assert seven.least == seven.most > three.most and seven.conditions == 0

    def sometimes(x, _):
        far = x[0] > 3
        return jax.lax.cond(far, lambda x: jnp.sort(jnp.sort(x)[::-1]), jnp.sin, x), None

    found = launches.per_event(compiled(events(sometimes), x))
    assert found.conditions == 1 and found.kinds["sort"] == 2
    assert found.most >= found.least + 1


def test_an_event_on_an_accelerator_has_no_loop_inside(monkeypatch):
    """What XLA is given for a GPU: one loop, over the events, for all runs of FAR-SIGN."""
    (job, *_), setting = sweep_specs(TINY), prepare(TINY, None)
    lanes = job.run_batch(setting)
    given = lanes.on(None)
    run = sweeps.start(job.program, "fresh", *given[:3])
    traced = sweeps.advance.trace(
        job.program, "fresh", *given, run, jnp.asarray(lanes.schedules), turns=False
    )

    def loops(platform):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return len(re.findall(r"stablehlo\.while", text))

    assert loops("cuda") == loops("tpu") == 1
    assert loops("cpu") > 1  # there, loops are cheaper than what they save


def test_the_sweeps_of_a_table_are_counted():
    setting = prepare(TINY, None)
    rows = [launches.count(job, setting, TINY, None) for job in sweep_specs(TINY)]
    names = [row["sweep"].partition("-")[0] for row in rows]
    assert names == ["far_sign", "far_sign", "cyber0"]
    mine, lied_to, theirs = rows
    assert mine["runs"] == 2 and mine["events"] == 60
    assert theirs["runs"] == 4 and theirs["events"] == 120  # a seed at a time
    assert 0 < mine["least"] == mine["most"] == mine["mean"]
    # The longer way is taken when all three buffers are full.
    assert theirs["conditions"] > 0
    assert theirs["least"] < theirs["mean"] < (theirs["least"] + theirs["most"]) / 2
    total = 60 * mine["mean"] + 60 * lied_to["mean"] + 120 * theirs["mean"]
    text = launches.report(rows, "some GPU", launch_us=2.0)
    assert f"All of it: {total:,.0f} instructions, {2e-6 * total:.2g} s" in text


def test_a_target_that_is_none_is_refused():
    with pytest.raises(InvalidConfig, match=r"--target is a file, or a TPU .*: got 'h2000'"):
        launches._device("h2000")
