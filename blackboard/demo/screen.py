"""What the person in front of the demo sees: a live picture in a terminal, else plain lines."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from blackboard.demo.matrix import Matrix, draw

FRAME_S = 0.1


class Screen:
    """Prints, or keeps silent when only the JSON is wanted and nobody watches.

    Args:
        as_json: Standard output belongs to the JSON; the rest goes to standard error, if that is
            a terminal.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.console = Console(stderr=as_json, highlight=False)
        self.console.quiet = as_json and not self.console.is_terminal
        self._live: Live | None = None
        self._shown: Matrix | None = None
        self._drawn = 0.0

    def title(self, text: str) -> None:
        """Begin an act."""
        self.console.print(f"\n{text}", style="bold", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line, above the picture when there is one."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def picture(self, matrix: Matrix) -> Generator[None]:
        """Show a matrix while the block runs; in the end it is printed once more, to stay.

        Where there is no terminal nothing moves and no control codes are written.
        """
        if not self.console.is_terminal or self.console.is_dumb_terminal:
            yield
            self.console.print(draw(matrix, self.console))
            return
        self._shown = matrix
        live = Live(console=self.console, auto_refresh=False, transient=True)
        with live:
            self._live = live
            try:
                yield
            finally:
                self._live = None
        self.console.print(draw(matrix, self.console))

    def refresh(self) -> None:
        """Draw the picture again, but not more often than one can see."""
        now = time.monotonic()
        if self._live is not None and self._shown is not None and now >= self._drawn + FRAME_S:
            self._drawn = now
            self._live.update(draw(self._shown, self.console), refresh=True)
