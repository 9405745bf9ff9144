"""Arrays of NumPy, PyTorch and others with DLPack: copies and types."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from farsign_jax import interop
from farsign_jax.interop import arrays
from farsign_jax.validation import InvalidConfig
from tests.interop.samples import ROWS, Foreign, address, aligned


def test_arrays_are_copied_only_where_necessary():
    x = aligned(ROWS)
    assert address(arrays.to_jax(x)) == x.ctypes.data
    assert address(arrays.to_jax(Foreign(x))) == x.ctypes.data
    assert address(arrays.to_jax(own := jnp.ones(3))) == address(own)
    assert arrays.from_jax(own, x).ctypes.data == address(own)
    shifted, fixed = aligned(ROWS, 4), aligned(ROWS)
    fixed.flags.writeable = False
    for copied in (shifted, fixed, x[:, ::2], x.T, x[:0], np.arange(6)):
        got = arrays.to_jax(copied)
        np.testing.assert_array_equal(got, copied.astype(np.float32))
        if copied.size:
            assert address(got) != copied.ctypes.data
    sent = interop.Attack("sign_flip", 1)(x)
    x[:] = 0  # after the call, nothing reads x any more
    assert (sent[0] == -ROWS[0]).all() and (sent[1:] == ROWS[1:]).all()


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "bool"]
)
def test_results_have_the_type_of_the_messages(dtype):
    name = getattr(ml_dtypes, dtype, dtype)
    x = (100 * ROWS).astype(name)
    want = np.median(x.astype(np.float64), axis=0)
    result = dtype if "float" in dtype else "float32"
    for got in (interop.aggregate("median", x), interop.Attack("alie:z=0", 4)(x)[0]):
        assert str(got.dtype) == result
    got = interop.aggregate("median", x)
    np.testing.assert_array_equal(got, want.astype(got.dtype))
    assert not jax.config.jax_enable_x64


def test_float64_is_not_rounded():
    x = np.asarray([[1 + 1e-12, 1.0], [1 + 2e-12, 1.0], [1 + 3e-12, 1.0]])
    assert interop.aggregate("median", list(x))[0] == x[1, 0]
    assert interop.Attack("mimic:target=2", 1)(x)[0, 0] == x[2, 0]
    server = interop.FarSign(np.ones(2), 1, step_size=1e-12, average_step=1.0)
    server.tell(server.ask(0), [-1.0, -1.0])
    assert (server.params == 1 + 1e-12).all()


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "need n >= 1 messages: got none"),
        (ROWS[:0], "n >= 1: got n=0"),
        ([1.0, 2.0], "need arrays or tensors: got float"),
        ("text", "need arrays or tensors: got str"),
        (ROWS + 1j, "need real numbers: got complex64"),
        (np.asarray(["a"]), "JAX cannot read an array of <U1 of numpy"),
        (np.float32(1), "need arrays or tensors|need n messages"),
        ([ROWS[0], ROWS[1][:3]], r"need messages of one shape: got \(\(3,\),\) in message 1"),
        ([ROWS[0], [ROWS[1]]], "message 1 is a"),
        ([ROWS[0], jnp.asarray(ROWS[1])], "need messages of one kind: got jaxlib, numpy"),
        ([{}], "got messages without any"),
    ],
)
def test_invalid_messages_are_refused(messages, message):
    with pytest.raises(InvalidConfig, match=message):
        interop.aggregate("median", messages)


def test_tensors_are_read_in_place(torch):
    x = torch.from_numpy(aligned(ROWS))
    assert address(arrays.to_jax(x)) == x.data_ptr()
    got = arrays.from_jax(own := jnp.arange(5.0), x)
    assert isinstance(got, torch.Tensor) and got.data_ptr() == address(own)
    for copied in (x[:, ::2], x[:0], torch.arange(6), x.bool()):
        np.testing.assert_array_equal(arrays.to_jax(copied), copied.float().numpy())
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        for got in (
            interop.aggregate("median", x.to(dtype)),
            interop.aggregate("median", list(x.to(dtype))),
            interop.Attack("ipm", 2)(x.to(dtype))[0],
        ):
            assert got.dtype == dtype and got.device == x.device
    sent = interop.Attack("sign_flip", 2)(list(x))
    assert torch.equal(sent[0], -x[0]) and torch.equal(sent[8], x[8])
    sent[8] += 1  # results belong to the caller
    assert torch.equal(x[8], torch.from_numpy(ROWS[8]))
    layer = torch.nn.Linear(3, 2)
    layer(torch.ones(4, 3)).sum().backward()
    grads = [p.grad for p in layer.parameters()]
    update = interop.aggregate("median", [grads, grads, grads])
    assert all(torch.equal(u, g) for u, g in zip(update, grads, strict=True))
    mask = torch.tensor([True] * 7 + [False] * 2)
    want = interop.aggregate("median", ROWS, mask.numpy())
    assert torch.equal(interop.aggregate("median", x, mask), torch.from_numpy(want.copy()))
    for bad, message in (
        (layer.weight, r"need tensors that require no grad: detach\(\) these"),
        (x.to_sparse(), "JAX cannot read an array of float32 of torch on cpu"),
        (x.to("meta"), "torch on meta"),
        ([x[0], ROWS[1]], "of one kind: got numpy, torch on cpu"),
        (x.to(torch.complex64), "need real numbers: got complex64"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            interop.aggregate("median", bad)
