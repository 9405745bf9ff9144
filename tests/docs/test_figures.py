"""Figures in README and pages agree with the files of results that they quote."""

import re

import pytest

from docs import figures
from docs.figures import ATTACKS, BENCHMARKS, RESULTS

PAGES = {path.stem: path.read_text() for path in figures.PAGES}


def flat(name):
    """The text of a page on one line."""
    return " ".join(PAGES[name].split())


def numbers_of(text):
    """The decimal numbers of a text; versions, options and arXiv numbers are none."""
    text = re.sub(r"arxiv\S* \S+|https?:\S+|`[^`]*`", " ", text, flags=re.IGNORECASE)
    text = text.replace("−", "-").replace(",", "")
    return re.findall(r"(?<![\w.^])\d+\.\d+(?:e-?\d+)?(?![\w.])", text)


def test_tables_made_from_results_are_current():
    assert [str(page) for page in figures.stale()] == [], "python -m docs.figures"
    used = {
        name for text in PAGES.values() for name in re.findall("<!-- figures: (.*?) -->", text)
    }
    assert used == set(figures.BLOCKS)


# The files that a page has its numbers from, and its numbers that are not in them.
SOURCES = {
    "ablation": (
        ["ablation.md", "ablation-flood.md", "ablation-rfa.md"],
        {"0.2", "1.2", "1.6"},  # differences
    ),
    # Differences, and 0.3 to 0.6 answers per entry of a table.
    "asynchrony": (
        ["vote-flood.md", *(f"asynchrony-{panel}.md" for panel in "abcde")],
        {"3.6", "2.2", "0.3", "0.6"},
    ),
    # Of the theory's own: the rules of its verdicts, and the shapes of delays.
    "prior_art": (["prior-art-1.md", "prior-art-2.md", "prior-art-ahead.md"], set()),
    "worst_case": (
        [f"worst-case{part}.md" for part in ("", "-ranking", "-certificate", "-constants")],
        {"4.0", "2.4", "0.15"},  # differences, and an option
    ),
    "votes": (
        ["rates-votes.md"]
        + [f"vote-{panel}.md" for panel in ("cases", "flood", "tables", "visits")],
        # Differences, a concentration, and answers per entry.
        {"1.9", "1.0", "2.3", "4.7", "0.1", "1.2", "1.6"},
    ),
    # Differences, and options.
    "finetune": (
        ["finetune.md", "subspaces-a.md", "subspaces-b.md"]
        + ["../../benchmarks/results/finetune-cpu-epyc-2cores.md"],
        {"22.6", "5.1", "1.6", "24.2", "31.0", "39.0", "1.2", "10.0", "0.1", "0.05", "0.66"}
        | {"0.75", "0.7", "0.5", "2.0", "0.4"},
    ),
    "theory": (
        ["rates.md", "rates-recursion.md", "tune-text.md"],
        {"0.1", "0.05", "0.25", "2.5", "1.5"},
    ),
}


@pytest.mark.parametrize("page", SOURCES)
def test_numbers_of_a_page_are_in_its_results(page):
    files, computed = SOURCES[page]
    measured = " ".join((RESULTS / name).read_text() for name in files)
    known = {float(number) for number in numbers_of(measured)}
    text = re.sub("```.*?```", "", PAGES[page], flags=re.DOTALL)
    missing = {n for n in numbers_of(text) if float(n) not in known} - computed
    assert missing == set()


def lead(name, method):
    """The least and greatest number of points by which a method ends above FAR-SIGN."""
    points = [-figures.lead(name, method, attack) for attack in ATTACKS]
    return min(points), max(points)


def least(column, name="tuned"):
    """The smallest multiple that a baseline needs to 80 %, over attacks: least and greatest."""
    found = []
    for attack in ATTACKS:
        cells = [c[column] for (_, a), c in figures.leads(name).items() if a == attack]
        found.append(min(float(cell) for cell in cells if cell != "always"))
    return min(found), max(found)


def test_tuned_leads():
    (low, high), (least_krum, most_krum) = (
        lead("tuned", "cyber0 rfa:iterations=32"),
        lead("tuned", "cyber0 multi_krum:f=4"),
    )
    assert low > 0 and least_krum > 0
    text = (
        f"RFA leads it by {low} to {high} points and Multi-Krum by {least_krum} to {most_krum}"
    )
    assert text in flat("table3")
    readme = (
        f"RFA ends {low} to {high} points above it and with Multi-Krum {least_krum} to "
        f"{most_krum}, depending on the attack"
    )
    assert readme in flat("README")
    medians = [lead("tuned", f"cyber0 {rule}")[1] for rule in ("median", "bulyan:f=2")]
    assert f"lead it by {min(medians)} to {max(medians)} points under ALIE" in flat("table3")


