"""Transformers whose blocks are stacked, so that one of them is compiled for all.

A model that derives from `BlockStack` is a chain of stages: `embed`, `block` for each block,
and `head`. Whoever changes the parameters of one block can begin there with what came before.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Key
from farsign_jax.models import adapters, checkpoints
from farsign_jax.validation import require

Carry = tuple[Array, Array]  # f32[b, t, w], and bool[b or 1, 1, t or 1, t], who is attended to


class Block(nn.Module):
    """One block of a transformer: attention, then two dense layers, each with a residual.

    Attributes:
        width: w, of the residual stream.
        heads: of attention.
        hidden: the width between the two dense layers.
        post_norm: whether the sum of a residual is normalised (BERT), or the input of a branch.
        exact_gelu: whether GELU is computed by the error function (BERT) or by tanh.
        epsilon: of the normalisations.
    """

    width: int
    heads: int
    hidden: int
    post_norm: bool = False
    exact_gelu: bool = False
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, h: Array, attended: Array) -> Array:
        """Maps f32[b, t, w] to f32[b, t, w]."""

        def branch(h: Array, name: str, f: Any) -> Array:
            norm = nn.LayerNorm(epsilon=self.epsilon, name=name)
            return norm(h + f(h)) if self.post_norm else h + f(norm(h))

        h = branch(h, "attention_norm", lambda x: self._attention(x, attended))
        return branch(h, "hidden_norm", self._dense)

    def _attention(self, x: Array, attended: Array) -> Array:
        def split(name: str) -> Array:
            y = nn.Dense(self.width, name=name)(x)
            return y.reshape(*x.shape[:2], self.heads, -1)

        q, k, v = split("query"), split("key"), split("value")
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1]).astype(q.dtype)
        scores = jnp.where(attended, scores, jnp.finfo(q.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return nn.Dense(self.width, name="output")(mixed.reshape(x.shape))

    def _dense(self, x: Array) -> Array:
        y = nn.gelu(nn.Dense(self.hidden, name="up")(x), approximate=not self.exact_gelu)
        return nn.Dense(self.width, name="down")(y)


class BlockStack(nn.Module):
    """A chain of `layers` blocks, with their parameters stacked: leaves [layers, ...].

    A model defines `embed`, `head` and `make_block`, and calls `stack` in its `setup`. The
    parameters that `head` alone reads are those under the names `head_layers`.
    """

    layers: int = 2

    reads_tokens: ClassVar[bool] = True
    head_layers: ClassVar[tuple[str, ...]] = ()

    def make_block(self) -> Block:
        """A block without parameters."""
        raise NotImplementedError

    def embed(self, tokens: Array) -> Carry:
        """What the first block is given, for tokens i32[b, t]."""
        raise NotImplementedError

    def head(self, carry: Carry) -> Array:
        """The logits, from what the last block returns."""
        raise NotImplementedError

    def stack(self, width: int) -> None:
        """Declares the parameters of the blocks."""
        block, example = self.make_block(), jnp.zeros((1, 1, width))

        def init(key: Key) -> Any:
            def one(key: Key) -> Any:
                return block.init(key, example, jnp.ones((1, 1, 1, 1), bool))["params"]

            return jax.vmap(one)(jax.random.split(key, self.layers))

        self.blocks = self.param("blocks", init)

    def block(self, number: Array | int, carry: Carry) -> Carry:
        """Block `number`, which may be traced."""
        variables = {"params": self.blocks}
        if self.has_variable(adapters.COLLECTION, "blocks"):
            variables[adapters.COLLECTION] = self.get_variable(adapters.COLLECTION, "blocks")
        own = jax.tree.map(lambda a: a[number], variables)
        h, attended = carry
        return jnp.asarray(self.make_block().apply(own, h, attended)), attended

    def __call__(self, tokens: Array) -> Array:
        """Maps tokens i32[b, t] to logits."""

        def step(carry: Carry, number: Array) -> tuple[Carry, None]:
            return self.block(number, carry), None

        numbers = jnp.arange(self.layers)
        return self.head(jax.lax.scan(step, self.embed(tokens), numbers)[0])


class Transformer(BlockStack):
    """A causal transformer that predicts the next token at every position, or classifies.

    Attributes:
        num_classes: the number of tokens, or of classes.
        vocabulary: the number of tokens of a classifier, which says of the last position what
            class the text has; 0, the classes are the tokens.
        layers: the number of blocks.
        width: of the residual stream.
        heads: of attention.
        context: the largest number of tokens of an input.
        path: a file of parameters that `checkpoints.save` has written; "", they are drawn.
    """

    num_classes: int = 97
    vocabulary: int = 0
    width: int = 64
    heads: int = 4
    context: int = 64
    path: str = ""

    head_layers: ClassVar[tuple[str, ...]] = ("norm", "output")

    def pretrained(self) -> dict[str, np.ndarray]:
        """The parameters of the file, by their paths; a classifier's last layer is drawn."""
        found = checkpoints.load(self.path) if self.path else {}
        own = ("output/",) if self.vocabulary else ()
        return {name: leaf for name, leaf in found.items() if not name.startswith(own)}

    def make_block(self) -> Block:
        return Block(self.width, self.heads, 4 * self.width, parent=None)

    def setup(self) -> None:
        self.tokens = nn.Embed(self.vocabulary or self.num_classes, self.width)
        self.positions = nn.Embed(self.context, self.width)
        self.norm = nn.LayerNorm()
        self.output = nn.Dense(self.num_classes)
        self.stack(self.width)

    def embed(self, tokens: Array) -> Carry:
        length = tokens.shape[1]
        rule = f"a transformer with context={self.context} reads at most as many tokens: got "
        require(length <= self.context, f"{rule}{length}")
        earlier = jnp.tril(jnp.ones((length, length), bool))[None, None]
        return self.tokens(tokens) + self.positions(jnp.arange(length))[None], earlier

    def head(self, carry: Carry) -> Array:
        """Logits f32[b, t, tokens], or f32[b, classes]."""
        h = carry[0][:, -1] if self.vocabulary else carry[0]
        return self.output(self.norm(h))
