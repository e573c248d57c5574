"""What a memory gives out while something else, which holds it, is called."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from ssmrl.memory.base import Memory


def hear_memory(call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """The answer of a call in which a memory takes part, and the memory's outputs.

    Of several memories, or of those that one is made of, the one that finishes last is heard.
    """
    heard = []

    def listen(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        answer = method(*args, **kwargs)
        if isinstance(context.module, Memory) and context.method_name == "__call__":
            heard.append(answer[1])
        return answer

    with nn.intercept_methods(listen):
        answer = call(*args, **kwargs)
    return answer, heard[-1]
