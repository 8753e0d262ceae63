"""Mistakes that are easily made in a CLIP image tower, each planted for the length of a `with`.

`with mistake.planted(): ...` rebinds methods of `ClipVision`, of the parts that it is made of, or
of `preprocess`; `wrong.py` makes the same mistakes in the numpy reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from open_clip.transformer import LayerNorm, QuickGELU, ResidualAttentionBlock
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from connector import preprocess
from connector.vision import ClipVision
from weights.planting import Mistake, Plant, during, rebound

# Scaffolds. Each is right until an argument makes it wrong, and wrong in that one thing only.


def pixels(
    *,
    mean: Any = preprocess.MEAN,
    deviation: Any = preprocess.DEVIATION,
    divisor: float = 255.0,
    turn: Callable[[Tensor], Tensor] = lambda x: x,
) -> Plant:
    """uint8 (B, 3, S, S), turned, over another divisor, by another mean and deviation."""

    def normalise(x: Tensor) -> Tensor:
        three = (torch.tensor(values).view(3, 1, 1) for values in (mean, deviation))
        centre, spread = three
        return (turn(x).float() / divisor - centre) / spread

    return lambda: [(preprocess, "normalise", normalise)]


def cutting(cut: Callable[[Image.Image, int], Any]) -> Plant:
    """A picture resized and cropped by `cut(picture, S)`."""

    def resize_and_crop(image: Image.Image, size: int, mode: str = "clip") -> Any:
        return preprocess.np.array(cut(image, size))

    return lambda: [(preprocess, "resize_and_crop", resize_and_crop)]


def convolution(
    weight: Callable[[Tensor], Tensor] = lambda w: w,
    after: Callable[[Tensor], Tensor] | None = None,
) -> Plant:
    """The patch convolution with its weights turned, or its (B, W, g, g) turned afterwards."""

    def forward(self: nn.Conv2d, x: Tensor) -> Tensor:
        y = F.conv2d(x, weight(self.weight), None, self.stride)
        return after(y) if after else y

    return lambda: [(nn.Conv2d, "forward", forward)]


def with_class(x: Tensor, first: Tensor, places: Tensor) -> Tensor:
    """(B, P, W) -> (B, 1 + P, W)."""
    return torch.cat([first.expand(len(x), 1, -1), x], 1) + places


def returned(states: list[Tensor], embedded: Tensor, post: nn.Module) -> list[Tensor]:
    """What a tower returns: its states as they are."""
    return states


def tower(
    *,
    embed: Callable[[Tensor, Tensor, Tensor], Tensor] = with_class,
    norm: bool = True,
    show: Callable[[list[Tensor], Tensor, nn.Module], list[Tensor]] = returned,
) -> Plant:
    """The tower with another embedding, without `ln_pre`, or with other states returned."""

    def forward(self: ClipVision, x: Tensor, patches: Tensor | None = None) -> list[Tensor]:
        x = self.conv1(x).flatten(2).transpose(1, 2)  # (B, P, W)
        embedded = embed(x, self.class_embedding, self.positional_embedding)
        states = [self.ln_pre(embedded) if norm else embedded]
        for block in self.transformer.resblocks:
            states.append(block(states[-1]))
        return show(states, embedded, self.ln_post)

    return lambda: [(ClipVision, "forward", forward)]


def placed(turn: Callable[[Tensor], Tensor]) -> Plant:
    """Other positions: `turn` makes (1 + P, W) of (1 + P, W)."""
    return tower(embed=lambda x, first, places: with_class(x, first, turn(places)))


def features(
    *,
    pool: Callable[[Tensor], Tensor] = lambda x: x[:, 0],
    norm: bool = True,
    after: Callable[[Tensor], Tensor] = lambda y: y,
) -> Plant:
    """The image's vector of other tokens than the class token, without `ln_post`, or changed."""

    def image_features(self: ClipVision, x: Any) -> Tensor:
        pooled = pool((self(x) if isinstance(x, Tensor) else x)[-1])
        assert self.proj is not None
        return after((self.ln_post(pooled) if norm else pooled) @ self.proj)

    return lambda: [(ClipVision, "image_features", image_features)]


