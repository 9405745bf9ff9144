"""Parts of single experiments, which are not commands themselves.

asynrsa    quadratic_consensus
brsgd      nonconvex_problem, aggregator_resilience
rates      convergence_rates, direction_margin
"""
