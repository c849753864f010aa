"""From transformers' model to a record, and from a record to what the block takes its weights from (torch).

``python -m tunesmith.inference.worker.recording`` makes a record in a process of its own, whose memory goes with it.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tunesmith.inference.worker.attention import PackedAttention
from tunesmith.inference.worker.block import FAMILIES
from tunesmith.inference.worker.cache import LayerShape
from tunesmith.inference.worker.loading import architecture, caps_logits, stored_dtype
from tunesmith.inference.worker.pages import let_go
from tunesmith.inference.worker.parent import end_with
from tunesmith.inference.worker.precision import AUTO, choose
from tunesmith.inference.worker.records import Attribute, Record, Records, Rotation
from tunesmith.inference.worker.surveys import Survey, survey
from tunesmith.inference.worker.tokens import Tokens
from tunesmith.kernel.logs import log_to_stderr
from tunesmith.kernel.problems import Problem

_READ = ("variance_epsilon", "eps", "head_dim", "scaling", "layer_type", "scalar_embed_scale")
_ACTIVATIONS = {
    "silu": torch.nn.functional.silu,
    "gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}
_LARGE = 256 << 20  # bytes of weights, beside which transformers is little
_CPU = torch.device("cpu")

log = structlog.get_logger(__name__)


def _name(held: torch.dtype, computed: torch.dtype) -> str:
    return "-".join(str(each).removeprefix("torch.") for each in (held, computed))


class Unrecordable(Exception):
    """A record would not say all that matters of this model."""


def recorded(survey: Survey, folder: Path, held: torch.dtype) -> Record:
    """All that the block needs of ``survey``, checked against transformers' model number by number.

    Raises:
        Unrecordable: there is more to the model than a record says.
    """
    hf = survey.model
    config = hf.config.get_text_config()
    head = hf.get_output_embeddings()
    found = Record(
        architecture=survey.architecture,
        vocabulary=survey.vocabulary,
        context=survey.context,
        shapes=[(shape.heads, shape.key, shape.value) for shape in survey.shapes],
        windows=[survey.windows.get(layer) for layer in range(len(survey.shapes))],
        expected=survey.expected.float().numpy().tobytes(),
        heads=(config.num_attention_heads, config.num_key_value_heads),
        tied=head.weight is hf.model.embed_tokens.weight,
        weights=_places(hf, folder, held),
        attributes=dict(_attributes(hf)),
        activation=_activation(hf),
        rotations=dict(_rotations(hf.model.rotary_emb, survey.context)),
    )
    if not found.tied and ("lm_head.weight" not in found.weights or head is not hf.lm_head):
        raise Unrecordable("its output head")
    return found


def surveyed(record: Record, folder: Path, held: torch.dtype) -> Survey:
    """What ``record`` was made of; its weights are mapped from ``folder``."""
    shapes = [LayerShape(*shape) for shape in record.shapes]
    expected = torch.frombuffer(bytearray(record.expected), dtype=torch.float32)
    model = _Model(record, folder, held)
    return Survey(
        model, record.architecture, record.vocabulary, record.context, shapes, dict(enumerate(record.windows)), expected
    )


class Known:
    """What transformers says of the model in ``folder``, from its record where there is one; afterwards there is one."""

    def __init__(self, folder: Path, records: Path) -> None:
        self._folder, self._records = folder, Records(records, folder)
        self._used: str | None = None

    def survey(self, held: torch.dtype, computed: torch.dtype, attention: PackedAttention) -> Survey:
        """As ``surveys.survey``, on the CPU."""
        name = _name(held, computed)
        hopeless = self._records.given_up(name)
        record = None if hopeless else self._records.read(name, Record)
        if record is not None:
            try:
                found = surveyed(record, self._folder, held)
            except Exception as error:  # whatever a record that fits no more sets off; transformers says what is wrong
                log.warning("the record cannot be used", error=str(error)[:200])
            else:
                self._used = name
                return found
        found = survey(self._folder, held, computed, _CPU, attention)
        if not hopeless:
            self._keep(name, found, held)
        return found

    def distrust(self) -> bool:
        """Whether the last survey was from a record; it will not be asked again."""
        if self._used is None:
            return False
        self._records.give_up(self._used)
        self._used = None
        return True

    def _keep(self, name: str, found: Survey, held: torch.dtype) -> None:
        try:
            self._records.write(name, recorded(found, self._folder, held))
        except Unrecordable as error:
            log.info("no record", reason=str(error))
            self._records.give_up(name)


def prepare(folder: Path, records: Path, precision: str) -> None:
    """Have the records of a large model made by another process, so that this one never holds transformers.

    What is wrong with the model is told when it is loaded. A small one makes its records while it is loaded for the
    first time: that is quicker, and its memory is not what counts.
    """
    if torch.cuda.is_available():
        return
    try:
        if sum(path.stat().st_size for path in folder.glob("*.safetensors")) < _LARGE or not recordable(folder, _CPU):
            return
        held = stored_dtype(folder)
        name, known = _name(held, choose(precision, held, _CPU).computed), Records(records, folder)
        if known.given_up(name) or known.read(name, Record) is not None:
            return
    except (Problem, OSError, SafetensorError):
        return
    command = [sys.executable, "-P", "-m", __name__, "--model", str(folder), "--precision", precision]
    command += ["--records", str(records), "--parent-watch", str(os.getpid())]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=False)


def recordable(folder: Path, device: torch.device) -> bool:
    """The block is for models of this kind, and for this device a record is enough to build it.

    Raises:
        Invalid: config.json is missing or cannot be read.
    """
    return device.type == "cpu" and architecture(folder) in FAMILIES and not caps_logits(folder)


class _Module:
    """Stands in for one of transformers' modules: its weights, and what the block reads off it."""

    bias: Tensor | None = None
    weight: Tensor

    @property
    def out_features(self) -> int:
        return int(self.weight.shape[0])

    @property
    def in_features(self) -> int:
        return int(self.weight.shape[1])

    def parameters(self) -> Iterator[Tensor]:
        for value in vars(self).values():
            if isinstance(value, _Module):
                yield from value.parameters()
            elif isinstance(value, Tensor):
                yield value


