"""Softmax attention over explicit lists of past steps."""

import numpy as np

from tests.memory.references.common import complex_pairs, dense, phases, unroll


def aaren(params, options, x, reset, carry):
    """Feng et al. 2024 ("Attention as an RNN"), section 3.2: softmax over all of the episode.

    A head remembers the list of (score, count, sum of values); what a carry summarises is its first
    entry. Queries are learned; key and value of a head lie side by side.
    """
    query = params["query"]

    def load(carry):
        return [[(m[0], u[0], w)] for m, u, w in zip(*(carry[n] for n in "muw"), strict=True)]

    def summary(steps):
        m = max(score for score, _, _ in steps)
        u = sum(np.exp(score - m) * count for score, count, _ in steps)
        w = sum(np.exp(score - m) * value for score, _, value in steps)
        return np.array([m]), np.array([u]), w

    def save(memory):
        return dict(zip("muw", map(np.stack, zip(*map(summary, memory), strict=True)), strict=True))

    def step(memory, x):
        heads = dense(params["input"], x).reshape(options["heads"], -1)
        longer, means = [], []
        for q, head, steps in zip(query, heads, memory, strict=True):
            k, v = np.split(head, 2)
            steps = [*steps, (q @ k / np.sqrt(len(k)), 1, v)]
            _, u, w = summary(steps)
            longer.append(steps)
            means.append(w / u)
        return longer, dense(params["output"], np.concatenate(means))

    start = {
        "m": np.full(carry["m"].shape[1:], -1e30),  # stands for the score of no step
        "u": np.zeros(carry["u"].shape[1:]),
        "w": np.zeros(carry["w"].shape[1:]),
    }
    return unroll(step, x, reset, carry, start, load, save)


def transformer(params, options, x, reset, carry):
    """Vaswani et al. 2017, equation 1, over the last W steps of the episode, oldest first."""
    H, W = options["heads"], options["window"]
    rotary = options["positions"] == "rotary"
    size = carry["k"].shape[2]

    def turned(k, position, sign):
        if not rotary:
            return k
        pairs = complex_pairs(k) * phases(sign * position, size // 2)
        return np.concatenate([pairs.real, pairs.imag], axis=-1)

    def load(carry):
        """All steps of the episode; those that the cache no longer holds are None."""
        position = int(carry["position"])
        kept = range(max(position - W, 0), position)
        keys, values = np.moveaxis(carry["k"], -1, 0), np.moveaxis(carry["v"], 1, 0)
        held = [(turned(keys[p % W], p, -1), values[p % W]) for p in kept]
        return [None] * (position - len(held)) + held

    def save(steps):
        keys, values = np.zeros((W, H, size)), np.zeros((W, H, size))
        for p in range(max(len(steps) - W, 0), len(steps)):
            k, values[p % W] = steps[p]
            keys[p % W] = turned(k, p, 1)
        keys, values = np.moveaxis(keys, 0, -1), np.moveaxis(values, 0, 1)
        return {"k": keys, "v": values, "position": np.uint32(len(steps))}

    def step(steps, x):
        q, k, v = (a.reshape(H, -1) for a in np.split(dense(params["input"], x), 3))
        steps = [*steps, (k, v)]
        visible, heads = steps[-W:], []
        for h in range(H):
            scores = [
                score(options, q[h], past_k[h], h, distance=len(visible) - 1 - i)
                for i, (past_k, _) in enumerate(visible)
            ]
            weights = np.exp(scores) / np.sum(np.exp(scores))
            heads.append(sum(w * v[h] for w, (_, v) in zip(weights, visible, strict=True)))
        return steps, dense(params["output"], np.concatenate(heads))

    return unroll(step, x, reset, carry, None, load, save)


def score(options, q, k, head, distance):
    """q·k / √D with the position as RoFormer has it (equation 16), or ALiBi (section 3)."""
    if options["positions"] == "rotary":
        turned = complex_pairs(q) * phases(distance, len(q) // 2)
        return np.sum(turned * complex_pairs(k).conj()).real / np.sqrt(len(q))
    product = q @ k / np.sqrt(len(q))
    if options["positions"] == "alibi":
        return product - 2 ** (-8 * (head + 1) / options["heads"]) * distance
    return product
