"""Networks of other makers as `torch.export` files, run without loading them the way torch does.

``torch.export.load`` is not safe for a file from elsewhere (torch 2.13): weights marked ``use_pickle``, sample inputs
and constants are unpickled without restriction, shape expressions go through ``sympify`` and guards through ``exec``.
Here the archive is read as data only: the graph is JSON, weights are raw numbers, and a node may name only one of
the operators of `OPERATORS`, which compute on tensors and touch neither files nor code. Everything else is refused.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cytomend.errors import InputError

Json = dict[str, Any]

SCHEMA = 8
"""Major version of the graph's schema, see ``torch._export.serde.schema``."""
LARGEST_BYTES = 4 << 30
"""Of one entry of the archive; a small file may claim to unpack to anything."""
# ScalarType of the schema.
DTYPES = {5: torch.int64, 6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}

_ATEN = """
    _adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d add addmm alias amax avg_pool2d batch_norm bmm cat
    chunk clamp clone constant_pad_nd contiguous conv2d convolution detach div dropout elu exp expand flatten gelu
    group_norm hardsigmoid hardswish hardtanh instance_norm layer_norm leaky_relu leaky_relu_ linear log_softmax matmul
    max_pool2d mean mm mul neg pad permute pow relu relu_ reshape rsqrt scaled_dot_product_attention select sigmoid
    silu silu_ slice softmax split sqrt squeeze stack sub sum t tanh transpose unbind unsqueeze upsample_bilinear2d
    upsample_nearest2d view
"""
OPERATORS = frozenset(_ATEN.split())
"""Operators of ATen that a graph may call, all overloads; they are arithmetic and change of shape."""
PLAIN = {"as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools"}


