"""A slow reference of Perceiver and Perceiver IO, written from the papers arXiv 2103.03206 and 2107.14795.

Nothing of ``perceiver`` is imported: the reference takes a state dict and the configuration as a dictionary. Attention
is computed head by head with an explicit matrix of weights, inputs are normalised with gain and shift in each layer,
keys and values are projected.
"""

import math

import torch


def norm(x, gain, shift):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * gain + shift


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def linear(x, state, name):
    y = torch.einsum("...i,oi->...o", x, state[f"{name}.weight"])
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def attention(queries, keys, values, heads, padding):
    """Section 3.1 of 2103.03206: softmax(q k / sqrt(width)) v for each head; ``padding`` is True where ignored."""
    width = queries.shape[-1] // heads
    outputs = []
    for example in range(queries.shape[0]):
        head_outputs = []
        for head in range(heads):
            head_slice = slice(head * width, (head + 1) * width)
            scores = queries[example, :, head_slice] @ keys[example, :, head_slice].T / math.sqrt(width)
            if padding is not None:
                scores[:, padding[example]] = -math.inf
            weights = torch.exp(scores - scores.max(-1, keepdim=True).values)
            weights = weights / weights.sum(-1, keepdim=True)
            head_outputs.append(weights @ values[example, :, head_slice])
        outputs.append(torch.cat(head_outputs, -1))
    return torch.stack(outputs)


def feedforward(x, state, name, activation):
    hidden = linear(norm(x, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]), state, f"{name}.widen")
    if activation == "geglu":
        half = hidden.shape[-1] // 2
        hidden = hidden[..., :half] * gelu(hidden[..., half:])
    else:
        hidden = gelu(hidden)
    return linear(hidden, state, f"{name}.narrow")


def cross_block(queries_in, inputs, padding, state, name, heads, activation, residual=True):
    """Attention of ``queries_in`` to ``inputs``, then a feed-forward layer; both, or the last, add residuals."""
    attend, x = f"{name}.attention", queries_in
    queries = linear(
        norm(x, state[f"{attend}.query_norm.weight"], state[f"{attend}.query_norm.bias"]), state, f"{attend}.to_query"
    )
    normed_inputs = norm(inputs, state[f"{attend}.input_gain"], state[f"{attend}.input_shift"])
    keys, values = linear(normed_inputs, state, f"{attend}.to_key"), linear(normed_inputs, state, f"{attend}.to_value")
    attended = linear(attention(queries, keys, values, heads, padding), state, f"{attend}.to_out")
    x = x + attended if residual else attended
    return x + feedforward(x, state, f"{name}.feedforward", activation)


def self_block(x, state, name, heads, activation):
    attend = f"{name}.attention"
    normed = norm(x, state[f"{attend}.norm.weight"], state[f"{attend}.norm.bias"])
    inner = state[f"{attend}.to_query_key_value.weight"].shape[0] // 3
    queries, keys, values = linear(normed, state, f"{attend}.to_query_key_value").split(inner, -1)
    x = x + linear(attention(queries, keys, values, heads, None), state, f"{attend}.to_out")
    return x + feedforward(x, state, f"{name}.feedforward", activation)


def position_features(positions, config, state):
    """Section 3.2: for each axis sines, cosines and the coordinate; or a learned vector for each grid point."""
    batch, num_inputs, axes = positions.shape
    if config["positions"] == "none":
        return positions.new_zeros(batch, num_inputs, 0)
    if config["positions"] == "learned":
        rows = torch.zeros(batch, num_inputs, dtype=torch.long)
        for axis, size in enumerate(config["axis_sizes"]):
            for grid_index in range(size):
                coordinate = 0.0 if size == 1 else -1 + 2 * grid_index / (size - 1)
                stride = math.prod(config["axis_sizes"][axis + 1 :])
                rows += ((positions[..., axis] - coordinate).abs() < 1e-6) * grid_index * stride
        return state["positions.table"][rows]
    features = []
    for axis in range(axes):
        highest = config["max_freq"][axis] if config["max_freq"] is not None else max(config["axis_sizes"][axis], 2)
        bands = config["num_bands"]
        frequencies = [1 + (highest / 2 - 1) * band / max(bands - 1, 1) for band in range(bands)]
        x = positions[..., axis]
        features += [torch.sin(math.pi * frequency * x) for frequency in frequencies]
        features += [torch.cos(math.pi * frequency * x) for frequency in frequencies]
        features.append(x)
    return torch.stack(features, -1)


def weight_index(repetition, sharing, kind):
    """The index of the weights that a repetition uses.

    In the paper all cross-attentions but the first share weights, and so do all self-attentions.
    """
    if sharing == "none":
        return repetition
    first_differs = sharing == "all_but_first_block" or (sharing == "all_but_first" and kind == "cross")
    return 1 if first_differs and repetition > 0 else 0


def encode(values, positions, padding, config, state):
    inputs = torch.cat([values, position_features(positions, config, state).expand(values.shape[0], -1, -1)], -1)
    if padding is not None:
        inputs = torch.where(padding[..., None], 0.0, inputs)
    latents = torch.stack([state["latents"]] * values.shape[0])
    for repetition in range(config["num_cross_attends"]):
        name = f"cross_layers.{weight_index(repetition, config['weight_sharing'], 'cross')}"
        latents = cross_block(latents, inputs, padding, state, name, config["cross_heads"], config["activation"])
        block = f"latent_layers.{weight_index(repetition, config['weight_sharing'], 'latent')}"
        for layer in range(config["self_attends_per_cross"]):
            latents = self_block(latents, state, f"{block}.{layer}", config["latent_heads"], config["activation"])
    return latents


def head(x, state):
    return linear(norm(x, state["head_norm.weight"], state["head_norm.bias"]), state, "head")


def decode(queries, latents, config, state):
    """Section 3.2 of 2107.14795: queries attend to the latents."""
    heads, activation, residual = (config[name] for name in ("decoder_heads", "activation", "decoder_residual"))
    return cross_block(queries, latents, None, state, "decoder", heads, activation, residual)


def perceiver(values, positions, padding, config, state):
    latents = encode(values, positions, padding, config, state)
    if config["pooling"] == "mean":
        return head(latents.sum(1) / latents.shape[1], state)
    if config["pooling"] == "cls":
        return head(latents[:, 0], state)
    queries = torch.stack([state["query"][None]] * values.shape[0])
    return head(decode(queries, latents, config, state)[:, 0], state)


def perceiver_io(values, positions, padding, queries, config, state):
    latents = encode(values, positions, padding, config, state)
    return head(decode(queries.expand(values.shape[0], -1, -1), latents, config, state), state)
