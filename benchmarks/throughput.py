"""How many events and loss evaluations per second, and where the time goes.

    python -m benchmarks.throughput            about 3 minutes on two cores

One process; everything is compiled and run once before the clock starts; each figure is the
median of --repeats timings, with their range. Four questions:

1. methods: events/s and evaluations/s of each, one run and several side by side;
2. panel: what all aggregators and attacks of the CYBER-0 family cost in lock-step, in runs;
3. d: does the cost of an event grow with the number of parameters when only the first layer
   grows? The base forward pass on the mini-batch must, and is reported apart;
4. PyTorch, if installed: the same event, coordinate by coordinate and batched.

Writes throughput.json and throughput.md under --out (default results/throughput).
"""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.clock import clock as clock_program
from experiments.command import FLAGS, configure, main
from experiments.config import PAPER_ATTACKS, Config
from experiments.jobs import jobs_of, prepare
from farsign_jax import arrivals, attacks, keys, models, problems, results, simulate
from farsign_jax.base import System, require
from farsign_jax.methods import Build, hyper_of
from farsign_jax.oracles.coordinate_mlp import loss_changes

flags.DEFINE_list("runs", ["1", "5", "25"], "Runs side by side.")
flags.DEFINE_integer("repeats", 5, "Timings per figure.", lower_bound=1)
flags.DEFINE_integer("timed_events", 300, "Events per timing.", lower_bound=1)

CONFIG = Config(
    dataset="mnist_subset",
    methods=("far_sign", "far_sign_first_order", "cyber0", "basgd", "async_sgd"),
    aggregators=("median",),
    attacks=("sign_flip",),
    seeds=(0,),
)


def take_turns(calls: Sequence[Callable[[], Any]], per: int) -> list[list[float]]:
    """Microseconds per unit of work, one list of repeats for each call, after a warm-up.

    The calls take turns, so that a drift of the machine's speed hits all of them.
    """
    for call in calls:
        jax.block_until_ready(call())
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(FLAGS.repeats):
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            times.append(1e6 * (time.perf_counter() - start) / per)
    return taken


def spread(times: list[float]) -> dict[str, float]:
    return {"us": statistics.median(times), "us_min": min(times), "us_max": max(times)}


def _loop(program: Callable, args: tuple, run: Any, chunk: Any) -> Callable[[], Any]:
    """A call that advances its own run, which the program consumes."""
    held = [run]

    def call():
        held[0], _ = program(*args, held[0], chunk)
        return held[0]

    return call


def time_method(build: Any, lanes: Any, events: int) -> dict[str, float]:
    """One figure of question 1: microseconds per event of one run."""
    figures = clock_program(build, lanes, events, FLAGS.repeats)
    one = lanes.take(0)
    evaluations = build(one.problem, one.hyper).worker.evaluations
    return figures | {
        "events_per_s": 1e6 / figures["us"],
        "evaluations_per_s": 1e6 * evaluations / figures["us"],
    }


@dataclasses.dataclass(frozen=True)
class Generic:
    """FAR-SIGN with the two-point oracle that works for any model."""

    inner: Build

    def __call__(self, problem, hyper) -> System:
        return self.inner(dataclasses.replace(problem, structure=None), hyper)


def compare_methods(config: Config) -> list[dict[str, Any]]:
    most = max(map(int, FLAGS.runs))
    events = FLAGS.timed_events
    seeds = tuple(range(most))
    setting = prepare(dataclasses.replace(config, seeds=seeds, events=events), FLAGS.data_dir)
    rows = []
    for job in jobs_of(config):
        variants: dict[str, Any] = {job.method: job.builds[0]}
        if job.method == "far_sign":
            variants[f"{job.method}, generic oracle"] = Generic(job.builds[0])
        for name, build in variants.items():
            own = job.alone(setting, 0)[1].hyper
            # A hundred times slower than the rest, or two sets of buffers: fewer events.
            few = events // 30 if isinstance(build, Generic) else 70 if job.lockstep else events
            for runs in map(int, FLAGS.runs if not job.lockstep else ["1"]):
                grid = {k: np.full(runs, v[0], np.float32) for k, v in own.items()}
                lanes = setting.lanes.take(np.arange(runs))
                lanes = dataclasses.replace(lanes, hyper=grid)
                row = {"method": f"{name} {job.runs[0][0]}".strip(), "runs": runs}
                rows.append(row | time_method(build, lanes, max(few, 1)))
                print(f"{name}, {runs} runs: {rows[-1]['us']:.0f} us per event", flush=True)
    return rows


