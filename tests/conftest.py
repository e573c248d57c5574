"""Shapes are checked at run time under pytest alone; tests that share programs share a worker."""

import jax
import pytest
from jaxtyping import install_import_hook

from tests.compiling import compile_quickly

# Before the first import of the package: the hook rewrites modules as they are loaded.
install_import_hook("ssmrl", "beartype.beartype")


def pytest_configure(config):
    if _quick(config):
        compile_quickly()


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
