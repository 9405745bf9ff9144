"""Networks by name: Flax modules that map images to logits.

To add a model, enter in `MODELS` a module's class that has a field `num_classes`, or a function
of the number of classes that returns a module. Other fields and parameters are its options.
"""

from collections.abc import Callable

import flax.linen as nn

from farsign_jax import specs
from farsign_jax.base import Array
from farsign_jax.models.bert import from_folder
from farsign_jax.models.transformer import Transformer
from farsign_jax.validation import check_integer, lookup, require


class MLP(nn.Module):
    """A multi-layer perceptron with He-normal weights and zero biases on flattened inputs.

    With ReLU and features (32, 10) on MNIST this is the paper's network, d = 25,450.

    Attributes:
        features: the widths of the dense layers; the last one is the number of classes.
        activation: the function between layers.
    """

    features: tuple[int, ...] = (32, 10)
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps inputs [b, ...] to logits [b, classes]."""
        h = inputs.reshape(inputs.shape[0], -1)
        for width in self.features[:-1]:
            h = self.activation(nn.Dense(width, kernel_init=nn.initializers.he_normal())(h))
        return nn.Dense(self.features[-1], kernel_init=nn.initializers.he_normal())(h)


class CNN(nn.Module):
    """Two 3x3 convolutions with stride 2, then one dense layer, without batch statistics.

    Attributes:
        channels: the output channels of the convolutions.
        num_classes: the number of classes.
    """

    channels: tuple[int, ...] = (8, 16)
    num_classes: int = 10

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps images [b, height, width, channels] to logits [b, classes]."""
        h = inputs
        for channels in self.channels:
            h = nn.relu(nn.Conv(channels, (3, 3), strides=(2, 2))(h))
        return nn.Dense(self.num_classes)(h.reshape(h.shape[0], -1))


def mlp(num_classes: int = 10, hidden: tuple[int, ...] = (32,)) -> MLP:
    """A multi-layer perceptron with ReLU."""
    rule = f"the widths of hidden layers are positive, as in mlp:hidden=256x128: got {hidden}"
    require(all(width > 0 for width in hidden), rule)
    return MLP((*hidden, num_classes))


def softmax_regression(num_classes: int = 10) -> MLP:
    """Softmax regression: one dense layer."""
    return MLP((num_classes,))


def cnn(num_classes: int = 10) -> CNN:
    """A small convolutional network."""
    return CNN(num_classes=num_classes)


def transformer(
    num_classes: int = 97,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    context: int = 64,
    vocabulary: int = 0,
    path: str = "",
) -> Transformer:
    """A causal transformer that predicts the next token, or with a vocabulary classifies."""
    sizes = (("layers", layers), ("width", width), ("heads", heads), ("context", context))
    for name, size in sizes:
        check_integer("transformer", name, size, 1)
    rule = f"heads divide the width of a transformer: got width={width}, heads={heads}"
    require(width % heads == 0, rule)
    vocabulary = check_integer("transformer", "vocabulary", vocabulary, 0)
    return Transformer(
        layers=layers,
        num_classes=num_classes,
        vocabulary=vocabulary,
        width=width,
        heads=heads,
        context=context,
        path=path,
    )


MODELS = {
    "mlp": mlp,
    "softmax_regression": softmax_regression,
    "cnn": cnn,
    "transformer": transformer,
    "bert": from_folder,
}


def make(text: str, num_classes: int = 10) -> nn.Module:
    """The module that a text names: `mlp`, `mlp:hidden=256x128` (two hidden layers), ...

    Raises:
        InvalidConfig: on an unknown name or option, or widths that are not positive.
    """
    name, options = specs.parse(text)
    factory = lookup("model", name, MODELS)
    known = specs.parameters(factory)
    if isinstance(factory, type):  # a module's own class, of which Flax adds these fields
        known = {n: p for n, p in known.items() if n not in ("parent", "name")}
    first = "num_classes" if "num_classes" in known else next(iter(known), "num_classes")
    known.pop(first, None)
    return factory(**{first: num_classes}, **specs.typed(name, options, known))