def compare_panel(config: Config) -> dict[str, float]:
    """Question 2: one run of CYBER-0 against 7 aggregators x 5 attacks in lock-step."""
    every = dataclasses.replace(
        config, methods=("cyber0",), aggregators=Config().aggregators, attacks=PAPER_ATTACKS
    )
    setting = prepare(every, FLAGS.data_dir)
    (job,) = jobs_of(every)
    events = 70
    figures = {
        "one": clock_program(*job.alone(setting, 0), events, FLAGS.repeats),
        "all": clock_program(job.program, job.lanes(setting), events, FLAGS.repeats),
    }
    row = {
        "runs": len(job.runs),
        "one_us": figures["one"]["us"],
        "all_us": figures["all"]["us"],
    }
    row["times"] = row["all_us"] / row["one_us"]
    print(f"panel of {row['runs']} runs: {row['times']:.2f} times one of them", flush=True)
    return row | {"compile_s": figures["all"]["compile_s"]}


def _base_pass(batch_size: int) -> Callable:
    """Draws a batch and evaluates the network once per event: what any method must pay."""

    def advance(problem, keyring, run, schedule):
        def event(run, worker):
            x, n = run
            key = keys.message(keyring.batches, worker, n)
            batch = problem.shard(worker).batch(key, batch_size)
            nothing = jnp.zeros(1, jnp.int32)
            losses, _ = loss_changes(problem.structure, x, batch, nothing, ())
            # Something must come of it, and enter the next event, or it is optimised away;
            # written where only the run knows, as an event does.
            return (x.at[worker[None]].add(1e-9 * losses.sum()), n + 1), None

        return jax.lax.scan(event, run, schedule)

    return jax.jit(advance, donate_argnames="run")


def grow_first_layer(config: Config) -> list[dict[str, Any]]:
    """Question 2: hidden width and batch fixed, inputs from 784 to 31,250."""
    rng = np.random.default_rng(0)
    rows = []
    for inputs in (784, 31_250):
        shape = (inputs, 1, 1)
        examples = config.workers * max(config.batch_size, 100)
        module = models.mlp()
        images = rng.integers(0, 256, (examples, *shape), dtype=np.uint8)
        labels = rng.integers(0, 10, examples)
        table = rng.permutation(examples).reshape(config.workers, -1)
        sizes = np.full(config.workers, table.shape[1])
        problem = problems.classification(
            module, images, labels, table, sizes, jax.random.key(0)
        )
        build = Build("far_sign", "sign_flip", (), config.feedback)
        system = build(problem, hyper_of("far_sign", config.preset))
        keyring = keys.split(0)
        lies = jnp.asarray(attacks.byzantine_mask(config.workers, config.byzantine))
        order = arrivals.uniform(keyring.schedule, config.workers, FLAGS.timed_events)
        run = simulate._start(system, problem, keyring, "fresh")
        program = functools.partial(simulate._advance, system)
        event = _loop(program, (problem, lies, keyring, "fresh"), run, order)
        state = (jnp.copy(problem.x0), jnp.zeros((), jnp.int32))
        base = _loop(_base_pass(config.batch_size), (problem, keyring), state, order)
        whole, part = take_turns([event, base], len(order))
        rest = [w - p for w, p in zip(whole, part, strict=True)]
        row = {"d": problem.x0.size, "us": statistics.median(whole)}
        row |= {"base_us": statistics.median(part), "rest_us": statistics.median(rest)}
        rows.append(row | {"rest_us_min": min(rest), "rest_us_max": max(rest)})
        print(f"d = {problem.x0.size:,}: {rows[-1]}", flush=True)
    return rows


