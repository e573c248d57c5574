"""Reinforcement learning with memory, in JAX."""
