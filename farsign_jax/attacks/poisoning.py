"""Attacks on data: a Byzantine worker computes honestly, but on examples that it has changed.

What it sends is the answer of an honest worker with other examples, whatever the method asks
for: a gradient, derivatives along directions, or a local model. An attack of this kind says in
`Attack.poison` what becomes of the examples. It needs a problem whose examples have labels, and
ignores the option `space`.
"""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

import jax.numpy as jnp
import numpy as np

from farsign_jax.attacks.messages import none
from farsign_jax.attacks.stateless import check_finite
from farsign_jax.base import Array, Attack
from farsign_jax.validation import check_integer, lookup, require

Examples = tuple[Array, Array]  # inputs [b, ...] and labels i32[b]

# Where a trigger begins: whether at the last rows, and whether at the last columns.
CORNERS = {
    "top_left": (False, False),
    "top_right": (False, True),
    "bottom_left": (True, False),
    "bottom_right": (True, True),
}


def label_flip(offset: int | None = None) -> Attack:
    """Replaces the label y of every example by C - 1 - y, with C classes.

    Args:
        offset: None for C - 1 - y, as in the paper and in ByzFL; a number >= 1, for
            (y + offset) mod C.

    Raises:
        InvalidConfig: if the offset is not a whole number >= 1; when the run starts, if it is
            a multiple of C.

    References:
        Fang, Cao, Jia and Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated
        Learning", USENIX Security 2020.
    """
    if offset is not None:
        offset = check_integer("label_flip", "offset", offset, 1)

    def poison(examples: Examples, rows: Array, num_classes: int) -> Examples:
        inputs, labels = examples
        if offset is None:
            return inputs, num_classes - 1 - labels
        rule = f"label_flip needs an offset that is no multiple of the {num_classes} classes"
        require(offset % num_classes != 0, f"{rule}: got {offset}")
        return inputs, (labels + offset % num_classes) % num_classes

    return none()._replace(poison=poison)


def targeted(source: int = 1, target: int = 7) -> Attack:
    """Labels every example of one class as another class, and leaves the others as they are.

    The model shall confuse these two classes and be right otherwise.

    Args:
        source: the class whose examples are labelled wrongly.
        target: the label that they are given.

    Raises:
        InvalidConfig: if they are the same or no whole numbers >= 0; when the run starts, if
            there is no such class.

    References:
        Tolpegin, Truex, Gursoy and Liu, "Data Poisoning Attacks Against Federated Learning
        Systems", ESORICS 2020.
    """
    source = check_integer("targeted", "source", source, 0)
    target = check_integer("targeted", "target", target, 0)
    require(
        source != target, f"targeted needs two classes: got source={source}, target={target}"
    )

    def poison(examples: Examples, rows: Array, num_classes: int) -> Examples:
        inputs, labels = examples
        rule = (
            f"targeted needs source and target in 0..{num_classes - 1}: got {source}, {target}"
        )
        require(max(source, target) < num_classes, rule)
        return inputs, jnp.where(labels == source, target, labels).astype(labels.dtype)

    return none()._replace(poison=poison)


def backdoor(
    target: int = 0,
    size: int = 3,
    value: float = 1.0,
    corner: str = "bottom_right",
    fraction: float = 0.5,
) -> Attack:
    """Paints a square into images and labels them with the class that the attacker wants.

    The model shall behave as usual until it sees an image with this trigger. Whether an example
    of a Byzantine worker has the trigger is decided once for the whole run, by the number of
    its row, so that the worker's data do not change: each of its mini-batches has about
    `fraction` of such examples.

    Args:
        target: the label of images with the trigger.
        size: the number of rows and columns of the square, in pixels.
        value: the brightness of the square; in images of bytes, 1 is 255.
        corner: the corner of the image that the square fills: "top_left", "top_right",
            "bottom_left" or "bottom_right".
        fraction: the part of a Byzantine worker's examples that have the trigger, in (0, 1].

    Raises:
        InvalidConfig: if an option is out of range; when the run starts, if the inputs are not
            images, or the square is larger than they are, or there is no such label.

    References:
        Gu, Dolan-Gavitt and Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning
        Model Supply Chain", arXiv 1708.06733; Bagdasaryan et al., "How To Backdoor Federated
        Learning", AISTATS 2020.
    """
    target = check_integer("backdoor", "target", target, 0)
    size = check_integer("backdoor", "size", size, 1)
    check_finite("backdoor", "value", value)
    bottom, right = lookup("corner of backdoor", corner, CORNERS)
    rule = f"backdoor needs 0 < fraction <= 1: got {fraction}"
    require(0 < fraction <= 1, rule)

    def goal(examples: Examples, rows: Array, num_classes: int) -> Examples:
        inputs, labels = examples
        rule = f"backdoor needs target in 0..{num_classes - 1}: got {target}"
        require(target < num_classes, rule)
        return _with_square(inputs, size, value, bottom, right), jnp.full_like(labels, target)

    def poison(examples: Examples, rows: Array, num_classes: int) -> Examples:
        chosen = _some(rows, fraction)
        pairs = zip(examples, goal(examples, rows, num_classes), strict=True)
        images, labels = (
            jnp.where(chosen.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
            for old, new in pairs
        )
        return images, labels

    return none()._replace(poison=poison, goal=goal)


def _with_square(inputs: Array, size: int, value: float, bottom: bool, right: bool) -> Array:
    """The images [b, height, width, ...] with a bright square in a corner."""
    shape = list(inputs.shape[1:])
    rule = f"backdoor needs images [height, width, channels]: got inputs {shape}"
    require(len(shape) in (2, 3), rule)
    rule = f"backdoor needs size <= {min(shape[:2])} in images {shape}: got {size}"
    require(size <= min(shape[:2]), rule)
    paint: Any = value
    if jnp.issubdtype(inputs.dtype, jnp.integer):
        require(0 <= value <= 1, f"backdoor needs 0 <= value <= 1 in bytes: got {value}")
        paint = round(255 * float(value))
    rows = slice(-size, None) if bottom else slice(size)
    columns = slice(-size, None) if right else slice(size)
    return jnp.asarray(inputs).at[:, rows, columns].set(jnp.asarray(paint, inputs.dtype))


def _some(rows: Array, fraction: float) -> Array:
    """Whether each row, i32[b], belongs to a fixed part of the rows, spread evenly.

    Multiples of the golden ratio modulo 1 are spread evenly over [0, 1], of consecutive numbers
    as of others (Knuth, "The Art of Computer Programming", vol. 3, Section 6.4).
    """
    spread = rows.astype(jnp.uint32) * np.uint32(2654435769)  # modulo 2^32
    return spread >> 8 < np.uint32(round(fraction * 2**24))
