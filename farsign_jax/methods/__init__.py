"""Methods: one file for each, with its rule, state, options, presets and entry of `METHODS`.

method.py            what a method is: `Method`, `OracleConfig`
registry.py          `METHODS`, methods by name
system_spec.py       `SystemSpec`, a method, its options and an attack as a value
far_sign_parts.py    parts that `far_sign` may be combined with, with average_storage.py
                     and iterate_average.py
buffered.py          the server of `basgd` and `cyber0`
reassignment.py      how its workers may change their buffers
random_iterate.py    the random iterate of `brsgd`, `rsg` and `rsgf`
gradient_server.py   what servers of whole gradients share
trusted.py           what servers with data of their own share
"""

from farsign_jax.methods.far_sign_parts import WEIGHTS
from farsign_jax.methods.method import Hyper, Method, OracleConfig
from farsign_jax.methods.registry import METHODS, defaults_of, hyper_of, options_of
from farsign_jax.methods.rsa import NORMS
from farsign_jax.methods.system_spec import SystemSpec

__all__ = [
    "METHODS",
    "NORMS",
    "WEIGHTS",
    "Hyper",
    "Method",
    "OracleConfig",
    "SystemSpec",
    "defaults_of",
    "hyper_of",
    "options_of",
]
