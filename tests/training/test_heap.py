"""What XLA's compiler has freed does not stay resident for the rest of a training."""

import ctypes
import resource
from pathlib import Path

import pytest

from ssmrl.training import heap
from ssmrl.training import loop as loop_module
from tests.training.test_loop import run_loop

MIB = 2**20


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(heap._malloc_trim() is None, reason="the C library is not glibc")
def test_what_is_free_below_what_is_in_use_is_given_back():
    c = ctypes.CDLL(None)
    c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    c.free.argtypes = [ctypes.c_void_p]
    size = 64 * 1024  # too small for pages of its own
    pieces = [c.malloc(size) for _ in range(100 * MIB // size)]
    for piece in pieces:
        ctypes.memset(piece, 1, size)
    last = c.malloc(size)
    for piece in pieces:
        c.free(piece)
    before = resident()
    heap.give_back()
    after = resident()
    c.free(last)
    assert before - after > 50 * MIB


def test_another_c_library_keeps_what_it_has(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    heap._malloc_trim.cache_clear()
    try:
        assert heap._malloc_trim() is None
        heap.give_back()
    finally:
        heap._malloc_trim.cache_clear()


def test_it_is_given_back_after_compiling_and_with_checkpoints_and_evaluations(
    make_config, record, monkeypatch
):
    happened = []
    compile_, save = loop_module._Loop._compile, loop_module.Checkpointer.save

    def compile_and_note(self, state):
        happened.append("compiled")
        return compile_(self, state)

    def save_and_note(self, step, state, metadata=None):
        happened.append(step)
        save(self, step, state, metadata)

    def evaluate(state, step, *, longest_seen, should_stop):
        happened.append("evaluated")
        return {"eval/return": 1.0}

    monkeypatch.setattr(loop_module._Loop, "_compile", compile_and_note)
    monkeypatch.setattr(loop_module.Checkpointer, "save", save_and_note)
    monkeypatch.setattr(heap, "give_back", lambda: happened.append("given back"))
    config = make_config(total_steps=120, checkpoint_every=60, eval_every=80, eval_episodes=4)
    run_loop(config, record, evaluate=evaluate)
    # The last state is kept once more, which writes nothing where it is kept already.
    whats = ("compiled", 60, "evaluated", 120, 120)
    assert happened == [x for what in whats for x in (what, "given back")]
