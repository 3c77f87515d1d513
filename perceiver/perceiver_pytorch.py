"""Conversion of weights from and to the package perceiver-pytorch (0.11.0), for the same function in both.

The ``Perceiver`` of either package is the same architecture with other names. For repetition ``i`` and self-attention
``k``:

    perceiver-pytorch                                   this package
    latents                                             latents
    layers.i.cross_attn.norm                            cross_layers.i.attention.query_norm
    layers.i.cross_attn.norm_context.weight, .bias      cross_layers.i.attention.input_gain, .input_shift
    layers.i.cross_attn.fn.to_q                         cross_layers.i.attention.to_query
    layers.i.cross_attn.fn.to_kv, first half of rows    cross_layers.i.attention.to_key
    layers.i.cross_attn.fn.to_kv, second half           cross_layers.i.attention.to_value
    layers.i.cross_attn.fn.to_out                       cross_layers.i.attention.to_out
    layers.i.cross_ff.norm, .fn.net.0, .fn.net.2        cross_layers.i.feedforward.norm, .widen, .narrow
    layers.i.self_attns.k.0.norm                        latent_layers.i.k.attention.norm
    layers.i.self_attns.k.0.fn.to_q above .to_kv        latent_layers.i.k.attention.to_query_key_value
    layers.i.self_attns.k.0.fn.to_out                   latent_layers.i.k.attention.to_out
    layers.i.self_attns.k.1                             latent_layers.i.k.feedforward, as above
    to_logits.1, to_logits.2                            head_norm, head

The packages also agree in the following: a layer norm precedes each layer; ``to_out`` and the feed-forward layers have
a bias and no other layer has one; the second half of GEGLU is the gate; the widening is 4 (a field of this package);
the channels of an input are its values, then for each axis sines, cosines and the coordinate. ``weight_tie_layers``
gives the first repetition its own weights and all others the same, which is ``weight_sharing`` all_but_first_block.

The packages differ in the following. perceiver-pytorch initialises the latents from a normal distribution of standard
deviation 1, so the configuration has ``latent_init_std`` 1, but this package truncates the distribution at 5. The mask
of perceiver-pytorch is True for an input to attend to, the padding of this package is True for an input to ignore. If
``dropout`` is above 0, this package also drops after GEGLU and after each attention; without dropout, or in evaluation,
there is no difference. The coordinate on an axis of size 1 is 0 in the grids of this package and -1 in those of
perceiver-pytorch.

Two options have no counterpart in this package: ``attn_residual``, which is refused, and ``inverted_cross_attn``, which
is not visible in the weights.
"""

import re

import torch
from torch import Tensor

from perceiver.config import PerceiverConfig
from perceiver.encoder import assign_weight_indices

StateDict = dict[str, Tensor]


def map_module_names(external_prefix: str, internal_prefix: str, module_pairs: dict[str, str]) -> dict[str, str]:
    """Map the weight and bias of modules in perceiver-pytorch to those of this package.

    Args:
        external_prefix: The prefix of the modules in perceiver-pytorch, without the last dot.
        internal_prefix: The prefix of the modules in this package, with the last dot.
        module_pairs: The name of each module in this package, by its name in perceiver-pytorch.

    Returns:
        The name of each tensor in this package, by its name in perceiver-pytorch.
    """
    return {
        f"{external_prefix}.{external_module}.{kind}": f"{internal_prefix}{internal_module}.{kind}"
        for external_module, internal_module in module_pairs.items()
        for kind in ("weight", "bias")
    }


def map_repetition_names(repetition: int, cross_index: int, latent_index: int, num_self_attends: int) -> dict[str, str]:
    """Map the tensors of one repetition that are equal in both packages.

    Args:
        repetition: The index of the repetition.
        cross_index: The index of the weights of its cross-attention.
        latent_index: The index of the weights of its self-attentions.
        num_self_attends: The number of its self-attentions.

    Returns:
        The name of each tensor in this package, by its name in perceiver-pytorch.
    """
    feedforward = {"norm": "norm", "fn.net.0": "widen", "fn.net.2": "narrow"}
    external_prefix, internal_prefix = f"layers.{repetition}", f"cross_layers.{cross_index}"
    attention = {"norm": "query_norm", "fn.to_out": "to_out"}
    names = map_module_names(f"{external_prefix}.cross_attn", f"{internal_prefix}.attention.", attention)
    names[f"{external_prefix}.cross_attn.norm_context.weight"] = f"{internal_prefix}.attention.input_gain"
    names[f"{external_prefix}.cross_attn.norm_context.bias"] = f"{internal_prefix}.attention.input_shift"
    names[f"{external_prefix}.cross_attn.fn.to_q.weight"] = f"{internal_prefix}.attention.to_query.weight"
    names |= map_module_names(f"{external_prefix}.cross_ff", f"{internal_prefix}.feedforward.", feedforward)
    for index in range(num_self_attends):
        block, layer = f"{external_prefix}.self_attns.{index}", f"latent_layers.{latent_index}.{index}"
        names |= map_module_names(f"{block}.0", f"{layer}.attention.", {"norm": "norm", "fn.to_out": "to_out"})
        names |= map_module_names(f"{block}.1", f"{layer}.feedforward.", feedforward)
    return names


