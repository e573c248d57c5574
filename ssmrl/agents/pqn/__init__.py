"""PQN with memory; see `ssmrl.agents.pqn.pqn`."""

from ssmrl.agents.pqn.pqn import PQN, PQNConfig, make_pqn

__all__ = ["PQN", "PQNConfig", "make_pqn"]
