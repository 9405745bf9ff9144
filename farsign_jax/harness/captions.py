"""What stands below a table of results: what its figures are, and the command that makes it."""

import shlex

from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.io import folder_readme

# Flags that no result depends on: where it lies, and on which machines it is computed.
_PLACES = ("--out", "--data_dir", "--coordinator", "--processes", "--process")


def command_line() -> str:
    """Returns the sentence that names the running command, or "" outside one."""
    _, text = folder_readme.made_by()
    words, kept = iter(shlex.split(text)), []
    for word in words:
        if word in _PLACES:
            next(words, None)
        elif not word.startswith(tuple(f"{flag}=" for flag in _PLACES)):
            kept.append(word)
    return f"Made by `{shlex.join(kept)}`.\n" if kept else ""


def of_accuracies(config: PanelConfig, best: bool = True, backdoor: bool = False) -> str:
    """Returns the caption of a table of accuracies.

    Args:
        config: of the runs.
        best: whether the table has the best accuracy on the way, too.
        backdoor: whether it has the success rate of backdoors.
    """
    where = "the test set"
    if config.validation:
        share = f"{100 * config.validation:.3g} % of the training set"
        where = f"the {share} held out for validation"
    seeds = ", ".join(map(str, config.seeds))
    over = f"mean over the seeds {seeds}" if len(config.seeds) > 1 else f"seed {seeds}"
    last = " (last)" if best else ""
    text = f"Accuracy in % on {where} after the last event{last}, {over}"
    if best:
        text += "; best is the highest of each seed on the way, found on the same examples"
    if backdoor:
        text += "; backdoor is the part of the images of other labels that are classified as "
        text += "the attacker wants, with the trigger, after the last event"
    return f"{text}. {command_line()}"
