"""The ONNX graph of all-MiniLM-L6-v2, built from its published weights.

The weights come as a plain safetensors file in a Python package. Building the graph here, instead
of fetching somebody's export, means that what runs is decided by one SHA-256 and by the code below,
and that a machine without a way to a model hub embeds all the same.

The graph takes token ids and a mask and returns unit vectors: pooling and normalising are inside,
so no caller can leave them out. It uses the fused operators of onnxruntime (`com.microsoft`), which
is the only engine that runs it.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from blackboard.errors import SettingsError

DIMENSIONS = 384
MAX_TOKENS = 256
LAYERS = 6
HEADS = 12
LAYER_NORM_EPSILON = 1e-12
OPSET = 20
IR_VERSION = 9
FUSED = "com.microsoft"
TINY = np.finfo(np.float32).tiny

Array = NDArray[Any]
Tensors = Mapping[str, Array]


def read_safetensors(path: Path) -> dict[str, Array]:
    """Read a safetensors file: a length, a JSON header with offsets, the raw numbers.

    Raises:
        SettingsError: The file is cut short or holds another number format than float32 and int64.
    """
    data = path.read_bytes()
    try:
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        body = memoryview(data)[8 + size :]
        return {name: _tensor(body, entry) for name, entry in header.items()}
    except (KeyError, ValueError, struct.error) as error:
        raise SettingsError(f"{str(path)!r} is no safetensors file ({error})") from error


def _tensor(body: memoryview, entry: Mapping[str, Any]) -> Array:
    dtype = {"F32": "<f4", "I64": "<i8"}[entry["dtype"]]
    start, end = entry["data_offsets"]
    return np.frombuffer(body[start:end], dtype=dtype).reshape(entry["shape"])


def build(tensors: Tensors, *, quantised: bool) -> onnx.ModelProto:
    """Build the graph.

    Args:
        tensors: The weights by their published names.
        quantised: Whether products run in 8 bits: the weights with a scale per column, what they
            are multiplied with as one tensor, scaled anew at every run. So a text's vector depends
            on what else is in its run (cosine down to 0.96), and `embed` runs each by itself.
            Scales by blocks of 32 stay closer to float32 (mean cosine 0.9996 against 0.993), take
            twice as long, and find no more (LoCoMo recall at 10: .831 against .835). The word table
            stays float32, since a look-up costs nothing.

    Returns:
        A model from `input_ids` and `attention_mask`, both (texts, tokens) int64, to `embedding`,
        (texts, 384) float32 of unit length.
    """
    graph = _Quantised(tensors) if quantised else _Graph(tensors)
    state = graph.embeddings()
    for layer in range(LAYERS):
        state = graph.layer(layer, state)
    graph.pool(state)
    return graph.model()


class _Graph:
    """Nodes and weights, gathered in the order in which they run."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}

    def embeddings(self) -> str:
        """Word + position + type, normalised; every text is of type 0, so that is folded in."""
        words = self._own("embeddings.word_embeddings.weight")
        positions = self._tensors["embeddings.position_embeddings.weight"]
        types = self._tensors["embeddings.token_type_embeddings.weight"]
        places = self._weight("positions", (positions + types[0])[:MAX_TOKENS])
        shape = self._node("Shape", ["input_ids"], "length", start=1, end=2)
        zero = self._weight("zero", np.array([0], dtype=np.int64))
        here = self._node("Slice", [places, zero, shape], "here")
        found = self._node("Gather", [words, "input_ids"], "words")
        summed = self._node("Add", [found, here], "embedded")
        # Attention takes the mask as int32.
        self._node("Cast", ["attention_mask"], "mask32", to=TensorProto.INT32)
        return self._normalised(summed, "embeddings", "state")

    def layer(self, number: int, state: str) -> str:
        """One transformer layer: attention, then feed-forward, each added and normalised."""
        name = f"encoder.layer.{number}"
        seen = self._attention(state, f"{name}.attention.self")
        mixed = self._product(seen, f"{name}.attention.output.dense")
        state = self._add_and_norm(mixed, state, f"{name}.attention.output")
        wide = self._product(state, f"{name}.intermediate.dense")
        bias_name = self._own(f"{name}.intermediate.dense.bias")
        wide = self._node("BiasGelu", [wide, bias_name], f"{name}.gelu", FUSED)
        narrow = self._product(wide, f"{name}.output.dense")
        return self._add_and_norm(narrow, state, f"{name}.output")

    def pool(self, state: str) -> None:
        """Mean over the tokens that are not padding, then unit length."""
        last = self._weight("last", np.array([-1], dtype=np.int64))
        middle = self._weight("middle", np.array([1], dtype=np.int64))
        mask = self._node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
        mask = self._node("Unsqueeze", [mask, last], "mask3")
        kept = self._node("Mul", [state, mask], "kept")
        total = self._node("ReduceSum", [kept, middle], "total", keepdims=0)
        # The mean's division by the count cancels in the normalising that follows.
        length = self._node("ReduceL2", [total, last], "norm", keepdims=1)
        self._node("Div", [total, length], "embedding")

    def model(self) -> onnx.ModelProto:
        ids, mask = (
            helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"])
            for name in ("input_ids", "attention_mask")
        )
        out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["texts", DIMENSIONS])
        graph = helper.make_graph(
            self._nodes, "minilm", [ids, mask], [out], list(self._weights.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def _attention(self, state: str, name: str) -> str:
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        # One product for the three; the attention adds the bias.
        weight = np.concatenate([self._tensors[f"{part}.weight"].T for part in parts], axis=1)
        bias = np.concatenate([self._tensors[f"{part}.bias"] for part in parts])
        all_three = self._multiply(state, f"{name}.qkv", weight)
        sizes = self._weight("sizes", np.array([DIMENSIONS] * 3, dtype=np.int64))
        self._nodes.append(
            helper.make_node("Split", [all_three, sizes], parts, name=f"{name}.split", axis=-1)
        )
        inputs = [*parts, self._weight(f"{name}.qkv.bias", bias), "mask32"]
        return self._node("MultiHeadAttention", inputs, f"{name}.seen", FUSED, num_heads=HEADS)

    def _product(self, state: str, name: str) -> str:
        return self._multiply(state, name, self._tensors[f"{name}.weight"].T)

    def _multiply(self, state: str, name: str, weight: Array) -> str:
        return self._node("MatMul", [state, self._weight(f"{name}.t", weight)], f"{name}.product")

    def _add_and_norm(self, state: str, skip: str, name: str) -> str:
        # The fused operator for these three takes twice as long as they do.
        summed = self._node("Add", [state, skip], f"{name}.summed")
        biased = self._node("Add", [summed, self._own(f"{name}.dense.bias")], f"{name}.biased")
        return self._normalised(biased, name, f"{name}.normal")

    def _normalised(self, state: str, name: str, out: str) -> str:
        inputs = [state, *self._norm(f"{name}.LayerNorm")]
        epsilon = LAYER_NORM_EPSILON
        return self._node("LayerNormalization", inputs, out, axis=-1, epsilon=epsilon)

    def _norm(self, name: str) -> tuple[str, str]:
        return self._own(f"{name}.weight"), self._own(f"{name}.bias")

    def _own(self, name: str) -> str:
        return self._weight(name, self._tensors[name])

    def _weight(self, name: str, values: Array) -> str:
        self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _node(
        self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        node = helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes)
        self._nodes.append(node)
        return output


class _Quantised(_Graph):
    """The same graph with 8-bit products."""

    def _multiply(self, state: str, name: str, weight: Array) -> str:
        scale = np.maximum(np.abs(weight).max(axis=0) / 127, TINY).astype(np.float32)
        small = np.rint(weight / scale).astype(np.int8)
        inputs = [
            state,
            self._weight(f"{name}.small", small),
            self._weight(f"{name}.scale", scale),
        ]
        return self._node("DynamicQuantizeMatMul", inputs, f"{name}.product", FUSED)
