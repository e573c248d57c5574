"""How fast: environments, memories, world models."""
