"""Words: how arrays and tables read in messages and terminals."""

from typing import Any

from rich.console import Console, RenderableType


def array_words(value: Any) -> str:
    """`float32[8, 3]`; the type of what is no array."""
    if not hasattr(value, "dtype"):
        return type(value).__name__
    return f"{value.dtype}[{', '.join(map(str, value.shape))}]"


def as_text(renderable: RenderableType, width: int = 100) -> str:
    """What rich prints, plain."""
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()
