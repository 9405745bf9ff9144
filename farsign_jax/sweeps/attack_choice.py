"""Runs that differ in their attack, in one program: the attack is a number of each run.

What compiles is a server, its workers and a list of attacks, of which each run carries out the
one that its hyper-parameters name, at the strength and from the event on that they name.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax import attacks, simulation, specs
from farsign_jax.base import Attack, Problem, System
from farsign_jax.methods import SystemSpec


class Family(NamedTuple):
    """Attacks that differ in one number.

    Attributes:
        text: an attack as it is written, without the option that differs.
        option: the option that differs; "" if none does.
    """

    text: str
    option: str = ""

    def written(self, strength: float, after: int = 0) -> str:
        """The attack as it is written, with its strength, and honest before event `after`."""
        options = [f"{self.option}={strength:.9g}"] if self.option else []
        options += [f"after={after}"] if after else []
        return specs.extended(self.text, *options)


@dataclasses.dataclass(frozen=True)
class AttackChoice:
    """`(problem, hyper) -> System` of a run under the attack that its numbers choose.

    `hyper` has beside the hyper-parameters of the method: `attack` i32[], the number of the
    family; `strength` f32[], the value of its option; `after` i32[], the events in which
    Byzantine workers are honest, if the text of the family does not name more.

    Attributes:
        build: the method. Its own attack is not used.
        families: what can be chosen.
    """

    build: SystemSpec
    families: tuple[Family, ...]

    def __call__(self, problem: Problem, hyper: Any) -> System:
        numbers = dict(hyper)
        chosen, strength, after = (numbers.pop(n) for n in ("attack", "strength", "after"))
        system = self.build(problem, numbers)
        each = [
            # What is not chosen has a strength that every attack accepts.
            self._make(family, jnp.where(chosen == number, strength, 1))
            for number, family in enumerate(self.families)
        ]
        return system._replace(attack=_chosen(each, chosen, after, system))

    def _make(self, family: Family, strength: Any) -> Attack:
        name, options = attacks.parse(family.text)
        if family.option:
            options[family.option] = strength
        return dataclasses.replace(
            self.build, attack=name, attack_options=tuple(options.items())
        ).make_attack()


def _chosen(each: Sequence[Attack], number: Any, after: Any, system: System) -> Attack:
    """The attack of that number; where runs take turns, only this one is computed."""
    after = jnp.maximum(after, jnp.asarray([attack.after for attack in each])[number])

    def init(num_workers: int) -> Any:
        return tuple(attack.init(num_workers) for attack in each)

    asks = max(attack.asks for attack in each)

    def forge(states: Any, report: Any, view: Any, key: Any) -> Any:
        if asks:  # one computation for all attacks that ask, and only for these
            like = jax.eval_shape(view.asked)
            none = lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)  # noqa: E731
            asking = jnp.asarray([bool(attack.asks) for attack in each])
            answers = jax.lax.cond(asking[number], view.asked, none)
            view = view._replace(asked=lambda: answers)

        def branch(i: int) -> Any:
            def act(states: Any) -> Any:
                one, value = simulation.apply_attack(
                    each[i], system.worker.encode, states[i], report, view, key
                )
                return (*states[:i], one, *states[i + 1 :]), value

            return act

        after_it, value = jax.lax.switch(number, [branch(i) for i in range(len(each))], states)
        lies = view.event >= after
        return jax.tree.map(
            lambda new, old: jnp.where(lies, new, old),
            (after_it, value),
            (states, report.value),
        )

    def poison(examples: Any, rows: Any, num_classes: int) -> Any:
        spoiled = examples
        for i, attack in enumerate(each):
            if attack.poison is not None:
                new = attack.poison(examples, rows, num_classes)
                spoiled = jax.tree.map(
                    lambda a, b, i=i: jnp.where(number == i, a, b), new, spoiled
                )
        return spoiled

    spaces = {str(attack.space) for attack in each if attack.omniscient}
    return Attack(
        init,
        forge,
        bool(spaces),
        tuple(sorted(spaces)),
        poison if any(attack.poison for attack in each) else None,
        asks=asks,
        after=after,
    )
