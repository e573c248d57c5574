"""What a PPO network learns when it is told the right answers: is it the memory, or the rewards?

    python -m benchmarks.learning.imitation [--memories "s5, normalised" gru]

POPGym's card games ask for a card that was shown, and the right answer is known at every step. The
network that PPO trains (encoder, memory, policy) plays with its own draws, is told the right answer
to each question, and learns it by cross-entropy (DAgger, Ross et al. 2011, with no share of the
expert's own actions); afterwards it plays greedily. What it earns then, the network can hold; where
PPO earns less in as many steps, it is the learning from rewards that is at fault. Rows that are
there of earlier calls with the same settings stay.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from benchmarks.harness import machine_info, print_table, write_json
from benchmarks.learning.studies import ROOT, with_earlier
from ssmrl.agents.ppo import PPO
from ssmrl.envs import make
from ssmrl.envs.popgym._deck import DealingGame, DeckState
from ssmrl.experiment import COMPONENTS
from ssmrl.training import streams
from ssmrl.training.cli import compose_training
from ssmrl.training.loading import build_agent

MEMORIES = {
    "s5": "memory=s5",
    "s5, normalised": "memory=s5 memory.normalized=true",
    "s5, 256 states": "memory=s5 memory.state_size=256",
    "s5, normalised, 256 states": "memory=s5 memory.normalized=true memory.state_size=256",
    "gru": "memory=gru",
    "none": "memory=none",
}
IDS = ("autoencode_easy",)


def main() -> int:
    arguments = parse()
    rows: list[dict[str, Any]] = []
    for env in arguments.ids:
        for memory in arguments.memories:
            rows.append(row := learn(env, memory, arguments))
            print(row, flush=True)
            report(rows, arguments)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", nargs="+", choices=MEMORIES, default=list(MEMORIES))
    parser.add_argument("--ids", nargs="+", default=IDS, help="of games that deal cards")
    parser.add_argument("--steps", type=int, default=6_000_000, help="environment steps")
    parser.add_argument("--seed", type=int, default=0)
    # Few environments: an update is made from one episode of each.
    few = ["agent.num_envs=16"]
    parser.add_argument("--set", nargs="*", default=few, help="further overrides, key=value")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/imitation.json")
    return parser.parse_args()


def learn(env: str, memory: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: what the network earned after `steps` environment steps of being told."""
    overrides = ["experiment=popgym", f"env=popgym/{env}", *MEMORIES[memory].split()]
    overrides += arguments.set
    config = compose_training(overrides, COMPONENTS, ROOT / "configs")
    agent, _ = build_agent(COMPONENTS, config)
    game, params = make(f"popgym/{env}")
    updates = arguments.steps // (game.num_steps(params) * config.agent.num_envs)
    start = time.perf_counter()
    key_train, key_play = jax.random.split(streams.benchmark_key(arguments.seed))
    trained, loss = train(agent, updates, key_train)
    play = jax.jit(jax.vmap(partial(episodes, agent, trained, greedy=True)))
    _, answers, actions, rewards = play(jax.random.split(key_play, 16))  # [16, T, B]
    returns = rewards.sum(1).ravel()
    right = (answers == actions)[:, answers[0, :, 0] >= 0].swapaxes(0, 1)
    return {
        "id": env,
        "memory": memory,
        "return": round(float(returns.mean()), 4),
        "standard_error": round(float(returns.std() / np.sqrt(len(returns))), 4),
        "accuracy": stretches(right),
        "loss": stretches(loss),
        "updates": updates,
        "seconds": round(time.perf_counter() - start),
    }


def stretches(values: Array) -> list[float]:
    """Means over eighths of the first axis."""
    return [round(float(part.mean()), 3) for part in np.array_split(np.asarray(values), 8)]


def right_answers(env_state: Any, game: DealingGame, params: Any) -> Array:
    """`[B]`, -1 where nothing is asked."""

    def is_dealt(x: Any) -> bool:
        return isinstance(x, DeckState)

    [dealt] = [x for x in jax.tree.leaves(env_state, is_leaf=is_dealt) if is_dealt(x)]
    return jax.vmap(game.answer, (0, None))(dealt, params)


def episodes(
    agent: PPO, state: Any, key: Array, *, greedy: bool
) -> tuple[Any, Array, Array, Array]:
    """The agent's own: observations `[T, B, ...]`, right answers, actions and rewards `[T, B]`."""
    game, params = make(agent.env.name)
    key_reset, key_actions = jax.random.split(key)

    def step(loop: tuple[Any, ...], inputs: tuple[Array, Array]):
        carry, observation, env_state = loop
        time, key = inputs
        reset = jnp.full(agent.config.num_envs, time == 0)
        carry, action = agent.act(state, carry, observation, reset, key, greedy=greedy)
        answer = right_answers(env_state, game, params)
        later, env_state, reward, *_ = agent.env.step(env_state, action)
        return (carry, later, env_state), (observation, answer, action, reward)

    length = game.num_steps(params)
    start = (agent.initialize_carry(agent.config.num_envs), *agent.env.reset(key_reset))
    inputs = (jnp.arange(length), jax.random.split(key_actions, length))
    return jax.lax.scan(step, start, inputs)[1]


@partial(jax.jit, static_argnums=(0, 1))
def train(agent: PPO, updates: int, key: Array) -> tuple[Any, Array]:
    """The agent's state with what was learned, and the loss of every update."""
    key_init, key_data = jax.random.split(key)
    state = agent.init(key_init)
    schedule = optax.linear_schedule(agent.config.lr, 0.0, updates)

    def loss(params: Any, observation: Any, answer: Array) -> Array:
        reset = jnp.zeros(answer.shape, bool).at[0].set(True)
        carry = agent.initialize_carry(answer.shape[1])
        _, policy, _ = agent._apply(params, state.normalizers, carry, observation, reset)
        asked = answer >= 0
        right = policy.log_prob(jnp.maximum(answer, 0))
        return -jnp.sum(right * asked) / jnp.sum(asked)

    def update(carry: tuple[Any, Any], inputs: tuple[Array, Array]):
        params, moments = carry
        count, key = inputs
        observation, answer, *_ = episodes(agent, state.replace(params=params), key, greedy=False)
        value, gradient = jax.value_and_grad(loss)(params, observation, answer)
        step, moments = agent.optimizer.update(gradient, moments, params)
        params = optax.apply_updates(params, optax.tree.scale(schedule(count), step))
        return (params, moments), value

    inputs = (jnp.arange(updates), jax.random.split(key_data, updates))
    (params, _), losses = jax.lax.scan(update, (state.params, state.optimizer), inputs)
    return state.replace(params=params), losses


def report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """The JSON and the table, of what is finished so far."""
    settings = {name: getattr(arguments, name) for name in ("steps", "seed", "set")}
    rows = with_earlier(arguments.output, settings, rows, lambda row: (row["id"], row["memory"]))
    write_json(arguments.output, {"machine": machine_info(), **settings, "rows": rows})
    memories = list(dict.fromkeys(row["memory"] for row in rows))
    cells = {(row["id"], row["memory"]): row["return"] for row in rows}
    ids = list(dict.fromkeys(row["id"] for row in rows))
    table = [[env, *(cells.get((env, memory)) for memory in memories)] for env in ids]
    print_table(["id", *memories], table)


if __name__ == "__main__":
    sys.exit(main())
