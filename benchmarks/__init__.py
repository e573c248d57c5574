"""Measurements: speed, learning, fidelity, peers. README.md here says what answers what."""
