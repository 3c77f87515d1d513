"""Perceiver IO: any number of outputs, one for each query that attends to the latents."""

from torch import Tensor, nn

from perceiver.attention import CrossAttention, normalise_inputs
from perceiver.config import PerceiverConfig
from perceiver.encoder import PerceiverEncoder, Positions, check_required_fields
from perceiver.layers import build_feedforward


class QueryDecoder(nn.Module):
    """Cross-attention of queries to the latents and a feed-forward layer, each with its residual.

    A query attends to the latents and to no other query.

    Args:
        config: The configuration of the Perceiver that computes the latents.
        query_dim: The number of channels of a query.

    Source:
        Jaegle 2021, arXiv 2107.14795, section 3.2.
    """

    def __init__(self, config: PerceiverConfig, query_dim: int) -> None:
        super().__init__()
        self.attention = CrossAttention(
            query_dim,
            config.latent_dim,
            config.decoder_heads,
            config.decoder_head_dim,
            config.dropout,
            config.attention_dropout,
        )
        self.feedforward = build_feedforward(config, query_dim)

    def forward(self, queries: Tensor, latents: Tensor) -> Tensor:
        """Decode the latents for each query.

        Args:
            queries: The queries, ``(batch, queries, query_dim)``.
            latents: The latents, ``(batch, latents, latent_dim)``.

        Returns:
            One vector for each query, ``(batch, queries, query_dim)``.
        """
        queries = queries + self.attention(queries, self.attention.project_inputs(normalise_inputs(latents)))
        result: Tensor = queries + self.feedforward(queries)
        return result


class PerceiverIO(PerceiverEncoder):
    """An encoder with ``num_classes`` outputs for each of any number of queries.

    A query selects the output: a learned vector for a class, the Fourier features of a position for the value at that
    position, the embedding of a word for that word. For a dense output, e.g. a label for each pixel:

        model = PerceiverIO(config, query_dim=num_axes * (2 * config.num_bands + 1))
        labels = model(values, positions, queries=model.positions((positions,)))

    For classification by one learned query see ``Perceiver`` with ``pooling: query``.

    Args:
        config: The architecture of the model; ``num_classes`` is the number of outputs for each query, ``pooling`` is
            not used.
        query_dim: The number of channels of a query.

    Source:
        Jaegle 2021, arXiv 2107.14795. A layer norm precedes the last linear layer here, as in ``Perceiver``.
    """

    def __init__(self, config: PerceiverConfig, query_dim: int) -> None:
        check_required_fields(config, ("input_channels", "axis_sizes", "num_classes"))
        super().__init__(config)
        self.query_dim = query_dim
        self.decoder = QueryDecoder(config, query_dim)
        self.head_norm = nn.LayerNorm(query_dim)
        self.head = nn.Linear(query_dim, config.num_classes or 0)

    def forward(
        self, values: Tensor, positions: Positions = None, padding: Tensor | None = None, *, queries: Tensor
    ) -> Tensor:
        """Compute an output for each query from a batch of sets of inputs.

        Args:
            values: The values, as for ``Perceiver``.
            positions: The positions, as for ``Perceiver``.
            padding: The mask of the padding, as for ``Perceiver``.
            queries: The queries, ``(batch or 1, queries, query_dim)``.

        Returns:
            The outputs, ``(batch, queries, num_classes)``.

        Raises:
            ValueError: The inputs or queries do not fit the configuration.
        """
        if queries.ndim != 3 or queries.shape[2] != self.query_dim or queries.shape[0] not in (1, values.shape[0]):
            raise ValueError(
                f"PerceiverIO queries: found shape {tuple(queries.shape)}, allowed is "
                f"({values.shape[0]} or 1, queries, {self.query_dim})"
            )
        latents = self.encode(values, positions, padding)
        decoded = self.decoder(queries.to(self.latents.dtype).expand(latents.shape[0], -1, -1), latents)
        outputs: Tensor = self.head(self.head_norm(decoded))
        return outputs
