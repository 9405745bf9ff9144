"""Methods by name: which server listens to which honest worker, with which step sizes.

A new method is one file in `servers/`, one function here and one line in `METHODS`; the
command lines and the common tests find it there.
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax import aggregators, oracles, step_sizes
from farsign_jax import directions as directions_lib
from farsign_jax.base import Problem, Worker
from farsign_jax.directions import importance
from farsign_jax.methods import average_storage
from farsign_jax.methods.aflguard import aflguard
from farsign_jax.methods.async_sgd import async_sgd
from farsign_jax.methods.brsgd import brsgd
from farsign_jax.methods.buffered import buffered
from farsign_jax.methods.ef_sign_sgd import ef_sign_sgd, error_feedback_sign
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.methods.fedbuff import fedbuff
from farsign_jax.methods.kardam import kardam
from farsign_jax.methods.method import Hyper, Method, OracleConfig
from farsign_jax.methods.rsa import own_model, rsa
from farsign_jax.methods.sgd import sgd
from farsign_jax.methods.sign_sgd import momentum_sign, sign_sgd
from farsign_jax.methods.zeno_pp import zeno_pp
from farsign_jax.models.structure import MLPStructure
from farsign_jax.oracles.coordinate_mlp import touch
from farsign_jax.validation import lookup, require

NORMS = {"l1": 1, "l2": 2, "linf": float("inf")}


def _gradients(problem: Problem, feedback: OracleConfig) -> Worker:
    return oracles.stochastic_gradient(problem.losses, batch_size=feedback.batch_size)


def _trusted(problem: Problem, examples: int) -> Any:
    """What the server has of its own: the first examples of each worker, leaves [R, ...]."""
    m, most = problem.num_workers, problem.num_workers * problem.rows.shape[-1]
    rule = f"the server needs 1 <= trusted <= {most} examples of its own: got {examples}"
    require(1 <= examples <= most, rule)
    rows = problem.rows[:, : -(-examples // m)].T.reshape(-1)[:examples]
    return jax.tree.map(lambda a: a[rows], problem.data)


def _far_sign(
    problem,
    feedback,
    hyper,
    *,
    arrival_rates="none",
    rate_cap=None,
    cap_rank=None,
    scheme="central",
    sampler="uniform",
    floor=0.1,
    weights="none",
    last_layer=1.0,
    soft=0.0,
    averaging=None,
    storage="float32",
    slots=None,
):
    """Signs of a moving average per worker and coordinate, of two-point differences.

    What is not here is told to `far_sign` and `zeroth_order`.

    Args:
        arrival_rates: "none", all steps weigh 1; "known" (on a command line), the step of
            worker i is divided by m times the rate at which it says it answers; "estimate",
            by that at which it does.
        sampler: "uniform", all coordinates are equally likely; "alive" or "rank", see
            `sampling`.
        floor: in (0, 1], the weight of a coordinate of score 0 beside one of score 1.
        weights: "none"; or "inverse", steps are divided by K / k times the probability with
            which their coordinate is asked for.
        last_layer: factor >= 0 of the steps in the last layer of an MLP.
        storage: where y is kept: "float32", "bfloat16", "blocks", "sketch" or "hashed", see
            `averages`.
        slots: of the tables of the last three, per worker.
    """
    beta = hyper["average_step"]
    require(beta <= 1, f"far_sign needs 0 < average_step <= 1: got {beta}")
    dictionary = directions_lib.identity(problem.x0.shape[-1], feedback.directions)
    server = far_sign(
        problem.num_workers,
        dictionary,
        step_size=feedback.schedule(hyper["step_size"]),
        average_step=feedback.schedule(hyper["average_step"]),
        arrival_rates=None if arrival_rates == "none" else arrival_rates,
        rate_cap=rate_cap,
        cap_rank=cap_rank,
        sampler=_sampler(dictionary, sampler, floor, weights),
        gain=None if last_layer == 1 else _last_layer(problem, last_layer),
        soft=soft,
        averaging=averaging,
        storage=average_storage.make(storage, problem.num_workers, dictionary.size, slots),
    )
    worker = oracles.zeroth_order(
        problem,
        dictionary,
        batch_size=feedback.batch_size,
        delta=feedback.delta,
        scheme=scheme,
    )
    return server, worker


WEIGHTS = ("none", "inverse")


def _sampler(dictionary, score, floor, weights):
    lookup("weights", weights, dict.fromkeys(WEIGHTS))
    lookup("sampler", score, {"uniform": None} | importance.VOTES)
    if score == "uniform":
        return None
    told = {"score": score, "floor": floor, "inverse": weights == "inverse"}
    return importance.importance(dictionary.size, dictionary.per_query, **told)


def _last_layer(problem, factor):
    """From coordinates to factors of their steps: `factor` in the last layer of an MLP."""
    rule = "last_layer is about the layers of an MLP"
    require(isinstance(problem.structure, MLPStructure), rule)
    require(factor >= 0, f"far_sign needs last_layer >= 0: got {factor}")
    last = problem.structure.layers[-1]

    def gain(j):
        return jnp.where(touch(last, j).here, jnp.asarray(factor, jnp.float32), 1.0)

    return gain


def _far_sign_first_order(
    problem, feedback, hyper, *, arrival_rates="none", rate_cap=None, cap_rank=None
):
    """Signs of a moving average per worker and coordinate of a gradient."""
    options = {"arrival_rates": arrival_rates, "rate_cap": rate_cap, "cap_rank": cap_rank}
    server, _ = _far_sign(problem, feedback, hyper, **options)
    dictionary = directions_lib.identity(problem.x0.shape[-1], feedback.directions)
    worker = oracles.directional_derivative(
        problem.losses, dictionary, batch_size=feedback.batch_size, mode="grad"
    )
    return server, worker


def _async_sgd(problem, feedback, hyper):
    """Stochastic gradients as they come, no defence."""
    step_size = feedback.schedule(hyper["step_size"])
    return async_sgd(problem.num_workers, step_size=step_size), _gradients(problem, feedback)


def _async_sign_sgd(problem, feedback, hyper):
    """Signs of stochastic gradients as they come, no memory."""
    step_size = feedback.schedule(hyper["step_size"])
    server = async_sgd(problem.num_workers, step_size=step_size, signs=True)
    return server, _gradients(problem, feedback)._replace(bits=problem.x0.shape[-1])


def _async_zo_sgd(problem, feedback, hyper):
    """Two-point differences along coordinates as they come, no defence."""
    dictionary = directions_lib.identity(problem.x0.shape[-1], feedback.directions)
    step_size = feedback.schedule(hyper["step_size"])
    worker = oracles.zeroth_order(
        problem, dictionary, batch_size=feedback.batch_size, delta=feedback.delta
    )
    return async_sgd(problem.num_workers, dictionary, step_size=step_size), worker


def _kardam(problem, feedback, hyper, *, byzantine=5, frequency="count", dampening="inverse"):
    """Gradients that change no faster than most do, and come no oftener."""
    server = kardam(
        problem.num_workers,
        byzantine=byzantine,
        step_size=feedback.schedule(hyper["step_size"]),
        frequency=frequency,
        dampening=dampening,
    )
    return server, _gradients(problem, feedback)


def _zeno_pp(problem, feedback, hyper, *, trusted=128, rho=0.001, epsilon=0.0, refresh=10):
    """Gradients that agree with the server's own data.

    The rest is told to `zeno_pp`.

    Args:
        trusted: R, examples that the server has of its own, the first ones of each worker.
    """
    server = zeno_pp(
        problem.num_workers,
        problem.losses,
        _trusted(problem, trusted),
        step_size=feedback.schedule(hyper["step_size"]),
        rho=rho,
        epsilon=epsilon,
        refresh=refresh,
    )
    return server, _gradients(problem, feedback)


def _aflguard(problem, feedback, hyper, *, trusted=100, lam=1.5, refresh=1):
    """Gradients near to that of the server's own data.

    The rest is told to `aflguard`.

    Args:
        trusted: R, examples that the server has of its own, the first ones of each worker.
    """
    server = aflguard(
        problem.num_workers,
        problem.losses,
        _trusted(problem, trusted),
        step_size=feedback.schedule(hyper["step_size"]),
        lam=lam,
        refresh=refresh,
    )
    return server, _gradients(problem, feedback)


def _fedbuff(problem, feedback, hyper, *, buffer_size=10, dampening="inverse_sqrt"):
    """The mean of a few gradients at a time, no defence."""
    step_size = feedback.schedule(hyper["step_size"])
    server = fedbuff(
        problem.num_workers, buffer_size=buffer_size, step_size=step_size, dampening=dampening
    )
    return server, _gradients(problem, feedback)


def _sgd(problem, feedback, hyper, *, aggregator="median", scale=1.0, weight_decay=0.0):
    """Rounds: an aggregator of gradients."""
    rule, step_size = aggregators.make(aggregator), feedback.schedule(hyper["step_size"])
    told = {"step_size": step_size, "scale": scale, "weight_decay": weight_decay}
    return sgd(problem.num_workers, rule, **told), _gradients(problem, feedback)


def _fed_sgd(problem, feedback, hyper, *, scale=1.0, weight_decay=0.0):
    """Rounds: the mean of gradients, no defence."""
    told = {"scale": scale, "weight_decay": weight_decay}
    return _sgd(
        problem, feedback, hyper, aggregator=METHODS["fed_sgd"].fixed_aggregator, **told
    )


def _byrd_saga(problem, feedback, hyper, *, scale=1.0, weight_decay=0.0):
    """Rounds: the geometric median of SAGA gradients."""
    told = {"scale": scale, "weight_decay": weight_decay}
    server, _ = _sgd(
        problem, feedback, hyper, aggregator=METHODS["byrd_saga"].fixed_aggregator, **told
    )
    return server, oracles.saga_gradient(problem, batch_size=feedback.batch_size)


def _own_models(problem, feedback, hyper, gradients, norm, weight_decay, server_sees):
    told = {
        "step_size": feedback.per_round_schedule(hyper["step_size"], problem.num_workers),
        "penalty": hyper["penalty"],
        "p": lookup("norm", norm, NORMS),
    }
    server = rsa(problem.num_workers, **told, weight_decay=weight_decay)
    return server, own_model(gradients, problem.x0, **told, server_sees=server_sees)


def _rsa(problem, feedback, hyper, *, norm="l1", weight_decay=0.0, server_sees="old"):
    """Rounds: models of their own, pulled together by an l_p penalty.

    The rest is told to `rsa` and `own_model`.

    Args:
        norm: of the penalty, "l1", "l2" or "linf".
    """
    gradients = _gradients(problem, feedback)
    return _own_models(problem, feedback, hyper, gradients, norm, weight_decay, server_sees)


def _asyn_rsa_vr(problem, feedback, hyper, *, norm="l1", weight_decay=0.0, server_sees="old"):
    """Rounds: models of their own, pulled together, with SAGA gradients.

    The rest is told to `rsa` and `own_model`.

    Args:
        norm: of the penalty, "l1", "l2" or "linf".
    """
    gradients = oracles.saga_gradient(problem, batch_size=feedback.batch_size)
    return _own_models(problem, feedback, hyper, gradients, norm, weight_decay, server_sees)


def _brsgd(problem, feedback, hyper, *, aggregator="median", power=0.55, growth=0.0):
    """Rounds: an aggregator, steps that sum to infinity, a random iterate.

    The rest is told to `brsgd`.

    Args:
        step_size: alpha_0 > 0.
        power: in (1/2, 1).
    """
    alpha = step_sizes.power(hyper["step_size"], power)
    rule = f"brsgd needs 1/2 < power < 1, so that sum alpha^2 is finite: got {power}"
    require(0.5 < power < 1, rule)
    server = brsgd(
        problem.num_workers, aggregators.make(aggregator), step_size=alpha, growth=growth
    )
    return server, _gradients(problem, feedback)


def _sign_sgd_mv(problem, feedback, hyper, *, momentum=0.9):
    """Rounds: a majority vote of signs of momentum."""
    server = sign_sgd(problem.num_workers, step_size=feedback.schedule(hyper["step_size"]))
    worker = _gradients(problem, feedback)
    return server, momentum_sign(worker, problem.x0.shape[-1], momentum)


def _ef_sign_sgd(problem, feedback, hyper):
    """Rounds: signs with error feedback, no defence."""
    m = problem.num_workers
    worker = error_feedback_sign(
        _gradients(problem, feedback),
        problem.x0.shape[-1],
        feedback.per_round_schedule(hyper["step_size"], m),
    )
    return ef_sign_sgd(m), worker


def _buffered(problem, feedback, hyper, aggregator, buffers, **options):
    return buffered(
        problem.num_workers,
        aggregators.make(aggregator),
        buffers=buffers,
        step_size=feedback.schedule(hyper["step_size"]),
        **options,
    )


def _basgd(problem, feedback, hyper, *, aggregator="median", buffers=11):
    """An aggregator of buffers of stochastic gradients."""
    server = _buffered(problem, feedback, hyper, aggregator, buffers)
    return server, _gradients(problem, feedback)


def _cyber0(problem, feedback, hyper, *, aggregator="median", buffers=11, message="dense"):
    """An aggregator of buffers of two-point estimates along the unit sphere."""
    sphere = directions_lib.sphere(problem.x0.shape[-1], feedback.directions)
    options = {"directions": sphere, "message": message}
    server = _buffered(problem, feedback, hyper, aggregator, buffers, **options)
    worker = oracles.sphere_two_point(
        problem, sphere, batch_size=feedback.batch_size, delta=feedback.delta, message=message
    )
    return server, worker


# The paper's step sizes are lost; 0.07 and 0.5 are inferred: they reproduce its Table 3.
_FAR_SIGN = {
    "paper": {"step_size": 0.07, "average_step": 0.5},
    "tuned": {"step_size": 0.035, "average_step": 0.5},  # python -m experiments.tune
}


_FIRST_ORDER = _FAR_SIGN | {"tuned": {"step_size": 0.0175, "average_step": 0.5}}


# Likewise inferred; for an estimate scaled by d/k. Tuned: each aggregator by itself, by
# python -m experiments.tune; the largest step tried was 0.44.
_CYBER0 = {"paper": {"step_size": 0.055}, "tuned": {"step_size": 0.22}}


_CYBER0_TUNED = {
    "mean": 0.055,
    "median": 0.22,
    "trimmed_mean:f=2": 0.11,
    "krum:f=4": 0.11,
    "multi_krum:f=4": 0.44,
    "rfa:iterations=32": 0.44,
    "bulyan:f=2": 0.22,
}


def _steps(paper: float, tuned: float | None = None) -> dict[str, Hyper]:
    return {"paper": {"step_size": paper}, "tuned": {"step_size": tuned or paper}}


# For mini-batches of 64; its paper has 0.001 for single examples (`experiments.asynrsa`).
_RSA = {name: {"step_size": 0.02, "penalty": 0.05} for name in ("paper", "tuned")}


METHODS: dict[str, Method] = {
    "far_sign": Method(_far_sign, _FAR_SIGN, moves_along_coordinates=True),
    "far_sign_first_order": Method(
        _far_sign_first_order, _FIRST_ORDER, moves_along_coordinates=True
    ),
    "cyber0": Method(_cyber0, _CYBER0, _CYBER0_TUNED),
    "basgd": Method(_basgd, _steps(0.2)),
    "async_sgd": Method(_async_sgd, _steps(0.1)),
    "async_sign_sgd": Method(_async_sign_sgd, _steps(0.001)),
    "async_zo_sgd": Method(_async_zo_sgd, _steps(0.01), moves_along_coordinates=True),
    "kardam": Method(_kardam, _steps(0.2)),
    "zeno_pp": Method(_zeno_pp, _steps(0.1)),
    "aflguard": Method(_aflguard, _steps(0.2)),
    "fedbuff": Method(_fedbuff, _steps(0.5)),
    "sgd": Method(_sgd, _steps(0.5), works_in_rounds=True),
    "brsgd": Method(_brsgd, _steps(2.0), works_in_rounds=True),
    "fed_sgd": Method(
        _fed_sgd,
        _steps(0.5),
        works_in_rounds=True,
        attacks_in_lockstep=True,
        fixed_aggregator="mean",
    ),
    "byrd_saga": Method(
        _byrd_saga,
        _steps(0.5),
        works_in_rounds=True,
        attacks_in_lockstep=True,
        fixed_aggregator="geometric_median",
    ),
    "rsa": Method(_rsa, _RSA, works_in_rounds=True, attacks_in_lockstep=True),
    "asyn_rsa_vr": Method(_asyn_rsa_vr, _RSA, works_in_rounds=True, attacks_in_lockstep=True),
    "sign_sgd_mv": Method(_sign_sgd_mv, _steps(0.0025), works_in_rounds=True),
    "ef_sign_sgd": Method(_ef_sign_sgd, _steps(1.0), works_in_rounds=True),
}


def options_of(method: str) -> list[str]:
    """What a method can be told beside step sizes."""
    return list(inspect.signature(lookup("method", method, METHODS).build).parameters)[3:]


def defaults_of(method: str) -> dict[str, Any]:
    """What --methods NAME:option=value may set, and the defaults."""
    entry = lookup("method", method, METHODS)
    parameters = inspect.signature(entry.build).parameters
    return hyper_of(method, "paper") | {o: parameters[o].default for o in options_of(method)}


def hyper_of(method: str, preset: str, aggregator: str = "") -> dict[str, Any]:
    """The hyper-parameters of a method in a preset."""
    entry = lookup("method", method, METHODS)
    hyper = dict(lookup("preset", preset, entry.presets))
    if preset == "tuned" and aggregator in entry.tuned:
        hyper["step_size"] = entry.tuned[aggregator]
    return hyper
