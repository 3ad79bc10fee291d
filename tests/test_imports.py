import os
import subprocess
import sys
from pathlib import Path

import pytest

import blackboard


def test_importing_the_board_loads_no_vendor_of_an_extra():
    heavy = ["numpy", "onnx", "onnxruntime", "openai", "qdrant_client", "qdrant_edge", "tokenizers"]
    program = (
        "import sys, blackboard; blackboard.Blackboard; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )

    assert done.stdout.strip() == "[]"


def test_the_names_of_the_library_are_listed_and_no_others_are_there():
    assert set(blackboard.__all__) <= set(dir(blackboard))
    assert all(getattr(blackboard, name).__name__ == name for name in blackboard.__all__)
    for name in ("nothing_like_it", "agents"):
        with pytest.raises(AttributeError, match=name):
            getattr(blackboard, name)
