"""Attacks by name, and masks of the Byzantine workers.

To add an attack, write a function whose parameters are its options and which returns an
`Attack`, and enter it in `ATTACKS`.
"""

from typing import Any, Protocol

import numpy as np

from farsign_jax import specs
from farsign_jax.attacks.messages import (
    constant,
    gaussian,
    none,
    nonfinite,
    random_disturbance,
    sign_flip,
)
from farsign_jax.attacks.omniscient import alie, ipm, mimic, replay
from farsign_jax.attacks.poisoning import backdoor, label_flip
from farsign_jax.base import Attack
from farsign_jax.validation import InvalidConfig, lookup, require


class AttackFactory(Protocol):
    """A function in `ATTACKS`: its parameters are the options of the attack.

    The factory checks its options and raises `InvalidConfig` with the value and the rule.
    """

    def __call__(self, *args: Any, **options: Any) -> Attack: ...


ATTACKS: dict[str, AttackFactory] = {
    "none": none,
    "sign_flip": sign_flip,
    "constant": constant,
    "same_value": constant,
    "gaussian": gaussian,
    "random_disturbance": random_disturbance,
    "alie": alie,
    "ipm": ipm,
    "mimic": mimic,
    "replay": replay,
    "nonfinite": nonfinite,
    "label_flip": label_flip,
    "backdoor": backdoor,
}

SPACES = ("message", "measured")  # see `messages`


def parameters(name: str) -> specs.Parameters:
    """The options of the attack of that name, `space` among them."""
    return specs.parameters(lookup("attack", name, ATTACKS)) | specs.option("space", str)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of `name:option=value,...`, for `make(name, **options)`.

    Raises:
        InvalidConfig: if the name or an option does not exist, or a value has another type.
    """
    name, options = specs.parse(text)
    return name, specs.typed(name, options, parameters(name))


def make(name: str, space: str | None = None, **options: Any) -> Attack:
    """Makes the attack of that name.

    Args:
        name: one of `ATTACKS`, perhaps with options, as in "sign_flip:scale=10".
        space: what the attack replaces, "message" or "measured"; None for its own default.
        options: further options of the attack.

    Raises:
        InvalidConfig: if the name or an option does not exist, or a value is refused.
    """
    name, given = parse(name)
    options = dict(specs.joined(name, given, options))
    if "space" in options:
        require(space is None, f"an option of {name} is given twice: space")
        space = options.pop("space")
    factory = lookup("attack", name, ATTACKS)
    require(space in (None, *SPACES), f"space is one of {SPACES}: got {space!r}")
    known = parameters(name)
    for option in options:
        lookup(f"option of {name}", option, known)
    try:
        attack = factory(**options)
    except TypeError as error:
        raise InvalidConfig(f"attack {name!r}: {error}") from None
    return attack if space is None else attack._replace(space=space)


def byzantine_mask(num_workers: int, byzantine: Any) -> np.ndarray:
    """The mask of the Byzantine workers.

    Args:
        num_workers: m.
        byzantine: the number q of Byzantine workers, which are then the first ones; or a mask
            bool[m]; or P masks bool[P, m].

    Returns:
        bool[m], or bool[P, m] for P masks.

    Raises:
        InvalidConfig: if no worker is honest, or a mask does not have m entries.
    """
    m = num_workers
    if np.ndim(byzantine) == 0:
        q = byzantine
        require(np.isfinite(q) and q == int(q), f"byzantine is an integer: got {q}")
        require(0 <= q < m, f"need 0 <= byzantine < workers: got byzantine={q}, workers={m}")
        return np.arange(m) < q
    mask = np.asarray(byzantine, bool)
    good = mask.ndim in (1, 2) and mask.shape[-1] == m and mask.size > 0
    require(good, f"need a mask of {m} workers: got shape {mask.shape}")
    require(not mask.all(axis=-1).any(), f"need an honest worker: all {m} are Byzantine")
    return mask
