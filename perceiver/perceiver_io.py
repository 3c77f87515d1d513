"""Perceiver IO: any number of outputs, one for each query that is put to the latents."""

from torch import Tensor, nn

from perceiver.attention import CrossAttention, normalise_inputs
from perceiver.config import PerceiverConfig
from perceiver.encoder import PerceiverEncoder, Positions, check_required_fields
from perceiver.layers import build_feedforward


class QueryDecoder(nn.Module):
    """Queries ask, latents answer: a cross-attention and a feed-forward layer, each with its residual.

    A query sees the latents and no other query.

    Args:
        config: of the Perceiver that makes the latents.
        query_dim: channels of a query.

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
        """Answer queries.

        Args:
            queries: ``(batch, queries, query_dim)``.
            latents: ``(batch, latents, latent_dim)``.

        Returns:
            ``(batch, queries, query_dim)``.
        """
        queries = queries + self.attention(queries, self.attention.project_inputs(normalise_inputs(latents)))
        result: Tensor = queries + self.feedforward(queries)
        return result


class PerceiverIO(PerceiverEncoder):
    """An encoder whose latents answer queries, each with ``num_classes`` numbers.

    A query says what is asked: a learned vector for a class, the Fourier features of a place for a value at that
    place, a word's embedding for the word. For a dense output, e.g. a label for each pixel:

        model = PerceiverIO(config, query_dim=num_axes * (2 * config.num_bands + 1))
        labels = model(values, positions, queries=model.positions((positions,)))

    For classification by one learned query see ``Perceiver`` with ``pooling: query``.

    Args:
        config: the shape of the model; ``num_classes`` is the number of outputs for each query, ``pooling`` is
            not read.
        query_dim: channels of a query.

    Source:
        Jaegle 2021, arXiv 2107.14795. A norm stands before the last linear layer here, as in ``Perceiver``.
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
        """Answer queries about a batch of sets of inputs.

        Args:
            values: inputs as for ``Perceiver``.
            positions: as for ``Perceiver``.
            padding: as for ``Perceiver``.
            queries: ``(batch or 1, queries, query_dim)``.

        Returns:
            ``(batch, queries, num_classes)``.

        Raises:
            ValueError: inputs or queries do not fit the config.
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
