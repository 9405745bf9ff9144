"""Attacks by name, and masks of the Byzantine workers.

To add an attack, write a function whose parameters are its options and which returns an
`Attack`, and enter it in `ATTACKS`.
"""

from typing import Any, Protocol

import numpy as np

from farsign_jax import specs
from farsign_jax.attacks import roles
from farsign_jax.attacks.alie import alie, drift, hybrid_sparse, trapsetter
from farsign_jax.attacks.distances import min_max, min_sum
from farsign_jax.attacks.messages import (
    constant,
    gaussian,
    none,
    nonfinite,
    random_disturbance,
    sign_flip,
)
from farsign_jax.attacks.omniscient import ipm, mimic, oracle_flip, replay
from farsign_jax.attacks.poisoning import backdoor, label_flip, targeted
from farsign_jax.attacks.searching import fall_of_empires, inner_max
from farsign_jax.base import Attack
from farsign_jax.validation import InvalidConfig, check_integer, lookup, require


class AttackFactory(Protocol):
    """A function in `ATTACKS`: its parameters are the options of the attack.

    The factory checks its options and raises `InvalidConfig` with the value and the rule.
    """

    def __call__(self, *args: Any, **options: Any) -> Attack: ...


def split_roles(first: str = "alie:z=1.5", second: str = "ipm:epsilon=10") -> Attack:
    """Lets Byzantine workers split two roles: every other one of them has the second.

    Args:
        first: an attack with at most one option, as in alie:z=1.5.
        second: the other attack.

    Raises:
        InvalidConfig: if there is no such attack, it is on data, or the two differ in `space`,
            or in whether they ask.
    """
    one, two = make(first), make(second)
    rule = f"split_roles is for attacks on messages: got {first!r}, {second!r}"
    require(one.poison is None and two.poison is None, rule)
    alike = one.space == two.space and one.asks == two.asks
    require(
        alike, f"split_roles needs attacks with the same space and asks: got {first}, {second}"
    )

    return roles.split(one, two)


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
    "oracle_flip": oracle_flip,
    "drift": drift,
    "hybrid_sparse": hybrid_sparse,
    "trapsetter": trapsetter,
    "min_max": min_max,
    "min_sum": min_sum,
    "fall_of_empires": fall_of_empires,
    "inner_max": inner_max,
    "split_roles": split_roles,
    "label_flip": label_flip,
    "targeted": targeted,
    "backdoor": backdoor,
}

SPACES = ("message", "measured")  # see `messages`
# The options that every attack has.
COMMON: specs.Parameters = (
    specs.option("space", str) | specs.option("asks", int) | specs.option("after", int)
)


def parameters(name: str) -> specs.Parameters:
    """The options of the attack of that name, those of every attack among them."""
    return specs.parameters(lookup("attack", name, ATTACKS)) | COMMON


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of `name:option=value,...`, for `make(name, **options)`.

    Raises:
        InvalidConfig: if the name or an option does not exist, or a value has another type.
    """
    name, options = specs.parse(text)
    return name, specs.typed(name, options, parameters(name))


def make(name: str, space: str | None = None, **options: Any) -> Attack:
    """Makes the attack of that name.

    Every attack has these options beside its own:

        space: what it replaces, "message" or "measured"; by default what the attack says.
        asks: for an attack that uses what honest workers reported, how many mini-batches they
            compute for the Byzantine worker's own question before each lie; 0, it knows what
            they last reported.
        after: in how many events Byzantine workers are honest before they lie.

    Args:
        name: one of `ATTACKS`, perhaps with options, as in "sign_flip:scale=10".
        space: the option of that name; None leaves it to the text and to the attack.
        options: further options of the attack.

    Raises:
        InvalidConfig: if the name or an option does not exist, or a value is refused.
    """
    name, given = parse(name)
    more = options if space is None else {"space": space, **options}
    options = dict(specs.joined(name, given, more))
    factory, known = lookup("attack", name, ATTACKS), parameters(name)
    for option in options:
        lookup(f"option of {name}", option, known)
    common = {option: options.pop(option) for option in COMMON if option in options}
    try:
        attack = factory(**options)
    except TypeError as error:
        raise InvalidConfig(f"attack {name!r}: {error}") from None
    return _with_common(name, attack, common)


def _with_common(name: str, attack: Attack, options: dict[str, Any]) -> Attack:
    """The attack with the options that every attack has."""
    if (space := options.get("space")) is not None:
        require(space in SPACES, f"space is one of {SPACES}: got {space!r}")
        attack = attack._replace(space=space)
    if (asks := options.get("asks")) is not None:
        asks = check_integer(name, "asks", asks, 0)
        knows = attack.omniscient or attack.asks
        rule = f"{name} uses no answers of honest workers, so that it can ask for none"
        require(knows or asks == 0, f"{rule}: got asks={asks}")
        attack = attack._replace(asks=asks, omniscient=bool(knows and not asks))
    if (after := options.get("after")) is not None:
        attack = attack._replace(after=check_integer(name, "after", after, 0))
    return attack


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
