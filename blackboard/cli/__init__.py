"""The command line: `blackboard COMMAND …`.

Commands live in modules that are imported when their command is called, so that `--help` and typing
errors are answered at once. Exit codes: 0 done, 1 failed, 2 usage or settings, 130 interrupted.
What a user got wrong is one line on standard error that says what to do next; a traceback is a bug.
"""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

from cyclopts import (
    App,
    CycloptsError,
    Group,
    Parameter,
    UnknownCommandError,
    UnusedCliTokensError,
)

from blackboard.errors import BlackboardError, InvalidError, SettingsError

FAILED = 1
USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
"""As a shell shows a program that SIGPIPE ended."""


class Entry(NamedTuple):
    """A command as the overview and its own help show it."""

    where: str
    """Module and name, below this package."""
    summary: str
    """The first line of its docstring."""
    example: str = ""
    """The end of its help; empty when `where` is an app, which has its own."""


MEMORIES = Group("Memories", sort_key=1)
AGENTS = Group("Agents", sort_key=2)
INSIGHT = Group("Insight", sort_key=3)
SERVICE = Group("Service", sort_key=0)
OPTIONS = Group("Options", sort_key=4)

COMMANDS: dict[Group, dict[str, Entry]] = {
    SERVICE: {
        "up": Entry(
            "up:up",
            "Hold the local stack until Ctrl-C.",
            "    blackboard up --data ~/team-board",
        ),
        "demo": Entry(
            "demo:demo",
            "Let a flock of agents read real documents, with and without a shared board.",
        ),
        "doctor": Entry(
            "doctor:doctor",
            "Check the broker, the board and who may do what.",
            "    blackboard doctor --board research\n"
            "    blackboard doctor --url nats://a:4222,nats://b:4222 --monitor http://a:8222,http://b:8222",
        ),
        "reindex": Entry(
            "search:reindex",
            "Build the index of a board anew beside the old one, and put it in its place.",
            "    blackboard reindex --embedder text-embedding-3-small",
        ),
        "consolidate": Entry(
            "consolidate:consolidate", "Condense old memories into summaries; plan it, undo it."
        ),
        "retention": Entry(
            "retention:retention", "Say how long memories stay; check, apply and show the policy."
        ),
        "apply": Entry(
            "apply:apply",
            "Bring a board to other limits, or give it replicas, without loss.",
            "    blackboard apply --replicas 3 --memory-bytes 8GiB --dry-run",
        ),
        "backup": Entry(
            "backup:backup",
            "Back up a whole board that is in use; only what changed is written.",
        ),
        "restore": Entry(
            "backup:restore",
            "Make a board from a backup, at a broker that does not have it.",
            "    blackboard restore /srv/backups/main --url nats://new:4222 --receipts nats://old:4222",
        ),
    },
    MEMORIES: {
        "put": Entry(
            "memories:put",
            "Put a memory on the board and print its reference.",
            "    blackboard put reports.q3 '{\"growth\": 4}' --tag region=emea --ttl 7d\n"
            "    git log -1 | blackboard put commits - --text\n"
            '    blackboard put state.config \'{"mode": "fast"}\' --key mode --expected 0',
        ),
        "get": Entry(
            "memories:get",
            "Show a memory: the newest revision, a pinned one, or as of a time.",
            "    blackboard get '*/state.config/mode' --at 10m\n"
            "    blackboard get '*/state.config/mode@42' --json",
        ),
        "watch": Entry(
            "memories:watch",
            "Follow the memories under a pattern, one line each.",
            "    blackboard watch 'reports.>' --since 1h\n"
            "    blackboard watch '>' --since start --limit 100 --json",
        ),
        "recall": Entry(
            "search:recall",
            "Find the memories that fit a text best, by meaning and by words.",
            "    blackboard recall 'refund of customer 42' --topic 'cases.>' --since 24h\n"
            "    blackboard recall 'who likes tea' --tag team=blue --context --budget 400",
        ),
        "query": Entry(
            "search:query",
            "Select memories by what they say of themselves, in order, page after page.",
            "    blackboard query 'cases.>' --agent returns --order-by -priority --limit 20\n"
            "    blackboard query --user customer-42 --limit 0 --count-by topic --count-by tag",
        ),
        "forget": Entry(
            "forget:forget", "Take memories away for good, with all that was made from them."
        ),
        "replay": Entry(
            "memories:replay",
            "Show the past under a pattern, in order, up to now.",
            "    blackboard replay 'reports.>' --since 2d --until 1d --speed 60",
        ),
        "export": Entry(
            "archive:export",
            "Write the board, or a part of it, into a directory.",
            "    blackboard export backup-2026-11\n    blackboard export for-42 --user customer-42",
        ),
        "import": Entry(
            "archive:load",
            "Bring an export into a board.",
            "    blackboard import backup-2026-11 --board restored",
        ),
        "topics": Entry(
            "overview:topics",
            "List the topics: memories, the newest, and who wrote them.",
            "    blackboard topics 'docs.>'",
        ),
        "stats": Entry(
            "overview:stats",
            "Count memories, bytes, and what sharing saved.",
            "    blackboard stats --json",
        ),
    },
    AGENTS: {
        "agents": Entry("agents:agents", "List agents and handlers; pause, resume, remove one."),
        "run": Entry(
            "run:run",
            "Run the agent of a Python file.",
            "    blackboard run agents/summarizer.py --replicas 3 --start 1h",
        ),
        "access": Entry(
            "access:access", "Say who may read and write what; add, revoke and renew agents."
        ),
        "dead": Entry("dead:dead", "List what handlers gave up on; let them try again."),
    },
    INSIGHT: {
        "audit": Entry(
            "audit:audit",
            "Show who read what, and who took what back; prove it; report it.",
        ),
        "report": Entry(
            "report:report",
            "Report everything the board holds about one person, and who read it.",
            "    blackboard report customer-42 --out for-customer-42\n"
            "    blackboard report customer-42 --json | jq .summary",
        ),
        "trace": Entry(
            "history:trace",
            "Show a trace as a tree, with durations.",
            "    blackboard trace 4bf92f3577b34da6a3ce929d0e0e4736",
        ),
        "explain": Entry(
            "history:explain",
            "Explain a memory: made by whom, from what, at what cost, reused by whom.",
            "    blackboard explain '*/state.config/mode'",
        ),
    },
}


