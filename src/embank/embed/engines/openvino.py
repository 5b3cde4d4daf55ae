"""The OpenVINO engine: the same models as the onnx engine, in float32 and, on processors that have it, bfloat16.

Covers CPUs. Opens the graph that the onnx converter writes, with float32 weights for both precisions: what is computed
in bfloat16 is up to the runtime, which is told to. Each lane has a stream of one core and an infer request of its own.
Shapes stay dynamic: one compiled model for all; the kernels it makes for each width are kept few by batches whose width
is a multiple of 16. Measured on two cores and MiniLM in float32: two lanes of 384 tokens made 1.3 to 2 times the
texts/s of one batch of 1,024 over both, and widths in steps of 16 a fifth more than any width, with 14 MB less.
"""

from __future__ import annotations

import queue
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embank.embed.device import resolve_device
from embank.embed.engines.graph import LENGTH_STEP, Plan, batch_tokens_of, load_graph, ran_out_of_memory
from embank.errors import InvalidInput, MissingExtra, ModelError, ModelFileError
from embank.memory.hygiene import usable_cpus

if TYPE_CHECKING:
    import numpy.typing as npt

    from embank.embed.engine import Engine, LoadRequest

_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
# The library's own state, and what the requests keep after their first batch: it is not given back between batches.
_RUNTIME_BYTES = 16 << 20
_REQUEST_BYTES = 24 << 20


def load(request: LoadRequest) -> Engine:
    """Open the model of `request`, converting it first where needed; see `load_graph` for what it raises.

    Also raises `MissingExtra` without the package, `InvalidInput` for bfloat16 on a processor that lacks it.
    """
    runtime = _import_runtime()
    hint = _HINTS.get(request.precision)
    if hint is None:
        raise InvalidInput(
            f"the openvino engine computes float32 and bfloat16, not {request.precision}: set embed.precision to one "
            f"of these",
            value=request.precision,
        )
    if hint == "bf16" and not has_bfloat16():
        raise InvalidInput(
            "this processor has no bfloat16 (neither avx512_bf16 nor amx_bf16), and computing it otherwise would be "
            "slower than float32: set embed.precision to float32",
            value=request.precision,
        )
    device = resolve_device(request.device, engine="openvino", cuda_devices=lambda: 0)
    lanes = request.settings.threads or usable_cpus()
    plan = Plan(
        engine="openvino",
        device=device,
        lanes=lanes,
        batch_tokens=batch_tokens_of(request, lanes),
        length_step=LENGTH_STEP,
        loaded_bytes=lambda weights: weights + _RUNTIME_BYTES + lanes * _REQUEST_BYTES,
        stored="float32",
    )
    return load_graph(request, plan, lambda path: OpenVinoRuntime(path, lanes=lanes, hint=hint, runtime=runtime))


def has_bfloat16(*, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether every processor computes bfloat16; false where the system doesn't tell."""
    try:
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")]
    except OSError:
        return False
    return bool(lines) and all(_BFLOAT16_FLAGS & set(line.split()) for line in lines)


class OpenVinoRuntime:
    """A compiled model with an infer request a lane. `run` is thread-safe; more callers than lanes wait."""

    def __init__(self, path: Path, *, lanes: int, hint: str, runtime: Any) -> None:
        compiled = _compile(path, lanes, hint, runtime)
        self._types = {given.get_any_name(): given.get_element_type().to_dtype() for given in compiled.inputs}
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(lanes):
            self._requests.put(compiled.create_infer_request())
        self._compiled: Any = compiled
        self._lanes = lanes

    def run(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        feeds = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._types:
            feeds["token_type_ids"] = np.zeros_like(ids)
        feeds = {name: values.astype(self._types[name], copy=False) for name, values in feeds.items()}
        request = self._requests.get()
        try:
            request.infer(feeds, share_inputs=True)
            # Copied: the request's memory is the next batch's.
            return np.array(request.get_output_tensor(0).data)
        except Exception as error:  # the runtime raises RuntimeError and its own
            failed = ran_out_of_memory(error, ids.shape, "cpu")
            if failed is None:
                raise
            raise failed from error
        finally:
            self._requests.put(request)

    def close(self) -> None:
        for _ in range(self._lanes):
            self._requests.get()
        self._compiled = None


def _import_runtime() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", "openvino") from error
    return openvino


def _compile(path: Path, lanes: int, hint: str, runtime: Any) -> Any:
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": lanes,
        "INFERENCE_NUM_THREADS": lanes,
        "INFERENCE_PRECISION_HINT": hint,
        # Other work, and other processes, share the cores.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        core = runtime.Core()
        return core.compile_model(core.read_model(str(path)), "CPU", properties)
    except MemoryError as error:
        raise ModelError(f"there is no memory to open {path}: {error}", path=str(path)) from error
    except Exception as error:  # the runtime raises RuntimeError and its own
        raise ModelFileError(f"OpenVINO can't open {path}: {error}", path=str(path)) from error
