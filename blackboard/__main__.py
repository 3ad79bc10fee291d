"""`python -m blackboard`, and the program `blackboard`: the command line."""

import signal
import sys


def main() -> int:
    """Run the command line of this process and return its exit code.

    Loading takes a moment, in which Ctrl-C ends the process as it ends any program: Python would
    print a traceback. Once loaded, the command line has its own answer to it.
    """
    patient = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if patient:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from blackboard import cli  # noqa: PLC0415 - that is what takes a moment

    try:
        if patient:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return cli.main()
    except KeyboardInterrupt:
        return cli.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
