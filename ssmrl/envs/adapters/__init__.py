"""Environments of other packages, with our interfaces. Each package is imported only when used."""

from __future__ import annotations

import importlib
import warnings
from typing import Any


def require(module: str, extra: str) -> Any:
    """Import ``module``, or say which extra brings it.

    Raises:
        ImportError: naming the extra, if the module or something it needs is missing.
    """
    try:
        # What a package deprecates in its own dependencies is nothing that the user can act on.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module} could not be imported ({error}); pip install "ssmrl[{extra}]"'
        ) from error
