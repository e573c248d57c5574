"""Lets an untouched clone of popjaxrl, written for jax 0.4.7 and gymnax 0.0.6, run on today's.

Nothing of popjaxrl is copied or edited: `install(path)` puts the clone on `sys.path` and supplies,
in this process only, the few names that it expects and that are gone. Each function says what is
missing and why. What runs afterwards is popjaxrl's own algorithm, layers and environments.

A process that called `install_gymnax_contract` sees an old-style `gymnax.environments.environment`,
so do not use gymnax's own environments there.
"""

import sys
import types
import typing
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import struct


def install(path: str | Path) -> None:
    """Makes `import algorithms.ppo_s5` and `import envs` find the clone at `path` and work."""
    install_layer(path)
    install_wandb_stub()
    install_gymnax_contract()


def install_layer(path: str | Path) -> None:
    """What `algorithms.s5` alone needs: the clone on the path and the names gone from jax."""
    root = Path(path).resolve()
    if not (root / "algorithms" / "ppo_s5.py").is_file():
        raise FileNotFoundError(f"{root} is not a clone of popjaxrl: no algorithms/ppo_s5.py")
    # First on the path: popjaxrl's packages have the very general names `algorithms` and `envs`.
    sys.path.insert(0, str(root))
    install_jax_aliases()


def install_jax_aliases() -> None:
    """Puts back two names that jax has removed."""
    # algorithms/s5.py annotates module fields with jnp.DeviceArray (removed in jax 0.4.10).
    if not hasattr(jnp, "DeviceArray"):
        jnp.DeviceArray = jax.Array
    # envs/environments/meta_cartpole.py calls jax.tree_map (removed in jax 0.4.26).
    if not hasattr(jax, "tree_map"):
        jax.tree_map = jax.tree.map


def install_wandb_stub() -> None:
    """The algorithms import wandb, and use it only under config["LOG"], which we leave off.

    A stub keeps a benchmark from depending on an account, a network, or wandb's own threads.
    """
    stub = types.ModuleType("wandb")
    stub.log = lambda *args, **kwargs: None
    sys.modules["wandb"] = stub


def install_gymnax_contract() -> None:
    """Gives popjaxrl's environments and wrappers the base class that gymnax had at version 0.0.6.

    gymnax 1.x steps return (obs, state, reward, terminated, truncated, info), and its base class
    reads `params.max_steps_in_episode`, which some of popjaxrl's parameters do not have. `spaces`
    and `GymnaxWrapper` still fit and stay gymnax's own.
    """
    import gymnax.environments
    import gymnax.wrappers.purerl as purerl

    module = types.ModuleType("gymnax.environments.environment")
    module.Environment = _OldEnvironment
    module.EnvState = _OldEnvState
    module.EnvParams = _OldEnvParams
    sys.modules[module.__name__] = module
    gymnax.environments.environment = module
    purerl.environment = module
    # envs/wrappers.py takes these names from gymnax.wrappers.purerl, which no longer imports them.
    import chex

    purerl.chex = chex
    purerl.Optional, purerl.Tuple, purerl.Union = typing.Optional, tuple, typing.Union


@struct.dataclass
class _OldEnvState:
    time: int


@struct.dataclass
class _OldEnvParams:
    max_steps_in_episode: int = 1


class _OldEnvironment:
    """The 0.0.6 contract: step -> (obs, state, reward, done, info), resetting itself when done."""

    @property
    def default_params(self) -> _OldEnvParams:
        return _OldEnvParams()

    @partial(jax.jit, static_argnums=0)
    def reset(self, key, params=None):
        return self.reset_env(key, self.default_params if params is None else params)

    @partial(jax.jit, static_argnums=0)
    def step(self, key, state, action, params=None):
        params = self.default_params if params is None else params
        step_key, reset_key = jax.random.split(key)
        obs, state, reward, done, info = self.step_env(step_key, state, action, params)
        fresh = self.reset_env(reset_key, params)
        obs, state = jax.tree.map(partial(jnp.where, done), fresh, (obs, state))
        return obs, state, reward, done, info

    def discount(self, state, params):
        return jax.lax.select(self.is_terminal(state, params), 0.0, 1.0)
