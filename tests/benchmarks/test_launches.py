"""The number of kernels per event is counted in programs that XLA compiled."""

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
    """A loop over events such as that of `sweeps.advance`."""
    return lambda x: jax.lax.scan(body, x, None, length=50)


def test_loops_count_once_per_iteration_and_conditions_with_both_branches():
    x = jnp.arange(128.0)

    def sorts(times):
        def body(x, _):
            return jax.lax.fori_loop(0, times, lambda i, x: jnp.sort(x + i), x), None

        return launches.per_event(compiled(events(body), x))

    three, seven, eleven = sorts(3), sorts(7), sorts(11)
    assert seven.most - three.most == eleven.most - seven.most >= 4  # at least the sorts
    assert seven.least == seven.most and seven.conditions == 0

    def sometimes(x, _):
        far = x[0] > 3
        return jax.lax.cond(far, lambda x: jnp.sort(jnp.sort(x)[::-1]), jnp.sin, x), None

    found = launches.per_event(compiled(events(sometimes), x))
    assert found.conditions == 1
    assert found.most >= found.least + 1


@pytest.mark.slow
def test_an_event_on_an_accelerator_has_no_inner_loop(monkeypatch):
    """For a GPU, XLA is given a single loop, over the events, for all runs of FAR-SIGN."""
    (job, *_), setting = sweep_specs(TINY), prepare(TINY, None)
    batch = job.run_batch(setting)
    inputs = batch.on(None)
    run = sweeps.start(job.program, "fresh", *inputs[:3])
    traced = sweeps.advance.trace(
        job.program, "fresh", *inputs, run, jnp.asarray(batch.schedules), turns=False
    )

    def loops(platform):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return len(re.findall(r"stablehlo\.while", text))

    assert loops("cuda") == loops("tpu") == 1
    assert loops("cpu") > 1  # on a CPU, a loop costs less than it saves


@pytest.mark.long
@pytest.mark.slow
def test_the_launches_of_a_table_are_counted():
    setting = prepare(TINY, None)
    rows = [launches.count(job, setting, TINY, None) for job in sweep_specs(TINY)]
    names = [row["sweep"].partition("-")[0] for row in rows]
    assert names == ["far_sign", "far_sign", "cyber0"]
    honest, attacked, cyber0 = rows
    assert honest["runs"] == 2 and honest["events"] == 60
    assert cyber0["runs"] == 4 and cyber0["events"] == 120  # one seed at a time
    assert 0 < honest["least"] == honest["most"] == honest["mean"]
    # The longer branch is taken when all three buffers are full.
    assert cyber0["conditions"] > 0
    assert cyber0["least"] < cyber0["mean"] < (cyber0["least"] + cyber0["most"]) / 2
    total = 60 * honest["mean"] + 60 * attacked["mean"] + 120 * cyber0["mean"]
    text = launches.report(rows, "some GPU", launch_us=2.0)
    assert f"Together: {total:,.0f} instructions, {2e-6 * total:.2g} s" in text


def test_an_unknown_target_is_rejected():
    rule = r"--target is a file or the name of a TPU .*: got 'h2000'"
    with pytest.raises(InvalidConfig, match=rule):
        launches._device("h2000")
