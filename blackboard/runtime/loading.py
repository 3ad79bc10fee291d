"""Loads the agent of a file, which needs to be neither in a package nor on the path."""

import importlib.util
import sys
import traceback
from pathlib import Path

from blackboard.agent import Agent
from blackboard.errors import SettingsError


def load_agent(path: Path | str) -> Agent:
    """Run a program's file, without its `if __name__ == "__main__"`, and return its agent.

    Modules beside the file can be imported from it, as when Python runs it.

    Raises:
        SettingsError: There is no such file, it fails, or it does not define exactly one agent that
            handles something.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise SettingsError(f"there is no agent file {str(path)!r}")
    name = f"blackboard_agent_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{str(path)!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except SettingsError:
        raise
    except SyntaxError as error:
        where = "" if error.lineno is None else f":{error.lineno}"
        raise SettingsError(f"{error.filename or file}{where}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((one for one in reversed(frames) if one.filename == str(file)), frames[-1])
        raise SettingsError(
            f"{str(path)!r} cannot be loaded: {type(error).__name__}: {error} "
            f"({line.filename}:{line.lineno})"
        ) from error
    found = {id(value): value for value in vars(module).values() if isinstance(value, Agent)}
    if len(found) != 1:
        names = ", ".join(agent.name for agent in found.values())
        raise SettingsError(
            f"{str(path)!r} must define exactly one Agent, for example `agent = Agent('name')`; "
            f"it has {names or 'none'}"
        )
    agent = next(iter(found.values()))
    if not agent.handlers:
        raise SettingsError(
            f"agent {agent.name!r} in {str(path)!r} has no handlers; declare one with @agent.on"
        )
    return agent
