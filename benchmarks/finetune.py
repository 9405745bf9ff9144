"""The passes of fine-tuning by forward passes, beside inference and a loop in PyTorch.

    python -m benchmarks.finetune                 about 1.5 minutes on two cores
    python -m benchmarks.finetune --networks small

For each model, all of these in turns on the same mini-batches:

    inference        the losses of a mini-batch, nothing else
    subspace         an answer about k directions of rank 1, k + 1 passes
    one by one       the same answer, each perturbed model evaluated from its first layer on
    mezo             one direction of all parameters, 2 passes
    PyTorch, mezo    the same in PyTorch, as is usual there, if it is installed: perturb all
                     parameters in place, evaluate, perturb back, evaluate, restore and update

`small` is the transformer of `experiments.finetune`; `minilm` is a BERT with the sizes of
all-MiniLM-L6-v2, 22.7 million parameters. Parameters are drawn: values do not change times.

Writes finetune.json and finetune.md under --out (default results/finetune).
"""

import importlib.util
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.timing import machine, take_turns, write
from farsign_jax import directions, models, oracles, problems
from farsign_jax.base import Query, Worker
from farsign_jax.directions.random_directions import random_directions
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import FLAGS
from farsign_jax.io import provenance, tables
from farsign_jax.models.bert import Bert
from farsign_jax.models.transformer import Transformer
from farsign_jax.problems.supervised import loss_of_each
from farsign_jax.validation import lookup, require

flags.DEFINE_list("networks", "small,minilm", "The models that are timed.")


class Case(NamedTuple):
    """A model and what it reads."""

    module: Any  # a `BlockStack`
    length: int  # of a text
    batch: int = 8
    directions: int = 8


CASES = {
    "small": Case(
        Transformer(layers=2, num_classes=3, vocabulary=64, width=64, heads=4, context=24),
        length=24,
    ),
    "minilm": Case(
        Bert(
            layers=6,
            num_classes=3,
            vocabulary=30_522,
            width=384,
            heads=12,
            hidden=1536,
            context=512,
        ),
        length=32,
    ),
}
SUBSPACE = "low_rank:size=256,layers=blocks/*"
DELTA = 0.1


def _answer(worker: Worker, problem: Any, x: Any, direction: Any) -> Callable[[], Any]:
    """A call that lets a worker answer once."""
    query = Query(x, jnp.int32(0), direction, jnp.int32(0))

    @jax.jit
    def answer(problem: Any, query: Query, key: Any) -> Any:
        return worker.respond((), query, problem.shard(jnp.int32(0)), key)[1]

    problem, key = jax.device_put(problem), jax.random.key(1)
    return lambda: answer(problem, query, key)


def calls_of(case: Case) -> dict[str, tuple[Callable[[], Any], int, int]]:
    """What is timed: a call, and the passes and the directions of one call."""
    rng, shape = np.random.default_rng(0), (64, case.length)
    inputs = rng.integers(1, case.module.vocabulary, shape).astype(np.int32)
    labels = rng.integers(0, 3, len(inputs))
    rows, sizes = np.arange(len(inputs))[None], np.asarray([len(inputs)])
    model = problems.subspace_model(case.module, (case.length,), SUBSPACE)
    thin = problems.in_subspace(model, model.frozen(), inputs, labels, rows, sizes)
    whole = problems.classification(case.module, inputs, labels, rows, sizes, jax.random.key(0))
    x, flat = whole.x0, models.flatten(case.module, (case.length,))
    tree = jax.jit(flat.tree)(x)  # as a model is stored; `whole.losses` cut it out of a vector

    @jax.jit
    def losses(tree: Any, batch: Any) -> Any:
        inputs, labels = batch
        logits: Any = case.module.apply({"params": tree}, inputs)
        return loss_of_each(logits, labels)

    batch = whole.shard(jnp.int32(0)).take(jnp.arange(case.batch))
    k, d = case.directions, x.shape[-1]
    some = jnp.arange(k, dtype=jnp.int32)
    how = {"batch_size": case.batch, "delta": DELTA}
    shared = directions.identity(model.size, k)
    fast = oracles.zeroth_order(thin, shared, **how, scheme="forward")
    slow = oracles.two_point(thin.losses, shared, **how, scheme="forward")
    along = random_directions(d, 1, "gaussian")
    mezo = oracles.random_two_point(whole, along, **how, message="scalar")
    seed = jnp.asarray([1, 2], jnp.uint32)
    found = {
        "inference": (lambda: losses(tree, batch), 1, 0),
        "subspace": (_answer(fast, thin, thin.x0, some), k + 1, k),
        "one by one": (_answer(slow, thin, thin.x0, some), k + 1, k),
        "mezo": (_answer(mezo, whole, x, seed), 2, 1),
    }
    if importlib.util.find_spec("torch"):
        found["PyTorch, mezo"] = (_torch_mezo(case), 2, 1)
    return found


