"""PPO with memory; see `ssmrl.agents.ppo.ppo`."""

from ssmrl.agents.ppo.ppo import PPO, PPOConfig, make_ppo

__all__ = ["PPO", "PPOConfig", "make_ppo"]
