"""The ONNX Runtime engine: the BERT family, and encoders of any kind that were exported to ONNX.

Covers float32; float16, which halves the file and the mapped tables, while matrices are widened when the model is
opened, so that they take as much memory as in float32; int8 with a scale for each token's activations; and CUDA devices
where the installed ONNX Runtime has them (not in int8). A table of word vectors stays in the file's pages, which the
kernel can take back.

Each lane computes a batch of its own on one core, with the same weights. Measured on two cores and MiniLM in float32,
texts/s: 190 with two lanes of 384 tokens, 120 with one of 1,024 over both cores (spinning off). int8 made 1.3 times
float32's with 0.7 of its memory: its products are three times as fast, but scaling rows takes plain operators. Weights
packed anew for the processor make 12 % more texts/s than mapped ones, for 41 MB.

The runtime's arena keeps what the largest batch of each lane took, until the model is unloaded. With batches as small
as these that is little, and less than the C library keeps in holes between blocks of so many sizes: measured at the
peak, 63 MB with it and 100 without in int8, 85 and 105 in float32, at 1.1 times the texts/s; the same after unloading.
It is left to itself only because batches are bounded: with large ones it grows by powers of two.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embank.embed.device import resolve_device
from embank.embed.engines.graph import LENGTH_STEP, Plan, batch_tokens_of, load_graph, ran_out_of_memory
from embank.errors import DeviceNotFound, InvalidInput, MissingExtra, ModelError, ModelFileError
from embank.memory.hygiene import usable_cpus

if TYPE_CHECKING:
    import numpy.typing as npt

    from embank.embed.engine import Engine, LoadRequest

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
# Folds a row's scale into the product as if there were one for all rows (measured: a mean cosine of 0.73).
_WRONG_FUSIONS = ["MatMulIntegerToFloatFusion"]
_VNNI_FLAGS = {"avx512_vnni", "avx_vnni"}
_ONLY_ERRORS = 3
# The runtime's own state. Measured for MiniLM, with the tokenizer: 54 MB in float32 and float16, 23 in int8, where 60
# and 28 are said.
_RUNTIME_BYTES = 8 << 20
_LOADED_OVER_FILE = {"float32": 1.0, "int8": 1.0, "float16": 2.0}
# On a GPU, one batch at a time: a large one keeps it busy.
_CUDA_BATCH_TOKENS = 8192


def load(request: LoadRequest) -> Engine:
    """Open the model of `request`, converting it first where needed; see `load_graph` for what it raises.

    Also raises `MissingExtra` without the packages, `DeviceNotFound` for a device that ONNX Runtime can't use here.
    """
    runtime = import_runtime()
    if request.precision not in _LOADED_OVER_FILE:
        raise InvalidInput(
            f"the onnx engine computes float32, float16 and int8, not {request.precision}: set embed.precision to one "
            f"of these; bfloat16 is what the openvino engine has",
            value=request.precision,
        )
    device = resolve_device(request.device, engine="onnx", cuda_devices=lambda: cuda_devices(runtime))
    if device != "cpu" and request.precision == "int8":
        raise InvalidInput(
            f"the onnx engine computes int8 on the CPU only: on {device} set embed.precision to float32 or float16",
            value=request.precision,
        )
    factor = _LOADED_OVER_FILE[request.precision]
    lanes = (request.settings.threads or usable_cpus()) if device == "cpu" else 1
    plan = Plan(
        engine="onnx",
        device=device,
        lanes=lanes,
        batch_tokens=batch_tokens_of(request, lanes) if device == "cpu" else _CUDA_BATCH_TOKENS,
        length_step=LENGTH_STEP if request.precision == "int8" else None,
        loaded_bytes=lambda weights: int(weights * factor) + _RUNTIME_BYTES,
        quantization="row-int8" if request.precision == "int8" else "none",
    )
    return load_graph(request, plan, lambda path: OnnxRuntime(path, device=device, runtime=runtime))


def cuda_devices(runtime: Any, *, devices: Path = Path("/dev")) -> int:
    """CUDA devices that the installed ONNX Runtime can compute on: none where it was built without CUDA."""
    if _CUDA not in runtime.get_available_providers():
        return 0
    return sum(path.name.removeprefix("nvidia").isdigit() for path in devices.glob("nvidia*"))


def has_vnni(*, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether every processor adds up products of int8 in 32 bits; false where the system doesn't tell."""
    try:
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")]
    except OSError:
        return False
    return bool(lines) and all(_VNNI_FLAGS & set(line.split()) for line in lines)


class OnnxRuntime:
    """An inference session. `run` is thread-safe; each call computes in the thread that makes it."""

    def __init__(self, path: Path, *, device: str, runtime: Any) -> None:
        self._device = device
        self._path = path
        self._session: Any = _open_session(path, device, runtime)
        self._types = {
            given.name: np.int32 if "int32" in given.type else np.int64 for given in self._session.get_inputs()
        }
        self._output = self._session.get_outputs()[0].name

    def run(
        self,
        ids: npt.NDArray[np.int64],
        mask: npt.NDArray[np.int64],
        kinds: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[Any]:
        """As the protocol says; `kinds`, in the same shape, tell the texts of a pair apart."""
        feeds = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._types:
            feeds["token_type_ids"] = np.zeros_like(ids) if kinds is None else kinds
        feeds = {name: values.astype(self._types[name], copy=False) for name, values in feeds.items()}
        try:
            answer: npt.NDArray[Any] = self._session.run([self._output], feeds)[0]
        except Exception as error:  # the runtime's error classes have no base of their own
            failed = ran_out_of_memory(error, ids.shape, self._device)
            if failed is None:
                raise
            raise failed from error
        return answer

    def close(self) -> None:
        self._session = None


def import_runtime() -> Any:
    """ONNX Runtime. Raises `MissingExtra` where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx") from error
    return onnxruntime


def _open_session(path: Path, device: str, runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.enable_cpu_mem_arena = True  # measured; see the module
    options.enable_mem_pattern = False
    options.log_severity_level = _ONLY_ERRORS
    # One core a lane, and lanes are threads of the caller: the runtime starts none of its own, and none spins.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if not has_vnni():
        # Then products of int8 are added up in 16 bits, which overflow, unless the runtime is told to be exact. With
        # VNNI they are exact anyway, and this would take 40 % of the speed.
        options.add_session_config_entry("session.x64quantprecision", "1")
    providers: list[Any] = [_CPU]
    if device != "cpu":
        number = device.removeprefix("cuda:")
        providers = [(_CUDA, {"device_id": number, "arena_extend_strategy": "kSameAsRequested"}), _CPU]
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers, disabled_optimizers=_WRONG_FUSIONS)
    except Exception as error:  # the runtime's error classes have no base of their own
        if isinstance(error, MemoryError) or "allocate" in str(error) or "bad_alloc" in str(error):
            raise ModelError(f"there is no memory on {device} to open {path}: {error}", path=str(path)) from error
        raise ModelFileError(f"ONNX Runtime can't open {path} on {device}: {error}", path=str(path)) from error
    if device != "cpu" and session.get_providers()[0] != _CUDA:
        # It falls back to the CPU by itself when CUDA's libraries don't load.
        raise DeviceNotFound(
            f"ONNX Runtime can't compute on {device}: its CUDA provider did not start, mostly for want of CUDA's or "
            f"cuDNN's libraries; set embed.device to cpu, or install these",
            device=device,
            engine="onnx",
        )
    return session
