"""Where the acts are played: a throw-away local stack, the documents, and the model."""

import os
import platform
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import anyio
import msgspec

from blackboard import local
from blackboard.board import Blackboard
from blackboard.demo.documents import Library
from blackboard.local.directory import Directory
from blackboard.local.locks import is_held
from blackboard.settings import Settings

NAME = "demo"
"""The name under which the demo itself looks at boards; its own traffic is not counted."""
EXTRACTIVE = "extractive"
END_S = 10.0
"""How long a stack may take to end after its last user left."""
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Stage:
    """What all acts share.

    Attributes:
        folder: Holds the stack's data, the documents and the programs' output.
        monitor: Address of the broker's monitoring pages.
        settings: How to reach the broker and the model.
        library: The documents.
        questions: What each team is asked.
        run: Part of every board's name, so that no act finds what another left.
    """

    folder: Path
    monitor: str
    settings: Settings
    library: Library
    questions: Mapping[str, str]
    run: str

    @property
    def documents(self) -> Path:
        """The folder that the readers read."""
        return self.folder / self.run / "documents"

    @property
    def has_endpoint(self) -> bool:
        """Whether a model writes the summaries; its words differ from run to run."""
        return self.settings.model_url is not None

    @property
    def model(self) -> str:
        """Who writes the summaries."""
        return self.settings.model_name if self.has_endpoint else EXTRACTIVE

    @property
    def environment(self) -> Mapping[str, str]:
        """What the programs are told, over what this process was told."""
        return environment(self.settings)

    def board(self, act: str, team: str | None = None) -> str:
        """Name the board of an act, or of one team in it."""
        return "-".join(filter(None, (act, team, self.run)))

    def open(self, board: str) -> AbstractAsyncContextManager[Blackboard]:
        """Open a board to look at it; made when it is not there."""
        return Blackboard.local(self.settings.data_dir, board, NAME)


@asynccontextmanager
async def set_up(
    library: Library, questions: Mapping[str, str], settings: Settings, keep: Path | None = None
) -> AsyncGenerator[Stage]:
    """Start a local stack of the demo's own, apart from the user's, and write the documents.

    Args:
        library: The documents.
        questions: What each team is asked.
        settings: Of this process; the broker they name is not used.
        keep: Where the data stays afterwards; None means a temporary folder that is removed.
    """
    async with own_stack(settings, keep) as (folder, endpoint, own):
        stage = Stage(folder, endpoint.monitor, own, library, questions, uuid4().hex[:6])
        library.write(stage.documents)
        yield stage


@asynccontextmanager
async def own_stack(
    settings: Settings, keep: Path | None = None
) -> AsyncGenerator[tuple[Path, local.Endpoint, Settings]]:
    """Start a local stack apart from the user's; gives its folder, where it is, and settings.

    Args:
        settings: Of this process; the broker they name is not used.
        keep: Where the data stays afterwards; None means a temporary folder that is removed.
    """
    folder = Path(tempfile.mkdtemp(prefix="blackboard-demo-")) if keep is None else keep
    try:
        async with local.join(folder / "data", port=0) as endpoint:
            own = msgspec.structs.replace(
                settings,
                url=endpoint.url,
                token_file=endpoint.data_dir / "token",
                data_dir=endpoint.data_dir,
            )
            yield folder, endpoint, own
    finally:
        if keep is None:
            with anyio.CancelScope(shield=True):
                await _ended(folder / "data")
            shutil.rmtree(folder, ignore_errors=True)


async def _ended(data_dir: Path) -> None:
    """Wait until the stack is gone: a service that says goodbye would make its folder again."""
    lock = Directory.at(data_dir).supervisor_lock
    with anyio.move_on_after(END_S):
        while is_held(lock):  # noqa: ASYNC110 - the kernel tells nobody of a lock
            await anyio.sleep(LOOK_S)


def environment(settings: Settings) -> Mapping[str, str]:
    """What programs are told, to find the broker and the model that settings name."""
    return {
        "BLACKBOARD_URL": settings.url or "",
        "BLACKBOARD_TOKEN_FILE": str(settings.token_file),
        "BLACKBOARD_DATA": str(settings.data_dir),
        "OPENAI_BASE_URL": settings.model_url or "",
        "OPENAI_API_KEY": settings.model_key or "",
        "BLACKBOARD_MODEL": settings.model_name,
    }


def machine() -> str:
    """Say what this ran on."""
    cores = os.cpu_count() or 1
    return (
        f"{platform.system()} {platform.machine()}, {cores} core{'s' if cores > 1 else ''}, "
        f"Python {platform.python_version()}"
    )
