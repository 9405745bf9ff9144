"""Leads the simulator through a run that was recorded, to the same bits.

    python -m farsign_jax.runtime.replay run
    python -m farsign_jax.runtime.replay results/serve-1a2b3c4d

A recorded run is a problem whose workers say what they said: `simulate` hears them in the
order of the log, `outstanding` delivery, with the directions it draws itself. On a CPU, x, y
and everything else must end as the server has them. Ends with 0 where they do, else with 1.
"""

import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from farsign_jax import attacks, simulation
from farsign_jax.base import Problem, Server, System, Worker
from farsign_jax.cli import help
from farsign_jax.config.run_config import RunConfig
from farsign_jax.runtime import journal, run_config
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.store import hear_again, restore
from farsign_jax.validation import InvalidConfig, require


def _silent(x: Any, batch: Any) -> Any:
    raise NotImplementedError("a recorded run has answers, not losses")


def as_problem(arrivals: np.ndarray, num_workers: int, x0: Any) -> Problem:
    """The problem whose examples are the answers of a log, each with its worker.

    An example is the numbers of an answer, and the version of the iterate it is about in two
    halves, which f32 keeps.
    """
    version = arrivals["version"].astype(np.int64)
    halves = np.stack([version >> 16, version & 0xFFFF], axis=1).astype(np.float32)
    mine = [np.flatnonzero(arrivals["worker"] == i) for i in range(num_workers)]
    sizes = np.array([len(events) for events in mine], np.int32)
    rows = np.zeros((num_workers, max(sizes.max(initial=0), 1)), np.int32)
    for row, events in zip(rows, mine, strict=True):
        row[: len(events)] = events
    return Problem(
        data=jnp.concatenate([arrivals["value"], halves], axis=1),
        rows=jnp.asarray(rows),
        sizes=jnp.asarray(sizes),
        x0=jnp.asarray(x0),
        losses=_silent,
    )


def as_system(server: Server, shape: tuple[int, ...]) -> System:
    """A server that hears what was recorded, and a worker that says it."""

    def respond(state, query, shard, key):
        del query, key  # it has answered already
        row = jnp.clip(state, 0, jnp.maximum(shard.size - 1, 0))
        return state + 1, shard.data[shard.rows[row]]

    def update(state, reports):
        halves = reports.value[:, -2:].astype(jnp.int32)
        value = reports.value[:, :-2].reshape(-1, *shape)
        version = (halves[:, 0] << 16) + halves[:, 1]
        return server.update(state, reports._replace(value=value, version=version))

    worker = Worker(lambda shard: jnp.zeros((), jnp.int32), respond)
    return System(server._replace(update=update), worker, attacks.none())


def replay(
    server: Server, shape: tuple[int, ...], arrivals: np.ndarray, x0: Any, seed: int
) -> simulation.Run:
    """The run of a log, simulated.

    Args:
        server: that of the run.
        shape: of one answer.
        arrivals: `log.read`.
        x0: f32[d], where the run started.
        seed: of the run.

    Raises:
        InvalidConfig: where the questions of the log are not those of a run.
    """
    workers = arrivals["worker"].astype(np.int32)
    questions = np.zeros(server.num_workers, np.int64)
    for event, worker in enumerate(workers.tolist()):
        told, due = int(arrivals["number"][event]), int(questions[worker])
        rule = f"arrival {event} answers question {told} of worker {worker}: it was asked {due}"
        require(told == due, rule)
        questions[worker] = event + 1
    problem = as_problem(arrivals, server.num_workers, x0)
    system = as_system(server, shape)
    return simulation.run(problem, system, workers, seed=seed, delivery="outstanding")[0]


class Verdict(NamedTuple):
    """What a replay found."""

    events: int
    differing: list[str]  # arrays of the server's state that the simulator has otherwise
    run: simulation.Run


def load_config(path: pathlib.Path) -> RunConfig:
    """The configuration of a recorded run.

    Raises:
        InvalidConfig: where there is none.
    """
    try:
        return run_config.from_json((path / "config.json").read_text())
    except OSError as error:
        why = f"config.json: {error.strerror}"
        raise InvalidConfig(f"{path} holds no recorded run: {why}") from error
    except InvalidConfig as error:
        raise InvalidConfig(f"{path} holds no recorded run: {error}") from error


def recorded_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """What the server measured while it ran."""
    return json.loads((path / "results.json").read_text())["rows"]


def verify(path: Any, data_dir: str | None = None) -> Verdict:
    """Replays the run in a folder and compares it with what its server remembers.

    Raises:
        InvalidConfig: where the folder holds no run, or a damaged one.
    """
    path = pathlib.Path(path)
    config = load_config(path)
    problem, _ = config.problem(data_dir)
    machine, system = run_config.machine(config, problem), config.system(problem)
    fingerprint, by_seed = run_config.fingerprint(config), run_config.draws_by_seed(config)
    arrivals = journal.read(path / "arrivals.log", fingerprint)
    core = ServerCore(machine, Limits(), by_seed=by_seed, log=lambda arrival: None)
    if (path / "checkpoint.npz").exists():
        restore(core, path / "checkpoint.npz", fingerprint)
    hear_again(core, arrivals[core.events :])
    run = replay(system.server, machine.shape, arrivals, problem.x0, config.seed)
    return Verdict(len(arrivals), machine.differing(run.server), run)


def main(argv: list[str]) -> int:
    if help.asked(argv[1:]):
        print((__doc__ or "").strip())
        return 0
    if len(argv) != 2 or argv[1].startswith("-"):
        told = " ".join(argv[1:]) or "none"
        print(f"error: the folder of one recorded run is needed: got {told}", file=sys.stderr)
        return 2
    try:
        found = verify(argv[1])
    except InvalidConfig as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if found.differing:
        print(f"{found.events} arrivals replayed: {', '.join(found.differing)} differ")
        return 1
    print(f"{found.events} arrivals replayed: the simulator ends with the same bits")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
