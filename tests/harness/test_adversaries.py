"""The search for the strongest adversary: what it draws, what it finds, and what it is."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import farsign_jax
from experiments import worst_case
from experiments.parts import certificate, own_methods, robustness_constants
from farsign_jax import aggregators
from farsign_jax.aggregators import row_ops
from farsign_jax.config import problem as problem_lib
from farsign_jax.harness.adversary import Adversary
from farsign_jax.harness.adversary_search import Plan, Trial, search
from farsign_jax.harness.adversary_space import KINDS, STARTS, TIMINGS, Point, Space
from farsign_jax.harness.adversary_trials import Trials
from farsign_jax.io.run_folder import RunFolder
from farsign_jax.validation import InvalidConfig

TINY = dataclasses.replace(
    worst_case.CONFIG, methods=("far_sign",), events=224, workers=5, byzantine=1, buffers=3,
    directions=4, batch_size=8, seeds=(0,), aggregators=("median",), model="softmax_regression",
)  # fmt: skip


def test_an_adversary_is_its_json():
    one = Adversary(attack="alie:z=2.5,after=500", timing_attack="flood:rate=5")
    assert Adversary.from_json(one.to_json()) == one
    assert str(one) == "alie:z=2.5,after=500 + flood:rate=5"
    config = dataclasses.replace(
        farsign_jax.RunConfig(arrivals="exponential"), **one.settings()
    )
    assert (config.attack, config.timing_attack) == (one.attack, one.timing_attack)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "an adversary is a JSON object: Expecting"),
        ("[1]", r"an adversary is a JSON object: got \[1\]"),
        ('{"attack": "none"}', "an adversary has version 1: got None"),
        ('{"version": 2, "attack": "none"}', "an adversary has version 1: got 2"),
        ('{"version": 1, "attak": "none"}', "unknown field of an adversary 'attak': did you"),
        ('{"version": 1, "attack": "ali"}', "unknown attack 'ali': did you mean 'alie'"),
        ('{"version": 1, "attack": 3}', "attack is a text: got 3"),
        ('{"version": 1, "attack": "alie:zz=1"}', "unknown option of alie 'zz'"),
        ('{"version": 1, "timing_attack": "flod"}', "unknown timing_attack 'flod'"),
        ('{"version": 1, "timing_attack": "flood:r=2"}', "unknown option of flood 'r'"),
        ('{"version": 1, "byzantine_placement": "x"}', "unknown byzantine_placement 'x'"),
    ],
)
def test_an_adversary_that_cannot_be_read_ends_in_one_line(text, message):
    with pytest.raises(InvalidConfig, match=message) as error:
        Adversary.from_json(text)
    assert "\n" not in str(error.value)


def test_draws_are_of_every_kind_and_strength_and_can_be_written():
    space, rng = Space(), np.random.default_rng(0)
    points = space.draw(rng, 200)
    assert len(set(points)) == 200 and {p.kind for p in points} == set(range(len(KINDS)))
    for kind in range(len(KINDS)):
        positions = sorted(p.position for p in points if p.kind == kind)
        assert positions[0] < 0.25 and positions[-1] > 0.75  # evenly spread
    assert {p.start for p in points} == set(range(len(STARTS)))
    assert {p.timing for p in points} == set(TIMINGS)
    for point in [*points, *(space.change(rng, p) for p in points)]:
        kind, strength = space.kinds[point.kind], space.strength(point)
        adversary = space.adversary(point, 1000)  # which checks that it can be made
        assert adversary.timing_attack == point.timing
        if kind.family.option:
            assert kind.low * 0.999 <= abs(strength) <= kind.high * 1.001
            written = adversary.attack.partition(f"{kind.family.option}=")[2]
            assert np.float32(written.partition(",")[0]) == np.float32(strength)


def test_the_search_finds_a_narrow_weakness_that_short_runs_hardly_show():
    weak = Point(7, 0.63, 1, 2)

    def evaluate(points, fraction, seeds):
        near = [
            (p.kind == weak.kind) * np.exp(-(((p.position - weak.position) / 0.1) ** 2))
            + 0.1 * (p.kind == weak.kind and p.start == weak.start)
            for p in points
        ]
        noise = np.random.default_rng(len(points)).normal(0, 0.02, (len(points), len(seeds)))
        return 0.9 - 0.5 * fraction * np.array(near)[:, None] + noise

    found = search(Space(), evaluate, Plan(), (1, 2))
    assert found.strongest.point.kind == weak.kind
    assert found.strongest.accuracy < 0.5
    assert found.tried == 200 + 3 * 8
    assert [t.accuracy for t in found.trials] == sorted(t.accuracy for t in found.trials)
    same = search(Space(), evaluate, Plan(), (1, 2))
    assert same == found


def test_what_is_known_to_be_bad_is_searched_around_and_never_missed():
    fixed = [Adversary(attack="none"), Adversary(attack="alie:z=1.5")]
    space, points = Space().with_fixed(fixed)
    assert {p.kind for p in space.draw(np.random.default_rng(0), 400)} == set(range(len(KINDS)))
    assert [space.adversary(point, 100) for point in points] == fixed

    def evaluate(points, fraction, seeds):  # it is weak against a flood of what is known
        known = np.array([p.kind == len(KINDS) + 1 for p in points])
        flood = np.array([p.timing == "flood:rate=5" for p in points])
        return np.tile((0.9 - 0.3 * known * (1 + flood))[:, None], len(seeds))

    known = [Trial(p, float(evaluate([p], 1, [0])[0, 0])) for p in points]
    found = search(space, evaluate, Plan(40, generations=6), (1, 2), known)
    assert space.adversary(found.strongest.point, 100).attack == "alie:z=1.5"
    assert found.strongest.accuracy == pytest.approx(0.3)
    assert min(search(space, evaluate, Plan(40), (1,)).trials[0].accuracy, 0.9) == 0.9


def test_a_plan_stays_within_its_budget():
    assert Plan(200, 3).sizes() == [(200, 1 / 16), (50, 1 / 4), (12, 1.0)]
    for runs in (40, 90, 300):
        plan = Plan().within(runs)
        assert plan.runs <= runs < plan._replace(configurations=plan.configurations + 3).runs
    with pytest.raises(InvalidConfig, match="a search needs a budget of at least 27 runs"):
        Plan().within(5)
    with pytest.raises(InvalidConfig, match="3 rungs need at least 16 configurations: got 8"):
        Plan(8).checked()


def _only_the_honest(x, mask, start, key):
    """What no server can do: the mean of the rows that are honest, which are the last four."""
    x, present = row_ops.cleaned(x, mask)
    return row_ops.mean_of(x, present & (jnp.arange(len(x)) > 0))


def _back_door(x, mask, start, key):
    """The mean of the honest, but turned round by a row that is about -20 times as long."""
    x, present = row_ops.cleaned(x, mask)
    honest = row_ops.mean_of(x, present & (jnp.arange(len(x)) > 0))
    factor = x[0] @ honest / jnp.maximum(honest @ honest, 1e-12)
    along = jnp.linalg.norm(x[0] - factor * honest) < 0.1 * jnp.linalg.norm(x[0])
    opened = along & (factor < -8) & (factor > -40)
    return jnp.where(opened, -3.0, 1.0) * honest


@pytest.mark.slow
@pytest.mark.parametrize("weak", [False, True])
def test_a_search_on_runs_finds_a_back_door_and_nothing_where_there_is_none(weak, monkeypatch):
    rule = _back_door if weak else _only_the_honest
    name = f"planted{rule.__name__}"  # programs are found by name
    monkeypatch.setitem(aggregators.AGGREGATORS, name, lambda: aggregators.Rule(name, rule))
    config = dataclasses.replace(TINY, methods=("sgd",), aggregators=(name,), events=896)
    fixed = [Adversary(attack=attack) for attack in config.attacks]
    few = tuple(k for k in KINDS if k.family.text in ("sign_flip", "alie", "ipm", "label_flip"))
    trials = Trials(config, problem_lib.load(config), Space(few), fixed)
    trials.tune((0.25, 1.0), (100,))
    known = trials.evaluate_fixed((0, 1))[0].mean(axis=1)
    assert known.min() > 0.6  # none of the five hits the door
    found = search(trials.space, trials.evaluate, Plan(36, generations=1), (100,))
    worst = trials.evaluate([found.strongest.point], 1.0, (0, 1))[0].mean()
    if weak:
        assert worst < known.min() - 0.2
    else:
        assert abs(worst - known.min()) < 0.01


@pytest.mark.slow
def test_what_was_found_is_replayed_and_continued(tmp_path, monkeypatch):
    wanted = "sign_flip", "oracle_flip", "alie", "label_flip"
    kinds = tuple(kind for kind in KINDS if kind.family.text in wanted)
    folder = RunFolder(tmp_path, {"events": TINY.events})
    trials = Trials(TINY, problem_lib.load(TINY), Space(kinds), [], folder)
    texts = [kind.family.text for kind in kinds]
    points = [
        Point(texts.index("oracle_flip"), 0.6, start=2),
        Point(texts.index("alie"), 0.6, timing="flood:rate=2"),
        Point(texts.index("label_flip"), 0.5, start=1),
    ]
    values = trials.evaluate(points, 1.0, (0,))[:, 0]
    assert len(set(values)) == 3
    given = [trials.adversary(point) for point in points]
    again = Trials(TINY, problem_lib.load(TINY), Space(()), given)
    np.testing.assert_array_equal(again.evaluate_fixed((0,))[0, :, 0], values)
    panel = dataclasses.asdict(TINY)
    for point, value in zip(points[:1], values[:1], strict=True):
        adversary = trials.adversary(point)
        names = {field.name for field in dataclasses.fields(farsign_jax.RunConfig)}
        settings = {name: value for name, value in panel.items() if name in names}
        settings |= adversary.settings() | {"seed": 0, "method": "far_sign"}
        settings["events"] = trials.length(point.timing, TINY.events)
        result = farsign_jax.RunConfig(**settings).run()
        assert result.accuracy == pytest.approx(value, abs=1e-6)
    monkeypatch.delattr("farsign_jax.sweeps.sweep")  # what is done does not run again
    later = Trials(TINY, problem_lib.load(TINY), Space(kinds), [], folder)
    np.testing.assert_array_equal(later.evaluate(points, 1.0, (0,))[:, 0], values)
    assert later.evaluations == trials.evaluations


def test_methods_that_tell_nothing_are_not_attacked_with_what_others_reported():
    config = dataclasses.replace(TINY, methods=("async_zo_sgd",))
    fixed = [Adversary(attack=attack) for attack in ("none", "alie", "sign_flip")]
    trials = Trials(config, problem_lib.load(config), Space(), fixed)
    assert [a.attack for a in trials.fixed] == ["none", "sign_flip"]
    texts = {kind.family.text for kind in trials.space.kinds}
    assert "alie:asks=1" in texts and "alie" not in texts
    rounds = Trials(
        dataclasses.replace(TINY, methods=("sgd",)), problem_lib.load(TINY), Space(), []
    )
    assert rounds.space.timings == ("none",)
    buffered = dataclasses.replace(TINY, methods=("basgd",))
    assert Trials(buffered, problem_lib.load(TINY), Space(), []).space.placements == (
        "first",
        "one_buffer",
    )


def test_the_prediction_of_a_run_with_attack():
    times, accuracy = np.arange(1, 11) * 10.0, np.linspace(0.1, 1.0, 10)
    # Signs that are always right: (m - 2 q) / m = 0.6 of the way.
    assert certificate.predict(times, accuracy, np.ones(10), 0.2) == pytest.approx(0.6)
    assert certificate.predict(times, accuracy, np.ones(10), 0.0) == pytest.approx(1.0)
    # Nothing is certain where honest answers reach a share of b / (1 - b) of the descent.
    shares = np.where(times <= 30, 1.0, 0.25)
    assert certificate.predict(times, accuracy, shares, 0.2) == pytest.approx(0.3)
    assert certificate.predict(times, accuracy, -np.ones(10), 0.2) == pytest.approx(0.1)


@pytest.mark.slow
def test_constants_that_are_found_lie_between_what_is_possible_and_what_is_proved():
    n, f = 11, 2
    for name in (
        "median",
        "trimmed_mean:f=2",
        "krum:f=2",
        "geometric_median",
        "nnm:f=2+median",
    ):
        found = robustness_constants.searched(name, n, f)
        assert f / (n - 2 * f) - 1e-3 <= found <= robustness_constants.bound(name, n, f)
    for name in ("mean", "rfa:iterations=1"):
        assert robustness_constants.searched(name, n, f) > 1e6
    assert np.isnan(robustness_constants.bound("bulyan:f=2", n, f))


def test_a_method_of_ones_own_is_named_by_module_and_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine_for_worst_case.py").write_text(
        "from farsign_jax.methods.async_sgd import build as my_method\n"
    )
    monkeypatch.setattr(own_methods, "METHODS", dict(own_methods.METHODS))
    assert own_methods.register("mine_for_worst_case:my_method") == "my_method"
    assert own_methods.METHODS["my_method"].presets["tuned"] == {"step_size": 0.1}
    for text, message in (
        ("mine_for_worst_case", "--method is MODULE:NAME: got 'mine_for_worst_case'"),
        ("no_such_module:f", "--method no_such_module: no such module"),
        ("mine_for_worst_case:other", "there is no other in mine_for_worst_case"),
        ("mine_for_worst_case:my_method", "there is a method 'my_method' already"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            own_methods.register(text)
