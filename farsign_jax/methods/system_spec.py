"""A method, its options and an attack by name, as a value that builds a `System`."""

import dataclasses
from typing import Any

from farsign_jax import attacks
from farsign_jax.base import Problem, System
from farsign_jax.methods.method import Hyper, OracleConfig
from farsign_jax.methods.registry import METHODS, options_of
from farsign_jax.validation import lookup, require


@dataclasses.dataclass(frozen=True)
class SystemSpec:
    """A function `(problem, hyper) -> System` that is equal and hashed by value.

    Two runs whose specifications are equal share one compiled program.

    Attributes:
        method: a name of `METHODS`.
        attack: a name of `attacks.ATTACKS`.
        attack_options: the options of the attack, as pairs of name and value.
        oracle: how workers are asked.
        options: the options of the method, as pairs of name and value, such as
            `(("aggregator", "krum:f=4"), ("buffers", 11))`.
    """

    method: str
    attack: str = "none"
    attack_options: tuple[tuple[str, Any], ...] = ()
    oracle: OracleConfig = dataclasses.field(default_factory=OracleConfig)
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, problem: Problem, hyper: Hyper) -> System:
        """Builds the server, the honest worker and the attack.

        Args:
            problem: what is minimised.
            hyper: the hyper-parameters of the method; numbers, or tracers in a sweep.

        Raises:
            InvalidConfig: on an unknown method, attack or option, and on any value that these
                refuse.
        """
        method = lookup("method", self.method, METHODS)
        known = options_of(self.method)
        for name, _ in self.options:
            require(name in known, f"{self.method} has no option {name!r}: known: {known}")
        server, worker = method.build(problem, self.oracle, hyper, **dict(self.options))
        return System(server, worker, attacks.make(self.attack, **dict(self.attack_options)))