class _Model:
    """Stands in for transformers' model, as far as ``Decoder`` looks at it."""

    def __init__(self, record: Record, folder: Path, held: torch.dtype) -> None:
        self._record = record
        root = _Module()
        for name, tensor in _mapped(record.weights, folder):
            at, _, last = name.rpartition(".")
            setattr(_module(root, at), last, tensor.to(held))
        for name, attributes in record.attributes.items():
            vars(_module(root, name)).update(attributes)
        self.model: Any = vars(root)["model"]
        layers = vars(self.model)["layers"]
        self.model.layers = [vars(layers)[str(index)] for index in range(len(record.shapes))]
        for layer in self.model.layers:
            layer.mlp.act_fn = _ACTIVATIONS[record.activation]
        self.model.rotary_emb = _Rotary(record.rotations)
        self._head = self.model.embed_tokens if record.tied else vars(root)["lm_head"]
        self.config = self

    def get_output_embeddings(self) -> Any:
        return self._head

    def get_text_config(self) -> "_Model":
        return self

    @property
    def model_type(self) -> str:
        return self._record.architecture

    @property
    def num_attention_heads(self) -> int:
        return self._record.heads[0]

    @property
    def num_key_value_heads(self) -> int:
        return self._record.heads[1]


class _Rotary:
    """Cosines and sines as transformers' rotary embeddings compute them.

    Attributes:
        layer_types: where kinds of layers have their own; no such attribute else.
    """

    def __init__(self, rotations: Mapping[str, Rotation]) -> None:
        self._rotations = {
            kind: (torch.frombuffer(bytearray(one.frequencies), dtype=torch.float32), one.scaling)
            for kind, one in rotations.items()
        }
        if "" not in rotations:
            self.layer_types = list(rotations)

    def __call__(self, like: Tensor, positions: Tensor, kind: str = "") -> tuple[Tensor, Tensor]:
        frequencies, scaling = self._rotations[kind]
        turns = positions[..., None].float() * frequencies
        turns = torch.cat((turns, turns), dim=-1)
        return (turns.cos() * scaling).to(like.dtype), (turns.sin() * scaling).to(like.dtype)


