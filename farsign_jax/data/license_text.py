"""A text as a data set of images: predict the next character from the preceding ones.

Like the recognition of digits, this is a classification problem that is not convex in the
parameters of a network.
"""

import pathlib
import string

import numpy as np

CONTEXT = 8  # characters
ALPHABET = " " + string.ascii_lowercase + ".,-*"  # the last one stands for all others

_TEXT = pathlib.Path(__file__).parent / "apache-license-2.0.txt"
_PART = 200  # characters in a row that are all for training, or all for testing


def license_text() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The Apache License, Version 2.0, as examples of 8 characters and the next one.

    Every sixth stretch of 200 characters is for testing. Examples that overlap a stretch for
    training and one for testing are left out.

    Returns:
        Images u8[N, 8, 31, 1], one-hot with the value 255, and labels i32[N] for training, and
        the same for testing.
    """
    text = " ".join(_TEXT.read_text(encoding="utf-8").lower().split())
    codes = np.array([ALPHABET.find(c) for c in text])
    codes[codes < 0] = len(ALPHABET) - 1
    windows = np.lib.stride_tricks.sliding_window_view(codes, CONTEXT + 1)
    part = np.arange(len(codes)) // _PART
    first, last = part[: len(windows)], part[CONTEXT:]
    images = (255 * np.eye(len(ALPHABET), dtype=np.uint8))[windows[:, :-1], :, None]
    labels = windows[:, -1].astype(np.int32)
    inside, test = first == last, first % 6 == 5
    train = inside & ~test
    return images[train], labels[train], images[inside & test], labels[inside & test]
