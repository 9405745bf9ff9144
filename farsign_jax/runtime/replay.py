"""Replays a recorded run in the simulator and compares the final states bit for bit.

    python -m farsign_jax.runtime.replay run
    python -m farsign_jax.runtime.replay results/serve-1a2b3c4d --import my_module

--import names modules that register what the run used beside the names of the package.

The recorded run becomes a problem whose workers answer what they answered. The simulator
processes these answers in the order of the journal, with `outstanding` delivery and with the
directions that it draws itself. On a CPU, x, y and the rest of the server's state must end with
the same bits as in the recorded run. The exit code is 0 if they do. It is 1 if they do not, or
if a part of the journal could not be replayed, because it is damaged or incomplete.
"""

import pathlib
import sys
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import flags

from farsign_jax import attacks, simulation
from farsign_jax.base import Problem, Server, System, Worker
from farsign_jax.cli import help, imports
from farsign_jax.config.run_config import RunConfig
from farsign_jax.io import endings, files
from farsign_jax.runtime import journal, rows, run_config
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.store import apply_arrivals, restore_checkpoint
from farsign_jax.validation import InvalidConfig, require


def _no_losses(x: Any, batch: Any) -> Any:
    raise NotImplementedError("a recorded run consists of answers and has no losses")


def as_problem(arrivals: np.ndarray, num_workers: int, x0: Any) -> Problem:
    """Returns the problem whose examples are the recorded answers, each in its worker's shard.

    An example contains the values of an answer and the version of the iterate at which it was
    computed, in two halves that f32 represents exactly.
    """
    version = arrivals["version"].astype(np.int64)
    halves = np.stack([version >> 16, version & 0xFFFF], axis=1).astype(np.float32)
    own = [np.flatnonzero(arrivals["worker"] == i) for i in range(num_workers)]
    sizes = np.array([len(events) for events in own], np.int32)
    indices = np.zeros((num_workers, max(sizes.max(initial=0), 1)), np.int32)
    for row, events in zip(indices, own, strict=True):
        row[: len(events)] = events
    return Problem(
        data=jnp.concatenate([arrivals["value"], halves], axis=1),
        rows=jnp.asarray(indices),
        sizes=jnp.asarray(sizes),
        x0=jnp.asarray(x0),
        losses=_no_losses,
    )


def as_system(server: Server, shape: tuple[int, ...]) -> System:
    """Returns the server with workers that repeat their recorded answers."""

    def respond(state, query, shard, key):
        del query, key  # the answer is already recorded
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
    """Simulates the run in a journal.

    Args:
        server: the server of the run.
        shape: the shape of the values of one answer.
        arrivals: the recorded answers, as `journal.read` returns them.
        x0: the initial iterate, f32[d].
        seed: the seed of the run.

    Raises:
        InvalidConfig: if the numbers of the questions are not those of a run.
    """
    workers = arrivals["worker"].astype(np.int32)
    questions = np.zeros(server.num_workers, np.int64)
    for event, worker in enumerate(workers.tolist()):
        found, expected = int(arrivals["number"][event]), int(questions[worker])
        rule = (
            f"arrival {event} must answer question {expected} of worker {worker}: got {found}"
        )
        require(found == expected, rule)
        questions[worker] = event + 1
    problem = as_problem(arrivals, server.num_workers, x0)
    system = as_system(server, shape)
    return simulation.run(problem, system, workers, seed=seed, delivery="outstanding")[0]


class Verification(NamedTuple):
    """The result of a replay.

    Attributes:
        events: number of answers replayed.
        differing: names of the arrays in which the server's state and the simulator's differ.
        unread: what of the journal was not replayed, and why; empty if all of it was.
        run: the simulated run.
    """

    events: int
    differing: list[str]
    unread: str
    run: simulation.Run


def load_config(path: pathlib.Path) -> RunConfig:
    """Returns the configuration of a recorded run.

    Raises:
        InvalidConfig: if the folder has none.
    """
    try:
        return run_config.from_json((path / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        reason = f"config.json: {error.strerror}"
        raise InvalidConfig(f"{path} contains no recorded run: {reason}") from error
    except ValueError as error:
        raise InvalidConfig(f"{path} contains no recorded run: {error}") from error


def recorded_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns what the server measured during the run."""
    return rows.read(path)


def verify(path: Any, data_dir: str | None = None) -> Verification:
    """Replays the run in a folder and compares it with the recorded state of its server.

    Args:
        path: the folder of the run.
        data_dir: the directory of the data set.

    Raises:
        InvalidConfig: if the folder contains no run, or a damaged one.
    """
    path = files.expanded(path)
    config = load_config(path)
    problem, _ = config.problem(data_dir)
    machine, system = run_config.machine(config, problem), config.system(problem)
    fingerprint, by_seed = run_config.fingerprint(config), run_config.draws_by_seed(config)
    found = journal.contents(path / "arrivals.log", fingerprint)
    arrivals, unread = found.arrivals, found.damage
    if found.rest and not unread:
        unread = f"the journal ends with {found.rest} bytes of an incomplete record"
    core = ServerCore(machine, Limits(), by_seed=by_seed, log=lambda arrival: None)
    if (path / "checkpoint.npz").exists():
        restore_checkpoint(core, path / "checkpoint.npz", fingerprint)
    apply_arrivals(core, arrivals[core.events :])
    run = replay(system.server, machine.shape, arrivals, problem.x0, config.seed)
    return Verification(len(arrivals), machine.differing(run.server), unread, run)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    imports.define(values)
    with endings.in_one_line():
        if help.asked(argv[1:]):
            print((__doc__ or "").strip())
            return 0
        given = " ".join(argv[1:]) or "none"
        try:
            folders = values(argv)[1:]
        except flags.Error as error:
            endings.fail(help.plain(error))
        require(len(folders) == 1, f"need the folder of one recorded run: got {given}")
        imports.load(imports.asked(values))
        found = verify(folders[0])
        if found.differing:
            print(f"{found.events} arrivals replayed: {', '.join(found.differing)} differ")
        if found.unread:
            text = f"{found.events} arrivals replayed, not all: {found.unread}"
            print(text, file=sys.stderr)
        if found.differing or found.unread:
            return 1
        print(f"{found.events} arrivals replayed: the simulator ends with the same bits")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
