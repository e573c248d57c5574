"""Our card games against the ``popgym`` package: same deck, same actions, same everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs.popgym import DIFFICULTIES, concentration, count_recall
from ssmrl.envs.popgym._deck import NUM_FACES, DeckState, shuffled_deck
from tests.compiling import quick_jit
from tests.envs.popgym.distributions import chi2_bound
from tests.envs.popgym.upstream import Comparison, few_and_many

DEALT = ("repeat_first", "repeat_previous", "autoencode", "higher_lower", "count_recall")
DEALT_IDS = [f"{family}_{difficulty}" for family in DEALT for difficulty in DIFFICULTIES]
CONCENTRATION_IDS = [f"concentration_{difficulty}" for difficulty in DIFFICULTIES]


def int8(cards):
    return jnp.asarray(np.asarray(cards), jnp.int8)


def begin_dealt(env):
    """Our first state: upstream deals from the end of the shuffled deck."""
    start = {"time": jnp.int32(0), "last_action": jnp.int32(-1)}
    if hasattr(env, "query_deck"):
        decks = (env.value_deck, env.query_deck)
        values, queries = (int8(env.deck_idx_type[deck.idx[::-1]]) for deck in decks)
        counts = count_recall.count_queries(values, queries, env.num_distinct_cards)
        return count_recall.EnvState(cards=values, queries=queries, counts=counts, **start)
    faces = env.deck.ranks_idx if hasattr(env, "value_map") else env.deck.suits_idx
    return DeckState(cards=int8(faces[env.deck.idx[::-1]]), **start)


@few_and_many
@pytest.mark.parametrize("id_", DEALT_IDS)
def test_dealt_games_agree_with_upstream(id_, episodes):
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    both = Comparison(id_, env, params, env.num_steps(params))
    theirs = both.theirs

    def choose(rng, t):
        # One answer in 27 would be right by chance; every other one is.
        if hasattr(theirs, "query_deck") and rng.random() < 0.5:
            return int(theirs.counts[theirs.query])
        return int(rng.integers(theirs.action_space.n))

    rewarded = 0
    for seed in range(episodes):
        episode = both.play(seed, begin_dealt, choose)
        rewarded += np.count_nonzero(episode["reward"] > 0)
        assert len(episode["action"]) == env.num_steps(params)
        first = env.observe(begin_dealt(theirs), params)  # the deck stays as it was shuffled
        np.testing.assert_array_equal(np.hstack(jax.tree.leaves(first)), episode["obs"][0])
    assert rewarded > episodes  # right answers were among those compared


def begin_concentration(env):
    return concentration.begin(int8(env.state))


def concentration_player(theirs, style):
    """Random, knowing, knowing just in time for the limit, or a mixture."""
    cards = theirs.state
    num_cards = len(cards)

    def pair_up(rng):
        up, waiting = theirs.deck["face_up_idx"], theirs.deck["in_play_idx"]
        left = [i for i in range(num_cards) if i not in up and i not in waiting]
        if waiting and any(cards[i] == cards[waiting[0]] for i in left):
            left = [i for i in left if cards[i] == cards[waiting[0]]]
        return int(rng.choice(left)) if left else 0

    def choose(rng, t):
        knowing = {0: False, 1: True, 2: t >= num_cards, 3: rng.random() < 0.9}[style]
        if style == 2 and not knowing:
            return 0  # the same card, again and again
        return pair_up(rng) if knowing else int(rng.integers(num_cards))

    return choose


@few_and_many
@pytest.mark.parametrize("id_", CONCENTRATION_IDS)
def test_concentration_agrees_with_upstream(id_, episodes):
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    limit = concentration.episode_length(params)
    both = Comparison(id_, env, params, limit)
    assert limit == both.theirs.episode_length
    ends = set()
    for seed in range(episodes):
        both.theirs.reset(seed=seed)
        episode = both.play(seed, begin_concentration, concentration_player(both.theirs, seed % 4))
        assert (episode["obs"][0] == NUM_FACES[params.deck_type]).all()
        ends.add((bool(episode["terminated"][-1]), bool(episode["truncated"][-1])))
        if seed % 4 == 1:
            np.testing.assert_allclose(episode["reward"].sum(), 1, atol=1e-6)
    assert ends == {(True, False), (False, True), (True, True)}


@pytest.mark.parametrize("face", NUM_FACES)
def test_decks_are_shuffled_fairly(face):
    """Every face is as likely as it should be at every place, and at two places together.

    χ² of 40 000 decks, expected frequencies of at least 180. The bounds are 5 and 5.5 standard
    deviations (Wilson & Hilferty): a fair shuffle exceeds one of them once in 10⁵. Equal faces that
    were 1.3 times too likely at two places would be found with a probability of .999.
    """
    num_decks, kinds = 40_000, NUM_FACES[face]
    keys = jax.random.split(jax.random.key(0), num_decks)
    deal = quick_jit(jax.vmap(lambda key: shuffled_deck(key, 1, face)))
    decks = np.asarray(deal(keys))
    assert decks.dtype == np.int8 and decks.shape == (num_decks, 52)
    of_a_kind = 52 // kinds
    one_hot = decks[..., None] == np.arange(kinds)
    assert (one_hot.sum(axis=1) == of_a_kind).all()
    expected = num_decks / kinds
    by_place = ((one_hot.sum(axis=0) - expected) ** 2 / expected).sum(axis=1)
    # 52 places are 52 chances.
    assert by_place.max() < chi2_bound(kinds - 1, 5.5)
    joint = of_a_kind * (of_a_kind - np.eye(kinds)) / (52 * 51) * num_decks
    for i, j in ((0, 1), (0, 51), (25, 26), (50, 51)):
        observed = np.zeros((kinds, kinds))
        np.add.at(observed, (decks[:, i], decks[:, j]), 1)
        assert ((observed - joint) ** 2 / joint).sum() < chi2_bound(kinds**2 - 1, 5.0)


def test_several_decks_are_shuffled_together():
    decks = np.asarray(shuffled_deck(jax.random.key(1), 3, "ranks"))
    assert (np.bincount(decks) == 12).all()
    assert any((np.bincount(deck, minlength=13) != 4).any() for deck in decks.reshape(3, 52))


def test_counts_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    values, queries = rng.integers(0, 13, (2, 208))
    counts = count_recall.count_queries(int8(values), int8(queries), 13)
    assert counts.tolist() == [(values[: t + 1] == q).sum() for t, q in enumerate(queries)]


@pytest.mark.parametrize(
    ("id_", "options", "message"),
    [
        ("autoencode_easy", {"num_decks": 0}, "at least one deck"),
        ("higher_lower_easy", {"num_decks": -1}, "at least one deck"),
        ("concentration_easy", {"num_decks": 0}, "at least one deck"),
        ("concentration_easy", {"deck_type": "suits"}, "deck_type of colors or ranks"),
        ("count_recall_easy", {"deck_type": "jokers"}, "deck_type of colors, suits, ranks"),
    ],
)
def test_decks_that_make_no_game(id_, options, message):
    with pytest.raises(ValueError, match=message):
        ssmrl.envs.make(f"popgym/{id_}", **options)
