"""Auxiliary losses of the vision model: what patches show, what the class row has seen, patches that read as words."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.segments import Encoder
from ..sight.labels import NONE
from ..sight.scenes import CHARACTERS, COLOR_NAMES, KINDS, PLACES
from .sight_data import SightBatch

_PATCH_CLASSES = [1 + len(KINDS), len(COLOR_NAMES), len(CHARACTERS)]
_PRESENCE = len(KINDS) + len(COLOR_NAMES) + len(CHARACTERS)
_SHARPNESS = 8.0
"""Of the similarity between a projected patch and words."""


class AuxiliaryHeads(nn.Module):
    """Linear heads that are dropped at the export."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.patches = nn.Linear(hidden, sum(_PATCH_CLASSES))
        self.present = nn.Linear(hidden, _PRESENCE)

    def loss(self, patches: Tensor, class_row: Tensor, batch: SightBatch) -> Tensor:
        """From the encoder's patches [batch, patches, hidden] and class row [batch, hidden]."""
        kinds, colors, characters = self.patches(patches).float().split(_PATCH_CLASSES, -1)
        return (
            2 * F.cross_entropy(kinds.flatten(0, 1), batch.kinds.flatten())
            + _labelled_cross_entropy(colors, batch.colors)
            + _labelled_cross_entropy(characters, batch.characters)
            + 2 * F.binary_cross_entropy_with_logits(self.present(class_row).float(), batch.present)
        )


def _labelled_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the patches that have a label, 0 if none has."""
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NONE, reduction="sum")
    return total / (labels != NONE).sum().clamp_min(1)


class WordTable:
    """Which tokens name a patch's kind, colour, character and place."""

    def __init__(self, encoder: Encoder) -> None:
        groups = [["", *KINDS], COLOR_NAMES, list(CHARACTERS), PLACES]
        named = [[_word_tokens(encoder, name) for name in group] for group in groups]
        columns = sorted({token for group in named for tokens in group for token in tokens})
        self.columns = torch.tensor(columns)
        """[words] token ids."""
        index = {token: column for column, token in enumerate(columns)}
        self.tables = [torch.zeros(len(group), len(columns)) for group in named]
        """Kinds, colours, characters, places: each [entries, words], 1.0 where the word names the entry."""
        for table, group in zip(self.tables, named, strict=True):
            for row, tokens in enumerate(group):
                for token in tokens:
                    table[row, index[token]] = 1.0

    def alignment_loss(self, visual: Tensor, embedding: Tensor, batch: SightBatch) -> Tensor:
        """How little the projected patches of objects [batch, patches, hidden] resemble words for what they show."""
        rows = visual.float()
        normed = rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + 1e-6)
        likeness = (_SHARPNESS * normed @ embedding.T).log_softmax(-1)[..., self.columns]
        kinds, colors, characters, places = self.tables
        is_object = batch.kinds > 0
        words = kinds[batch.kinds] + places[batch.places] * is_object[..., None]
        words = words + colors[batch.colors.clamp_min(0)] * (batch.colors >= 0)[..., None]
        words = words + characters[batch.characters.clamp_min(0)] * (batch.characters >= 0)[..., None]
        shares = words / words.sum(-1, keepdim=True).clamp_min(1)
        return -(likeness * shares).sum() / is_object.sum().clamp_min(1)


def _word_tokens(encoder: Encoder, name: str) -> list[int]:
    """The first token of each word with and without a space before it; of a single character the character's."""
    return sorted(
        {
            token
            for word in name.split()
            for token in (encoder.ids(word)[0], encoder.ids(" " + word)[-1 if len(word) == 1 else 0])
        }
    )
