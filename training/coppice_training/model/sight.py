"""The vision model in LLaVA's layout: a CLIP-like encoder, a projector, and a Llama that reads its rows as tokens."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .llama import Llama, LlamaShape, RotaryTable

NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class VisionShape:
    """Sizes of the encoder; `image` and `patch` in pixels."""

    image: int
    patch: int
    layers: int
    hidden: int
    heads: int
    mlp: int

    @property
    def side(self) -> int:
        """Patches along an edge."""
        return self.image // self.patch

    @property
    def patches(self) -> int:
        """Patches of an image, each a visual token."""
        return self.side**2


class VisionLayer(nn.Module):
    """Bidirectional attention and a quick-GELU MLP, as in CLIP."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        hidden, self.heads = shape.hidden, shape.heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden, NORM_EPSILON), nn.LayerNorm(hidden, NORM_EPSILON)
        self.query, self.key, self.value, self.output = (nn.Linear(hidden, hidden) for _ in range(4))
        self.up, self.down = nn.Linear(hidden, shape.mlp), nn.Linear(shape.mlp, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, 1 + patches, hidden] -> the same shape."""
        batch, rows, hidden = x.shape
        normed = self.norm1(x)
        query, key, value = (
            project(normed).view(batch, rows, self.heads, hidden // self.heads).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, rows, hidden))
        raised = self.up(self.norm2(x))
        return x + self.down(raised * torch.sigmoid(1.702 * raised))


class Sight(nn.Module):
    """Encoder, projector and language model."""

    def __init__(self, vision: VisionShape, text: LlamaShape) -> None:
        super().__init__()
        hidden, self.shape = vision.hidden, vision
        self.patch_embedding = nn.Conv2d(3, hidden, vision.patch, vision.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(hidden) * 0.02)
        self.position = nn.Parameter(torch.randn(vision.patches + 1, hidden) * 0.02)
        self.norm_before, self.norm_after = nn.LayerNorm(hidden, NORM_EPSILON), nn.LayerNorm(hidden, NORM_EPSILON)
        self.vision_layers = nn.ModuleList(VisionLayer(vision) for _ in range(vision.layers))
        self.projector1, self.projector2 = nn.Linear(hidden, text.hidden), nn.Linear(text.hidden, text.hidden)
        self.language = Llama(text)
        with torch.no_grad():
            self.position[1:] = 0.3 * _sine_positions(vision)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels [batch, 3, image, image], normalised -> the last but one layer's patches [batch, patches, hidden], and
        the last layer's class row [batch, hidden]."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_embedding.expand(pixels.shape[0], 1, -1), patches), 1) + self.position
        x = self.norm_before(x)
        for layer in self.vision_layers[:-1]:
            x = layer(x)
        return x[:, 1:], self.norm_after(self.vision_layers[-1](x)[:, 0])

    def project(self, patches: Tensor) -> Tensor:
        """[batch, patches, vision hidden] -> [batch, patches, text hidden]."""
        return self.projector2(F.gelu(self.projector1(patches)))

    def answer_logits(self, visual: Tensor, before: Tensor, after: Tensor, table: RotaryTable) -> Tensor:
        """Logits [batch, after, vocabulary] of the ids behind the projected rows; `before` [batch, n] comes first."""
        embed = self.language.embedding
        rows = torch.cat((embed(before).float(), visual.float(), embed(after).float()), 1)
        hidden = self.language.hidden(rows, table)[:, before.shape[1] + visual.shape[1] :]
        return self.language.logits(hidden)

    def forward(self, pixels: Tensor, before: Tensor, after: Tensor, table: RotaryTable) -> Tensor:
        """As answer_logits, from pixels."""
        return self.answer_logits(self.project(self.encode(pixels)[0]), before, after, table)


def _sine_positions(shape: VisionShape) -> Tensor:
    """[patches, hidden] sines and cosines of row and column."""
    index = torch.arange(shape.patches)
    quarter = shape.hidden // 4
    frequencies = 1.0 / 100 ** (torch.arange(quarter) / quarter)
    row, column = (index // shape.side)[:, None] * frequencies, (index % shape.side)[:, None] * frequencies
    return torch.cat((row.sin(), row.cos(), column.sin(), column.cos()), 1)
