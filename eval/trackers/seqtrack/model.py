"""SeqTrack: one encoder sees the searched crop and the templates together, a decoder says where the thing is.

The encoder is a plain timm ViT (dora/method/vit.py), of any patch size and width, without [CLS]. Letters beside the
usual ones: L words, V size of the vocabulary, K templates.
"""

import logging
import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from timm.layers import DropPath
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from dora.artifacts import Checkpoint
from dora.method.products import lighten
from dora.weights.load import load_encoder
from eval.features import IMAGENET_MEAN, IMAGENET_STD
from eval.trackers.seqtrack import tokens
from eval.trackers.seqtrack.decoder import Decoder, KeysValues
from eval.trackers.seqtrack.settings import Settings

log = logging.getLogger("dora.seqtrack")

COORDINATES = tokens.N_COORDINATES


class SeqTrack(nn.Module):
    """A ViT, two tables of positions that begin as its own, and a decoder."""

    def __init__(self, vit: VisionTransformer, settings: Settings, *, recompute: bool = False) -> None:
        super().__init__()
        patch = vit.patch_embed.patch_size[0]
        self.patch_size, self.recompute, self.n_bins = patch, recompute, settings.n_bins
        self.search_size, self.template_size = (
            fitting(size, patch) for size in (settings.search_size, settings.template_size)
        )
        self.n_templates = settings.n_templates
        self.projection, self.norm_patches = vit.patch_embed.proj, vit.patch_embed.norm
        self.norm_pre, self.blocks, self.norm = vit.norm_pre, vit.blocks, vit.norm
        learnt = cast(Tensor, vit.pos_embed).detach()
        before = cast(tuple[int, int], vit.patch_embed.grid_size)
        rows, template_rows, size = self.search_size // patch, self.template_size // patch, settings.place_marks
        marks, template_marks = (size * place_marks(side, vit.embed_dim) for side in (rows, template_rows))
        self.search_positions = nn.Parameter(positions(learnt, before, rows) + marks)
        # Of the other sign, which tells a template's patch from one of the searched crop.
        self.template_positions = nn.Parameter(positions(learnt, before, template_rows) - template_marks)
        self.bottleneck = nn.Linear(vit.embed_dim, settings.decoder_width)
        self.decoder = Decoder(
            n_words=tokens.n_words(settings.n_bins), n_seen=self.search_positions.shape[1], length=COORDINATES + 1,
            width=settings.decoder_width, n_layers=settings.decoder_layers, n_heads=settings.decoder_heads,
            n_hidden=settings.decoder_hidden, dropout=settings.dropout,
        )  # fmt: skip
        lighten(self.bottleneck)
        lighten(self.decoder)

    @property
    def encoder(self) -> list[nn.Parameter]:
        """What is the checkpoint's, and the tables of positions, which are its too."""
        parts = (self.projection, self.norm_patches, self.norm_pre, self.blocks, self.norm)
        return [self.search_positions, self.template_positions, *(p for part in parts for p in part.parameters())]

    def search_patches(self, images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B N D"]:
        """Patches of searched crops, as the first block gets them."""
        return self._patches(images) + self.search_positions

    def template_patches(self, images: Float[Tensor, "B K 3 Y X"]) -> Float[Tensor, "B M D"]:
        """Patches of templates, one after the other."""
        patches = self._patches(images.flatten(0, 1)) + self.template_positions
        return patches.unflatten(0, images.shape[:2]).flatten(1, 2)

    def see(
        self, search: Float[Tensor, "B N D"], templates: Float[Tensor, "B M D"]
    ) -> list[KeysValues]:  # fmt: skip
        """What the decoder looks up: the search crop's patches, which have seen the templates'."""
        x = self.norm_pre(torch.cat([search, templates], dim=1))
        for block in self.blocks:
            is_recomputed = self.recompute and torch.is_grad_enabled()
            x = cast(Tensor, recomputed(block, x, use_reentrant=False) if is_recomputed else block(x))
        return self.decoder.look(self.bottleneck(self.norm(x[:, : search.shape[1]])))

    def forward(
        self, search: Float[Tensor, "B 3 Y X"], templates: Float[Tensor, "B K 3 y x"], words: Int64[Tensor, "B L"]
    ) -> Float[Tensor, "B L V"]:
        """Logits of the word after each of `words`, the first of which is START."""
        seen = self.see(self.search_patches(search), self.template_patches(templates))
        return self.decoder.head(self.decoder(words, seen))

    def say(
        self, seen: list[KeysValues], window: Float[Tensor, "V"] | None, *, median: bool = False
    ) -> tuple[Int64[Tensor, "B 4"], Float[Tensor, "B 4"]]:
        """The likeliest words of each place, or the median ones, one after the other; and the likeliest's probability.

        END and START are left out after the softmax; `window` is multiplied with the probabilities of cx and cy.
        """
        n = len(seen[0].keys)
        words = torch.full((n, 1), tokens.start(self.n_bins), device=seen[0].keys.device)
        found: list[Tensor] = []
        for place in range(COORDINATES):
            logits = self.decoder.head(self.decoder(words, seen)[:, -1])
            probabilities = logits.float().softmax(1)[:, : self.n_bins]
            if window is not None and place < 2:
                probabilities = probabilities * window
            best, word = probabilities.max(1)
            if median:
                below = probabilities.cumsum(1)
                word = (below < below[:, -1:] / 2).sum(1)  # the first at which half of all is reached
            found.append(best)
            words = torch.cat([words, word[:, None]], dim=1)
        return words[:, 1:], torch.stack(found, dim=1)

    def _patches(self, images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B N D"]:
        return self.norm_patches(self.projection(images).flatten(2).transpose(1, 2))


def seqtrack(checkpoint: Checkpoint, settings: Settings, *, recompute: bool = False) -> SeqTrack:
    """SeqTrack around the checkpoint's encoder, the rest as initialised from the settings' seed.

    Raises:
        FileNotFoundError, ValueError: as dora.weights.load.load_encoder.
    """
    vit = load_encoder(checkpoint.path).requires_grad_(True)
    rates = torch.linspace(0, settings.drop_path_rate, len(vit.blocks)).tolist()
    for block, rate in zip(vit.blocks, rates, strict=True):
        cast(Block, block).drop_path1 = DropPath(rate) if rate else nn.Identity()
        cast(Block, block).drop_path2 = DropPath(rate) if rate else nn.Identity()
    torch.manual_seed(settings.seed)
    model = SeqTrack(vit, settings, recompute=recompute)
    if not settings.encoder_lr_share:
        for parameter in model.encoder:
            parameter.requires_grad_(False)
    rows = model.search_size // model.patch_size
    log.info("SeqTrack searches %d x %d patches of %d px", rows, rows, model.patch_size)
    return model


def fitting(size: int, patch: int) -> int:
    """The multiple of `patch` that is next to `size`, a patch at least."""
    return max(1, round(size / patch)) * patch


def positions(
    learnt: Float[Tensor, "1 M D"], before: tuple[int, int], side: int
) -> Float[Tensor, "1 N D"]:  # fmt: skip
    """A position embedding without [CLS], resized to `side` x `side` patches: bicubic, corners aligned [SeqT]."""
    grid = learnt[:, 1:].unflatten(1, before).permute(0, 3, 1, 2).float()
    if before != (side, side):
        grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=True)
    return grid.flatten(2).transpose(1, 2).contiguous().clone()


def place_marks(side: int, width: int) -> Float[Tensor, "N D"]:
    """Sines and cosines of a patch's row and column, a quarter to four waves over the crop, then zeros."""
    rates = torch.logspace(-2, 2, width // 4, base=2) * 2 * math.pi
    angles = (torch.arange(side) + 0.5)[:, None] / side * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    marks = torch.cat([waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)], dim=2)
    return F.pad(marks.flatten(0, 1), (0, width - marks.shape[2]))


def normalised(images: UInt8[Tensor, "... Y X 3"], brightness: Float[Tensor, "..."] | None = None) -> Tensor:
    """(pixel / 255 - mean) / std by colour, channels first; the pixels times `brightness`, at most white."""
    scaled = images.movedim(-1, -3).float() / 255
    if brightness is not None:
        scaled = (scaled * brightness[..., None, None, None]).clamp(0, 1)
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (scaled - mean) / std
