"""Two groups of claims of `experiments.brsgd`: resilience and comparison of aggregators."""

from typing import Any

import numpy as np

from experiments.parts import nonconvex_problem
from experiments.parts.nonconvex_problem import M, Q, Size
from farsign_jax import aggregators, oracles
from farsign_jax.harness import plots
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.io import files, run_folder, tables
from farsign_jax.theory import resilience

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
ATTACKS = (
    "none",
    "sign_flip:scale=3",
    "alie:z=1",
    "ipm:epsilon=0.5",
    "gaussian:std=100",
    "constant:value=-100",  # opposite to the gradient at w_0
    "mimic",
)


def estimates(size: Size, x: np.ndarray) -> tuple[float, dict[str, list[Any]]]:
    """The gradient norm at x, and for each rule its estimates under each attack."""
    problem = nonconvex_problem.problem_of("constant")
    worker = oracles.stochastic_gradient(problem.losses, batch_size=1)
    there, gradient = nonconvex_problem.at(problem, x)
    options = {"byzantine": Q, "samples": size.samples}
    answers = [
        resilience.answers(there, worker, nonconvex_problem.make_attack(attack), **options)
        for attack in ATTACKS
    ]
    rules = {rule: aggregators.make(rule) for rule in RULES}
    found = {
        name: [resilience.estimate(rule, received, gradient) for received in answers]
        for name, rule in rules.items()
    }
    return float(np.linalg.norm(gradient)), found


def _judge_krum(where: str, worst: Any) -> Finding:
    """Theorem 2.6 with the attack under which sin alpha of Krum is largest."""
    eta = resilience.krum_factor(M, Q)
    ratio = eta * worst.deviation / worst.gradient
    claim = f"Krum is resilient if eta(m, q) sigma < gradient norm: {where}"
    measured = f"the ratio is {eta:.2f} * {worst.deviation:.2f} / "
    measured += f"{worst.gradient:.2f} = {ratio:.1f}; sin alpha {worst.sin_alpha:.2f}"
    if ratio < 1:
        verdict = "holds" if worst.sin_alpha <= ratio else "refuted"
    else:
        verdict = "not promised, but resilient" if worst.holds else "not promised"
    return Finding("Theorem 2.6", claim, measured, verdict)


def resilience_of_rules(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Assumption 2.2, far from a stationary point and near one."""
    findings, rows, entries, sections = [], [], [], []
    points = nonconvex_problem.path()
    for where, x in (("far", points[0]), ("near", points[-1])):
        norm, found = estimates(size, x)
        lines, resilient = [], []
        for rule, of_attacks in found.items():
            cells = [f"{f.sin_alpha:.2f} ± {f.error:.2g} / {f.moment:.2g}" for f in of_attacks]
            holds = {f.holds for f in of_attacks}
            answer = "no" if False in holds else "?" if None in holds else "yes"
            lines.append([rule, *cells, answer])
            if answer == "yes":
                resilient.append(rule.partition(":")[0])
            for attack, f in zip(ATTACKS, of_attacks, strict=True):
                row = {"figure": "resilience", "where": where, "aggregator": rule}
                rows.append(row | {"attack": attack} | f._asdict())
                value = 100 * (1 - f.sin_alpha)
                entries.append({"line": rule, "x": f"{attack}, {where}", "value": value})
            if rule == "krum:f=2":
                worst = max(of_attacks, key=lambda f: f.sin_alpha)
                findings.append(_judge_krum(where, worst))
        claim = f"resilient under every attack tested, {where} (gradient norm {norm:.2g})"
        measured = ", ".join(resilient) or "none"
        findings.append(Finding("Assumption 2.2", claim, measured, "measured"))
        title = f"{where}: gradient norm {norm:.2g}; sin alpha ± standard error / moment\n\n"
        header = ["aggregator", *ATTACKS, "resilient"]
        sections.append(title + tables.markdown_table(header, lines))
    if folder:
        note = "sin alpha = 1 - <E A, grad F> / |grad F|^2, resilient if below 1; "
        note += "moment = E |A|^2 / E |G|^2\n\n"
        files.write_text(folder.path / "resilience.md", note + "\n".join(sections))
    axes = ("<E A, grad F> / |grad F|^2", "attack", "%")
    return Group(findings, rows, entries, axes, plots.heatmap)


def comparison(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Every aggregator under every attack, in lock-step."""
    findings, rows, entries = [], [], []
    rounds, seeds = max(size.rounds // 10, 1), 2
    for noise in ("constant", "relative")[:: size.every]:
        kind = f"{noise} noise"
        program, hyper = nonconvex_problem.side_by_side(RULES, ATTACKS, 0.2)
        problem = nonconvex_problem.problem_of(noise)
        columns = nonconvex_problem.follow(
            program,
            nonconvex_problem.run_batch(problem, rounds, seeds, hyper),
            nonconvex_problem.GRADIENT,
            f"aggregators-{noise}",
            folder,
            100,
            max_parallel_runs=1,
        )
        norms = columns["gradient"].reshape(seeds, -1, len(RULES), len(ATTACKS))
        late = norms[:, -norms.shape[1] // 4 :].mean(axis=(0, 1))  # [rules, attacks]
        for rule, values in zip(RULES, late.tolist(), strict=True):
            by_attack = dict(zip(ATTACKS, values, strict=True))
            short = {attack.partition(":")[0]: x for attack, x in by_attack.items()}
            claim = f"late gradient norm, {kind}: {rule}"
            measured = ", ".join(f"{attack} {x:.2g}" for attack, x in short.items())
            fails = [attack for attack, x in short.items() if x > 0.1]
            verdict = f"not under {', '.join(fails)}" if fails else "converges under all"
            findings.append(Finding("Algorithm 1", claim, measured, verdict))
            for attack, value in by_attack.items():
                row = {"figure": "aggregators", "noise": kind, "aggregator": rule}
                rows.append(row | {"attack": attack, "gradient": value})
                point = {"line": rule, "x": f"{attack}, {kind}"}
                entries.append(point | {"value": 100 * min(value, 1.0)})
    axes = ("Late gradient norm, in hundredths", "attack", "at most 100")
    return Group(findings, rows, entries, axes, plots.heatmap)