def map_head_names() -> dict[str, str]:
    """Map the tensors of the classification head from perceiver-pytorch to this package."""
    return map_module_names("to_logits", "", {"1": "head_norm", "2": "head"})


def from_perceiver_pytorch(
    state: StateDict,
    *,
    max_freq: float,
    num_freq_bands: int,
    axis_sizes: tuple[int, ...],
    cross_heads: int = 1,
    latent_heads: int = 8,
    weight_tie_layers: bool = False,
    fourier_encode_data: bool = True,
) -> tuple[PerceiverConfig, StateDict]:
    """Convert a state dict of the ``Perceiver`` of perceiver-pytorch to a configuration and a state dict.

    Most options follow from the shapes of the tensors; the others are the arguments, with the defaults of
    perceiver-pytorch.

    Args:
        state: The ``state_dict()`` of the model of perceiver-pytorch.
        max_freq: The argument of the same name of that model, one number for all axes.
        num_freq_bands: The argument of the same name.
        axis_sizes: The resolution along each axis of the data, which perceiver-pytorch takes from the data.
        cross_heads: The argument of the same name.
        latent_heads: The argument of the same name.
        weight_tie_layers: The argument of the same name.
        fourier_encode_data: The argument of the same name.

    Returns:
        The configuration and the state dict for ``Perceiver(config)``, or, without a classification head
        (``num_classes`` is then None), for ``PerceiverEncoder(config)``. Tensors that are not concatenated share memory
        with those of ``state``.

    Raises:
        ValueError: A tensor does not fit the arguments, or has no counterpart in this package.
    """
    layer_indices = [int(match[1]) for name in state if (match := re.match(r"layers\.(\d+)\.", name))]
    self_indices = [int(match[1]) for name in state if (match := re.match(r"layers\.0\.self_attns\.(\d+)\.", name))]
    first = "layers.0.cross_attn"
    if not layer_indices or f"{first}.fn.to_q.weight" not in state:
        raise ValueError("from_perceiver_pytorch: found no layers.0.cross_attn; give the state dict of its Perceiver")
    num_axes = len(axis_sizes)
    position_channels = num_axes * (2 * num_freq_bands + 1) if fourier_encode_data else 0
    input_channels = state[f"{first}.norm_context.weight"].shape[0] - position_channels
    if input_channels < 0:
        raise ValueError(
            f"from_perceiver_pytorch: found inputs of {input_channels + position_channels} channels, fewer than the "
            f"{position_channels} of {num_axes} axes with {num_freq_bands} bands; check num_freq_bands and axis_sizes"
        )
    self_query = state.get("layers.0.self_attns.0.0.fn.to_q.weight")
    latent_dim = state["latents"].shape[1]
    head = state.get("to_logits.2.weight")
    config = PerceiverConfig(
        input_channels=input_channels,
        axis_sizes=axis_sizes,
        num_classes=None if head is None else head.shape[0],
        num_latents=state["latents"].shape[0],
        latent_dim=latent_dim,
        num_cross_attends=max(layer_indices) + 1,
        self_attends_per_cross=max(self_indices, default=-1) + 1,
        cross_heads=cross_heads,
        cross_head_dim=compute_head_dim("cross_heads", state[f"{first}.fn.to_q.weight"], cross_heads),
        latent_heads=latent_heads,
        latent_head_dim=64 if self_query is None else compute_head_dim("latent_heads", self_query, latent_heads),
        weight_sharing="all_but_first_block" if weight_tie_layers else "none",
        activation="geglu",
        feedforward_widening=state["layers.0.cross_ff.fn.net.2.weight"].shape[1] // latent_dim,
        positions="fourier" if fourier_encode_data else "none",
        num_bands=num_freq_bands,
        max_freq=(float(max_freq),) * num_axes if fourier_encode_data else None,
        latent_init_std=1.0,
    )
    return config, convert_weights(state, config)


def compute_head_dim(argument: str, queries: Tensor, num_heads: int) -> int:
    """Compute the number of channels of a head from the rows of a query projection.

    Args:
        argument: The name of the argument that holds the number of heads, for the error message.
        queries: The weight of the query projection.
        num_heads: The number of heads.

    Raises:
        ValueError: The number of rows is not a multiple of the number of heads.
    """
    rows = queries.shape[0]
    if rows % num_heads != 0:
        raise ValueError(
            f"from_perceiver_pytorch: found {rows} rows for {argument} {num_heads}; the rows must be a multiple of it"
        )
    return rows // num_heads


