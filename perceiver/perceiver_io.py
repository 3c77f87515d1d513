"""Perceiver IO: any number of outputs, one for each query that attends to the latents."""

from torch import Tensor, nn

from perceiver.attention import CrossAttention, normalise_inputs
from perceiver.config import PerceiverConfig
from perceiver.encoder import PerceiverEncoder, Positions, check_required_fields
from perceiver.layers import build_feedforward


class QueryDecoder(nn.Module):
    """Cross-attention of queries to the latents and a feed-forward layer, each with its residual.

    A query attends to the latents and to no other query. ``output_dim`` is the number of channels of what it returns.

    Args:
        config: The configuration of the Perceiver that computes the latents. Without ``decoder_residual`` the query is
            not added to what its attention returns.
        query_dim: The number of channels of a query.

    Raises:
        ValueError: The query is to be added to vectors of another number of channels.

    Source:
        Jaegle 2021, arXiv 2107.14795, section 3.2; appendix E for decoders without the query.
    """

    def __init__(self, config: PerceiverConfig, query_dim: int) -> None:
        super().__init__()
        self.residual = config.decoder_residual
        self.output_dim = query_dim if config.decoder_dim is None else config.decoder_dim
        if self.residual and self.output_dim != query_dim:
            raise ValueError(
                f"PerceiverConfig.decoder_dim: found {self.output_dim} for queries of {query_dim} channels, which are "
                "added to it; leave it out or set decoder_residual to False"
            )
        self.attention = CrossAttention(
            query_dim,
            config.latent_dim,
            config.decoder_heads,
            config.decoder_head_dim,
            config.dropout,
            config.attention_dropout,
        )
        if self.output_dim != query_dim:
            self.attention.to_out = nn.Linear(self.attention.to_out.in_features, self.output_dim)
        self.feedforward = build_feedforward(config, self.output_dim)

    def forward(self, queries: Tensor, latents: Tensor) -> Tensor:
        """Decode the latents for each query.

        Args:
            queries: The queries, ``(batch, queries, query_dim)``.
            latents: The latents, ``(batch, latents, latent_dim)``.

        Returns:
            One vector for each query, ``(batch, queries, output_dim)``.
        """
        decoded = self.attention(queries, self.attention.project_inputs(normalise_inputs(latents)))
        if self.residual:
            decoded = queries + decoded
        result: Tensor = decoded + self.feedforward(decoded)
        return result


class PerceiverIO(PerceiverEncoder):
    """An encoder with ``num_classes`` outputs for each of any number of queries.

    A query selects the output: a learned vector for a class, the Fourier features of a position for the value at that
    position, the embedding of a word for that word. For a dense output, e.g. a label for each pixel:

        model = PerceiverIO(config, query_dim=num_axes * (2 * config.num_bands + 1))
        labels = model(values, positions, queries=model.positions((positions,)))

    With ``decoder_residual=False`` and a ``decoder_dim`` above ``query_dim`` an output is not squeezed through the
    channels of its query, of which two axes with 8 bands have 34.

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
        self.head_norm = nn.LayerNorm(self.decoder.output_dim)
        self.head = nn.Linear(self.decoder.output_dim, config.num_classes or 0)

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
