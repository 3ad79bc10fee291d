"""One replica of an agent: `python -m blackboard.runtime FILE`; see `replicas`."""

import sys

from blackboard.errors import SettingsError
from blackboard.runtime.loading import load_agent
from blackboard.runtime.process import WRONG_SETTINGS


def main() -> int:
    """Load the file's agent and run it."""
    try:
        agent = load_agent(sys.argv[1])
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG_SETTINGS
    agent.run(sys.argv[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
