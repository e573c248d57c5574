"""A microscope for memories: what one remembers, for how long, and what it cannot keep track of."""
