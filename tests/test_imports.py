import os
import subprocess
import sys
from pathlib import Path


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
