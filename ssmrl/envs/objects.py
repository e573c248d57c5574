"""Environment objects instead of names: ours, gymnax's, brax's, gymnasium's, and factories of them.

None of those packages is imported here unless an object of it comes: objects are told by the
package that their classes are from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ssmrl.envs.adapters import require
from ssmrl.envs.environment import Environment
from ssmrl.envs.vector import JaxVectorEnv, VectorEnv

EXPECTED = (
    "an environment is a name, an ssmrl.envs.Environment or VectorEnv, an environment of gymnax, "
    "brax or gymnasium, a pair (environment, params), or a function or class that makes one"
)


def object_name(obj: Any) -> str:
    """What to call an environment object: its own name or its class's, without blanks."""
    obj = obj[0] if isinstance(obj, tuple) and obj else obj
    name = obj.__name__ if callable(obj) and hasattr(obj, "__name__") else type(obj).__name__
    return "environment" if name == "<lambda>" else name


def from_object(obj: Any, num_envs: int, **kwargs: Any) -> VectorEnv:
    """``num_envs`` environments of an object's kind, with auto-reset and no wrappers of ours.

    Args:
        obj: one of

            - an :class:`Environment`, a gymnax environment, or a pair ``(environment, params)`` of
              either, which is what ``gymnax.make`` returns;
            - a brax environment, its own wrappers included (they are taken off; the episode length
              and action repeat of its ``EpisodeWrapper`` are kept);
            - a gymnasium environment that was made by ``gymnasium.make``, of which as many are
              made; or, for any other, a function without arguments that makes one;
            - a :class:`VectorEnv` of ``num_envs`` environments, or a function of the number.

            A class counts as the function that makes its instances.
        num_envs: how many.
        **kwargs: refused: an object is what it is.

    Raises:
        TypeError: for anything else.
        ValueError: for options, or a batch of the wrong size.
    """
    if kwargs:
        raise ValueError(
            f"an environment object takes no options, got {', '.join(kwargs)}: "
            "set them where it is made"
        )
    if isinstance(obj, type) or (callable(obj) and not hasattr(obj, "step")):
        return _from_factory(obj, num_envs)
    if isinstance(obj, VectorEnv):
        return _resized(obj, num_envs)
    env, params = obj if isinstance(obj, tuple) and len(obj) == 2 else (obj, None)
    packages = _packages(env)
    if isinstance(env, Environment):
        return JaxVectorEnv(env, params, num_envs)
    if "gymnax" in packages:
        return JaxVectorEnv(_from_gymnax(env, params), None, num_envs)
    if "brax" in packages and params is None:
        return JaxVectorEnv(_from_brax(env), None, num_envs)
    if "gymnasium" in packages and params is None:
        return _from_gymnasium(_copies(env), num_envs, env)
    raise TypeError(f"{EXPECTED}; got {obj!r}")


def _packages(obj: Any) -> set[str]:
    """The packages that the classes of an object are from."""
    return {cls.__module__.partition(".")[0] for cls in type(obj).__mro__}


def is_users_own(env: Environment) -> bool:
    """Whether its first steps are to be looked at: no test of this library has played them.

    brax's are left out, a user's too: compiling the physics once more takes ten seconds to a
    minute, and its spaces have no bounds. What is not finite, the first iteration finds.
    """
    from ssmrl.envs.adapters.gymnax import GymnaxEnvironment

    inner = env.inner if isinstance(env, GymnaxEnvironment) else env
    return type(inner).__module__.partition(".")[0] not in ("ssmrl", "gymnax")


def _from_factory(make: Callable[..., Any], num_envs: int) -> VectorEnv:
    try:
        parameters = list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):
        parameters = []  # written in C, and silent about it
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
    if len(needed) > 1:
        raise TypeError(
            f"{object_name(make)} needs {', '.join(needed)}; what makes an environment takes "
            "nothing, or the number of environments"
        )
    made = make(num_envs) if needed else make()
    if needed and not isinstance(made, VectorEnv):
        raise TypeError(
            f"{object_name(make)} takes {needed[0]}, so that it should make an "
            f"ssmrl.envs.VectorEnv of {num_envs} environments, and made {made!r}; "
            "what makes a single environment takes nothing"
        )
    if "gymnasium" in _packages(made) and not isinstance(made, Environment):
        # The one that was made to look at is the first of them, and not left open beside them.
        waiting = [made]
        return _from_gymnasium(lambda: waiting.pop() if waiting else make(), num_envs, made)
    if callable(made) and not hasattr(made, "step"):
        raise TypeError(f"{EXPECTED}; {object_name(make)} made {made!r}")
    return from_object(made, num_envs)


def _resized(venv: VectorEnv, num_envs: int) -> VectorEnv:
    """A vector environment of that size: itself, or another around the same JAX environment."""
    if type(venv) is JaxVectorEnv:
        block = venv.reset_block
        return JaxVectorEnv(venv.env, venv.params, num_envs, name=venv.name, reset_block=block)
    if venv.num_envs == num_envs:
        return venv
    raise ValueError(
        f"the {type(venv).__name__} handed over has {venv.num_envs} environments, and {num_envs} "
        f"are needed: hand over a function, env=lambda num_envs: {type(venv).__name__}(...)"
    )


def _from_gymnax(env: Any, params: Any) -> Environment:
    from ssmrl.envs.adapters.gymnax import GymnaxEnvironment

    return GymnaxEnvironment(env, env.default_params if params is None else params)


def _from_brax(env: Any) -> Environment:
    from ssmrl.envs.adapters.brax import BraxEnvironment, EnvParams

    lengths: dict[str, int] = {}
    inner = env
    # brax's wrappers forward attributes: only the one that owns an attribute has it in its dict.
    while "env" in vars(inner):
        own = vars(inner)
        lengths |= {k: int(own[k]) for k in ("episode_length", "action_repeat") if k in own}
        inner = inner.env
    return BraxEnvironment(inner, type(inner).__name__, EnvParams(**lengths))


def _copies(env: Any) -> Callable[[], Any]:
    """What makes more environments like a gymnasium one."""
    spec = None
    try:
        spec = env.spec
        if spec is not None:
            gymnasium = require("gymnasium", "gymnasium")
            return lambda: gymnasium.make(spec, disable_env_checker=True)
    except (AttributeError, ValueError, TypeError):  # a wrapper that cannot be repeated
        pass
    raise ValueError(
        f"{type(env).__name__} was not made by gymnasium.make, and more of it are needed: hand "
        f"over a function, env=lambda: {type(env).__name__}(...)"
    )


def _from_gymnasium(make: Callable[[], Any], num_envs: int, example: Any) -> VectorEnv:
    from ssmrl.envs.adapters.gymnasium import HostVectorEnv

    spec = getattr(example, "spec", None)
    name = spec.id if spec is not None else type(example).__name__
    return HostVectorEnv(make, num_envs, name=name)
