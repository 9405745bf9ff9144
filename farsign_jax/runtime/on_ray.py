"""Serves a run to workers that are Ray actors, on machines that trust each other.

    python -m farsign_jax.runtime.on_ray --workers 4 --events 2000 --out run
    python -m farsign_jax.runtime.on_ray --address HOST:6379 --workers 32 --cpus 1

The default address `local` starts Ray on this machine, with loopback addresses. In a cluster
(`ray start --head` on one host and `ray start --address=HOST:6379` on the others), every host
needs the same version of this package and the data set. Any member of a Ray cluster can run
code on every other one, including this server. Use farsign_jax.runtime.serve for workers that
are not trusted.

Ray places the workers. A worker that dies or is silent is replaced, and its replacement gets
the same question. The first --byzantine workers run --attack. Writes the same files as
`serve`. The same command resumes the run, and farsign_jax.runtime.replay verifies it.
"""

import asyncio

from absl import flags

from farsign_jax.cli import commands
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.worker import make_attack
from farsign_jax.validation import require

try:
    from farsign_jax.runtime import console, ray_server, run_config, service
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

FLAGS = flags.FlagValues()
_define = commands.definer(FLAGS)
_define(
    "string", "address", "local", "Address of a Ray cluster. `auto` is the one on this machine."
)
_define(
    "float", "cpus", 0.0, "Cores reserved for each worker. With 0, workers share what is left."
)
_define(
    "float",
    "silence",
    60.0,
    "Seconds without an answer after which a worker is replaced. Its first answer may take a "
    "minute longer.",
)
_define(
    "integer",
    "tries",
    3,
    "Number of consecutive losses without an answer after which a worker is not replaced.",
)
_define("string", "attack", "sign_flip:scale=10", "Attack of the Byzantine workers.")
service.define(FLAGS)


def on_ray() -> None:
    """Runs the command."""
    commands.prepare_jax()
    service.check_seconds(FLAGS, "silence")
    require(FLAGS.tries > 0, f"need --tries > 0: got {FLAGS.tries}")
    require(FLAGS.cpus >= 0, f"need --cpus >= 0: got {FLAGS.cpus}")
    config = service.config_of(FLAGS)
    workers = config.workers
    make_attack(FLAGS.attack)
    unlimited = float("inf")  # the server asks only as fast as it applies answers
    limits = Limits(FLAGS.strikes, unlimited, unlimited, FLAGS.staleness, FLAGS.history)
    ray_server.connect(FLAGS.address)
    ray_server.check_room(workers, FLAGS.cpus)
    run = service.ServedRun(FLAGS, limits)
    given = run_config.to_json(run.config), run.fingerprint, FLAGS.data_dir
    start = ray_server.actor_factory(FLAGS.cpus, FLAGS.attack, config.byzantine, *given)
    options = {"silence": FLAGS.silence, "tries": FLAGS.tries, "began": run.store.seconds}
    server = ray_server.RayServer(run.core, start, **options)

    async def where() -> str:
        return f"{workers} Ray actors ({FLAGS.address})"

    with console.unstoppable(server.rejected):
        asyncio.run(run.run(server, where))


if __name__ == "__main__":
    commands.main(on_ray, FLAGS, __doc__)