def test_times_to_accuracy_with_tuned_steps():
    evaluations, seconds, bits = (
        least(name) for name in ("evaluations to 80 %", "seconds", "bits")
    )
    text = (
        f"the best baseline needs {evaluations[0]:.1f} to {evaluations[1]:.1f} times as many "
        f"evaluations, {seconds[0]:.0f} to {seconds[1]:.0f} times as many seconds, and "
        f"{bits[0]:.0f} to {bits[1]:.0f} times as many bits"
    )
    assert text in flat("table3")
    readme = f"the fastest CYBER-0 takes {seconds[0]:.0f} to {seconds[1]:.0f} times as long"
    assert readme in flat("README")


def ahead(method):
    """The attacks under which a method of the third table ends above FAR-SIGN, tuned."""
    ours = {attack: figures.accuracy("tuned", "far_sign", attack) for attack in ATTACKS}
    return [a for a in ATTACKS if figures.accuracy("asynchronous", method, a) > ours[a]]


def test_who_else_ends_above_far_sign():
    assert ahead("aflguard") == ahead("sign_sgd_mv") == ATTACKS
    but = ("alie", "sign_flip")
    assert ahead("zeno_pp") == [attack for attack in ATTACKS if attack not in but]
    assert "end higher too, and so does Zeno++, except under ALIE and sign" in flat("README")
    assert "end higher too; Zeno++ does so except under ALIE and sign" in flat("limits")


def test_worst_cases_of_the_asynchronous_baselines():
    methods = figures.methods_of("asynchronous")
    worst = {m: min(figures.accuracy("asynchronous", m, a) for a in ATTACKS) for m in methods}
    rounds = {"sgd median", "sign_sgd_mv", "ef_sign_sgd"}
    first, *others = sorted(set(methods) - rounds, key=lambda m: -worst[m])
    assert first == "aflguard" and others[:2] == ["far_sign", "basgd median"]
    assert max(worst, key=lambda m: worst[m]) == "sign_sgd_mv"
    for text in (
        f"majority vote of signSGD ({worst['sign_sgd_mv']})",
        f"AFLGuard ({worst['aflguard']})",
        f"FAR-SIGN ({worst['far_sign']}) and BASGD with a median ({worst['basgd median']})",
    ):
        assert text in flat("table3")


def test_far_sign_leads_with_the_steps_of_the_paper():
    verdicts = {at: cells["verdict"] for at, cells in figures.leads("paper").items()}
    alie = [figures.lead("paper", *at) for at in verdicts if at[1] == "alie"]
    assert {at[1] for at, verdict in verdicts.items() if verdict == "behind"} == {"alie"}
    assert f"{-max(alie)} to {-min(alie)} points above it" in flat("table3")
    assert f"{-max(alie)} to {-min(alie)} points below all aggregators" in flat("README")
    level = {at for at, verdict in verdicts.items() if verdict == "level"}
    assert {attack for _, attack in level} <= {"gaussian", "constant", "sign_flip"}


def test_end_to_end_times():
    ends = (RESULTS / "table3-paper.md").read_text()
    found = re.findall(r", ([\d.]+) s as computed, ([\d.]+) s end to end", ends)
    (ours, end), (theirs, their_end) = found
    assert f"took {end} s where this predicts {ours} s" in flat("table3")
    assert f"baseline {their_end} s where it predicts {theirs} s" in flat("table3")


def published(name, method, attack):
    return float(figures.table3(name)[method, attack]["published best"])


def differences(rule):
    """Ours minus published, by attack."""
    name = f"cyber0 {rule}"
    return {
        a: figures.accuracy("paper", name, a, "best, %") - published("paper", name, a)
        for a in ATTACKS
    }


def test_differences_from_the_published_table():
    text = flat("table3")
    krum, bulyan = differences("krum:f=4"), differences("bulyan:f=2")
    better = f"Krum and Bulyan are {krum['none']:.1f} and {bulyan['none']:.1f} points better"
    assert better in text
    for rule, points in {"krum:f=4": 6, "bulyan:f=2": 4, "multi_krum:f=4": 3}.items():
        name = f"cyber0 {rule}"
        assert (
            round(published("paper", name, "none") - published("paper", name, "alie")) == points
        )
        ours = figures.accuracy("paper", name, "none", "best, %")
        assert ours - figures.accuracy("paper", name, "alie", "best, %") <= 1.05
    tune = {(row[0], row[1].split()[0]): row for row in figures.read(RESULTS / "tune.md")[0]}
    krum, median = tune["cyber0 krum:f=4", "0.22"][2], tune["cyber0 median", "0.22"][2]
    assert f"Krum {krum}, median {median}" in text  # 0.22 is four times 0.055


