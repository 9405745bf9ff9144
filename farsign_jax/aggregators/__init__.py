"""Robust aggregation: many vectors, of which some may be Byzantine, become one."""

from farsign_jax.aggregators.block_median import block_geometric_median
from farsign_jax.aggregators.comparative_elimination import comparative_elimination
from farsign_jax.aggregators.coordinatewise import (
    majority_vote,
    meamed,
    mean,
    mean_around,
    median,
    phocas,
    trimmed_mean,
)
from farsign_jax.aggregators.distance_based import (
    BULYAN,
    KRUM,
    NEIGHBOURS,
    bulyan,
    krum,
    multi_krum,
)
from farsign_jax.aggregators.filtering import iterative_filtering
from farsign_jax.aggregators.geometric import centered_clipping, geometric_median, rfa
from farsign_jax.aggregators.minimum_diameter import MDA_SUBSETS, mda
from farsign_jax.aggregators.registry import (
    AGGREGATORS,
    ALIASES,
    PARAMETERS,
    Stage,
    canonical,
    make,
    parse,
)
from farsign_jax.aggregators.rule import (
    MAJORITY,
    Count,
    Need,
    Rule,
    RuleCore,
    RuleFactory,
    validate_rows,
    without_options,
)

__all__ = [
    "AGGREGATORS",
    "ALIASES",
    "BULYAN",
    "KRUM",
    "MAJORITY",
    "MDA_SUBSETS",
    "NEIGHBOURS",
    "PARAMETERS",
    "Count",
    "Need",
    "Rule",
    "RuleCore",
    "RuleFactory",
    "Stage",
    "block_geometric_median",
    "bulyan",
    "canonical",
    "centered_clipping",
    "comparative_elimination",
    "geometric_median",
    "iterative_filtering",
    "krum",
    "majority_vote",
    "make",
    "mda",
    "meamed",
    "mean",
    "mean_around",
    "median",
    "multi_krum",
    "parse",
    "phocas",
    "rfa",
    "trimmed_mean",
    "validate_rows",
    "without_options",
]