class ExportedNetwork:
    """The graph of an exported network.

    Parameters
    ----------
    path : a file written by ``torch.export.save``
    device : torch device

    Raises
    ------
    InputError
        If the file is none, or asks for anything that is not on the list.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                contents = _Archive(path, archive)
                program = contents.json("models/model.json")
                self._check_version(program)
                graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
                self._steps = [_Step.of(path, node) for node in graph["nodes"]]
                self._input, self._held = _inputs(path, signature, contents.tensors())
                self._output = _output(path, signature)
        except (zipfile.BadZipFile, OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: expected a network written by torch.export.save (torch 2.13), found a file that cannot be"
                f" read as one ({error!r}); export it again"
            ) from error
        self._held = {name: tensor.to(device) for name, tensor in self._held.items()}

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output for an input (n, 1, Y, X).

        Raises
        ------
        InputError
            If the network does not take this size.
        """
        values: dict[str, Any] = {**self._held, self._input: x}
        try:
            for step in self._steps:
                step.run(values)
            output: Tensor = values[self._output]
        except (RuntimeError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(
                f"{self.path}: the network cannot be run on patches of {tuple(x.shape)} ({error}); expected one that"
                " takes (n, 1, Y, X) with any n: give the side it was made for, or export it with a dynamic batch"
            ) from error
        return output

    def _check_version(self, program: Json) -> None:
        if (found := program["schema_version"]["major"]) != SCHEMA:
            raise ValueError(f"schema version {found}, expected {SCHEMA}")


@dataclass(frozen=True, slots=True)
class _Step:
    """One call of an operator; arguments are still JSON."""

    operator: Callable[..., Any]
    positional: list[Json]
    named: dict[str, Json]
    outputs: list[str | None]
    bundled: bool
    """Whether the operator returns several tensors as one list."""

    @classmethod
    def of(cls, path: Path, node: Json) -> _Step:
        """Check a node and return it as a step."""
        keep = [given for given in node["inputs"] if given["kind"] == 1]
        named = {given["name"]: given["arg"] for given in node["inputs"] if given["kind"] != 1}
        outputs, bundled = list[str | None](), False
        for made in node["outputs"]:
            if "as_tensors" in made:
                bundled = True
                outputs += [tensor["name"] for tensor in made["as_tensors"]]
            elif "as_none" in made:
                outputs.append(None)
            else:
                outputs.append(_name(made.get("as_tensor") or made["as_sym_int"]))
        return cls(_operator(path, node["target"]), [given["arg"] for given in keep], named, outputs, bundled)

    def run(self, values: dict[str, Any]) -> None:
        """Call the operator and note what it returns."""
        positional = [_value(given, values) for given in self.positional]
        made = self.operator(*positional, **{name: _value(given, values) for name, given in self.named.items()})
        several = made if self.bundled or isinstance(made, tuple) else (made,)
        values.update({name: value for name, value in zip(self.outputs, several, strict=False) if name is not None})


def _operator(path: Path, target: str) -> Callable[..., Any]:
    """Return the operator of a name, if it is on the list."""
    parts = target.split(".")
    if parts[:3] == ["torch", "ops", "aten"] and len(parts) == 5:
        name, overload = parts[3:]
        if (name, overload) == ("sym_size", "int"):
            return lambda x, dim: x.shape[dim]
        if name in OPERATORS and overload in getattr(torch.ops.aten, name).overloads():
            return getattr(getattr(torch.ops.aten, name), overload)  # type: ignore[no-any-return]
    raise InputError(
        f"{path}: the network calls {target!r}, which is not on the list of operators that an exported classifier may"
        " use (docs/classification.md); export it in evaluation mode, or give it as package.module:factory"
    )


def _value(given: Json, values: dict[str, Any]) -> object:
    """Return an argument as Python and torch know it."""
    ((kind, content),) = given.items()
    if kind == "as_none":
        return None
    if kind in PLAIN:
        return content
    if kind == "as_string":  # such as the mode of a padding
        return str(content)
    if kind == "as_tensor":
        return values[content["name"]]
    if kind == "as_tensors":
        return [values[tensor["name"]] for tensor in content]
    if kind == "as_sym_int":
        return _symbol(content, values)
    if kind == "as_sym_ints":
        return [_symbol(size, values) for size in content]
    raise ValueError(f"an argument of kind {kind!r}, which is not supported")


def _symbol(size: Json, values: dict[str, Any]) -> object:
    return size["as_int"] if "as_int" in size else values[size["as_name"]]


def _name(argument: Json) -> str:
    return str(argument["name"] if "name" in argument else argument["as_name"])


def _inputs(path: Path, signature: Json, tensors: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the name of the one input that is not a weight, and the weights by their names in the graph."""
    held, free = dict[str, Tensor](), list[str]()
    for spec in signature["input_specs"]:
        ((kind, content),) = spec.items()
        if kind in {"parameter", "buffer", "tensor_constant"}:
            held[content["arg"]["name"]] = tensors[content[f"{kind}_name"]]
        elif kind == "user_input":
            free.append(content["arg"]["as_tensor"]["name"])
        else:
            raise InputError(f"{path}: the network takes {kind}, expected weights and one tensor of patches")
    if len(free) != 1:
        raise InputError(f"{path}: the network takes {len(free)} inputs, expected one tensor of patches (n, 1, Y, X)")
    return free[0], held


def _output(path: Path, signature: Json) -> str:
    """Return the name of the one output."""
    kinds = [next(iter(spec)) for spec in signature["output_specs"]]
    if kinds != ["user_output"]:
        raise InputError(
            f"{path}: the network returns {', '.join(kinds)}, expected one tensor of logits (n, k); export it in"
            " evaluation mode (network.eval())"
        )
    return str(signature["output_specs"][0]["user_output"]["arg"]["as_tensor"]["name"])


class _Archive:
    """The entries of the zip file below its one top folder."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        names = [entry.filename for entry in archive.infolist()]
        self._entries = {name.partition("/")[2]: name for name in names}
        if len({name.partition("/")[0] for name in names}) != 1 or len(self._entries) != len(names):
            raise ValueError("expected one folder in the archive, and every entry once")

    def json(self, name: str) -> Json:
        loaded: Json = json.loads(self._bytes(name))
        return loaded

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and constants by name, from raw numbers alone."""
        found = dict[str, Tensor]()
        for folder in ("weights", "constants"):
            config = self.json(f"data/{folder}/model_{folder}_config.json")["config"]
            for name, entry in config.items():
                if entry["use_pickle"] or entry["tensor_meta"] is None:
                    raise InputError(
                        f"{self.path}: {name} is pickled; unpickling can execute code, so it is refused; export the"
                        " network with plain tensors as weights"
                    )
                found[name] = _tensor(self._bytes(f"data/{folder}/{entry['path_name']}"), entry["tensor_meta"])
        return found

    def _bytes(self, name: str) -> bytes:
        entry = self._archive.getinfo(self._entries[name])
        if entry.file_size > LARGEST_BYTES:
            raise ValueError(f"{name} has {entry.file_size} bytes, expected at most {LARGEST_BYTES}")
        return self._archive.read(entry)


def _tensor(data: bytes, meta: Json) -> Tensor:
    """Return the numbers of one tensor; RuntimeError if they do not fit its shape."""
    sizes, strides = ([int(n["as_int"]) for n in meta[key]] for key in ("sizes", "strides"))
    flat = torch.frombuffer(bytearray(data), dtype=DTYPES[meta["dtype"]]) if data else torch.empty(0)
    if math.prod(sizes) > flat.numel():  # strides of zero would make much out of little
        raise ValueError(f"a tensor of shape {sizes} from {flat.numel()} numbers")
    return flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"])).clone()
