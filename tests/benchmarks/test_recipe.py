"""PPO's recipe is the default, and the settings before it can still be had."""

from benchmarks.learning.recipe import CHANGES, TUNING_IDS
from ssmrl.experiment import COMPONENTS, CONFIGS
from ssmrl.training.cli import compose_training

RECIPE = {
    "lr": 2e-3,
    "gae_lambda": 0.8,
    "normalize_rewards": True,
    "advantage_scale": "running",
    "max_grad_norm": 2.0,
}
BEFORE = RECIPE | {
    "gae_lambda": 0.95,
    "normalize_rewards": False,
    "advantage_scale": "minibatch",
    "max_grad_norm": 0.5,
}


def settings(*overrides):
    agent = compose_training(list(overrides), COMPONENTS, CONFIGS).agent
    return {name: getattr(agent, name) for name in RECIPE}


def test_the_recipe_is_the_default_of_ppo_and_of_what_is_trained_with_it():
    for overrides in ([], ["agent=ppo"], ["experiment=popgym"], ["experiment=demo"]):
        assert settings(*overrides) == RECIPE, overrides
    chosen = CHANGES["lambda.8+lr2e-3+running+norm2"].split()
    assert settings("experiment=popgym_2026_11", *chosen) == RECIPE


def test_what_was_before_differs_in_nothing_else():
    before, now = (
        compose_training([f"experiment={name}"], COMPONENTS, CONFIGS)
        for name in ("popgym_2026_11", "popgym")
    )
    assert settings("experiment=popgym_2026_11") == BEFORE
    changed = {
        name: value
        for name, value in vars(now.agent).items()
        if getattr(before.agent, name) != value
    }
    # The last is no default of PPO's: it says something about POPGym.
    limit = {"bootstrap_truncated": False}
    changes = {name: value for name, value in RECIPE.items() if BEFORE[name] != value}
    assert changed == changes | limit
    assert compose_training(["agent=ppo"], COMPONENTS, CONFIGS).agent.bootstrap_truncated
    assert before.memory == now.memory and before.env == now.env


def test_the_tuning_ids_are_six():
    assert len(set(TUNING_IDS)) == 6
