"""How fast MiniLM embeds here: one query at a time, and many texts at once.

    python perf/bench_embed.py [--texts 512]

Texts are pieces of the Python Language Reference, 110 characters (a turn of a conversation) and 900
(a section). Reports float32 beside 8 bits, and how far the two agree.
"""

import argparse
import pydoc_data.topics
import statistics
import tempfile
import time
from pathlib import Path

import anyio
import numpy as np

from blackboard.recall.embed import MiniLM
from blackboard.recall.weights import Precision

QUERY = "refund of customer 42"


def pieces(length: int, count: int) -> list[str]:
    topics: dict[str, str] = pydoc_data.topics.topics
    whole = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    return [whole[start : start + length] for start in range(0, length * count, length)]


async def rate(model: MiniLM, texts: list[str]) -> float:
    start = time.perf_counter()
    await model.embed(texts)
    return len(texts) / (time.perf_counter() - start)


async def main(arguments: argparse.Namespace) -> None:
    short, long = pieces(110, arguments.texts), pieces(900, arguments.texts // 4)
    vectors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    precisions: list[Precision] = ["fp32", "int8"]
    with tempfile.TemporaryDirectory() as cache:
        for precision in precisions:
            start = time.perf_counter()
            model = await MiniLM.open(Path(cache), precision=precision)
            built = time.perf_counter() - start
            start = time.perf_counter()
            await MiniLM.open(Path(cache), precision=precision)
            opened = time.perf_counter() - start
            times: list[float] = []
            for _ in range(arguments.queries):
                start = time.perf_counter()
                await model.embed([QUERY])
                times.append(1000 * (time.perf_counter() - start))
            vectors[precision] = await model.embed(long)
            short_rate, long_rate = await rate(model, short), await rate(model, long)
            print(
                f"{precision}: built in {built:.2f} s, opened in {opened:.2f} s; "
                f"a query p50 {statistics.median(times):.2f} ms, "
                f"p95 {statistics.quantiles(times, n=20)[-1]:.2f} ms; "
                f"{short_rate:.0f} short and {long_rate:.0f} long texts/s"
            )
        chosen = (await MiniLM.open(Path(cache) / "auto")).precision
    cosines = (vectors["fp32"] * vectors["int8"]).sum(axis=1)
    print(f"cosine int8 to fp32: least {cosines.min():.4f}, mean {cosines.mean():.4f}")
    print(f"auto takes {chosen} here")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--queries", type=int, default=300)
    anyio.run(main, parser.parse_args())
