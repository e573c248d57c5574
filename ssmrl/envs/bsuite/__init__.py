"""bsuite's experiments on memory and credit assignment, in JAX, and their scores.

``bsuite/memory_len`` and the others take the options of the ``bsuite`` package
(``memory_length=30``); ``bsuite/memory_len/7`` is setting 7 of the package's sweep.
:data:`EXPERIMENTS` holds the sweeps and scores.
"""

from __future__ import annotations

from ssmrl.envs.bsuite._experiments import EXPERIMENTS, Experiment
from ssmrl.envs.bsuite.discounting_chain import DiscountingChain
from ssmrl.envs.bsuite.memory_chain import MemoryChain
from ssmrl.envs.bsuite.umbrella_chain import UmbrellaChain

__all__ = ["EXPERIMENTS", "DiscountingChain", "Experiment", "MemoryChain", "UmbrellaChain"]
