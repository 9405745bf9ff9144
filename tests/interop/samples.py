"""Messages and arrays that the tests of interoperation share."""

import numpy as np

N, D = 9, 24
ROWS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
RULES = ("nnm:f=2+krum:f=2", "median", "centered_clipping", "bucketing+mean", "rfa")


def aligned(x, off=0):
    """A copy that begins at a multiple of 64 bytes, or `off` bytes after one."""
    room = np.zeros(x.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + off
    made = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    made[...] = x
    return made


class Foreign:
    """An array of an unknown library that supports nothing but DLPack."""

    def __init__(self, x):
        self.array, self.shape, self.dtype = x, x.shape, x.dtype

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def address(x):
    return x.unsafe_buffer_pointer()