def build(arguments: Sequence[str] = ()) -> App:
    """Make the app.

    Args:
        arguments: The command line; the command that it names gets its help from its docstring.
    """
    app = App(
        name="blackboard",
        help="Shared memory for pools of AI agents.",
        help_epilogue="blackboard COMMAND --help shows an example.",
        help_format="plaintext",
        help_formatter="default" if sys.stdout.isatty() else "plain",
        default_parameter=Parameter(negative=(), show_default=_shown_default),
        result_action="return_value",
        version=_version,
    )
    for flag in ("--help", "--version"):
        app[flag].group = OPTIONS
    for group, commands in COMMANDS.items():
        for name, entry in commands.items():
            options = {"help_epilogue": f"Example:\n\n{entry.example}"} if entry.example else {}
            app.command(
                f"blackboard.cli.{entry.where}",
                name=name,
                group=group,
                help=None if name in arguments else entry.summary,
                **options,
            )
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        arguments: Without the program's name; None means those of the process.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = build(tokens)(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()  # here, where a closed pipe can still be handled
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except CycloptsError as error:
        return _failed(_usage(error), USAGE)
    except (SettingsError, InvalidError) as error:
        return _failed(str(error), USAGE)
    except BlackboardError as error:
        return _failed(str(error), FAILED)
    return code if isinstance(code, int) else 0


def _failed(text: str, code: int) -> int:
    """Say what went wrong in one line, and return the exit code."""
    line = " ".join(text.split())
    # It may quote what somebody wrote, who could otherwise rewrite the terminal.
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)
    print(f"error: {shown}", file=sys.stderr)  # noqa: T201
    return code


def _usage(error: CycloptsError) -> str:
    """What is wrong with a command line, and where to read on."""
    command = " ".join(["blackboard", *(error.command_chain or ())])
    surplus = error.unused_tokens or [""]
    match error:
        case UnknownCommandError():
            # Its own text would load every command to list them.
            names = [name for commands in COMMANDS.values() for name in commands]
            close = get_close_matches(surplus[0], names, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ";"
            text = f"unknown command {surplus[0]!r}{meant}"
        case UnusedCliTokensError():
            hint = "quote what has spaces, and check the spelling of options"
            text = f"unexpected argument {surplus[0]!r} ({hint});"
        case _:
            text = str(error).removesuffix(".") + ("" if str(error).endswith("?") else ";")
    return f"{text} see `{command} --help`"


def _shown_default(value: object) -> str | None:
    """What help says of a default; nothing where it is "no" or "none"."""
    return None if value in (None, False, ()) else str(value)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - for --version only

    try:
        return version("blackboard-agents")
    except PackageNotFoundError:
        return "not installed"