def layer_norm(
    *, eps: float = 1e-5, outside: bool = False, correction: int = 0, centre: bool = True
) -> Plant:
    """LayerNorm with another epsilon, outside the root, sample variance, or without the mean."""

    def forward(self: LayerNorm, x: Tensor) -> Tensor:
        if centre:
            x = x - x.mean(-1, keepdim=True)
        variance = x.square().sum(-1, keepdim=True) / (x.shape[-1] - correction)
        root = variance.sqrt() + eps if outside else (variance + eps).sqrt()
        return x / root * self.weight + self.bias

    return lambda: [(LayerNorm, "forward", forward)]


def gelu(function: Callable[[Tensor], Tensor]) -> Plant:
    """Another activation, whichever the tower has."""
    forward = lambda self, x: function(x)  # noqa: E731
    return lambda: [(QuickGELU, "forward", forward), (nn.GELU, "forward", forward)]


def third(y: Tensor, heads: int) -> tuple[Tensor, ...]:
    """(B, T, 3W) -> queries, keys and values, (B, T, W) each."""
    return y.chunk(3, -1)


def attention(
    *,
    heads: Callable[[int], int] = lambda heads: heads,
    inputs: Callable[..., Tensor] = F.linear,
    split: Callable[[Tensor, int], Any] = third,
    scale: Callable[[int, int], float] = lambda heads, size: 1 / math.sqrt(size),
    causal: bool = False,
    over: int = -1,
    join: Callable[[Tensor], Tensor] = lambda z: z.flatten(2),
    out: Callable[..., Tensor] = F.linear,
) -> Plant:
    """Attention with another head count, split, scale, mask, axis of the softmax, or maps."""

    def forward(self: nn.MultiheadAttention, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        H = heads(self.num_heads)
        parts = split(inputs(x, self.in_proj_weight, self.in_proj_bias), H)
        q, k, v = (part.unflatten(-1, (H, -1)).transpose(1, 2) for part in parts)  # (B, H, T, D)
        size = scale(H, q.shape[-1])
        if over == -1:
            z = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=size)
        else:
            z = torch.softmax(q @ k.transpose(-2, -1) * size, over) @ v
        return out(join(z.transpose(1, 2)), self.out_proj.weight, self.out_proj.bias), None

    return lambda: [(nn.MultiheadAttention, "forward", forward)]


def thirds(*order: int) -> Plant:
    """Queries, keys and values taken from these thirds of what in_proj gives."""
    return attention(split=lambda y, H: [y.chunk(3, -1)[part] for part in order])


def maps(function: Callable[..., Tensor]) -> Plant:
    """Every linear map of a block computed by `function(x, weight, bias)`."""

    def forward(self: nn.Linear, x: Tensor) -> Tensor:
        return function(x, self.weight, self.bias)

    inside = attention(inputs=function, out=function)
    return lambda: [(nn.Linear, "forward", forward), *inside()]


def block(forward: Callable[..., Tensor]) -> Plant:
    """Every block computed by `forward(self, x)`."""
    return lambda: [(ResidualAttentionBlock, "forward", forward)]


# The wrong pieces that need more than an argument.


