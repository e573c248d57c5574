"""Shapes are checked at run time under pytest alone; tests that share programs share a worker."""

import gc
import re
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

from ssmrl.memory import list_memories  # noqa: E402


def pytest_configure(config):
    if _quick(config):
        compile_quickly()
    # Workers and the processes that tests start find the folder in the environment.
    config.stash[_PROGRAMS] = keep_programs()


def pytest_unconfigure(config):
    if folder := config.stash.get(_PROGRAMS, None):
        shutil.rmtree(folder, ignore_errors=True)


_PROGRAMS = pytest.StashKey()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A group at a time for each worker: the tests of one memory, or of one file.

    Compiling takes most of the time, and what is compiled is kept per process: a group's programs
    and fixtures would be made again by every worker that gets one of its tests. Marks would say
    the same, but pytest-xdist 3.8 writes them where pytest 9.2 does not look, and spreads all.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group_of(nodeid)

    config.option.loadscopereorder = False  # The order is that of the items.
    return ByGroup(config, log)


def pytest_collection_modifyitems(items):
    """Long groups first; within a group tests keep their order, and so do the other groups."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def group_of(nodeid):
    """The memory that a test's parameters name first; of other tests, the file."""
    file, _, name = nodeid.partition("::")
    if not file.startswith("tests/memory/"):
        return file
    words = re.findall(r"\w+", name.partition("[")[2])
    return next((word for word in words if word in list_memories()), file)


LONG = tuple(
    f"tests/{name}"
    for name in (
        *("training/test_resume_process.py", "training/test_cli.py", "training/test_hosts.py"),
        *("agents/dreamer/test_wiring.py", "agents/test_ppo_update.py", "agents/test_devices.py"),
        *("api/", "test_zoo.py", "test_docs.py", "test_examples.py"),
    )
)
"""Groups that take half a minute and more: begun last, one would be waited for alone."""


def pytest_collection_finish():
    """What was imported stays, and is no garbage to look for."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown(item, nextitem):
    """A group's programs go with it: one process with those of all slow tests aborted in compiling.

    The quick tests have fewer, and share small programs between groups.
    """
    is_last = nextitem is None or group_of(nextitem.nodeid) != group_of(item.nodeid)
    if is_last and not _quick(item.config):
        jax.clear_caches()


def _quick(config):
    return config.option.markexpr == "not slow"
