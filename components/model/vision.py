"""The image encoder: a pre-LN vision transformer whose tokens are all kept (docs/facts.md 1).

Shapes: B images, S side in pixels, P patch side, N patches, D width, H heads, K head width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from components.common.errors import ModelError
from components.model.config import VisionConfig


class Attention(nn.Module):
    """Self-attention of all tokens with one another, no mask, query, key and value from one matrix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[B, 1+N, D]` to the same shape."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, count, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-LN block: attention and MLP (exact GELU), each with its residual and stochastic depth."""

    def __init__(self, config: VisionConfig, drop_path: float) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = Attention(width, config.heads)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[B, 1+N, D]` to the same shape."""
        tokens = tokens + self._skip(self.attention(self.norm1(tokens)))
        hidden = functional.gelu(self.fc1(self.norm2(tokens)))
        return tokens + self._skip(self.fc2(hidden))

    def _skip(self, branch: Tensor) -> Tensor:
        """Drop the branch for some images, scaling the others, so that its mean stays (arXiv 1603.09382)."""
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        kept = branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep)
        return branch * (kept / keep)


class VisionTransformer(nn.Module):
    """Pixels to tokens, [CLS] first; no pooling, no head."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = nn.Linear(3 * config.patch_size**2, config.width)
        self.cls = nn.Parameter(torch.empty(1, 1, config.width))
        self.positions = nn.Parameter(torch.empty(1, 1 + config.patches, config.width))
        rates = [config.drop_path * index / max(1, config.depth - 1) for index in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        init_weights(self, config.initializer_range)
        nn.init.trunc_normal_(self.cls, std=config.initializer_range)
        nn.init.trunc_normal_(self.positions, std=config.initializer_range)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels `[B, 3, S, S]` to tokens `[B, 1+N, D]` after the final norm.

        Raises:
            ModelError: the images are not of the config's size.
        """
        patches = self.patch(self._cut(pixels))
        tokens = torch.cat([self.cls.expand(patches.shape[0], -1, -1), patches], dim=1) + self.positions
        first_recomputed = len(self.blocks) - self.config.checkpoint_layers
        for index, block in enumerate(self.blocks):
            if self.training and index >= first_recomputed and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.norm(tokens)  # type: ignore[no-any-return]

    def _cut(self, pixels: Tensor) -> Tensor:
        """Pixels `[B, 3, S, S]` to patches `[B, N, 3*P*P]`, in the order of a convolution's weights."""
        size, patch = self.config.image_size, self.config.patch_size
        if pixels.dim() != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise ModelError(
                f"images of shape {tuple(pixels.shape)} given to a model of image size {size}: resize them to "
                f"[B, 3, {size}, {size}], or load the model with image_size set to theirs"
            )
        grid = size // patch
        cut = pixels.to(self.patch.weight.dtype).reshape(-1, 3, grid, patch, grid, patch)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, grid * grid, 3 * patch * patch)


def resize_positions(positions: Tensor, patches: int) -> Tensor:
    """Position embeddings `[1, 1+M, D]` for another number of patches, `[1, 1+patches, D]`.

    The [CLS] row stays; the others are a square grid, resized bicubically (docs/facts.md 1).

    Raises:
        ModelError: either number of patches is not a square.
    """
    old, new = positions.shape[1] - 1, patches
    if old == new:
        return positions
    old_side, new_side = round(old**0.5), round(new**0.5)
    if old_side**2 != old or new_side**2 != new:
        raise ModelError(f"position embeddings of {old} patches cannot become {new}: both must be square grids")
    grid = positions[:, 1:].reshape(1, old_side, old_side, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(grid.float(), size=(new_side, new_side), mode="bicubic", align_corners=False)
    rows = resized.permute(0, 2, 3, 1).reshape(1, new, -1).to(positions.dtype)
    return torch.cat([positions[:, :1], rows], dim=1)


def init_weights(root: nn.Module, std: float) -> None:
    """BERT's initialisation of a module and all below it: weights normal(0, std), biases 0, LayerNorm 1 and 0."""
    for module in root.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            nn.init.zeros_(module.bias)
