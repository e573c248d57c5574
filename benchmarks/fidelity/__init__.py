"""Whether our memories are the functions that others published."""
