"""Scripted policies with the memory that each game needs: they show that it can be solved.

A policy is a pair: ``begin(obs)`` gives the memory at an episode's first observation, ``act(memory,
obs, key)`` the memory after it and the action. Both are for one environment, and see observations
only. Beside them is what the policies earn in theory, where that can be worked out.
"""

import math
from collections import namedtuple
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import ssmrl.envs
from ssmrl.envs.batching import select
from tests.compiling import quick_jit

Policy = namedtuple("Policy", "begin act")


def first_episodes(policy, id_, num_envs, steps, seed=0, **options):
    """Returns f32 and lengths i32 ``[num_envs]`` of each environment's first episode.

    The first alone, so that short episodes do not count more often than long ones.
    """
    venv = ssmrl.envs.make_vector(id_, num_envs, **options)

    @quick_jit
    def run(key):
        def body(carry, key):
            obs, state, memory, over, total, length = carry
            memory, action = jax.vmap(policy.act)(memory, obs, jax.random.split(key, num_envs))
            obs, state, _, _, _, info = venv.step(state, action)
            episode = info["episode"]
            memory = select(episode["done"], jax.vmap(policy.begin)(obs), memory)
            now = episode["done"] & ~over
            total = jnp.where(now, episode["return"], total)
            length = jnp.where(now, episode["length"], length)
            return (obs, state, memory, over | now, total, length), None

        obs, state = venv.reset(key)
        zeros = jnp.zeros(num_envs)
        memory = jax.vmap(policy.begin)(obs)
        carry = (obs, state, memory, zeros > 0, zeros, zeros.astype(jnp.int32))
        return jax.lax.scan(body, carry, jax.random.split(jax.random.key(seed + 1), steps))[0][3:]

    over, total, length = jax.device_get(run(jax.random.key(seed)))
    assert over.all()
    return total, length


def random_policy(space):
    return Policy(lambda obs: jnp.int32(0), lambda memory, obs, key: (memory, space.sample(key)))


def recite(num_cards):
    """Autoencode: writes the cards down. Earns 1."""

    def begin(obs):
        return jnp.zeros(num_cards, jnp.int32), jnp.int32(0)

    def act(memory, obs, key):
        seen, time = memory
        seen = jnp.where((jnp.arange(num_cards) == time), obs[1], seen)
        return (seen, time + 1), seen[jnp.clip(2 * num_cards - 2 - time, 0, num_cards - 1)]

    return Policy(begin, act)


def tally(kinds):
    """CountRecall: a tally of the values. Earns 1."""

    def act(counts, obs, key):
        counts = counts.at[obs[0]].add(1)
        return counts, counts[obs[1]]

    return Policy(lambda obs: jnp.zeros(kinds, jnp.int32), act)


def count_cards(num_decks):
    """HigherLower: knows what is left in the deck and says what more of it is.

    Guesses have no influence on what comes, so that the best guess each time is the best policy.
    """

    def act(left, obs, key):
        left = left.at[obs].add(-1)
        balance = jnp.sum(left * jnp.sign(jnp.arange(13) - obs))
        return left, (balance < 0).astype(jnp.int32)

    return Policy(lambda obs: jnp.full(13, 4 * num_decks, jnp.int32), act)


def count_cards_return(num_decks):
    """What the best guesses earn: Σ_t E[|H - L| / (cards left)] / N over the guesses.

    H and L are the cards left that are higher and lower than the one on the table. Given its rank,
    the ``t`` cards before it are a multivariate hypergeometric draw from all others.
    """
    of_a_rank, size = 4 * num_decks, 52 * num_decks
    log_factorial = np.array([math.lgamma(n + 1) for n in range(size + 1)])

    def log_choose(n, k):
        valid = (k >= 0) & (k <= n)
        k = np.where(valid, k, 0)
        value = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
        return np.where(valid, value, -np.inf)

    total = 0.0
    for rank in range(13):
        lower, higher = of_a_rank * rank, of_a_rank * (12 - rank)
        low, high = np.arange(lower + 1)[:, None], np.arange(higher + 1)
        margin = np.abs((higher - high) - (lower - low))
        ways = log_choose(lower, low) + log_choose(higher, high)
        for t in range(size - 1):
            same = log_choose(of_a_rank - 1, t - low - high)
            probability = np.exp(ways + same - log_choose(size - 1, np.array(t)))
            total += (probability * margin).sum() / (size - 1 - t) / 13
    return total / size


