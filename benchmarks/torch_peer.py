"""The same event of FAR-SIGN in PyTorch, on the same sizes, written as is usual there.

"one by one" changes a coordinate, evaluates the loss and restores the coordinate; "batched"
evaluates all points with `torch.func.vmap`.
"""

import importlib.util
import math
from typing import Any

from benchmarks.counts import Sizes
from benchmarks.timing import take_turns
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness.timing import spread

EVENTS = 10  # events per timing


def measure(config: PanelConfig, sizes: Sizes) -> list[dict[str, Any]]:
    """Microseconds per event of each variant; an empty list if PyTorch is not installed."""
    if not importlib.util.find_spec("torch"):
        return []
    import torch  # pyright: ignore[reportMissingImports]

    rows = []
    with torch.no_grad():
        for name, event in _events(torch, config, sizes).items():

            def several(event=event):
                for _ in range(EVENTS):
                    event()

            timing = spread(*take_turns([several], EVENTS))
            rows.append({"torch": torch.__version__, "oracle": name} | timing)
    return rows


def _losses(torch: Any, sizes: Sizes) -> Any:
    """The function `(x [d], inputs, labels) -> mean loss`."""
    shapes = [shape for a, b in sizes.layers for shape in ((a, b), (b,))]
    numbers = [math.prod(shape) for shape in shapes]

    def losses(flat, inputs, labels):
        parts = torch.split(flat, numbers)
        parts = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        h = inputs
        for n in range(0, len(parts), 2):
            h = (torch.relu(h) if n else h) @ parts[n] + parts[n + 1]
        return torch.nn.functional.cross_entropy(h, labels)

    return losses


def _events(torch: Any, config: PanelConfig, sizes: Sizes) -> dict[str, Any]:
    """Each variant of the oracle in an event: the query, the answer and its delivery."""
    m, b, k, d, delta = config.workers, sizes.batch, sizes.directions, sizes.dim, config.delta
    images = torch.rand(10_000, sizes.layers[0][0])
    labels = torch.randint(0, sizes.classes, (10_000,))
    x, y = 0.05 * torch.randn(d), torch.zeros(m, d)
    losses = _losses(torch, sizes)

    def one_by_one(inputs, targets, j):
        value = torch.empty(k)
        for n, at in enumerate(j.tolist()):
            kept = x[at].item()
            x[at] = kept + delta
            above = losses(x, inputs, targets)
            x[at] = kept - delta
            value[n] = (above - losses(x, inputs, targets)) / (2 * delta)
            x[at] = kept
        return value

    def batched(inputs, targets, j):
        steps = torch.zeros(k, d)
        steps[torch.arange(k), j] = delta
        both = torch.cat([x + steps, x - steps])
        values = torch.func.vmap(losses, in_dims=(0, None, None))(both, inputs, targets)
        return (values[:k] - values[k:]) / (2 * delta)

    def event(oracle):
        i = int(torch.randint(0, m, ()))
        rows = torch.randint(0, len(images), (b,))
        j = torch.randperm(d)[:k]
        value = oracle(images[rows], labels[rows], j)
        y[i, j] += 0.5 * (value - y[i, j])
        x[j] -= 0.07 * torch.sign(y[i, j])

    return {"one by one": lambda: event(one_by_one), "batched": lambda: event(batched)}
