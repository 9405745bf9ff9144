"""The convergence theorem of AsynRSA-VR on strongly convex problems.

With r honest and q Byzantine workers of J examples each, f_i and f_0 mu-strongly convex with
L-Lipschitz gradients, participation gamma, and x* the minimisers of the penalised problem (3):

    E T^k <= (1 - gamma mu L alpha / (mu + L))^k T^0 + Delta_1                      (11)
    T = |x - x*|^2 + (2 J mu L alpha / (3 (mu + L))) S,   S = sum_i mean_j |x_i* - phi_ij|^2

x stacks the models of the server and of the honest workers; phi_ij is the point at which worker
i last evaluated its example j.

References:
    "Asynchronous Byzantine-Robust Stochastic Aggregation with Variance Reduction for
    Distributed Learning", Lemma 1, Theorem 1, eqs. (11), (12) and (43).
"""

from typing import Any, NamedTuple

import numpy as np

from farsign_jax.methods.rsa import NORMS
from farsign_jax.validation import require


class Constants(NamedTuple):
    """The constants of a run that the theorem depends on."""

    convexity: float  # mu
    smoothness: float  # L
    examples: int  # J, the number of examples of each worker
    honest: int  # r, the number of honest workers
    byzantine: int  # q, the number of Byzantine workers
    dim: int  # d
    penalty: float  # lambda
    step_size: float  # alpha
    participation: float  # gamma

    def check(self) -> "Constants":
        """Returns the constants, after checking the conditions of the theorem.

        Raises:
            InvalidConfig: naming the first value that does not fulfil its condition.
        """
        mu, smooth = self.convexity, self.smoothness
        require(0 < mu <= smooth, f"need 0 < mu <= L: got mu={mu}, L={smooth}")
        require(self.examples >= 1, f"need J >= 1 examples: got {self.examples}")
        require(self.honest >= 1, f"need an honest worker: got r={self.honest}")
        require(self.byzantine >= 0, f"need q >= 0: got {self.byzantine}")
        require(self.penalty >= 0, f"need lambda >= 0: got {self.penalty}")
        gamma = self.participation
        require(0 < gamma <= 1, f"need 0 < participation <= 1: got {gamma}")
        alpha, most = self.step_size, largest_step(mu, smooth, self.examples)
        rule = f"the proof needs 0 < alpha <= {most:.3g}: got {alpha:.3g}"
        require(0 < alpha <= most, rule)
        return self


def largest_step(convexity: float, smoothness: float, examples: int) -> float:
    """Returns the largest alpha that the proof permits, eq. (43).

    It is up to J times that of the theorem, mu / (12 J (mu + L) L).
    """
    mu, smooth = convexity, smoothness
    total = mu + smooth
    return min(
        1 / (2 * total), total / (2 * examples * mu * smooth), mu / (12 * total * smooth)
    )


def contraction(constants: Constants) -> float:
    """Returns gamma mu L alpha / (mu + L), the least relative decrease of T in a round."""
    mu, smooth = constants.convexity, constants.smoothness
    return constants.participation * constants.step_size * mu * smooth / (mu + smooth)


def final_error(constants: Constants) -> float:
    """Returns Delta_1, eq. (12), the bound of T in the limit.

    It does not depend on the noise of the examples, and is positive even without Byzantine
    workers.
    """
    s = constants.check()
    squares = s.penalty**2 * s.dim
    ratio = (s.convexity + s.smoothness) / (s.convexity * s.smoothness)
    gamma, r, q = s.participation, s.honest, s.byzantine
    steps = s.step_size * squares * (16 * gamma * r + 16 * r**2 + 2 * q**2)
    attack, absence = ratio * squares * q**2, (1 - gamma) * ratio * squares * r**2
    return ratio / gamma * (steps + attack + absence)


def bound(constants: Constants, first: float, rounds: Any) -> np.ndarray:
    """Returns the right side of (11) after the given numbers of rounds, from T^0 = `first`."""
    left = 1 - contraction(constants)
    return left ** np.asarray(rounds, np.float64) * first + final_error(constants)


def lyapunov(constants: Constants, distance: Any, table: Any) -> Any:
    """Returns T from |x - x*|^2 and S."""
    mu, smooth = constants.convexity, constants.smoothness
    weight = 2 * constants.examples * mu * smooth * constants.step_size / (3 * (mu + smooth))
    return distance + weight * table


def enough_penalty(gradients: Any, p: float = 1) -> float:
    """Returns the least lambda for which all models of (3) agree on x~ (Lemma 1).

    It is max_i |grad f_i(x~)|_b with 1/b + 1/p = 1, at the minimiser x~ of sum_i f_i + f_0.

    Args:
        gradients: f[r, d], the gradients of the honest workers at x~.
        p: 1, 2 or inf.

    Raises:
        InvalidConfig: if p is none of 1, 2 and inf, or there are no gradients.
    """
    gradients = np.asarray(gradients, np.float64)
    require(p in NORMS.values(), f"rsa needs p of 1, 2 or inf: got p={p}")
    require(gradients.ndim == 2 and len(gradients) >= 1, "need gradients f[r, d] of r workers")
    dual = {1: np.inf, 2: 2, np.inf: 1}[p]
    return float(np.linalg.norm(gradients, ord=dual, axis=1).max())
