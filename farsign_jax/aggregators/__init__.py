"""Robust aggregation: many vectors, of which some may be Byzantine, become one."""

from farsign_jax.aggregators.coordinatewise import (
    around_median,
    majority_vote,
    meamed,
    mean,
    median,
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
    "around_median",
    "bulyan",
    "canonical",
    "centered_clipping",
    "geometric_median",
    "krum",
    "majority_vote",
    "make",
    "mda",
    "meamed",
    "mean",
    "median",
    "multi_krum",
    "parse",
    "rfa",
    "trimmed_mean",
    "validate_rows",
    "without_options",
]
