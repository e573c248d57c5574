"""What Memory Maze would cost an H100."""

import pytest

from benchmarks.speed.memory_maze import on_paper


def test_on_paper_launches_are_shared_by_environments():
    """As many for 2 as for 4 of them; the rest is each one's own."""
    two, four = on_paper(7, 2), on_paper(7, 4)
    assert two["launches_per_step"] == four["launches_per_step"] > 100
    assert four["frames_per_second"] == pytest.approx(2 * two["frames_per_second"], rel=0.01)
    for row in (two, four):
        # A picture has 4,096 pixels, and each takes more than a hundred operations.
        assert row["operations_per_frame"] > 100 * 4096 and row["bytes_per_frame"] > 4 * 4096
        assert row["frames_per_second"] < row["frames_per_second_without_launches"]
