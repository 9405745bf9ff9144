"""An adversary as a value: what Byzantine workers send, when, and who they are."""

import dataclasses
import json
from typing import Any

from farsign_jax import attacks, specs
from farsign_jax.attacks.timing import TIMING_ATTACKS
from farsign_jax.config.settings import PLACEMENTS
from farsign_jax.io import files
from farsign_jax.validation import InvalidConfig, lookup, require

VERSION = 1  # of the JSON


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversary:
    """The settings of a run that are the adversary's, under the names that a run gives them.

    `dataclasses.replace(config, **adversary.settings())` runs a `RunConfig` under it, and so do
    the flags `--attacks`, `--timing_attack` and `--byzantine_placement`.

    Attributes:
        attack: what Byzantine workers send, as in "alie:z=2.5,after=500".
        timing_attack: when they answer, as in "flood:rate=5".
        byzantine_placement: who is Byzantine, one of first, one_buffer and rotating.
    """

    attack: str = "none"
    timing_attack: str = "none"
    byzantine_placement: str = "first"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(isinstance(value, str), f"{field.name} is a text: got {value!r}")
        name, options = attacks.parse(self.attack)
        attacks.make(name, **options)
        name, texts = specs.parse(self.timing_attack)
        known = lookup("timing_attack", name, {"none": None, **TIMING_ATTACKS})
        if known is not None:
            specs.typed(name, texts, specs.parameters(known, skip=1))
        lookup("byzantine_placement", self.byzantine_placement, PLACEMENTS)

    def settings(self) -> dict[str, str]:
        """The settings by name."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        usual = Adversary()
        parts = [self.attack]
        for name in ("timing_attack", "byzantine_placement"):
            if getattr(self, name) != getattr(usual, name):
                parts.append(getattr(self, name))
        return " + ".join(parts)

    def to_json(self) -> str:
        """A JSON object, for `from_json`."""
        return files.json_text({"version": VERSION, **self.settings()}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Adversary":
        """An adversary from a JSON object.

        Raises:
            InvalidConfig: if it is no JSON object, of another version, or names what does not
                exist.
        """
        try:
            found: Any = json.loads(text)
        except ValueError as error:
            raise InvalidConfig(f"an adversary is a JSON object: {error}") from None
        require(isinstance(found, dict), f"an adversary is a JSON object: got {text.strip()}")
        version = found.pop("version", None)
        require(version == VERSION, f"an adversary has version {VERSION}: got {version}")
        known = {field.name: field for field in dataclasses.fields(cls)}
        for name in found:
            lookup("field of an adversary", name, known)
        return cls(**found)
