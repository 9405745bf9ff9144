"""Two-point differences along fresh random directions, which a seed names.

    D_l = [F(x + delta u_l; xi) - F(x - delta u_l; xi)] / (2 delta),   l = 1..k
    g   = 1 / (k E u_j^2) sum_l D_l u_l        the dense estimate that is sent, E g ~ grad F

Forward differences, [F(x + delta u_l; xi) - F(x; xi)] / delta, share the evaluation at x, as in
`zeroth_order.two_point`. With directions of the unit sphere, for which 1 / E u_j^2 = d, this is
the worker of CYBER-0.

References:
    Neto, Egger, Bakshi and Bitar, "Communication-Efficient Byzantine-Resilient Federated
    Zero-Order Optimization" (CYBER-0), arXiv 2406.14362; Egger, Bakshi and Bitar,
    "Byzantine-Resilient Zero-Order Optimization for Communication-Efficient Heterogeneous
    Federated Learning" (CyBeR-0), arXiv 2502.00193; dense and with buffers as in
    arXiv 2605.09337, Section 4. Other distributions: `directions.random_directions`.
"""

import jax
import jax.numpy as jnp

from farsign_jax.base import Problem, Schedule, Worker
from farsign_jax.directions.random_directions import RandomDirections
from farsign_jax.oracles.dense_mlp import dense_loss_changes
from farsign_jax.oracles.precision import check_precision
from farsign_jax.oracles.zeroth_order import check, evaluation_noise, evaluations
from farsign_jax.step_sizes import as_schedule
from farsign_jax.validation import require

MESSAGES = ("dense", "scalar")


def random_two_point(
    problem: Problem,
    directions: RandomDirections,
    *,
    batch_size: int,
    delta: float | Schedule = 1e-3,
    coupled: bool = True,
    noise_std: float = 0.0,
    message: str = "dense",
    scheme: str = "central",
) -> Worker:
    """A worker that answers with two-point differences along k random directions from a seed.

    Args:
        problem: what is minimised; its structure, if it has one, makes evaluations cheaper.
        directions: the directions, those of the server.
        batch_size: b, the number of examples in a mini-batch, drawn with replacement from the
            shard.
        delta: the perturbation: a number, a tracer or a schedule of the server step at which
            the worker was asked.
        coupled: whether both points share one mini-batch and one noise, or have independent
            ones.
        noise_std: the standard deviation of further noise on each evaluation, which cancels if
            the points are coupled.
        message: "dense", the worker sends g f32[d]; "scalar", it sends D f32[k] and the server,
            which knows the seed, rebuilds g.
        scheme: "central", or "forward" for k + 1 evaluations.

    Raises:
        InvalidConfig: if batch_size < 1, delta <= 0, or the message or scheme is unknown; when
            it is asked, if the losses are computed in half precision (`check_precision`).
    """
    check(batch_size, delta, scheme)
    require(message in MESSAGES, f"message is one of {MESSAGES}: got {message!r}")
    delta = as_schedule(delta)
    k, central = directions.k, scheme == "central"

    def losses_and_changes(x, batch, vectors, step, signs):
        if problem.structure is not None:
            check_precision(problem.structure.activation, x[:1])
            return dense_loss_changes(problem.structure, x, batch, vectors, step, signs)
        check_precision(problem.losses, x, batch)
        base = problem.losses(x, batch)

        def along(vector_and_step):  # one direction in memory at a time
            vector, step = vector_and_step
            return [problem.losses(x + sign * step * vector, batch) - base for sign in signs]

        return base, jax.lax.map(along, (vectors, step))

    def respond(state, query, shard, key):
        asked = jnp.shape(query.direction)
        require(
            asked == (2,), f"this worker is asked about a seed u32[2]: got {query.direction}"
        )
        plus_key, minus_key, noise_key = jax.random.split(key, 3)
        x = query.params
        radius = jnp.asarray(delta(query.version), x.dtype)
        vectors, lengths = directions.vectors(query.direction)
        vectors, lengths = vectors.astype(x.dtype), lengths.astype(x.dtype)
        step = radius / lengths
        plus = shard.batch(plus_key, batch_size)
        with jax.default_matmul_precision("highest"):  # TF32 flips signs
            if coupled:
                signs = (1, -1) if central else (1,)
                _, (up, *down) = losses_and_changes(x, plus, vectors, step, signs)
                difference = jnp.mean(up - down[0] if central else up, axis=1)
            else:
                minus = shard.batch(minus_key, batch_size)
                above, (up,) = losses_and_changes(x, plus, vectors, step, (1,))
                if central:
                    below, (down,) = losses_and_changes(x, minus, vectors, step, (-1,))
                    up = up - down
                else:
                    below = problem.losses(x, minus)
                difference = above.mean() - below.mean() + jnp.mean(up, axis=1)
        noise = evaluation_noise(noise_key, k, noise_std, coupled, x.dtype, scheme)
        apart = 2 * radius if central else radius
        return state, (difference.astype(x.dtype) + noise) / apart

    # The directions are drawn again from the seed; within one program the compiler shares them.
    encode = directions.rebuild if message == "dense" else None
    return Worker(lambda shard: (), respond, evaluations(k, scheme), batch_size, encode)
