"""Transformers: attention looks back, blocks are stages, and BERT is that of its folder."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import models
from farsign_jax.models import bert, checkpoints
from farsign_jax.validation import DataError, InvalidConfig

TINY = pathlib.Path(__file__).parent / "tiny_bert"


def test_a_causal_transformer_predicts_from_what_came_before():
    module = models.make("transformer:layers=2,width=16,heads=2,context=10", 30)
    flat = models.flatten(module, (10,))
    x = flat.init(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 30, (3, 10))
    logits = flat.apply(x, tokens)
    assert logits.shape == (3, 10, 30)
    changed = tokens.copy()
    changed[:, 6:] = 1
    np.testing.assert_allclose(flat.apply(x, changed)[:, :6], logits[:, :6], atol=1e-5)
    assert np.abs(flat.apply(x, changed)[:, 6:] - logits[:, 6:]).max() > 0.01
    with pytest.raises(InvalidConfig, match="context=10 reads at most as many tokens: got 11"):
        flat.apply(x, np.zeros((1, 11), int))


def test_stages_make_the_whole_model():
    module = models.make("transformer:layers=3,width=16,heads=2,context=6", 9)
    tokens = np.random.default_rng(0).integers(0, 9, (2, 6)).astype(np.int32)
    variables = module.init(jax.random.key(0), tokens)
    carry = module.apply(variables, tokens, method="embed")
    for number in range(3):
        carry = module.apply(variables, number, carry, method="block")
    head = module.apply(variables, carry, method="head")
    np.testing.assert_allclose(head, module.apply(variables, tokens), rtol=1e-5)


def test_parameters_are_read_from_a_file(tmp_path):
    text = "transformer:layers=1,width=8,heads=1,context=4"
    flat = models.flatten(models.make(text, 5), (4,))
    x = flat.init(jax.random.key(3))
    leaves = {"output/bias": np.arange(5.0, dtype=np.float32)}
    checkpoints.save(tmp_path / "a.npz", leaves)
    of_file = models.flatten(models.make(f"{text},path={tmp_path / 'a.npz'}", 5), (4,))
    tree = of_file.tree(of_file.init(jax.random.key(3)))
    np.testing.assert_array_equal(tree["output"]["bias"], leaves["output/bias"])
    np.testing.assert_array_equal(tree["output"]["kernel"], flat.tree(x)["output"]["kernel"])
    for name, leaf, message in (
        ("output/bia", np.zeros(5), "output/bia, which is no parameter of the model"),
        ("output/bias", np.zeros(6), r"output/bias of shape \(5,\): the file has \(6,\)"),
    ):
        checkpoints.save(tmp_path / "a.npz", {name: leaf})
        with pytest.raises(InvalidConfig, match=message):
            of_file.init(jax.random.key(3))
    (tmp_path / "a.npz").unlink()
    with pytest.raises(DataError, match="the parameters of a model: "):
        of_file.init(jax.random.key(3))


def test_bert_has_the_outputs_of_the_reference_implementation():
    """Recorded from `transformers` 5.24 with random parameters; a shorter text is padded."""
    recorded = json.loads((TINY / "outputs.json").read_text())
    tokens = jnp.asarray(recorded["tokens"], jnp.int32)
    module = bert.from_folder(3, str(TINY))
    flat = models.flatten(module, tokens.shape[1:])
    variables = {"params": flat.tree(flat.init(jax.random.key(0)))}
    carry = module.apply(variables, tokens, method="embed")
    for number in range(module.layers):
        carry = module.apply(variables, number, carry, method="block")
    counted = np.asarray(tokens != bert.PADDING)
    found, want = np.asarray(carry[0])[counted], np.asarray(recorded["hidden"])[counted]
    np.testing.assert_allclose(found, want, atol=2e-5)
    assert flat.apply(flat.init(jax.random.key(0)), tokens).shape == (2, 3)


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path):
    def refused(error, message):
        with pytest.raises(error, match=message) as found:
            module = bert.from_folder(2, str(tmp_path))
            models.flatten(module, (8,)).init(jax.random.key(0))
        assert "\n" not in str(found.value)

    refused(DataError, "no model in .*config.json: No such file")
    (tmp_path / "config.json").write_text("{")
    refused(DataError, "config.json is no JSON: ")
    config = json.loads((TINY / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    refused(InvalidConfig, "is a model of type bert: got gpt2")
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(DataError, "no parameters in .*model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    refused(DataError, "no parameters in .*model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    shutil.copy(TINY / "model.safetensors", tmp_path)
    refused(DataError, "has no parameter encoder.layer.2.attention.self.query.weight")
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 61}))
    refused(InvalidConfig, r"tokens/embedding of shape \(61, 16\): the file has \(60, 16\)")
