"""BERT, with the parameters of a folder as Hugging Face writes it: an encoder and a classifier.

The folder has `config.json` and `model.safetensors`, which the package `safetensors` reads. The
classifier is a dense layer on the mean of what the encoder says of the tokens; it is drawn, as
the folder has none for labels of one's own.

References:
    Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for
    Language Understanding", NAACL 2019.
"""

import json
import pathlib
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array
from farsign_jax.io import files
from farsign_jax.models.transformer import Block, BlockStack, Carry
from farsign_jax.validation import DataError, InvalidConfig, require

PADDING = 0  # the token to which nothing attends

# Names of dense layers and normalisations here, and in the folder.
_DENSE = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
_NORMS = {"attention_norm": "attention.output.LayerNorm", "hidden_norm": "output.LayerNorm"}
_EMBEDDINGS = {"tokens": "word", "positions": "position", "token_types": "token_type"}


class Bert(BlockStack):
    """An encoder of texts, and a classifier of the mean of its outputs.

    Attributes:
        layers: the number of blocks.
        num_classes: of the classifier.
        vocabulary: the number of tokens.
        width: of the residual stream.
        heads: of attention.
        hidden: the width between the dense layers of a block.
        context: the largest number of tokens of an input.
        types: the number of token types, of which the first is used.
        epsilon: of the normalisations.
        path: the folder; "", all parameters are drawn.
    """

    num_classes: int = 2
    vocabulary: int = 128
    width: int = 32
    heads: int = 2
    hidden: int = 64
    context: int = 64
    types: int = 2
    epsilon: float = 1e-12
    path: str = ""

    head_layers: ClassVar[tuple[str, ...]] = ("output",)

    def make_block(self) -> Block:
        return Block(
            self.width,
            self.heads,
            self.hidden,
            post_norm=True,
            exact_gelu=True,
            epsilon=self.epsilon,
            parent=None,
        )

    def setup(self) -> None:
        self.tokens = nn.Embed(self.vocabulary, self.width)
        self.positions = nn.Embed(self.context, self.width)
        self.token_types = nn.Embed(self.types, self.width)
        self.norm = nn.LayerNorm(epsilon=self.epsilon)
        self.output = nn.Dense(self.num_classes)
        self.stack(self.width)

    def embed(self, tokens: Array) -> Carry:
        length = tokens.shape[1]
        rule = f"this model reads at most {self.context} tokens: got {length}"
        require(length <= self.context, rule)
        h = self.tokens(tokens) + self.positions(jnp.arange(length))[None]
        h = self.norm(h + self.token_types(jnp.zeros((1, 1), jnp.int32)))
        return h, (tokens != PADDING)[:, None, None]

    def head(self, carry: Carry) -> Array:
        """Logits f32[b, classes]."""
        return self.output(self.pooled(carry))

    def pooled(self, carry: Carry) -> Array:
        """The mean of the outputs of the tokens, f32[b, w]."""
        h, attended = carry
        counted = attended[:, 0, 0, :, None].astype(h.dtype)
        return (h * counted).sum(axis=1) / jnp.maximum(counted.sum(axis=1), 1)

    def pretrained(self) -> dict[str, np.ndarray]:
        """The parameters of the folder, by their paths here."""
        return read_parameters(pathlib.Path(self.path), self.layers) if self.path else {}


def from_folder(num_classes: int = 2, path: str = "") -> Bert:
    """BERT with the parameters of a folder: config.json and model.safetensors.

    Raises:
        DataError: if the folder or a file is missing or damaged.
        InvalidConfig: if its model is no BERT.
    """
    require(path != "", "bert needs a folder: bert:path=FOLDER")
    folder = files.expanded(path)
    config = _config(folder)
    kind, activation = config.get("model_type"), config.get("hidden_act", "gelu")
    require(kind == "bert", f"{folder} is a model of type bert: got {kind}")
    require(activation == "gelu", f"{folder} uses the activation gelu: got {activation}")
    return Bert(
        layers=config["num_hidden_layers"],
        num_classes=num_classes,
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        context=config["max_position_embeddings"],
        types=config["type_vocab_size"],
        epsilon=config["layer_norm_eps"],
        path=str(folder),
    )


def _config(folder: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"no model in {folder}: config.json: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{folder / 'config.json'} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{folder / 'config.json'} is no JSON object")
    return found


def read_parameters(folder: pathlib.Path, layers: int) -> dict[str, np.ndarray]:
    """The parameters of a folder under the paths that they have in `Bert`.

    Raises:
        DataError: if the file is missing or damaged, or lacks a parameter.
        InvalidConfig: if the package `safetensors` is not installed.
    """
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        rule = "this model needs the package safetensors: pip install farsign_jax[text]"
        raise InvalidConfig(rule) from error
    path = folder / "model.safetensors"
    try:
        arrays = load_file(path)
    except Exception as error:  # of types of its own
        raise DataError(f"no parameters in {path}: {error}") from error
    arrays = {name.removeprefix("bert."): array for name, array in arrays.items()}

    def get(name: str) -> np.ndarray:
        if name not in arrays:
            raise DataError(f"{path} has no parameter {name}")
        return arrays[name].astype(np.float32)

    found = {
        f"{own}/embedding": get(f"embeddings.{name}_embeddings.weight")
        for own, name in _EMBEDDINGS.items()
    }
    found["norm/scale"] = get("embeddings.LayerNorm.weight")
    found["norm/bias"] = get("embeddings.LayerNorm.bias")

    def stacked(name: str, kind: str) -> np.ndarray:
        return np.stack([get(f"encoder.layer.{n}.{name}.{kind}") for n in range(layers)])

    for own, name in _DENSE.items():
        found[f"blocks/{own}/kernel"] = stacked(name, "weight").transpose(0, 2, 1)
        found[f"blocks/{own}/bias"] = stacked(name, "bias")
    for own, name in _NORMS.items():
        found[f"blocks/{own}/scale"] = stacked(name, "weight")
        found[f"blocks/{own}/bias"] = stacked(name, "bias")
    return found