def test_the_network_of_softmax_units():
    table = (RESULTS / "brsgd.md").read_text()
    falls = dict(re.findall(r"softmax units: (\S+, \w+).*?falls to (\d+) %", table))
    apart = {"mean, sign_flip": falls.pop("mean, sign_flip")}
    apart["median, alie"] = falls.pop("median, alie")
    numbers = [int(number) for number in falls.values()]
    text = flat("brsgd")
    assert f"falls to {min(numbers)} to {max(numbers)} % of its largest value" in text
    assert f"the mean under sign flips ({apart['mean, sign_flip']} %)" in text
    assert f"the median under ALIE ({apart['median, alie']} %)" in text


def test_late_gradients_of_every_aggregator_under_alie():
    table, text = (RESULTS / "brsgd.md").read_text(), flat("brsgd")
    shrinks = dict(re.findall(r"noise like the gradient: (\S+) +\|.*?alie ([\d.e-]+)", table))
    late = dict(
        re.findall(r"late gradient norm, noise that stays: (\S+) .*?alie ([\d.]+)", table)
    )
    numbers = sorted(float(n) for n in late.values())
    assert f"gradient of {numbers[0]:.2f} to {numbers[-1]:.2f} under ALIE" in text
    vote = float(shrinks.pop("majority_vote"))
    assert f"at {max(map(float, shrinks.values()))} or less" in text
    assert f"(majority vote: {vote})" in text
    bounds = [float(n) for n in re.findall(r"at most ([\d.]+) of the bound", table)]
    assert f"stay below {max(bounds)} of the bound" in text


def test_the_assumptions_of_brsgd():
    table = (RESULTS / "brsgd-assumptions.md").read_text()
    section = PAGES["brsgd"].split("## The assumptions")[1].split("## Your own")[0]
    known = set(numbers_of(table)) | {"2.4", "0.07"}
    assert set(numbers_of(section)) <= known
    grows = re.findall(r"r = 2, 3, 4: (\w+).*\| grows with", table)
    assert grows == ["mean", "rfa", "centered_clipping", "majority_vote"]


def test_asynrsa():
    table, text = (RESULTS / "asynrsa.md").read_text(), PAGES["asynrsa"]
    for claim in ("Figure 2", "Figure 3"):
        for line in re.findall(rf"^\| {claim} .*$", table, re.MULTILINE):
            for number in re.findall(r" (\d\d\.\d)", line):
                assert number in text, (line, number)
    saga = set(re.findall(r"byrd_saga (\d\d\.\d) %", table))
    assert saga == {"90.6"} and "ends at 90.6 % under both attacks" in flat("asynrsa")


