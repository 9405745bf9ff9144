"""What the server and the workers of a run make of its configuration, and must make alike."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import directions as directions_lib
from farsign_jax import keys, simulation
from farsign_jax.base import Problem, System
from farsign_jax.config import schedules, systems
from farsign_jax.config.run_config import RunConfig
from farsign_jax.config.settings import from_dict
from farsign_jax.io import files, provenance
from farsign_jax.methods import METHODS, defaults_of, table_vote
from farsign_jax.runtime.numpy_server import NumpyServer, uses_multiply_add
from farsign_jax.runtime.state_machine import CompiledServer, StateMachine
from farsign_jax.validation import InvalidConfig, require

# The settings of a served run. All others describe what a simulation must be given and a real
# run brings along: the attacks, the order of arrivals, and the number of answers.
SERVED = (
    "method",
    "aggregator",
    "buffers",
    "byzantine",
    "workers",
    "seed",
    "dataset",
    "model",
    "subspace",
    "partition",
    "heterogeneity",
    "batch_size",
    "directions",
    "delta",
    "step_size",
    "decay",
    "decay_every",
)

BASE = RunConfig(workers=8, byzantine=0)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The settings of a served run."""
    settings = config.to_dict()
    return {name: settings[name] for name in SERVED}


def to_json(config: RunConfig) -> str:
    """The settings of a served run, for `from_json`."""
    return files.json_text(to_dict(config), sort_keys=True)


def from_json(text: str) -> RunConfig:
    """The configuration of a served run from its settings.

    Raises:
        InvalidConfig: if they are not those of a run that can be served.
    """
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise InvalidConfig(f"no configuration of a served run: {error}") from None
    good = isinstance(settings, dict) and set(settings) == set(SERVED)
    require(good, f"no configuration of a served run: it has the settings {', '.join(SERVED)}")
    fixed = {name: value for name, value in BASE.to_dict().items() if name not in SERVED}
    config = from_dict(RunConfig, fixed | settings)
    check(config)
    return config


def check(config: RunConfig) -> None:
    """Raises `InvalidConfig` if a run cannot be served."""
    name, options, _ = systems.parse_method(config.method, config.preset)
    rule = f"{name} works in rounds, and this server waits for nobody"
    require(not METHODS[name].works_in_rounds, rule)
    rule = "arrival_rates=known is for simulations: nobody knows the rates of real workers"
    require(options.get("arrival_rates") != "known", rule)
    rule = f"{name} must know how many workers are Byzantine at most: got byzantine=0"
    known = "byzantine" not in defaults_of(name) or "byzantine" in options
    require(known or config.byzantine > 0, rule)
    rule = "the workers of a served run keep nothing between answers: got momentum="
    require(not options.get("momentum"), f"{rule}{options.get('momentum')}")
    require(config.workers < 2**16, f"need workers < 65536: got {config.workers}")


def fingerprint(config: RunConfig) -> str:
    """Of the settings and of the random generator: where it is equal, all draw alike."""
    return provenance.fingerprint(to_dict(config) | {"generator": generator()})


def _unset(method: str, options: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    defaults = defaults_of(method)
    return all(options.get(name, defaults[name]) == defaults[name] for name in names)


def moves_along_coordinates(config: RunConfig) -> bool:
    """Whether an answer changes x only at the coordinates that it is about."""
    name, options, _ = systems.parse_method(config.method, config.preset)
    entry = METHODS[name]
    return entry.moves_along_coordinates and _unset(name, options, entry.dense_options)


def draws_by_seed(config: RunConfig) -> bool:
    """Whether directions follow from the worker and the number of the question, so that they
    need not be sent."""
    name, options, _ = systems.parse_method(config.method, config.preset)
    unset = _unset(name, options, METHODS[name].state_dependent_options)
    return moves_along_coordinates(config) and unset


def machine(config: RunConfig, problem: Problem) -> StateMachine:
    """The server of a run: in NumPy if the method has one with these options, and NumPy gives
    the bits of the compiled update on this machine; else the compiled one."""
    name, options, _ = systems.parse_method(config.method, config.preset)
    known = METHODS[name].has_numpy_server and options.keys() <= set(table_vote.OPTIONS)
    if known and uses_multiply_add() is not None:
        d, schedule = problem.x0.shape[-1], schedules.oracle_config(config).schedule
        return NumpyServer(
            config.workers,
            directions_lib.identity(d, config.directions),
            problem.x0,
            config.seed,
            step_size=schedule(config.hyper["step_size"]),
            average_step=schedule(config.hyper["average_step"]),
            votes=options,
        )
    return compiled(config, problem)


def compiled(config: RunConfig, problem: Problem) -> CompiledServer:
    """The server of a run as a compiled program."""
    system, seed = config.system(problem), config.seed
    shape = answer_shape(system, problem, seed)
    along = moves_along_coordinates(config)
    return CompiledServer(system.server, problem.x0, seed, shape, along)


def answer_shape(system: System, problem: Problem, seed: int) -> tuple[int, ...]:
    """The shape of one answer.

    Raises:
        InvalidConfig: if an answer is not one array of f32.
    """
    roles = keys.split(seed)
    inbox = jax.eval_shape(
        lambda: simulation.start(system, problem, roles, "outstanding").inbox
    )
    leaves = jax.tree.leaves(inbox.value)
    if len(leaves) != 1 or leaves[0].dtype != np.float32:
        rule = f"an answer is one array of float32: this worker sends {inbox.value}"
        raise InvalidConfig(rule)
    return tuple(leaves[0].shape[2:])  # of [m, 1, ...]


@functools.cache
def generator() -> str:
    """The name of the random generator and some of its numbers, which tell whether two
    processes draw alike."""
    config: Any = jax.config
    partitionable = bool(config.jax_threefry_partitionable)
    name = f"{config.jax_default_prng_impl} partitionable={partitionable}"
    key = keys.message(keys.split(0).queries, jnp.int32(1), jnp.int32(2))
    drawn = np.asarray(directions_lib.sample_distinct(key, 25450, 4)).tolist()
    bits = np.asarray(jax.random.bits(key, (2,))).tolist()
    return f"{name} {drawn} {bits}"
