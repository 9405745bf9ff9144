"""A method, its options and an attack by name, as a value that builds a `System`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from farsign_jax import attacks, specs
from farsign_jax.base import Attack, Problem, System
from farsign_jax.methods.method import Hyper, OracleConfig
from farsign_jax.methods.registry import METHODS, hyper_of, options_of, parse
from farsign_jax.validation import lookup, require

Options = Mapping[str, Any] | tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class SystemSpec:
    """A function `(problem, hyper) -> System` that is equal and hashed by value.

    Two runs whose specifications are equal share one compiled program. Options are given in
    the text of a name, as on the command lines, or beside it, as a dictionary or as pairs;
    the fields then hold the bare name and pairs.

        SystemSpec("cyber0:buffers=7", "sign_flip:scale=10", options={"aggregator": "median"})

    Attributes:
        method: a name of `METHODS`, perhaps with options.
        attack: a name of `attacks.ATTACKS`, perhaps with options.
        attack_options: the options of the attack.
        oracle: how workers are asked.
        options: the options of the method. Hyper-parameters among them take the place of those
            that the call is given.

    Raises:
        InvalidConfig: on an unknown method, attack or option, and on an option that is given
            twice.
    """

    method: str
    attack: str = "none"
    attack_options: Options = ()
    oracle: OracleConfig = dataclasses.field(default_factory=OracleConfig)
    options: Options = ()

    def __post_init__(self) -> None:
        method, options = parse(self.method)
        attack, attack_options = attacks.parse(self.attack)
        for name, value in (
            ("method", method),
            ("options", specs.joined(method, options, self.options)),
            ("attack", attack),
            ("attack_options", specs.joined(attack, attack_options, self.attack_options)),
        ):
            object.__setattr__(self, name, value)
        known = dict.fromkeys([*options_of(method), *hyper_of(method, "paper")])
        for option in dict(self.options):
            lookup(f"option of {method}", option, known)

    def __call__(self, problem: Problem, hyper: Hyper) -> System:
        """Builds the server, the honest worker and the attack.

        Args:
            problem: what is minimised.
            hyper: the hyper-parameters of the method; numbers, or tracers in a sweep.

        Raises:
            InvalidConfig: if a hyper-parameter is missing or unknown, and on any value that the
                method or the attack refuses.
        """
        numbers, options = hyper_of(self.method, "paper"), dict(self.options)
        rule = f"hyper-parameters are a dictionary of {', '.join(numbers)}: got {hyper!r}"
        require(isinstance(hyper, Mapping), rule)  # pyright: ignore
        for name in hyper:
            lookup(f"hyper-parameter of {self.method}", name, numbers)
        hyper = {**hyper, **{name: options.pop(name) for name in numbers if name in options}}
        missing = ", ".join(name for name in numbers if name not in hyper)
        given = ", ".join(hyper) or "none"
        require(not missing, f"{self.method} needs hyper-parameters {missing}: got {given}")
        method = METHODS[self.method]
        server, worker = method.build(problem, self.oracle, hyper, **options)
        if method.works_in_rounds:  # whoever wrote its server need not say so again
            server = server._replace(in_rounds=True)
        return System(server, worker, self.make_attack())

    def make_attack(self) -> Attack:
        """Makes the attack, which is told the aggregator that the server uses."""
        options, known = dict(self.attack_options), attacks.parameters(self.attack)
        in_use = self.aggregator_in_use()
        if "aggregator" in known and in_use:
            options.setdefault("aggregator", in_use)
        return attacks.make(self.attack, **options)

    def aggregator_in_use(self) -> str:
        """The aggregator of the method: chosen by an option, of its vote, or fixed; else ""."""
        options = dict(self.options)
        for option in ("aggregator", "vote"):
            if (name := options.get(option, "own")) != "own":
                return str(name)
        return METHODS[self.method].fixed_aggregator
