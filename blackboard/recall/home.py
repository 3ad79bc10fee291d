"""The data directory of a service, as it was when the service began.

Whoever removes or moves it wants it gone: it is not made again behind their back, and what is made
in its place is not ours. The service ends then, and whoever runs services may start it anew.
"""

from pathlib import Path

import anyio

from blackboard.errors import SettingsError, UnavailableError

LOOK_S = 1.0


class Home:
    """A directory that has to stay where it is.

    Args:
        path: The directory.
        make: Make it when it is not there; else somebody has made it for this service.

    Raises:
        SettingsError: It cannot be made.
    """

    def __init__(self, path: Path, *, make: bool) -> None:
        self.path = path
        if make:
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(
                    f"cannot make {str(path)!r} for the index ({error.strerror}); set "
                    "BLACKBOARD_DATA to a directory that this user may write"
                ) from error
        self._identity = _identity(path)

    @property
    def there(self) -> bool:
        """It is the directory that it was."""
        return self._identity is not None and _identity(self.path) == self._identity

    def check(self) -> None:
        """Refuse to go on in another one.

        Raises:
            UnavailableError: It was removed or moved.
        """
        if not self.there:
            raise UnavailableError(f"the data directory {str(self.path)!r} was removed")

    async def watch(self) -> None:
        """Wait for its end; never returns.

        Raises:
            SettingsError: It was removed or moved.
        """
        while True:
            await anyio.sleep(LOOK_S)
            if not self.there:
                raise SettingsError(
                    f"the data directory {str(self.path)!r} was removed; start recall again to "
                    "have the indexes built anew, nothing is lost"
                )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