def convert_weights(state: StateDict, config: PerceiverConfig) -> StateDict:
    """Convert a state dict of perceiver-pytorch; every tensor is used, and shared tensors must be equal.

    Args:
        state: The ``state_dict()`` of the model of perceiver-pytorch.
        config: The configuration of the converted model.

    Raises:
        ValueError: Tensors that become one differ, or a tensor has no counterpart in this package.
    """
    remaining, converted = dict(state), {"latents": state["latents"]}
    remaining.pop("latents")

    def add(name: str, tensor: Tensor) -> None:
        if not torch.equal(converted.setdefault(name, tensor), tensor):
            raise ValueError(
                f"from_perceiver_pytorch: found different tensors for {name} in repetitions that "
                "weight_tie_layers: True makes one; give weight_tie_layers=False"
            )

    for repetition, cross_index, latent_index in list_repetitions(config):
        names = map_repetition_names(repetition, cross_index, latent_index, config.self_attends_per_cross)
        for external_name, internal_name in names.items():
            add(internal_name, remaining.pop(external_name))
        keys, values = remaining.pop(f"layers.{repetition}.cross_attn.fn.to_kv.weight").chunk(2)
        add(f"cross_layers.{cross_index}.attention.to_key.weight", keys)
        add(f"cross_layers.{cross_index}.attention.to_value.weight", values)
        for index in range(config.self_attends_per_cross):
            block = f"layers.{repetition}.self_attns.{index}.0.fn"
            fused = torch.cat([remaining.pop(f"{block}.to_q.weight"), remaining.pop(f"{block}.to_kv.weight")])
            add(f"latent_layers.{latent_index}.{index}.attention.to_query_key_value.weight", fused)
    if config.num_classes is not None:
        for external_name, internal_name in map_head_names().items():
            add(internal_name, remaining.pop(external_name))
    if remaining:
        raise ValueError(
            f"from_perceiver_pytorch: found {', '.join(sorted(remaining)[:3])}, "
            "which has no counterpart in this package"
        )
    return converted


def list_repetitions(config: PerceiverConfig) -> list[tuple[int, int, int]]:
    """List each repetition with the indices of the weights of its cross-attention and its self-attentions."""
    cross = assign_weight_indices(config.num_cross_attends, config.weight_sharing, first_has_own_weights=True)
    latent = assign_weight_indices(config.num_cross_attends, config.weight_sharing, first_has_own_weights=False)
    return list(zip(range(config.num_cross_attends), cross, latent, strict=True))


def to_perceiver_pytorch(config: PerceiverConfig, state: StateDict) -> StateDict:
    """Convert a state dict to one for the ``Perceiver`` of perceiver-pytorch.

    Shared weights are written once for each repetition that uses them. The result can be loaded into a model without
    ``weight_tie_layers`` for every ``weight_sharing``, and into one with ``weight_tie_layers`` if ``weight_sharing`` is
    all or all_but_first_block.

    Args:
        config: The configuration of the model.
        state: The ``state_dict()`` of the model; that of a ``PerceiverEncoder`` for ``final_classifier_head=False``.

    Returns:
        The state dict for perceiver-pytorch.

    Raises:
        ValueError: The configuration has an option that perceiver-pytorch lacks.
    """
    allowed: dict[str, tuple[object, ...]] = {
        "activation": ("geglu",),
        "feedforward_widening": (4,),
        "pooling": ("mean",),
        "positions": ("fourier", "none"),
    }
    for name, allowed_values in allowed.items():
        value = getattr(config, name)
        if value not in allowed_values:
            raise ValueError(
                f"to_perceiver_pytorch {name}: found {value!r}, perceiver-pytorch supports only "
                f"{', '.join(map(str, allowed_values))}; train a model with such a value to convert it"
            )
    frequencies = set(config.max_freq or config.axis_sizes or ())
    if config.positions == "fourier" and len(frequencies) > 1:
        raise ValueError(
            f"to_perceiver_pytorch max_freq: found {tuple(config.max_freq or config.axis_sizes or ())}, "
            "perceiver-pytorch has one for all axes; train with equal numbers to convert the model"
        )
    converted = {"latents": state["latents"]}
    for repetition, cross_index, latent_index in list_repetitions(config):
        names = map_repetition_names(repetition, cross_index, latent_index, config.self_attends_per_cross)
        converted |= {external_name: state[internal_name] for external_name, internal_name in names.items()}
        attention = f"cross_layers.{cross_index}.attention"
        fused = torch.cat([state[f"{attention}.to_key.weight"], state[f"{attention}.to_value.weight"]])
        converted[f"layers.{repetition}.cross_attn.fn.to_kv.weight"] = fused
        for index in range(config.self_attends_per_cross):
            block = f"layers.{repetition}.self_attns.{index}.0.fn"
            weight = state[f"latent_layers.{latent_index}.{index}.attention.to_query_key_value.weight"]
            queries, keys, values = weight.chunk(3)
            converted[f"{block}.to_q.weight"], converted[f"{block}.to_kv.weight"] = queries, torch.cat([keys, values])
    if "head.weight" in state:
        converted |= {external_name: state[internal_name] for external_name, internal_name in map_head_names().items()}
    return converted
