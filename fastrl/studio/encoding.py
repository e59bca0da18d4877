"""Values as a browser can hold them: folders may be anybody's, and say what JSON cannot."""

from __future__ import annotations

import math
from typing import Any

_MOST_EXACT = 2**53  # a browser rounds whole numbers beyond it


def encodable(value: Any) -> Any:
    """Returns a plain value that JSON and a browser hold as it is.

    Halves of characters (lone surrogates), as names of files may have them, become escapes; whole
    numbers beyond 2**53 and numbers that are not finite become None.
    """
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {encodable(name): encodable(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(x) for x in value]
    if isinstance(value, int):
        return value if abs(value) <= _MOST_EXACT else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