def test_speed():
    text = flat("speed")
    for factor in [
        row[2] for row in figures.read(BENCHMARKS / "torch-cpu-epyc-2cores.md")[-1][1:]
    ]:
        assert re.search(rf"\b{factor}\b", text)
    rules = {
        row[0]: row[4]
        for row in figures.read(BENCHMARKS / "aggregators-cpu-epyc-2cores.md")[0][1:]
        if row[3] == "1,000,000" and row[1] == "25"
    }
    shown = [f"{rules['median']} ms (`median`)", f"{rules['rfa']} ms (`rfa`)"]
    for part in [*shown, f"{rules['geometric_median']} ms for the exact"]:
        assert part in text
    ours, basgd, sgd = figures.read(RESULTS / "many-workers.md")[0][1:]
    assert f"take {ours[2]} s with `far_sign`, {basgd[2]} s with the 4,001 buffers" in text
    assert f"and {sgd[2]} s as four rounds" in text and f"ends at {ours[1]} %" in text
    many = figures.read(BENCHMARKS / "workers-cpu-epyc-2cores.md")[0][1:]
    us = {
        n: [float(r[4].replace(",", "")) for r in many if r[0] == n and r[4]] for n, *_ in many
    }
    low, high = min(us["far_sign"]), max(us["far_sign"])
    assert f"an event of FAR-SIGN takes {low:.0f} to {high:.0f} µs" in text
    low, high = min(us["basgd:buffers=100"]), max(us["basgd:buffers=100"])
    assert f"100 buffers takes {low:.0f} to {high:.0f} µs" in text
    sgd = [float(row[4]) for row in many if row[0] == "sgd" and row[1] != "25"]
    assert f"a median of 1,000 gradients {min(sgd):.0f} to {max(sgd):.0f} µs" in text
    per_worker = [float(row[2].replace(",", "")) / 100 for row in many if row[1] == "100,000"]
    assert f"{per_worker[0]:.0f} kB per worker, {per_worker[1]:.0f} kB with" in text
    assert f"and {per_worker[2]:.1f} kB with 256 seeded directions" in text
    open_queries = figures.read(BENCHMARKS / "delays-cpu-epyc-2cores.md")
    times = [float(cell) for row in open_queries[0][1:] for cell in row[2:4]]
    assert f"{min(times):.2f} to {max(times):.2f} times as long as with fresh delivery" in text
    slowest = max(row[1] for row in open_queries[1][1:])
    assert f"A schedule of a million events takes {slowest} s" in text
    devices = figures.read(BENCHMARKS / "devices-cpu-epyc-2cores.md")[0]
    assert f"Eight runs on two devices take {devices[2][3]} times" in text
    launches = figures.read(BENCHMARKS / "launches-h200.md")[0][1:]
    counts = [int(row[3]) for row in launches if row[0].startswith("far_sign")]
    assert f"{min(counts)} to {max(counts)} instructions" in text
    assert f"all {launches[-1][1]} runs of CYBER-0 has {launches[-1][5]} on average" in text
    gpu = figures.read(BENCHMARKS / "h200.md")
    fastest = next(row for row in gpu[0] if row[0] == "far_sign" and row[2] == "625")
    millions = int(fastest[7].replace(",", "")) // 10**6
    assert f"{millions} million mini-batch losses per second" in text
    one_by_one, batched = (row[2] for row in gpu[-1][1:])
    assert (
        f"{one_by_one} times as long one direction after the other, and {batched} times" in text
    )
    assert f"{float(fastest[4]):.2f} µs for each of 625 runs on an H200" in flat("README")
    for at in figures.table3("paper"):
        here, there = (figures.accuracy(n, *at, "best, %") for n in ("paper", "paper-h200"))
        assert abs(here - there) < 0.11
    wall = re.search(r"took (\d+) s", (RESULTS / "table3-paper-h200.md").read_text())
    assert wall and f"five seeds takes {wall[1]} s from a cold start" in text
    event = figures.read(BENCHMARKS / "cpu-epyc-2cores.md")[0][1][4]
    text = "200 evaluations of a loss, two for each of 100 directions, and takes"
    assert f"{text} {event} µs on two CPU cores" in flat("README")


def test_fashion_mnist():
    text = flat("table3")

    def leads(attack, *others):
        methods = set(figures.methods_of("fashion")) - {"far_sign", *others}
        found = [figures.lead("fashion", method, attack) for method in methods]
        return min(found), max(found)

    low, high = leads("none")
    assert f"ends {low} to {high} points above every baseline without attack" in text
    low, high = leads("sign_flip")
    assert f"and {low} to {high} points under sign flips" in text
    low, high = leads("alie")
    assert f"{-high} to {-low} points below all of them under ALIE" in text
    collapsed = "cyber0 mean", "cyber0 trimmed_mean:f=2"
    for attack in ("gaussian", "constant"):
        assert all(figures.accuracy("fashion", m, attack) < 50 for m in collapsed)
    ends = [leads(attack, *collapsed) for attack in ("gaussian", "constant")]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    assert f"FAR-SIGN ends {low} to {high} points above the others" in text
    assert all(row["evaluations to 80 %"] == "-" for row in figures.table3("fashion").values())


def test_real_processes():
    text = flat("real_processes")
    small, votes, mnist = figures.read(BENCHMARKS / "runtime-cpu-epyc-2cores.md")
    pulled = sorted({int(row[3].replace(",", "")) for row in small[1:]})
    assert f"{pulled[0]} to {pulled[-1]:,} bytes" in text
    times = sorted(int(row[4]) / 1000 for row in small[1:])
    assert f"{times[0]:.2f} to {times[-1]:.2f} ms on an answer, and" in text
    two, four, eight = (row[1] for row in mnist[2:])
    assert (
        f"{two} answers a second as two processes, {four} as four and {eight} as eight" in text
    )
    own, median, nnm = (row[1] for row in votes[1:])
    assert f"accepts {median} answers a second with a median and {nnm} with NNM" in text
    assert f"where it accepts {own} without a vote" in text


def test_margins_and_time_scales():
    table = (RESULTS / "rates.md").read_text()
    designed, drawn = re.findall(r"eta = ([\d.]+) against ([\d.]+)", table)[0]
    text = f"$\\eta$ = {designed}, where the best of 32 random draws has {drawn}"
    assert text in flat("data")
    assert "2.00, as predicted" in flat("time_scales") and "2.00" in table


def test_quickstart():
    """The figures of the tutorial are those of the command's help."""
    import experiments.quickstart as command

    doc = " ".join(command.__doc__.split())
    for number in re.findall(r"(\d\d\.\d) %", doc):
        assert f"{number} %" in flat("tutorial")
