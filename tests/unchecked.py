"""Running without the annotations' checks, as users do.

Under pytest the annotations are checked at every call (tests/conftest.py), and so a wrong shape is
caught before the library's own error, which is what users see, and what is tested.
"""

import contextlib

from jaxtyping import config


@contextlib.contextmanager
def unchecked():
    """Inside, jaxtyping's annotations are not checked."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
