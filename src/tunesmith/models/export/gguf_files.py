"""GGUF files for llama.cpp and Ollama: a whole model, or a LoRA adapter alone (the ``gguf`` package)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.kernel.problems import Invalid, Unsupported
from tunesmith.models.export.adapter import Lora
from tunesmith.models.export.architecture import Architecture, architecture
from tunesmith.models.export.merging import EMBEDDING, Merged
from tunesmith.models.export.tensors import Floats, narrowed
from tunesmith.models.export.vocabulary import Vocabulary, read_vocabulary
from tunesmith.models.model import BaseModel

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

TYPES: Mapping[str, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
_BLOCK = 32  # numbers that q8_0 gives one scale


def require_gguf() -> None:
    """Refuse before any work where the ``gguf`` package is missing.

    Raises:
        Unsupported: it is not installed.
    """
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise Unsupported(
            "写 GGUF 需要 gguf 包：pip install 'tunesmith[export]'",
            "writing GGUF needs the gguf package: pip install 'tunesmith[export]'",
        )


def check_gguf(base: BaseModel, lora: Lora, *, separate: bool) -> None:
    """Refuse before gigabytes are written what could not be written at the end.

    Args:
        separate: the adapter shall be a file of its own.

    Raises:
        Unsupported, Invalid: see ``write_model`` and ``write_adapter``.
    """
    require_gguf()
    source = Merged(base, lora)
    shape = architecture(source.config)
    for name in source.tensors:
        shape.tensor(name)
    read_vocabulary(base.path, rows_of(source))
    if separate and lora.uses_dora:
        raise Unsupported(
            "DoRA 适配器不能单独写成 GGUF：请去掉 --separate，导出合并后的模型",
            "a DoRA adapter cannot be a GGUF of its own: leave --separate out and export the merged model",
        )


def write_model(base: BaseModel, lora: Lora | None, file: Path, *, type: str, name: str) -> None:
    """Write the base, with the adapter in it if there is one, to ``file``.

    Vectors are written in float32, matrices in ``type``, converted from float32 once and one at a time. A matrix whose
    rows cannot be cut into blocks of 32 is written as f16 where q8_0 is asked for.

    Args:
        type: one of TYPES.
        name: the model's name in the file.

    Raises:
        Unsupported: llama.cpp does not know the architecture, the tokenizer, or something in them; no gguf package.
        Invalid: a file cannot be used, or a weight does not fit into float16.
    """
    require_gguf()
    source = Merged(base, lora)
    shape = architecture(source.config)
    vocabulary = read_vocabulary(base.path, rows_of(source))
    writer = _described(file, shape, vocabulary, type=type, name=name)

    names = {there: here for here in source.tensors if (there := shape.tensor(here))}
    types = {there: _type_of(source.tensors[here].shape, type) for there, here in names.items()}
    factors = shape.rope_factors()
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for there, here in names.items():
        _announce(writer, there, source.tensors[here].shape, types[there])
    _begin(writer)
    if factors is not None:
        writer.write_tensor_data(factors)
    for there, here in names.items():
        writer.write_tensor_data(_converted(shape.arranged(here, source.floats(here)), types[there], here))
    writer.close()


def write_adapter(base: BaseModel, lora: Lora, file: Path, *, name: str) -> None:
    """Write the adapter alone to ``file``, in float32: llama.cpp adds it to a GGUF of its base as it answers.

    Raises:
        Unsupported: it is a DoRA, which cannot be added without its base; otherwise as ``write_model``.
    """
    require_gguf()
    import gguf

    check_gguf(base, lora, separate=True)
    shape = architecture(Merged(base, lora).config)
    writer = gguf.GGUFWriter(file, shape.name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_name(name)
    # llama.cpp multiplies by alpha / rank of each B; what is not the same for all layers goes into their B
    first = next(iter(lora.changes.values()))
    alpha = np.float32(first.scaling * first.a.shape[0])
    writer.add_float32("adapter.lora.alpha", float(alpha))
    for module, change in lora.changes.items():
        there = shape.tensor(f"{module}.weight")
        own = change.scaling * change.a.shape[0]
        b = change.b if math.isclose(own, alpha, rel_tol=1e-6) else change.b * np.float32(own / alpha)
        writer.add_tensor(f"{there}.lora_a", change.a)
        writer.add_tensor(f"{there}.lora_b", shape.arranged(f"{module}.weight", b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rows_of(source: Merged) -> int:
    """Rows of the embedding: ids the model has, whether its tokenizer knows them or not.

    Raises:
        Invalid: there is no embedding of the usual name.
    """
    embedding = source.tensors.get(EMBEDDING)
    if embedding is None:
        raise Invalid(f"基座中没有 {EMBEDDING}", f"the base holds no {EMBEDDING}")
    return embedding.shape[0]


def _described(file: Path, shape: Architecture, vocabulary: Vocabulary, *, type: str, name: str) -> "GGUFWriter":
    """A writer that knows all but the tensors."""
    import gguf

    writer = gguf.GGUFWriter(file, shape.name)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(_file_type(type))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    shape.describe(writer)
    writer.add_vocab_size(len(vocabulary.tokens))
    vocabulary.describe(writer)
    return writer


def _file_type(type: str) -> int:
    import gguf

    return int(gguf.LlamaFileType["ALL_F32" if type == "f32" else f"MOSTLY_{TYPES[type]}"])


def _type_of(shape: tuple[int, ...], type: str) -> "GGMLQuantizationType":
    import gguf

    if len(shape) == 1:
        return gguf.GGMLQuantizationType.F32
    if type == "q8_0" and shape[-1] % _BLOCK:
        return gguf.GGMLQuantizationType.F16
    return gguf.GGMLQuantizationType[TYPES[type]]


def _announce(writer: "GGUFWriter", name: str, shape: tuple[int, ...], type: "GGMLQuantizationType") -> None:
    import gguf

    block, width = gguf.GGML_QUANT_SIZES[type]
    writer.add_tensor_info(name, shape, np.dtype(np.float32), math.prod(shape) // block * width, raw_dtype=type)


def _begin(writer: "GGUFWriter") -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _converted(values: Floats, type: "GGMLQuantizationType", name: str) -> NDArray[Any]:
    import gguf

    if type is gguf.GGMLQuantizationType.Q8_0:
        return gguf.quants.quantize(values, type)
    try:
        return narrowed(values, type.name)
    except OverflowError as error:
        raise Invalid(
            f"{name} 超出 float16 范围，请用 --type bf16", f"{name} is too large for float16; use --type bf16"
        ) from error
