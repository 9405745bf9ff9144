"""The papers' algorithms in plain NumPy: slow, obvious, no shared code."""

import numpy as np


def far_sign(x, events, m, alpha, beta, sign_of="new", weights=None):
    """`events`: for each n a list of (worker, coordinates, answers). Returns x and y."""
    x = np.array(x, np.float32)
    y = np.zeros((m, x.size), np.float32)
    for n, heard in enumerate(events):
        x, y = far_sign_event(x, y, heard, alpha(n), beta(n), sign_of, weights)
    return x, y


def far_sign_event(x, y, heard, alpha, beta, sign_of="new", weights=None):
    """One event of it: the next x and y."""
    a, b = np.float32(alpha), np.float32(beta)
    y, move = y.copy(), np.zeros_like(x)
    for worker, coordinates, answers in heard:
        w = np.float32(1 if weights is None else weights[worker])
        for j, answer in zip(coordinates, answers, strict=True):
            answer = np.float32(answer)
            if not np.isfinite(answer):
                answer = np.float32(0)
            answer = np.clip(answer, np.float32(-1e30), np.float32(1e30))
            old = y[worker, j]
            new = old + b * (answer - old)
            y[worker, j] = new
            move[j] += -a * w * np.sign(new if sign_of == "new" else old)
    return x + move, y


def two_point(losses, x, plus, minus, directions, delta):
    """Differences of mean losses along each row of `directions`."""
    out = []
    for a in directions:
        above, below = losses(x + delta * a, plus), losses(x - delta * a, minus)
        out.append((above.mean() - below.mean()) / (2 * delta))
    return np.asarray(out)


def staleness(schedule):
    """Events since the arriving worker was last heard: each is asked anew when it is heard."""
    asked: dict[int, int] = {}
    out = []
    for n, worker in enumerate(schedule):
        out.append(n - asked.get(worker, 0))
        asked[worker] = n + 1
    return out


def basgd(x, workers, values, slots, aggregate, step_size):
    """Yields x, updates and counts after each arrival of `values[n]` from `workers[n]`."""
    x = np.array(x, np.float64)
    heard: list[list[np.ndarray]] = [[] for _ in range(max(slots) + 1)]
    updates = 0
    for n, (worker, value) in enumerate(zip(workers, values, strict=True)):
        heard[slots[worker]].append(np.asarray(value, np.float64))
        if all(heard):
            x = x - step_size(n) * aggregate([np.mean(buffer, axis=0) for buffer in heard])
            heard = [[] for _ in heard]
            updates += 1
        yield x, updates, [len(buffer) for buffer in heard]