def torch_peer(config: Config) -> list[dict[str, Any]]:
    """Question 3: FAR-SIGN's event on the same sizes, as one would write it in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]

    m, b, k, h, c = config.workers, config.batch_size, config.directions, 32, 10
    d = 784 * h + h + h * c + c
    images = torch.rand(10_000, 784)
    labels = torch.randint(0, c, (10_000,))
    x, y = 0.05 * torch.randn(d), torch.zeros(m, d)

    def losses(flat, inputs, targets):
        w1, b1, w2, b2 = torch.split(flat, [784 * h, h, h * c, c])
        hidden = torch.relu(inputs @ w1.view(784, h) + b1)
        logits = hidden @ w2.view(h, c) + b2
        return torch.nn.functional.cross_entropy(logits, targets)

    def one_by_one(inputs, targets, j, delta):
        value = torch.empty(k)
        for n, at in enumerate(j.tolist()):
            kept = x[at].item()
            x[at] = kept + delta
            above = losses(x, inputs, targets)
            x[at] = kept - delta
            value[n] = (above - losses(x, inputs, targets)) / (2 * delta)
            x[at] = kept
        return value

    def batched(inputs, targets, j, delta):
        steps = torch.zeros(k, d)
        steps[torch.arange(k), j] = delta
        both = torch.cat([x + steps, x - steps])
        values = torch.func.vmap(losses, in_dims=(0, None, None))(both, inputs, targets)
        return (values[:k] - values[k:]) / (2 * delta)

    def event(oracle):
        i = int(torch.randint(0, m, ()))
        rows = torch.randint(0, len(images), (b,))
        j = torch.randperm(d)[:k]
        value = oracle(images[rows], labels[rows], j, config.delta)
        y[i, j] += 0.5 * (value - y[i, j])
        x[j] -= 0.07 * torch.sign(y[i, j])

    rows = []
    with torch.no_grad():
        for name, oracle in (("one by one", one_by_one), ("batched", batched)):
            timing = spread(
                *take_turns([lambda o=oracle: [event(o) for _ in range(10)] and 0], 10)
            )
            rows.append({"torch": torch.__version__, "oracle": name} | timing)
            print(f"PyTorch, {name}: {timing['us']:.0f} us per event", flush=True)
    return rows


def report(record: dict[str, Any]) -> str:
    """The figures as Markdown."""
    machine = record["environment"]
    text = [f"{machine['device']}, {machine['cpu']}, {machine['cpu_cores']} CPU cores\n"]
    header = [
        "method",
        "runs",
        "µs / event",
        "range",
        "events/s",
        "evaluations/s",
        "compile, s",
    ]
    lines = [
        [
            r["method"],
            str(r["runs"]),
            f"{r['us']:,.0f}",
            f"{r['us_min']:,.0f}-{r['us_max']:,.0f}",
        ]
        + [f"{r['events_per_s']:,.0f}", f"{r['evaluations_per_s']:,.0f}"]
        + [f"{r['compile_s']:.1f}"]
        for r in record["methods"]
    ]
    text.append(results.markdown_table(header, lines))
    p = record["panel"]
    text.append(
        f"CYBER-0 with 7 aggregators under 5 attacks in lock-step, {p['runs']} runs: "
        f"{p['all_us']:,.0f} µs per event, {p['times']:.2f} times one of them "
        f"({p['one_us']:,.0f} µs)\n"
    )
    header = ["d", "µs / event", "base forward pass", "the rest", "range"]
    lines = [
        [f"{r['d']:,}", f"{r['us']:,.0f}", f"{r['base_us']:,.0f}", f"{r['rest_us']:,.0f}"]
        + [f"{r['rest_us_min']:,.0f}-{r['rest_us_max']:,.0f}"]
        for r in record["growth"]
    ]
    text.append(results.markdown_table(header, lines))
    if record["torch"]:
        ours = next(r["us"] for r in record["methods"] if r["method"] == "far_sign")
        lines = [
            [f"PyTorch {r['torch']}, {r['oracle']}", f"{r['us']:,.0f}", f"{r['us'] / ours:.0f}"]
            for r in record["torch"]
        ]
        header = ["the same event", "µs / event", "times ours"]
        text.append(results.markdown_table(header, lines))
    return "\n".join(text)


def throughput() -> None:
    config = configure(CONFIG)
    for runs in FLAGS.runs:
        require(runs.isdigit() and int(runs) > 0, f"--runs are positive numbers: got {runs!r}")
    out = pathlib.Path(FLAGS.out or "results/throughput")
    record = {
        "config": results.plain(config),
        "environment": results.environment(),
        "methods": compare_methods(config),
        "panel": compare_panel(config),
        "growth": grow_first_layer(config),
        "torch": torch_peer(config) if importlib.util.find_spec("torch") else [],
    }
    results.write_text(out / "throughput.json", json.dumps(record, indent=1) + "\n")
    results.write_text(out / "throughput.md", report(record))
    print(f"\n{report(record)}\nwritten to {out}")


if __name__ == "__main__":
    main(throughput)
