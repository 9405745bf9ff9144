"""Which aggregators are resilient, and how far each of them comes.

Not an experiment itself: two groups of `experiments.brsgd`.
"""

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


LIES = (
    "none",
    "sign_flip:scale=3",
    "alie:z=1",
    "ipm:epsilon=0.5",
    "gaussian:std=100",
    "constant:value=-100",  # against the gradient at w_0
    "mimic",
)


def table_of(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Assumption 2.2, far and near."""
    findings, rows, entries, lines = [], [], [], []
    problem = nonconvex_problem.problem_of(False)
    worker = oracles.stochastic_gradient(problem.losses, batch_size=1)
    liars = {lie: nonconvex_problem.make_attack(lie) for lie in LIES}
    made = {rule: aggregators.make(rule) for rule in RULES}
    for where, x in (
        ("far", nonconvex_problem.along()[0]),
        ("near", nonconvex_problem.along()[-1]),
    ):
        there, gradient = nonconvex_problem.at(problem, x)
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
                row = {"figure": "resilience", "where": where, "aggregator": rule}
                rows.append(row | {"attack": lie} | f._asdict())
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
        lines.append(title + tables.markdown_table(header, body))
    if folder:
        what = "sin alpha = 1 - <E A, grad F> / (grad F)^2, resilient where below 1; "
        what += "moment = E A^2 / E G^2\n\n"
        files.write_text(folder.path / "resilience.md", what + "\n".join(lines))
        out, title = folder.path / "resilience.png", "<E A, grad F> / |grad F|^2"
        plots.heatmap(entries, out, title, "attack", "%")
    return Group(findings, rows, entries, None)


def comparison(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Every aggregator under every attack, side by side."""
    findings, rows, entries = [], [], []
    rounds, seeds = max(size.rounds // 10, 1), 2
    for relative in (False, True):
        kind = "noise like the gradient" if relative else "noise that stays"
        program, hyper = nonconvex_problem.side_by_side(RULES, LIES, 0.2)
        given = nonconvex_problem.lanes(
            nonconvex_problem.problem_of(relative), rounds, seeds, hyper
        )
        columns = nonconvex_problem.follow(
            program,
            given,
            nonconvex_problem.GRADIENT,
            f"aggregators-{relative}",
            folder,
            100,
            max_parallel_runs=1,
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
                value = 100 * min(float(late[g, a]), 1.0)
                entries.append({"line": rule, "x": f"{lie}, {kind}", "value": value})
    if folder:
        out, title = folder.path / "aggregators.png", "Late gradient norm, in hundredths"
        plots.heatmap(entries, out, title, "attack", "at most 100")
    return Group(findings, rows, entries, None)
