"""Byzantine-resilient SGD: its rate, its random iterate, and which rules are resilient.

    python -m experiments.brsgd                     about 7 minutes on two cores
    python -m experiments.brsgd --claims rates      one group of claims
    python -m experiments.brsgd --preset smoke      under 2 minutes, too short to judge

    rates         Corollary 4.1: min_k and R_K gradient norms against the bound with its
                  constants and against K^-(1-p)/2, for four p; other workers lie in each round
    resilience    Assumption 2.2 (inner product, second moment) for every aggregator and attack,
                  far from a stationary point and near one; Krum's eta(m, q)
    aggregators   how far every aggregator comes under every attack, with noise that stays and
                  noise that vanishes with the gradient
    network       a network of softmax units, flat at infinity, which the older theory excludes

The first three on a smooth function of ten variables that is not convex, 11 workers of which 2
lie. The same command with the same --out continues. Writes table.md (claim, measured,
verdict), resilience.md, results.csv, results.json and a figure per group under --out.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments import claims, figures
from experiments.claims import Finding, Group
from experiments.command import main
from experiments.config import parse
from experiments.progress import Progress
from farsign_jax import (
    aggregators,
    attacks,
    brsgd,
    datasets,
    keys,
    models,
    oracles,
    partitions,
    problems,
    resilience,
    results,
    schedules,
    sweeps,
    theory,
)
from farsign_jax.base import Problem, Server, System
from farsign_jax.lockstep import Lockstep, LockstepState

M, Q, D = 11, 2, 10
SIGMA = 0.3  # of the noise, in each coordinate
SMOOTHNESS = 2.5
LOWEST = D * float(problems.ripples(jnp.array([1.4957])))
VALUE = problems.ripples
GRADIENT = jax.jit(jax.vmap(jax.grad(VALUE)))

RULES = (
    "mean",
    "median",
    "trimmed_mean:f=2",
    "meamed:f=2",
    "krum:f=2",
    "multi_krum:f=2",
    "bulyan:f=2",
    "mda:f=2",
    "geometric_median",
    "rfa",
    "centered_clipping",
    "majority_vote",
)
LIES = (
    "none",
    "sign_flip:scale=3",
    "alie:z=1",
    "ipm:epsilon=0.5",
    "gaussian:std=100",
    "constant:value=-100",  # against the gradient at w_0
    "mimic",
)


@dataclasses.dataclass(frozen=True)
class Size:
    rounds: int = 20_000
    seeds: int = 32
    samples: int = 4000
    network: int = 2_500


SIZES = {"full": Size(), "smoke": Size(1_000, 2, 100, 60)}


def problem_of(relative: bool) -> Problem:
    """`relative`: noise is so many times the gradient, C = 0; else it stays, B = 1."""
    noise = {"noise": SIGMA, "relative": relative, "examples": 256}
    return problems.smooth(VALUE, jnp.full(D, 2.0), M, jax.random.key(0), **noise)


def make_attack(text: str) -> Any:
    name, options = parse(text)
    return attacks.make(name, **dict(options))


class Watched(NamedTuple):
    """A state of `brsgd`, and the sum of W_k |grad F(w_k)| so far."""

    params: Any
    step: Any
    rounds: Any
    weighted: Any


def watched(server: Server) -> Server:
    """`brsgd`, with the expectation over R_K beside the iterate that is drawn."""

    def wrap(state, weighted):
        return Watched(state.params, state.step, state, weighted)

    def init(params, key=None):
        return wrap(server.init(params, key), jnp.zeros(()))

    def update(state, reports):
        after, info = server.update(state.rounds, reports)
        size = jnp.linalg.norm(jax.grad(VALUE)(state.params))
        return wrap(after, state.weighted + jnp.exp(after.weight) * size), info

    def query(state, worker, key):
        return server.query(state.rounds, worker, key)

    return Server(init, query, update, server.num_workers)


@dataclasses.dataclass(frozen=True)
class Trial:
    """`(problem, hyper) -> System`; hyper has `power` and `step_size`, alpha_0."""

    rule: str
    attack: str = "none"
    batch_size: int = 1
    watch: bool = False

    def __call__(self, problem: Problem, hyper: Any) -> System:
        alpha = schedules.power(hyper["step_size"], hyper["power"])
        rule = aggregators.make(self.rule)
        server = brsgd(problem.num_workers, rule, step_size=alpha)
        if self.watch:
            server = watched(server)
        worker = oracles.stochastic_gradient(problem.losses, batch_size=self.batch_size)
        return System(server, worker, make_attack(self.attack))


def lanes(
    problem: Problem, rounds: int, seeds: int, hyper: dict, liars: int = Q
) -> sweeps.Lanes:
    """Seeds, each with all points of `hyper`; who lies moves on by one from round to round."""
    points = len(next(iter(hyper.values())))
    m, count = problem.num_workers, seeds * points
    masks = np.stack([np.roll(np.arange(m) < liars, n) for n in range(m)])
    return sweeps.Lanes(
        problem=sweeps.Lanes.repeated(problem, count),
        seeds=jnp.asarray(np.repeat(np.arange(seeds), points), jnp.int32),
        hyper={
            k: np.tile(np.asarray(v, np.float32), (seeds, *(1,) * (np.ndim(v) - 1)))
            for k, v in hyper.items()
        },
        byzantine=jnp.asarray(np.broadcast_to(masks, (count, *masks.shape))),
        schedules=np.broadcast_to(np.arange(m, dtype=np.int32), (count, rounds, m)),
    )


def measure_of(gradient: Any) -> Any:
    """|grad F| at w_k; and its expectation over R_K, and at the R_K drawn, where watched."""

    def measure(state):
        def norm(x):
            found = jnp.linalg.norm(gradient(x.reshape(-1, x.shape[-1])), axis=-1)
            return found.reshape(x.shape[:-1])

        values = {"gradient": norm(state.params)}
        if isinstance(state, Watched):
            values["drawn"] = norm(state.rounds.chosen)
            values["expected"] = state.weighted / jnp.exp(state.rounds.total)
        elif isinstance(state, LockstepState):
            values["drawn"] = norm(jnp.concatenate([s.chosen for s in state.servers], axis=-2))
        return values

    return measure


def follow(
    build: Any,
    given: sweeps.Lanes,
    gradient: Any,
    name: str,
    folder: results.Folder | None,
    records: int = 500,
    **options: Any,
) -> dict[str, np.ndarray]:
    rounds = given.schedules.shape[1]
    progress = Progress(len(given) * rounds)
    progress.start(name)
    columns, _ = sweeps.sweep(
        build,
        given,
        every=max(rounds // records, 1),
        measure=measure_of(gradient),
        checkpoint=folder.checkpoint(name) if folder else None,
        checkpoint_every=max(rounds // 10, 1),
        progress=progress,
        of=lambda run: run.server,
        **options,
    )
    progress.close()
    return columns


def constants(
    rule: str, attack: str, relative: bool, samples: int, states: np.ndarray
) -> tuple[float, float]:
    """The worst sin alpha and second moment of Assumption 2.2 at these iterates f[n, d]."""
    problem = problem_of(relative)
    worker = oracles.stochastic_gradient(problem.losses, batch_size=1)
    lies, made, found = make_attack(attack), aggregators.make(rule), []
    for x in states:
        there = dataclasses.replace(problem, x0=jnp.asarray(x, problem.x0.dtype))
        told = resilience.answers(there, worker, lies, byzantine=Q, samples=samples)
        gradient = np.asarray(GRADIENT(there.x0[None]))[0]
        found.append(resilience.estimate(made, told, gradient))
    return max(f.sin_alpha for f in found), max(f.moment for f in found)


POWERS = (0.55, 0.66, 0.75, 0.9)

# (rule, attack, noise that vanishes with the gradient)
RATES = (
    ("mean", "none", False),
    ("krum:f=2", "sign_flip:scale=3", False),
    ("median", "ipm:epsilon=0.5", True),
    ("krum:f=2", "alie:z=1", True),
    ("krum:f=2", "alie:z=1", False),
)


def along() -> np.ndarray:
    """Iterates f[n, d] on the way from w_0 to a stationary point, the last with |grad| 0.1."""
    end = np.full(D, 1.4957)
    shares = np.array([1.0, 0.5, 0.2, 0.1, 0.05])
    return end + shares[:, None] * (2.0 - end)


class Case(NamedTuple):
    """A rule under an attack, and the constants of Assumption 2.2 and Corollary 4.1."""

    rule: str
    attack: str
    relative: bool
    sin_alpha: float
    moment: float

    @property
    def name(self) -> str:
        noise = "noise like the gradient" if self.relative else "noise that stays"
        return f"{self.rule.partition(':')[0]}, {self.attack.partition(':')[0]}, {noise}"

    @property
    def bc(self) -> tuple[float, float]:
        """B' and C', as E|G|^2 is |grad F|^2 and the noise: a multiple of it, or constant."""
        noise = SIGMA**2 * D
        of = (1 + noise, 0.0) if self.relative else (1.0, noise)
        return self.moment * of[0], self.moment * of[1]

    @property
    def first(self) -> float:
        """alpha_0; where nothing is promised, some other one."""
        share = 1 - max(self.sin_alpha, 0.0) if self.sin_alpha < 1 else 0.1
        return share / (SMOOTHNESS * self.bc[0])

    def limit(self, rounds: np.ndarray, power: float) -> np.ndarray:
        gap = float(VALUE(problem_of(self.relative).x0)) - LOWEST
        b, c = self.bc
        told = {"gap": gap, "smoothness": SMOOTHNESS, "sin_alpha": max(self.sin_alpha, 0.0)}
        return np.array([resilience.bound(int(k), power, **told, b=b, c=c) for k in rounds])


def rates(size: Size, folder: results.Folder | None = None) -> Group:
    findings, rows, entries = [], [], []
    for rule, attack, relative in RATES:
        found = constants(rule, attack, relative, size.samples, along())
        case = Case(rule, attack, relative, *found)
        hyper = {"power": POWERS, "step_size": [case.first] * len(POWERS)}
        given = lanes(problem_of(relative), size.rounds, size.seeds, hyper)
        trial = Trial(rule, attack, watch=True)
        columns = follow(trial, given, GRADIENT, f"rates-{case.name}", folder)
        k = columns["event"][0]
        tail = theory.log_spaced(k, k[-1] / 25, 40)
        shape = (size.seeds, len(POWERS), -1)
        for at, power in enumerate(POWERS):
            mine = {n: c.reshape(shape)[:, at] for n, c in columns.items()}
            least = np.minimum.accumulate(mine["gradient"].mean(axis=0))
            findings.append(_judge(case, power, k, tail, least, mine))
            for i in tail.tolist():
                n, value = int(k[i]), float(mine["expected"][:, i].mean())
                point = {"facet": case.name, "line": f"p = {power}", "x": n}
                entries.append(point | {"value": value})
                row = {"figure": "rates", "line": case.name, "power": power, "event": n}
                rows.append(row | {"min": float(least[i]), "expected": value})
    return Group(findings, rows, entries, ("R_K", "rounds", "gradient norm"))


def _judge(
    case: Case,
    power: float,
    rounds: np.ndarray,
    tail: np.ndarray,
    least: np.ndarray,
    mine: dict[str, np.ndarray],
) -> Finding:
    """min_k and R_K against the bound, in the last 96 % of a run, and against its rate."""
    expected, rate = mine["expected"], (1 - power) / 2
    slope = theory.slope(rounds[tail], expected[:, tail])
    said = f"min {least[-1]:.2g}, R_K {expected[:, -1].mean():.2g} "
    said += f"({mine['drawn'][:, -1].mean():.2g} as drawn), falls as K^{slope.value:.2f} "
    said += f"[{slope.low:.2f}, {slope.high:.2f}]"
    if case.sin_alpha < 1:
        claim = f"below the bound, R_K as K^-{rate:.3f}: {case.name}, p = {power}"
        limit = case.limit(rounds[tail], power)
        largest = np.maximum(least[tail], expected[:, tail].mean(axis=0))
        share = (largest / limit).max()
        said += f"; at most {share:.2f} of the bound"
        verdict = "holds" if share <= 1 and slope.high <= -rate else "refuted"
    else:
        claim = f"nothing is promised: {case.name}, p = {power}"
        verdict = "comes near" if least[-1] < 0.1 else "stays away"
    said += f"; sin alpha {case.sin_alpha:.2f}, moment {case.moment:.2f}"
    return Finding("Corollary 4.1", claim, said, verdict)


def table_of(size: Size, folder: results.Folder | None = None) -> Group:
    """Assumption 2.2, far and near."""
    findings, rows, entries, lines = [], [], [], []
    problem = problem_of(False)
    worker = oracles.stochastic_gradient(problem.losses, batch_size=1)
    liars = {lie: make_attack(lie) for lie in LIES}
    made = {rule: aggregators.make(rule) for rule in RULES}
    for where, x in (("far", along()[0]), ("near", along()[-1])):
        there = dataclasses.replace(problem, x0=jnp.asarray(x, problem.x0.dtype))
        gradient = np.asarray(GRADIENT(there.x0[None]))[0]
        size_of = float(np.linalg.norm(gradient))
        asked = {"byzantine": Q, "samples": size.samples}
        heard = [resilience.answers(there, worker, lies, **asked) for lies in liars.values()]
        body = []
        for rule in RULES:
            found = [resilience.estimate(made[rule], told, gradient) for told in heard]
            cells = [f"{f.sin_alpha:.2f} ± {f.error:.2g} / {f.moment:.2g}" for f in found]
            worst = max(found, key=lambda f: f.sin_alpha)
            says = {f.holds for f in found}
            word = "no" if False in says else "?" if None in says else "yes"
            body.append([rule, *cells, word])
            for lie, f in zip(LIES, found, strict=True):
                row = {
                    "figure": "resilience",
                    "where": where,
                    "aggregator": rule,
                    "attack": lie,
                }
                rows.append(row | f._asdict())
                kept = 100 * (1 - f.sin_alpha)
                entries.append({"line": rule, "x": f"{lie}, {where}", "value": kept})
            if rule == "krum:f=2":
                eta = resilience.krum_factor(M, Q)
                enough = eta * worst.deviation / worst.gradient
                claim = f"Krum is resilient where eta(m, q) sigma < gradient norm: {where}"
                said = f"their ratio = {eta:.2f} * {worst.deviation:.2f} / "
                said += f"{worst.gradient:.2f} = {enough:.1f}; sin alpha {worst.sin_alpha:.2f}"
                if enough < 1:
                    verdict = "holds" if worst.sin_alpha <= enough else "refuted"
                else:
                    verdict = "not promised, but resilient" if worst.holds else "not promised"
                findings.append(Finding("Theorem 2.6", claim, said, verdict))
        good = [line[0].partition(":")[0] for line in body if line[-1] == "yes"]
        claim = f"resilient under every attack here, {where} (gradient {size_of:.2g})"
        findings.append(Finding("Assumption 2.2", claim, ", ".join(good) or "none", "measured"))
        header = ["aggregator", *LIES, "resilient"]
        title = f"{where}: gradient norm {size_of:.2g}; sin alpha ± its error / moment\n\n"
        lines.append(title + results.markdown_table(header, body))
    if folder:
        results.write_text(folder.path / "resilience.md", "\n".join(lines))
        out, title = folder.path / "resilience.png", "<E A, grad F> / |grad F|^2"
        figures.heatmap(entries, out, title, "attack", "%")
    return Group(findings, rows, entries, None)


def comparison(size: Size, folder: results.Folder | None = None) -> Group:
    """Every aggregator under every attack, side by side."""
    findings, rows, entries = [], [], []
    rounds, seeds = max(size.rounds // 10, 1), 2
    for relative in (False, True):
        kind = "noise like the gradient" if relative else "noise that stays"
        program = Lockstep(tuple(tuple(Trial(rule, lie) for lie in LIES) for rule in RULES))
        hyper = {
            "power": np.full((1, len(RULES), 1), 0.55),
            "step_size": np.full((1, len(RULES), 1), 0.2),
        }
        given = lanes(problem_of(relative), rounds, seeds, hyper)
        columns = follow(
            program, given, GRADIENT, f"aggregators-{relative}", folder, 100, max_lanes=1
        )
        shape = (seeds, -1, len(RULES), len(LIES))
        now = columns["gradient"].reshape(shape)
        late = now[:, -now.shape[1] // 4 :].mean(axis=(0, 1))  # [rules, lies]
        for g, rule in enumerate(RULES):
            said = ", ".join(
                f"{lie.partition(':')[0]} {late[g, a]:.2g}" for a, lie in enumerate(LIES)
            )
            claim = f"late gradient norm, {kind}: {rule}"
            stays = [
                lie.partition(":")[0] for lie, x in zip(LIES, late[g], strict=True) if x > 0.1
            ]
            verdict = f"not under {', '.join(stays)}" if stays else "converges under all"
            findings.append(Finding("Algorithm 1", claim, said, verdict))
            for a, lie in enumerate(LIES):
                row = {"figure": "aggregators", "noise": kind, "aggregator": rule}
                rows.append(row | {"attack": lie, "gradient": float(late[g, a])})
                point = {"facet": kind, "line": rule, "x": a}
                entries.append(point | {"value": float(late[g, a])})
    if folder:
        shown = [e | {"x": f"{LIES[e['x']]}, {e['facet']}"} for e in entries]
        shown = [e | {"value": 100 * min(e["value"], 1.0)} for e in shown]
        out, title = folder.path / "aggregators.png", "Late gradient norm, in hundredths"
        figures.heatmap(shown, out, title, "attack", "at most 100")
    return Group(findings, rows, entries, None)


NETWORK_RULES = ("mean", "median", "krum:f=5", "geometric_median")
NETWORK_LIES = ("none", "sign_flip:scale=3", "alie:z=1")


def network(size: Size, folder: results.Folder | None = None) -> Group:
    """784 - 16 softmax units - 10, on the embedded digits; 25 workers, 5 of them lie."""
    findings, rows, entries = [], [], []
    data, roles = datasets.load("mnist_subset"), keys.split(0)
    images, labels = data.train_images, data.train_labels
    held, sizes = partitions.partition(labels, 25, "iid", roles.partition)
    module = models.MLP((16, 10), activation=nn.softmax)
    problem = problems.classification(module, images, labels, held, sizes, roles.init)

    @jax.jit
    def gradient(x):
        every = jnp.arange(len(labels)).reshape(10, -1)

        def part(x, rows):
            batch = jax.tree.map(lambda a: a[rows], problem.data)
            return jax.grad(lambda x: problem.losses(x, batch).mean())(x)

        def whole(x):
            return jax.lax.map(lambda rows: part(x, rows), every).mean(axis=0)

        return jax.lax.map(whole, x)

    program = Lockstep(
        tuple(tuple(Trial(rule, lie, 64) for lie in NETWORK_LIES) for rule in NETWORK_RULES)
    )
    hyper = {
        "power": np.full((1, len(NETWORK_RULES), 1), 0.55),
        "step_size": np.full((1, len(NETWORK_RULES), 1), 3.0),
    }
    given = lanes(problem, size.network, 1, hyper, liars=5)
    columns = follow(program, given, gradient, "network", folder, 25, max_lanes=1)
    shape = (-1, len(NETWORK_RULES), len(NETWORK_LIES))
    now, drawn = (columns[n][0].reshape(shape) for n in ("gradient", "drawn"))
    k = columns["event"][0]
    for g, rule in enumerate(NETWORK_RULES):
        for a, lie in enumerate(NETWORK_LIES):
            mine = now[:, g, a]
            late = mine[-len(mine) // 4 :].mean()
            said = f"gradient norm {mine.max():.2g} at its largest, {late:.2g} late, "
            said += f"{mine.min():.2g} at best, {drawn[-1, g, a]:.2g} at the R_K drawn"
            claim = f"a network of softmax units: {rule}, {lie}"
            verdict = f"falls to {100 * late / mine.max():.0f} %"
            findings.append(Finding("Theorem 3.4", claim, said, verdict))
            line = rule.partition(":")[0]
            for n, value in zip(k.tolist(), now[:, g, a].tolist(), strict=True):
                entries.append({"facet": lie, "line": line, "x": int(n), "value": value})
                row = {"figure": "network", "aggregator": rule, "attack": lie}
                rows.append(row | {"event": int(n), "gradient": value})
    title = "A network of softmax units"
    return Group(findings, rows, entries, (title, "rounds", "gradient norm, training set"))


GROUPS = {
    "rates": rates,
    "resilience": table_of,
    "aggregators": comparison,
    "network": network,
}


def every_claim() -> None:
    claims.tell("brsgd", GROUPS, SIZES)


if __name__ == "__main__":
    main(every_claim)