def pair_up(num_cards, kinds):
    """Concentration: turns a pair it knows; otherwise a new card, then its mate or a new one."""

    def begin(obs):
        nothing = jnp.int32(-1)
        return jnp.full(num_cards, kinds), jnp.zeros(num_cards, bool), nothing, nothing

    def act(memory, obs, key):
        known, up, first, second = memory
        known = jnp.where(obs != kinds, obs, known)
        place = jnp.arange(num_cards)
        was_pair = (second >= 0) & (known[first] == known[second])
        up = up | (was_pair & ((place == first) | (place == second)))
        unpaired = jnp.where(up, kinds, known)
        unknown = jnp.argmax(known == kinds)
        per_kind = jnp.sum(unpaired[:, None] == jnp.arange(kinds), axis=0)
        of_pair = jnp.argmax(unpaired == jnp.argmax(per_kind >= 2))
        begins = (first < 0) | (second >= 0)
        mates = (unpaired == known[first]) & (place != first)
        after = jnp.where(mates.any(), jnp.argmax(mates), unknown)
        action = jnp.where(begins, jnp.where((per_kind >= 2).any(), of_pair, unknown), after)
        first, second = jnp.where(begins, action, first), jnp.where(begins, -1, action)
        return (known, up, first, second), action

    return Policy(begin, act)


