"""`python -m blackboard`: the command line."""

import sys

from blackboard.cli import main

sys.exit(main())
