"""Shapes are checked at run time under pytest alone; tests that share programs share a worker."""

import gc
import shutil

import jax
import pytest
from jaxtyping import install_import_hook

from tests.compiling import compile_quickly, keep_programs

# Before the first import of the package: the hook rewrites modules as they are loaded.
install_import_hook("ssmrl", "beartype.beartype")
# Importing and tracing make many small objects and hardly a cycle: by default up to a quarter of
# the time would go into looking through all modules and programs for garbage again and again.
gc.set_threshold(100_000, 20, 20)


def pytest_configure(config):
    if _quick(config):
        compile_quickly()
    # Workers and the processes that tests start find the folder in the environment.
    config.stash[_PROGRAMS] = keep_programs()


def pytest_unconfigure(config):
    if folder := config.stash.get(_PROGRAMS, None):
        shutil.rmtree(folder, ignore_errors=True)


_PROGRAMS = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Groups for `--dist loadgroup`: the tests of one memory, or of one file.

    Compiling takes most of the time, and what is compiled is kept per process: a memory's programs
    would be compiled again by every worker that gets one of its tests.
    """
    for item in items:
        group = item.nodeid.partition("::")[0]
        if group.startswith("tests/memory/"):
            params = item.callspec.params if hasattr(item, "callspec") else {}
            memory = params.get("case", params.get("name"))
            group = getattr(memory, "name", memory) or group
        item.add_marker(pytest.mark.xdist_group(str(group)))


def pytest_collection_finish():
    """What was imported stays, and is no garbage to look for."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown(item, nextitem):
    """A group's programs go with it: one process with those of all slow tests aborted in compiling.

    The quick tests have fewer, and share small programs between groups.
    """
    if not _quick(item.config) and (nextitem is None or _group(item) != _group(nextitem)):
        jax.clear_caches()


def _quick(config):
    return config.option.markexpr == "not slow"


def _group(item):
    return item.get_closest_marker("xdist_group").args
