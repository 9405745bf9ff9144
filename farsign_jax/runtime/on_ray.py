"""A run whose workers are Ray actors, on machines that trust each other.

    python -m farsign_jax.runtime.on_ray --workers 4 --events 2000 --out run
    python -m farsign_jax.runtime.on_ray --address HOST:6379 --workers 32 --cpus 1

`local`, the default, starts a Ray of its own on this machine, over loopback addresses. In a
cluster (`ray start --head`, and on the others `ray start --address=HOST:6379`), this package
and the data set are on every host, in the same version. Any member of a Ray cluster can run
code on every other, this server among them: for workers that are not trusted there is
farsign_jax.runtime.serve.

Ray places the workers; one that dies, or is silent, is replaced and asked again. The first
--byzantine of them lie, as --attack says. Writes what `serve` writes: the same command goes on
where it ended, and farsign_jax.runtime.replay verifies it.
"""

import asyncio

from absl import flags

from farsign_jax.cli import commands
from farsign_jax.runtime import run_config, service
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.worker import attack_of
from farsign_jax.validation import require

try:
    from farsign_jax.runtime import ray_server
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

FLAGS = flags.FlagValues()
_define = commands.definer(FLAGS)
_define("string", "address", "local", "Of a Ray cluster; auto: the one on this machine.")
_define("float", "cpus", 0.0, "Cores that a worker has for itself; 0: what is left.")
_define(
    "float",
    "silence",
    60.0,
    "Seconds after which a worker that owes an answer is replaced; a minute later where it is "
    "the first.",
)
_define("integer", "tries", 3, "So many losses without an answer, and a worker is given up.")
_define("string", "attack", "sign_flip:scale=10", "What they say instead.")
service.define(FLAGS)


def on_ray() -> None:
    commands.prepare_jax()
    service.check_seconds(FLAGS, "silence")
    require(FLAGS.tries > 0, f"need --tries > 0: got {FLAGS.tries}")
    require(FLAGS.cpus >= 0, f"need --cpus >= 0: got {FLAGS.cpus}")
    config = service.config_of(FLAGS)
    workers = config.workers
    attack_of(FLAGS.attack)
    free = float("inf")  # nobody here floods: who answers fast is asked as fast
    limits = Limits(FLAGS.strikes, free, free, FLAGS.staleness, FLAGS.history)
    ray_server.connect(FLAGS.address)
    ray_server.check_room(workers, FLAGS.cpus)
    run = service.Serving(FLAGS, limits)
    told = run_config.to_json(run.config), run.fingerprint, FLAGS.data_dir
    start = ray_server.placed(FLAGS.cpus, FLAGS.attack, config.byzantine, *told)
    known = {"silence": FLAGS.silence, "tries": FLAGS.tries, "began": run.store.seconds}
    server = ray_server.RayServer(run.core, start, **known)

    async def where() -> str:
        return f"{workers} Ray actors ({FLAGS.address})"

    asyncio.run(run.run(server, where))


if __name__ == "__main__":
    commands.main(on_ray, FLAGS, __doc__)
