"""Methods by name.

A new method is one file in this package, which defines its `METHOD`, and one line in `METHODS`;
the command lines and the common tests find it there.
"""

import inspect
from typing import Any

from farsign_jax import specs
from farsign_jax.methods import (
    aflguard,
    asyn_rsa_vr,
    async_feed_sign,
    async_sgd,
    async_sign_sgd,
    async_zo_sgd,
    basgd,
    brsgd,
    byrd_saga,
    byzantine_sgd,
    cyber0,
    cyber0_rounds,
    decomfl,
    draco,
    ef_sign_sgd,
    far_sign,
    far_sign_first_order,
    fed_kseed,
    fed_sgd,
    fedbuff,
    feed_sign,
    kardam,
    mezo,
    rdsa,
    rsa,
    rsg,
    rsgf,
    sgd,
    sign_sgd_mv,
    spsa,
    zeno_pp,
    zo_sign_sgd,
)
from farsign_jax.methods.method import Method
from farsign_jax.validation import lookup

METHODS: dict[str, Method] = {
    "far_sign": far_sign.METHOD,
    "far_sign_first_order": far_sign_first_order.METHOD,
    "cyber0": cyber0.METHOD,
    "basgd": basgd.METHOD,
    "async_sgd": async_sgd.METHOD,
    "async_sign_sgd": async_sign_sgd.METHOD,
    "async_zo_sgd": async_zo_sgd.METHOD,
    "kardam": kardam.METHOD,
    "zeno_pp": zeno_pp.METHOD,
    "aflguard": aflguard.METHOD,
    "fedbuff": fedbuff.METHOD,
    "sgd": sgd.METHOD,
    "brsgd": brsgd.METHOD,
    "cyber0_rounds": cyber0_rounds.METHOD,
    "byzantine_sgd": byzantine_sgd.METHOD,
    "draco": draco.METHOD,
    "fed_sgd": fed_sgd.METHOD,
    "byrd_saga": byrd_saga.METHOD,
    "rsa": rsa.METHOD,
    "asyn_rsa_vr": asyn_rsa_vr.METHOD,
    "sign_sgd_mv": sign_sgd_mv.METHOD,
    "ef_sign_sgd": ef_sign_sgd.METHOD,
    "rsg": rsg.METHOD,
    "rsgf": rsgf.METHOD,
    "zo_sign_sgd": zo_sign_sgd.METHOD,
    "rdsa": rdsa.METHOD,
    "spsa": spsa.METHOD,
    "mezo": mezo.METHOD,
    "feed_sign": feed_sign.METHOD,
    "async_feed_sign": async_feed_sign.METHOD,
    "decomfl": decomfl.METHOD,
    "fed_kseed": fed_kseed.METHOD,
}


def options_of(method: str) -> list[str]:
    """Returns the names of the options of a method, without its hyper-parameters."""
    return list(inspect.signature(lookup("method", method, METHODS).build).parameters)[3:]


def defaults_of(method: str) -> dict[str, Any]:
    """Returns what `--methods NAME:option=value` may set, with the defaults.

    These are the hyper-parameters of preset "paper", and the options.
    """
    entry = lookup("method", method, METHODS)
    parameters = inspect.signature(entry.build).parameters
    return hyper_of(method, "paper") | {o: parameters[o].default for o in options_of(method)}


def parse(text: str, preset: str = "paper") -> tuple[str, dict[str, Any]]:
    """The name of a method, and the options and hyper-parameters that its text gives.

    Raises:
        InvalidConfig: if one of them does not exist or has another type.
    """
    name, texts = specs.parse(text)
    known: specs.Parameters = {}
    for number in hyper_of(name, preset):
        known |= specs.option(number, float)
    build = specs.parameters(METHODS[name].build)
    known |= {option: build[option] for option in options_of(name)}
    return name, specs.typed(name, texts, known)


def hyper_of(method: str, preset: str, aggregator: str = "") -> dict[str, Any]:
    """Returns the hyper-parameters of a method in a preset.

    Args:
        method: a name of `METHODS`.
        preset: "paper" or "tuned".
        aggregator: the aggregator of the run, for methods whose tuned step size depends on it.

    Raises:
        InvalidConfig: on an unknown method or preset.
    """
    entry = lookup("method", method, METHODS)
    hyper = dict(lookup("preset", preset, entry.presets))
    if preset == "tuned" and aggregator in entry.tuned:
        hyper["step_size"] = entry.tuned[aggregator]
    return hyper