def pair_up_return(num_cards, kinds):
    """What :func:`pair_up` earns: 1, less ``2 / T = 1 / N`` for each mismatch expected.

    A state says of each kind how many cards have not been seen and whether one of it is known; a
    second one is paired at once or in the next turn, which costs nothing.
    """

    def changed(state, kinds):
        return tuple(sorted(kinds.get(i, kind) for i, kind in enumerate(state)))

    def turn(state, first):
        """Mismatches expected when the first new card is of the kind ``first``."""
        unseen, known = state[first]
        if known:
            return mismatches(changed(state, {first: (unseen - 1, 0)}))
        others, total = sum(u for u, _ in state) - 1, 0.0
        if unseen > 1:
            total = (unseen - 1) / others * mismatches(changed(state, {first: (unseen - 2, 0)}))
        for second, (u, k) in enumerate(state):
            if u and second != first:
                missed = changed(state, {first: (unseen - 1, 1), second: (u - 1, 1 - k)})
                total += u / others * (1 + mismatches(missed))
        return total

    @cache
    def mismatches(state):
        unseen = sum(u for u, _ in state)
        return sum(u / unseen * turn(state, i) for i, (u, _) in enumerate(state) if u)

    return 1 - mismatches(((num_cards // kinds, 0),) * kinds) / num_cards


def shoot_everywhere(size):
    """Battleship: remembers its shots only: every cell once, in random order.

    A cell of water is shot at before the last of H ship cells with probability H / (H + 1), and so
    it earns 1 - H / (H + 1) = 1 / 13 on a board of any size.
    """

    def act(shots, obs, key):
        place = jnp.argmax(jnp.where(shots, -1.0, jax.random.uniform(key, (size**2,))))
        return shots.at[place].set(True), jnp.stack(jnp.divmod(place, size))

    return Policy(lambda obs: jnp.zeros(size**2, bool), act)


def hunt(size):
    """Battleship: shoots beside hits, best in line with two of them, else at every other cell."""
    checkered = np.indices((size, size)).sum(axis=0) % 2

    def act(memory, obs, key):
        hits, shots, last = memory
        hits = hits.at[last[0], last[1]].set((obs > 0) | hits[last[0], last[1]])
        near = jnp.pad(hits, 2).astype(jnp.int32)
        window = lambda i, j: near[2 + i : 2 + i + size, 2 + j : 2 + j + size]  # noqa: E731
        score = checkered + jax.random.uniform(key, (size, size))
        for i, j in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            score = score + window(i, j) * (4 + 16 * window(2 * i, 2 * j))
        place = jnp.argmax(jnp.where(shots, -1.0, score))
        row, column = jnp.divmod(place, size)
        shots = shots.at[row, column].set(True)
        action = jnp.stack([row, column]).astype(jnp.int32)
        return (hits, shots, action), action

    def begin(obs):
        return *jnp.zeros((2, size, size), bool), jnp.zeros(2, jnp.int32)

    return Policy(begin, act)


def around(cells):
    """Sum over the 3 by 3 cells about each."""
    size, padded = len(cells), jnp.pad(cells, 1)
    return sum(padded[i : i + size, j : j + size] for i in range(3) for j in range(3))


def deduce(size, num_mines):
    """MineSweeper: what each number leaves for the cells around it, some rounds of that.

    Where nothing is certain it looks where the numbers leave the smallest share of mines.
    """

    def act(memory, obs, key):
        numbers, last = memory
        # Before the first look, ``last`` is -1: the board's last cell, which stays unseen.
        numbers = numbers.at[last[0], last[1]].set(jnp.where(last[0] < 0, -1, obs))
        viewed = numbers >= 0
        mines, safe = jnp.zeros((2, size, size), bool)
        for _ in range(4):
            open_ = ~viewed & ~mines & ~safe
            left = numbers - around(mines.astype(jnp.int32))
            room = around(open_.astype(jnp.int32))
            safe = safe | (open_ & (around((viewed & (left == 0)).astype(jnp.int32)) > 0))
            full = viewed & (left == room) & (room > 0)
            mines = mines | (open_ & (around(full.astype(jnp.int32)) > 0))
        share = jnp.where(viewed, left / jnp.maximum(room, 1), 0.0)
        constrained = around(viewed.astype(jnp.int32)) > 0
        average = around(share) / jnp.maximum(around(viewed.astype(jnp.int32)), 1)
        risk = jnp.where(constrained, average, num_mines / size**2)
        risk = jnp.where(safe, -1.0, jnp.where(mines, 2.0, risk))
        risk = risk + 1e-3 * jax.random.uniform(key, (size, size))
        place = jnp.argmin(jnp.where(viewed, 9.0, risk))
        action = jnp.stack(jnp.divmod(place, size)).astype(jnp.int32)
        return (numbers, action), action

    def begin(obs):
        return jnp.full((size, size), -1, jnp.int32), jnp.full(2, -1, jnp.int32)

    return Policy(begin, act)


def blind_first_look(size, num_mines):
    """A bound on what any policy earns in MineSweeper: the first look is at any cell, unseen."""
    length = size**2 - num_mines
    return 1 - num_mines / size**2 * (1.5 + 1 / length)


def random_shots_return(size, targets=12):
    """What shots at random cells, with repetition, earn in Battleship: a Markov chain of hits."""
    cells, total = size**2, 0.0
    alive = np.eye(targets + 1)[0]  # probability of each number of hits, episodes under way
    hit = (targets - np.arange(targets + 1)) / cells
    for _ in range(cells):
        alive[targets] = 0.0
        total += (alive * (hit / targets - (1 - hit) / (cells - targets))).sum()
        alive = alive * (1 - hit) + np.concatenate([[0.0], (alive * hit)[:-1]])
    return total


def random_looks_return(size, num_mines):
    """What looks at random cells, with repetition, earn in MineSweeper: a chain of cells seen."""
    cells = size**2
    length, total = cells - num_mines, 0.0
    alive = np.eye(length + 1)[0]  # probability of each number of cells seen, no mine yet
    seen = np.arange(length + 1) / cells
    new, mine = (length / cells) - seen, num_mines / cells
    for _ in range(length):
        reward = new / length - seen * 0.5 / (length - 2) - mine * (0.5 + 1 / length)
        total += (alive * reward).sum()
        alive = alive * seen + np.concatenate([[0.0], (alive * new)[:-1]])
    return total
