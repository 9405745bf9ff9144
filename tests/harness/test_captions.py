"""What stands below a table says which examples, seeds and moment its figures are of."""

import dataclasses

from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import captions


def test_a_caption_names_examples_seeds_and_moment():
    config = PanelConfig(seeds=(0, 1))
    text = captions.of_accuracies(config)
    assert text.startswith(
        "Accuracy in % on the test set after the last event (last), mean over the seeds 0, 1; "
        "best is the highest of each seed on the way, found on the same examples. "
    )
    held_out = dataclasses.replace(config, seeds=(7,), validation=1 / 6)
    assert captions.of_accuracies(held_out, best=False).startswith(
        "Accuracy in % on the 16.7 % of the training set held out for validation after the "
        "last event, seed 7. "
    )
    assert "backdoor is the part" in captions.of_accuracies(config, backdoor=True)