def _torch_mezo(case: Case) -> Callable[[], Any]:
    """A step of MeZO on an encoder of the same sizes in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]

    module, block = case.module, case.module.make_block()
    layer = torch.nn.TransformerEncoderLayer(
        block.width, block.heads, block.hidden, 0.0, activation="gelu", batch_first=True
    )
    blocks = torch.nn.TransformerEncoder(layer, module.layers, enable_nested_tensor=False)
    embedding = torch.nn.Embedding(module.vocabulary, block.width)
    last = torch.nn.Linear(block.width, 3)
    parts = torch.nn.ModuleList([embedding, blocks, last]).eval()
    tokens = torch.randint(1, module.vocabulary, (case.batch, case.length))
    labels = torch.randint(0, 3, (case.batch,))
    parameters = list(parts.parameters())

    def perturb(seed: int, amount: float) -> None:
        torch.manual_seed(seed)
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter), alpha=amount)

    def loss() -> Any:
        h = blocks(embedding(tokens)).mean(dim=1)
        return torch.nn.functional.cross_entropy(last(h), labels)

    def step() -> None:
        with torch.no_grad():
            perturb(0, 1e-3)
            above = loss()
            perturb(0, -2e-3)
            difference = float(above - loss()) / 2e-3
            perturb(0, 1e-3 - 1e-9 * difference)

    return step


def rows_of(name: str, case: Case) -> list[dict[str, Any]]:
    """The figures of a model, a row for each way to spend its passes."""
    calls = calls_of(case)
    timings = take_turns([call for call, _, _ in calls.values()], 1)
    inference, torch_us, rows = statistics.median(timings[0]), None, []
    flat = models.flatten(case.module, (case.length,))
    for (what, (_, passes, count)), times in zip(calls.items(), timings, strict=True):
        us = statistics.median(times)
        row = {"model": name, "parameters": flat.dim, "what": what, "us": us}
        row |= {"us_min": min(times), "us_max": max(times), "passes": passes}
        row |= {"directions": count, "of_inference": passes * inference / us}
        rows.append(row)
        if what.startswith("PyTorch"):
            torch_us = us / count
    for row in rows:
        if torch_us is not None and row["directions"]:
            row["times_torch"] = torch_us * row["directions"] / row["us"]
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The figures as Markdown."""
    header = ["model", "parameters", "what", "ms a call", "passes", "ms a direction"]
    header += ["of the throughput of inference", "times PyTorch, directions"]
    lines = []
    for row in rows:
        each = f"{row['us'] / 1e3 / row['directions']:.3g}" if row["directions"] else ""
        times = f"{row['times_torch']:.3g}" if "times_torch" in row else ""
        line = [row["model"], f"{row['parameters']:,}", row["what"], f"{row['us'] / 1e3:.3g}"]
        lines.append([*line, f"{row['passes']}", each, f"{row['of_inference']:.2f}", times])
    return tables.markdown_table(header, lines)


def finetune() -> pathlib.Path:
    require(len(FLAGS.networks) > 0, f"--networks is empty: known: {', '.join(CASES)}")
    rows = []
    for name in FLAGS.networks:
        rows += rows_of(name, lookup("model", name, CASES))
        print(rows[-1], flush=True)
    record = {"environment": provenance.environment(), "rows": rows}
    text = f"{machine(record['environment'])}\n\n{table(rows)}"
    return write("finetune", record, text)


if __name__ == "__main__":
    main(finetune, own=("networks", "repeats"), reads=("out",))
