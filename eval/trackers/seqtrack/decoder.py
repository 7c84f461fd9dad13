"""SeqTrack's decoder: the next word of a sentence, from the words before it and what the encoder has seen.

DETR's layers, normed after each part (microsoft/VideoX SeqTrack, lib/models/seqtrack/decoder.py). Letters beside the
usual ones: L words, V size of the vocabulary, d width of a head.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


class KeysValues(NamedTuple):
    """What a layer looks up, in heads."""

    keys: Float[Tensor, "B H N d"]
    values: Float[Tensor, "B H N d"]


class Decoder(nn.Module):
    """Logits of each next word. Fresh weights are Xavier's, but for the positions."""

    def __init__(
        self, *, n_words: int, n_seen: int, length: int, width: int, n_layers: int, n_heads: int, n_hidden: int,
        dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(n_words, width)
        self.embedding_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            Layer(width, n_heads=n_heads, n_hidden=n_hidden, dropout=dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_words)
        )
        self.dropout = dropout
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        # As large as the words, which are normed: places are told apart from the first step on, as DETR's queries are.
        self.positions = nn.Parameter(torch.randn(length, width))
        self.seen_positions = nn.Parameter(sinusoids(n_seen, width))

    def look(self, seen: Float[Tensor, "B N D"]) -> list[KeysValues]:
        """What each layer looks up in the encoder's output: the same for all words of a sentence."""
        placed = seen + self.seen_positions
        return [layer.across.keys_values(placed, seen) for layer in self._layers]

    def forward(self, words: Int64[Tensor, "B L"], seen: list[KeysValues]) -> Float[Tensor, "B L D"]:
        """What is known after each word, of it and those before it; `head` makes logits of that."""
        positions = self.positions[: words.shape[1]]
        x = F.dropout(self.embedding_norm(self.embedding(words)), self.dropout, self.training)
        for layer, looked_up in zip(self._layers, seen, strict=True):
            x = layer(x, positions, looked_up)
        return self.norm(x)

    @property
    def _layers(self) -> list["Layer"]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]


class Layer(nn.Module):
    """Attention among the words, attention to what is seen, and an MLP; each added, then normed."""

    def __init__(self, width: int, *, n_heads: int, n_hidden: int, dropout: float) -> None:
        super().__init__()
        self.among = Attention(width, n_heads=n_heads, dropout=dropout)
        self.across = Attention(width, n_heads=n_heads, dropout=dropout)
        self.widen, self.narrow = nn.Linear(width, n_hidden), nn.Linear(n_hidden, width)
        self.norm_among, self.norm_across, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = dropout

    def forward(
        self, x: Float[Tensor, "B L D"], positions: Float[Tensor, "L D"], seen: KeysValues
    ) -> Float[Tensor, "B L D"]:
        """Words that know more; positions are added to queries and keys alone."""
        placed = x + positions
        found = self.among(placed, self.among.keys_values(placed, x), is_causal=True)
        x = self.norm_among(x + self._dropped(found))
        x = self.norm_across(x + self._dropped(self.across(x + positions, seen, is_causal=False)))
        found = self.narrow(self._dropped(F.relu(self.widen(x))))
        return self.norm(x + self._dropped(found))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Attention(nn.Module):
    """Multi-head attention, its keys and values computed apart so that they may be kept."""

    def __init__(self, width: int, *, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.n_heads, self.dropout = n_heads, dropout

    def keys_values(self, keys: Float[Tensor, "B N D"], values: Float[Tensor, "B N D"]) -> KeysValues:
        """In heads."""
        return KeysValues(self._in_heads(self.key(keys)), self._in_heads(self.value(values)))

    def forward(
        self, queries: Float[Tensor, "B L D"], seen: KeysValues, *, is_causal: bool
    ) -> Float[Tensor, "B L D"]:  # fmt: skip
        """What each query finds; if causal, a query sees keys up to its own place."""
        dropout = self.dropout if self.training else 0.0
        queries = self._in_heads(self.query(queries))
        found = F.scaled_dot_product_attention(queries, seen.keys, seen.values, dropout_p=dropout, is_causal=is_causal)
        return self.out(found.transpose(1, 2).flatten(2))

    def _in_heads(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B H N d"]:
        return x.unflatten(2, (self.n_heads, -1)).transpose(1, 2)


def sinusoids(n: int, width: int) -> Float[Tensor, "n width"]:
    """Sin and cos in turn, at wavelengths from 2 pi to 20000 pi (arXiv:1706.03762, Sec. 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000) / width))
    angles = torch.arange(n, dtype=torch.float32)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
