"""The adversaries among which the strongest is searched: a space, draws from it and changes.

A point of the space says which attack, at which strength, from when on, with which timing and
by whom. Strengths lie on a geometric scale, as nobody knows their order of magnitude.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from farsign_jax.harness.adversary import Adversary
from farsign_jax.sweeps import Family


class Kind(NamedTuple):
    """A family of attacks, and the range of its strength."""

    family: Family
    low: float = 1.0
    high: float = 1.0
    signed: bool = False


def _kind(
    text: str, option: str = "", low: float = 1.0, high: float = 1.0, **more: bool
) -> Kind:
    return Kind(Family(text, option), low, high, **more)


KINDS = (
    _kind("sign_flip", "scale", 0.1, 100),
    _kind("constant", "value", 0.01, 1000, signed=True),
    _kind("constant:space=message", "value", 0.001, 100, signed=True),
    _kind("gaussian", "std", 0.01, 1000),
    _kind("random_disturbance", "scale", 0.1, 100),
    _kind("alie", "z", 0.2, 20, signed=True),
    _kind("alie:space=measured", "z", 0.2, 20, signed=True),
    _kind("alie:asks=1", "z", 0.2, 20, signed=True),
    _kind("ipm", "epsilon", 0.05, 100),
    _kind("fall_of_empires"),
    _kind("oracle_flip", "scale", 0.05, 100),
    _kind("inner_max"),
    _kind("inner_max:asks=1"),
    _kind("min_max:direction=std"),
    _kind("min_max:direction=sign"),
    _kind("min_max:direction=mean"),
    _kind("min_sum:direction=mean"),
    _kind("drift", "z", 0.2, 20),
    _kind("hybrid_sparse", "scale", 1.0, 100),
    _kind("trapsetter", "z", 0.2, 20),
    _kind("mimic"),
    _kind("replay"),
    _kind("split_roles:first=alie:z=1.5,second=ipm:epsilon=10"),
    _kind("split_roles:first=min_max,second=mimic"),
    _kind("label_flip"),
    _kind("targeted"),
)
STARTS = (0.0, 0.25, 0.5, 0.75)  # of the run, in which Byzantine workers are honest
TIMINGS = (
    "none",
    "flood:rate=2",
    "flood:rate=5",
    "max_stale:lag=10",
    "burst:silence=20,size=20",
)


class Point(NamedTuple):
    """A point of the space.

    Attributes:
        kind: an index of the kinds.
        position: in [0, 1], of the strength between its bounds.
        sign: 1 or -1, of strengths that have a sign.
        start: an index of `STARTS`.
        timing: the timing attack.
        placement: who is Byzantine.
    """

    kind: int
    position: float
    sign: int = 1
    start: int = 0
    timing: str = "none"
    placement: str = "first"


class Space(NamedTuple):
    """What a method may be attacked with.

    Attributes:
        kinds: the families of attacks.
        timings: the timing attacks, the first one of which is the most frequent.
        placements: who is Byzantine, likewise.
        drawn: how many of the kinds, the first ones, are drawn; None, all of them.
    """

    kinds: Sequence[Kind] = KINDS
    timings: Sequence[str] = TIMINGS
    placements: Sequence[str] = ("first",)
    drawn: int | None = None

    def with_fixed(self, adversaries: Sequence[Adversary]) -> tuple["Space", list["Point"]]:
        """The space with further kinds, which are not drawn, and the points of these."""
        more = [Kind(Family(each.attack)) for each in adversaries]
        points = [
            Point(number, 0.0, timing=each.timing_attack, placement=each.byzantine_placement)
            for number, each in enumerate(adversaries, len(self.kinds))
        ]
        kinds = (*self.kinds, *more)
        return self._replace(kinds=kinds, drawn=len(self.kinds)), points

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(kind.family for kind in self.kinds)

    def strength(self, point: Point) -> float:
        """The number that the option of the attack has, as float32 holds it."""
        kind = self.kinds[point.kind]
        size = kind.low * (kind.high / kind.low) ** point.position
        return float(np.float32(point.sign * size if kind.signed else size))

    def after(self, point: Point, events: int) -> int:
        """How many events of a run Byzantine workers are honest."""
        return int(STARTS[point.start] * events)

    def adversary(self, point: Point, events: int) -> Adversary:
        """The adversary of a point in a run of so many events."""
        family = self.kinds[point.kind].family
        attack = family.written(self.strength(point), self.after(point, events))
        return Adversary(
            attack=attack, timing_attack=point.timing, byzantine_placement=point.placement
        )

    def draw(self, rng: np.random.Generator, count: int) -> list[Point]:
        """Draws points, as many of each kind; of each kind, strengths are spread evenly."""
        found = []
        kinds = len(self.kinds) if self.drawn is None else self.drawn
        order = rng.permutation(kinds)
        each = -(-count // kinds)
        for number in range(count):
            turn, kind = divmod(number, kinds)
            position = (turn + rng.random()) / each
            point = Point(int(order[kind]), position, int(rng.choice((-1, 1))))
            found.append(self._with_conditions(rng, point) if rng.random() < 0.5 else point)
        return found

    def change(self, rng: np.random.Generator, point: Point) -> Point:
        """Changes a point a little: its strength, or else when or by whom."""
        moved = float(np.clip(point.position + 0.1 * rng.standard_normal(), 0, 1))
        point, kind = point._replace(position=moved), self.kinds[point.kind]
        alike = kind.low == kind.high  # at every position
        return self._with_conditions(rng, point) if alike or rng.random() < 0.5 else point

    def _with_conditions(self, rng: np.random.Generator, point: Point) -> Point:
        """One of start, timing and placement drawn anew."""
        of = {
            "start": range(len(STARTS)),
            "timing": self.timings,
            "placement": self.placements,
        }
        name = rng.choice([name for name, values in of.items() if len(values) > 1])
        value = of[str(name)][int(rng.integers(len(of[str(name)])))]
        return point._replace(**{str(name): value})
