"""The processes of a cluster: how many workers start, which of them lie, and how fast."""

from typing import Any

from experiments.parts.finetune_methods import TASK, with_base
from farsign_jax import specs
from farsign_jax.cli import imports
from farsign_jax.harness.flags import FLAGS
from farsign_jax.io import files
from farsign_jax.runtime.testing.local_cluster import LocalCluster

# What is learnt, and by which method: settings of a served run.
TASKS: dict[str, dict[str, Any]] = {
    "digits": {"method": "far_sign"},
    "finetune": TASK | {"method": "far_sign:scheme=forward", "step_size": 0.05},
}
FLOODED = 200  # answers per second of all workers under a flood; two cores manage 400


def start(local: LocalCluster, config: dict[str, Any], attack: str) -> tuple[list[str], Any]:
    """Starts the server and all workers.

    Returns:
        The kind of each worker, and the process of the adversarial client, or None.
    """
    byzantine, workers = config["byzantine"], config["workers"]
    directory = files.expanded(FLAGS.data_dir or "").absolute()
    data = [f"--data_dir={directory}"] if FLAGS.data_dir else []
    data += imports.again(FLAGS)
    flags_of_run = [f"--events={config['events']}", f"--seed={config['seed']}"]
    flags_of_run += ["--eval_every=1", "--silence=10"]
    flags_of_run += of_task(config["task"], config["vote"])
    fast, slow = paces(config)
    adversary = byzantine - 1 if config["behaviours"] else None
    wait_for = workers - (adversary is not None)
    local.start_server(*flags_of_run, f"--wait_for={wait_for}", *data)
    kinds, client = [], None
    for worker in range(workers):
        if worker == adversary:
            kinds.append("adversarial client")
        elif worker < byzantine and attack != "none":
            kinds.append("Byzantine")
            local.start_worker(worker, f"--attack={attack}", *fast, *data)
        else:
            kinds.append("honest")
            local.start_worker(worker, *(fast if worker < byzantine else slow), *data)
    if adversary is not None:
        behaviours = [f"--behaviours={','.join(config['behaviours'])}", "--seconds=2"]
        client = local.start_worker(
            adversary,
            *behaviours,
            "--times=1",
            "--prompted",
            module="farsign_jax.runtime.testing.adversarial_client",
        )
    local.wait_for_first_answer(wait_for)
    return kinds, client


def of_task(task: str, vote: str) -> list[str]:
    """Returns the flags that say what is learnt, and by which method."""
    settings = dict(TASKS[task])
    settings["method"] = specs.extended(settings["method"], f"vote={vote}")
    if "model" in settings:
        settings["model"] = with_base(settings["dataset"], settings["model"], FLAGS.out)
    return [f"--{name}={value}" for name, value in settings.items()]


def paces(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Returns the flags that set how often Byzantine and honest workers answer."""
    if (flood := config["flood"]) is None:
        return [], []
    honest = config["workers"] - config["byzantine"]
    rate = FLOODED / (honest + flood * config["byzantine"])
    return [f"--rate={flood * rate}"], [f"--rate={rate}"]


def started(config: dict[str, Any]) -> str:
    """What is started: the workers that join, and the client that misbehaves as one of them."""
    if not config["behaviours"]:
        return f"{config['workers']} workers"
    return f"{config['workers'] - 1} workers and an adversarial client"