def _module(root: _Module, name: str) -> _Module:
    for part in name.split(".") if name else ():
        root = vars(root).setdefault(part, _Module())
    return root


def _mapped(weights: Mapping[str, tuple[str, str]], folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in sorted({file for file, _ in weights.values()}):
        with safe_open(str(folder / file), framework="pt") as opened:
            for name, (where, key) in weights.items():
                if where == file:
                    yield name, opened.get_tensor(key)


def _places(hf: Any, folder: Path, held: torch.dtype) -> dict[str, tuple[str, str]]:
    """Where each parameter lies; each is compared with what lies there."""
    keys: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            keys |= dict.fromkeys(file.keys(), path.name)
    parameters = dict(hf.named_parameters())
    if missing := sorted(set(parameters) - set(keys)):
        raise Unrecordable(f"no weight is called {missing[0]}")
    places = {name: (keys[name], name) for name in parameters}
    for name, tensor in _mapped(places, folder):
        same = torch.equal(tensor.to(held), parameters[name])
        let_go([tensor, parameters[name].data])
        if not same:
            raise Unrecordable(f"{name} is not what the checkpoint holds")
    return places


def _attributes(hf: Any) -> Iterator[tuple[str, dict[str, Attribute]]]:
    for name, module in hf.named_modules():
        own = {key: value for key in _READ if (value := getattr(module, key, None)) is not None}
        if not name.startswith(("model.layers.", "model.norm", "model.embed_tokens")):
            continue
        if wrong := [key for key, value in own.items() if not isinstance(value, int | float | str)]:
            raise Unrecordable(f"{name} has a {wrong[0]} of another type")
        if own:
            yield name, own


def _activation(hf: Any) -> str:
    """The name of the one activation of all layers, by what it gives."""
    x = torch.linspace(-6, 6, 97)
    names = set()
    for layer in hf.model.layers:
        given = (layer.mlp.activation_fn if hasattr(layer.mlp, "activation_fn") else layer.mlp.act_fn)(x)
        names |= {next((name for name, known in _ACTIVATIONS.items() if torch.equal(known(x), given)), "")}
    if len(names) != 1 or "" in names:
        raise Unrecordable("its activation")
    return str(names.pop())


def _rotations(rotary: Any, context: int) -> Iterator[tuple[str, Rotation]]:
    """What the embedding has for each kind of layer, compared with what it computes, up to the last position."""
    positions = torch.arange(0, context, max(1, context // 512))[None]
    like = torch.empty(0)
    for kind in getattr(rotary, "layer_types", None) or ("",):
        prefix = f"{kind}_" if kind else ""
        frequencies = getattr(rotary, f"{prefix}inv_freq").detach().float().cpu()
        one = Rotation(frequencies.numpy().tobytes(), float(getattr(rotary, f"{prefix}attention_scaling")))
        own = _Rotary({kind: one})(like, positions, kind)
        theirs = rotary(like, positions, *((kind,) if kind else ()))
        if not all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True)):
            raise Unrecordable("its rotary embedding")
        yield kind, one


def main() -> None:
    """Make the records that the command line asks for."""
    parser = argparse.ArgumentParser(prog="tunesmith.inference.worker.recording", description=__doc__)
    parser.add_argument("--model", required=True, type=Path, help="the model's folder")
    parser.add_argument("--records", required=True, type=Path, help="where the records go")
    parser.add_argument("--precision", default=AUTO, help="what the engine is asked for")
    parser.add_argument("--parent-watch", type=int, metavar="PID", help="end when this process does")
    given = parser.parse_args()
    if given.parent_watch:
        end_with(given.parent_watch)
    log_to_stderr("info")
    held = stored_dtype(given.model)
    computed = choose(given.precision, held, _CPU).computed
    try:
        Tokens(given.model, given.records)
        with torch.inference_mode():
            Known(given.model, given.records).survey(held, computed, PackedAttention())
    except Problem as problem:  # the engine is told the same
        sys.exit(problem.en)


if __name__ == "__main__":
    main()