def cut_from_corner(image: Image.Image, side: int) -> Image.Image:
    short = min(image.size)
    wide, high = (side * n // short for n in image.size)
    return image.resize((wide, high), preprocess.BICUBIC).crop((0, 0, side, side))


def by_column(places: Tensor) -> Tensor:
    side = math.isqrt(len(places) - 1)
    return torch.cat(
        [places[:1], places[1:].unflatten(0, (side, side)).transpose(0, 1).flatten(0, 1)]
    )


def squares_transposed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.linear(x, torch.cat([part.T for part in w.chunk(len(w) // w.shape[1])]), b)


def keys_without_bias(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    q, _, v = b.chunk(3)
    return F.linear(x, w, torch.cat([q, 0 * q, v]))


def in_bfloat16(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.linear(x.bfloat16(), w.bfloat16(), b.bfloat16()).to(x.dtype)


def norm_after(self: Any, x: Tensor, **_: Any) -> Tensor:
    x = self.ln_1(x + self.attention(x))
    return self.ln_2(x + self.mlp(x))


def side_by_side(self: Any, x: Tensor, **_: Any) -> Tensor:
    return x + self.attention(self.ln_1(x)) + self.mlp(self.ln_2(x))


def no_residual_around_attention(self: Any, x: Tensor, **_: Any) -> Tensor:
    x = self.attention(self.ln_1(x))
    return x + self.mlp(self.ln_2(x))


def no_residual_around_mlp(self: Any, x: Tensor, **_: Any) -> Tensor:
    return self.mlp(self.ln_2(x + self.attention(self.ln_1(x))))


def norms_swapped(self: Any, x: Tensor, **_: Any) -> Tensor:
    x = x + self.attention(self.ln_2(x))
    return x + self.mlp(self.ln_1(x))


def sorted_as_strings(self: ClipVision, *_: Any) -> AbstractContextManager[None]:
    blocks = list(self.transformer.resblocks)
    order = sorted(range(len(blocks)), key=str)  # 0, 1, 10, 11, 2, ...
    return rebound(self.transformer, "resblocks", nn.ModuleList(blocks[n] for n in order))


# fmt: off
MISTAKES = (
    Mistake("imagenet-mean", "CLIP's mean and deviation of pixels are its own, not ImageNet's.",
            pixels(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))),
    Mistake("mean-of-a-half", "CLIP's mean and deviation of pixels are its own, not one half.",
            pixels(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5))),
    Mistake("not-normalised", "After 0 to 1 comes CLIP's mean and deviation, channel by channel.",
            pixels(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))),
    Mistake("not-divided-by-255", "Pixels are 0 to 1 before the mean is taken away.",
            pixels(divisor=1.0)),
    Mistake("divided-by-255-twice", "Pixels are divided by 255 once: a tensor may be so already.",
            pixels(divisor=255.0 * 255.0)),
    Mistake("bgr", "Channels are red, green, blue; OpenCV's are not.",
            pixels(turn=lambda x: x.flip(1))),
    Mistake("rows-as-columns", "Pixels are (B, 3, rows, columns).",
            pixels(turn=lambda x: x.transpose(-2, -1))),
    Mistake("squashed", "The shorter side is resized and the centre cropped: no ratio is lost.",
            cutting(lambda image, side: image.resize((side, side), preprocess.BICUBIC))),
    Mistake("bilinear", "Pictures are resized bicubically.",
            lambda: [(preprocess, "BICUBIC", Image.Resampling.BILINEAR)]),
    Mistake("cut-from-corner", "The crop is the centre of the resized picture.",
            cutting(cut_from_corner)),
    Mistake("conv-transposed", "The patch convolution's weights are (W, 3, rows, columns).",
            convolution(lambda w: w.transpose(-2, -1))),
    Mistake("conv-flipped", "What networks call a convolution does not flip its kernel.",
            convolution(lambda w: w.flip(-2, -1))),
    Mistake("conv-channels-last", "A patch is laid out as its weights are: channel, row, column.",
            convolution(lambda w: w.reshape(len(w), *w.shape[2:], 3).permute(0, 3, 1, 2))),
    Mistake("patches-by-column", "Patches go row by row, as one reads.",
            convolution(after=lambda y: y.transpose(-2, -1))),
    Mistake("places-by-column", "Positions go row by row, as the patches do.", placed(by_column)),
    Mistake("class-token-last", "The class token stands before the patches.",
            tower(embed=lambda x, first, places:
                  torch.cat([x, first.expand(len(x), 1, -1)], 1) + places)),
    Mistake("no-class-token", "A class token stands before the patches: there are 1 + P tokens.",
            tower(embed=lambda x, first, places: x + places[1:])),
    Mistake("no-positions", "Each token gets its position's embedding, too.",
            placed(torch.zeros_like)),
    Mistake("class-token-unplaced", "The class token has a position of its own, the first.",
            placed(lambda places: torch.cat([0 * places[:1], places[1:]]))),
    Mistake("positions-off-by-one", "The first position is the class token's, patches follow.",
            placed(lambda places: torch.cat([places[:1], places[:-1]]))),
    Mistake("no-ln-pre", "A LayerNorm, ln_pre, stands before the first block.", tower(norm=False)),
    Mistake("gelu-exact", "OpenAI's CLIP has QuickGELU, x * sigmoid(1.702 x), not torch's GELU.",
            gelu(F.gelu)),
    Mistake("gelu-tanh", "OpenAI's CLIP has QuickGELU, x * sigmoid(1.702 x); tanh is GPT-2's.",
            gelu(lambda x: F.gelu(x, approximate="tanh"))),
    Mistake("gelu-quick", "This folder says GELU; QuickGELU, x * sigmoid(1.702 x), is OpenAI's.",
            gelu(lambda x: x * torch.sigmoid(1.702 * x))),
    Mistake("relu", "The MLP has a GELU, which lets a little of the negative side through.",
            gelu(torch.relu)),
    Mistake("eps-outside-root", "LayerNorm adds epsilon to the variance, before the root.",
            layer_norm(outside=True)),
    Mistake("eps-1e-3", "LayerNorm's epsilon is 1e-5 in CLIP; 1e-3 is Keras's.",
            layer_norm(eps=1e-3)),
    Mistake("eps-1e-6", "LayerNorm's epsilon is 1e-5 in CLIP; 1e-6 is that of other ViTs.",
            layer_norm(eps=1e-6)),
    Mistake("eps-1e-12", "LayerNorm's epsilon is 1e-5 in CLIP; 1e-12 is the first ViT's.",
            layer_norm(eps=1e-12)),
    Mistake("sample-variance", "LayerNorm divides the sum of squares by W, not by W - 1.",
            layer_norm(correction=1)),
    Mistake("no-mean", "LayerNorm takes the mean away first; RMSNorm does not.",
            layer_norm(centre=False)),
    Mistake("no-scale", "Scores are divided by sqrt(D).", attention(scale=lambda H, D: 1.0)),
    Mistake("scale-twice", "Scores are divided by sqrt(D) once, if queries are not divided before.",
            attention(scale=lambda H, D: 1 / D)),
    Mistake("scale-by-width", "Scores are divided by sqrt(D), one head's width, not by sqrt(W).",
            attention(scale=lambda H, D: 1 / math.sqrt(H * D))),
    Mistake("causal-mask", "Every patch sees every other; the causal mask is the text tower's.",
            attention(causal=True)),
    Mistake("softmax-over-queries", "A query's weights over the keys sum to 1: softmax over keys.",
            attention(over=-2)),
    Mistake("half-the-heads", "The number of heads is in no tensor's shape: ViT-L has 16 of 64.",
            attention(heads=lambda H: H // 2)),
    Mistake("twice-the-heads", "The number of heads is in no tensor's shape: ViT-L has 16 of 64.",
            attention(heads=lambda H: 2 * H)),
    Mistake("keys-queries-values", "in_proj gives queries, keys, values, in this order.",
            thirds(1, 0, 2)),
    Mistake("queries-values-keys", "in_proj gives queries, keys, values, in this order.",
            thirds(0, 2, 1)),
    Mistake("values-keys-queries", "in_proj gives queries, keys, values, in this order.",
            thirds(2, 1, 0)),
    Mistake("keys-values-queries", "in_proj gives queries, keys, values, in this order.",
            thirds(2, 0, 1)),
    Mistake("values-queries-keys", "in_proj gives queries, keys, values, in this order.",
            thirds(1, 2, 0)),
    Mistake("qkv-per-head", "in_proj's output is split in three first, each third in heads then.",
            attention(split=lambda y, H:
                      y.unflatten(-1, (H, 3, -1)).transpose(-3, -2).flatten(-2).unbind(-2))),
    Mistake("heads-interleaved", "A head is D neighbouring channels, not every H-th one.",
            attention(split=lambda y, H:
                      y.unflatten(-1, (3, -1, H)).transpose(-2, -1).flatten(-2).unbind(-2))),
    Mistake("heads-not-turned-back", "Heads are joined as (B, T, H, D), tokens first again.",
            attention(join=lambda z: z.transpose(1, 2).reshape(*z.shape[:2], -1))),
    Mistake("qkv-transposed", "Weights are (out, in); those of q, k and v are square, each.",
            attention(inputs=squares_transposed)),
    Mistake("out_proj-transposed", "Weights are (out, in); out_proj is square: no shape tells.",
            attention(out=squares_transposed)),
    Mistake("no-bias", "Every linear map of a block adds its bias.",
            maps(lambda x, w, b: F.linear(x, w))),
    Mistake("no-qkv-bias", "Queries, keys and values have a bias; other ViTs leave it out.",
            attention(inputs=lambda x, w, b: F.linear(x, w))),
    Mistake("no-key-bias", "Keys have a bias; it cancels in the softmax, only the keys show it.",
            attention(inputs=keys_without_bias)),
    Mistake("post-norm", "CLIP norms what a block reads; the first Transformer, what it wrote.",
            block(norm_after)),
    Mistake("parallel-block", "The MLP reads the stream after attention has added to it.",
            block(side_by_side)),
    Mistake("no-residual-attention", "Attention adds to the residual stream, replaces nothing.",
            block(no_residual_around_attention)),
    Mistake("no-residual-mlp", "The MLP adds to the residual stream, replaces nothing.",
            block(no_residual_around_mlp)),
    Mistake("norms-swapped", "ln_1 stands before attention, ln_2 before the MLP.",
            block(norms_swapped)),
    Mistake("blocks-sorted-as-strings", "Block 2 comes before block 10; not so as strings.",
            during(ClipVision, "forward", sorted_as_strings)),
    Mistake("states-from-block-1", "hidden_states[0] is after ln_pre; open_clip's list lacks it.",
            tower(show=lambda states, _, post: states[1:])),
    Mistake("states-before-ln-pre", "hidden_states[0] is the embedding after ln_pre.",
            tower(show=lambda states, embedded, post: [embedded, *states[1:]])),
    Mistake("ln-post-on-states", "Hidden states are the raw stream: no ln_post.",
            tower(show=lambda states, _, post: [post(x) for x in states])),
    Mistake("ln-post-on-last-state", "The last hidden state is the raw stream, without ln_post.",
            tower(show=lambda states, _, post: [*states[:-1], post(states[-1])])),
    Mistake("states-without-class-token", "Hidden states have the class token, too, the first.",
            tower(show=lambda states, _, post: [x[:, 1:] for x in states])),
    Mistake("patch-states-from-block-1", "open_clip's forward_intermediates lacks the state after"
            " ln_pre and the class token; hidden states have both.",
            tower(show=lambda states, _, post: [x[:, 1:] for x in states[1:]])),
    Mistake("normed-states-from-block-1", "open_clip's normalize_intermediates applies ln_post, and"
            " the state after ln_pre is not there; hidden states are raw, and it is.",
            tower(show=lambda states, _, post: [post(x) for x in states[1:]])),
    Mistake("no-ln-post", "A LayerNorm, ln_post, stands before the projection.",
            features(norm=False)),
    Mistake("mean-of-patches", "The image's vector is made of the class token alone.",
            features(pool=lambda x: x[:, 1:].mean(1))),
    Mistake("features-of-length-1", "The image's vector is not normalised; its users do that.",
            features(after=lambda y: F.normalize(y, dim=-1))),
    Mistake("bfloat16", "CLIP was published in 16 and 32 bits; bfloat16 keeps 8 of each number.",
            maps(in_bfloat16)),
)
# fmt: on
