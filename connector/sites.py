"""The intermediates of an image tower, by name: of ours, of transformers', of anybody's.

In the order of computation, L two digits: `pixel_values` (B, 3, S, S); `patches` (B, P, W);
`embed`, `ln_pre` (B, 1 + P, W); of each block `layerLL.` with ln_1, q, k, v, weights (B, H, T, T,
after the softmax), attn (after out_proj), resid_attn, ln_2, mlp, resid; `ln_post` (B, W), of the
class token; `image_features` (B, projection). `hidden_states_LL` is what a tower returns: 00 equals
ln_pre, 01 equals layer00.resid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from connector.vision import ClipVision
from weights.compare import Array
from weights.hooks import Sites, as_array, evaluating, record
from weights.planting import rebound

BLOCK: Sites = {
    "layer{}.ln_1": "transformer.resblocks.{}.ln_1",
    "layer{}.attn": "transformer.resblocks.{}.attn",
    "layer{}.resid_attn": "transformer.resblocks.{}.ln_2.input",
    "layer{}.ln_2": "transformer.resblocks.{}.ln_2",
    "layer{}.mlp": "transformer.resblocks.{}.mlp",
    "layer{}.resid": "transformer.resblocks.{}",
}
OURS: Sites = {
    "patches": ("conv1", lambda y: y.flatten(2).transpose(1, 2)),
    "embed": "ln_pre.input",
    "ln_pre": "transformer.resblocks.0.input",
    **BLOCK,
}
# Of open_clip's VisionTransformer, whose names are OpenAI's; `visual(pixels)` is image_features.
OPEN_CLIP: Sites = {**OURS, "ln_post": ("ln_post", lambda y: y[:, 0])}
# Of transformers' CLIPVisionModel; behind a prefix, "vision_model.", that of others.
TRANSFORMERS: Sites = {
    "patches": ("embeddings.patch_embedding", lambda y: y.flatten(2).transpose(1, 2)),
    "embed": "embeddings",
    "ln_pre": "pre_layrnorm",
    "layer{}.ln_1": "encoder.layers.{}.layer_norm1",
    "layer{}.q": "encoder.layers.{}.self_attn.q_proj",
    "layer{}.k": "encoder.layers.{}.self_attn.k_proj",
    "layer{}.v": "encoder.layers.{}.self_attn.v_proj",
    "layer{}.weights": ("encoder.layers.{}.self_attn", lambda output: output[1]),  # eager attention
    "layer{}.attn": "encoder.layers.{}.self_attn",
    "layer{}.resid_attn": "encoder.layers.{}.layer_norm2.input",
    "layer{}.ln_2": "encoder.layers.{}.layer_norm2",
    "layer{}.mlp": "encoder.layers.{}.mlp",
    "layer{}.resid": "encoder.layers.{}",
    "ln_post": "post_layernorm",
}


@torch.no_grad()
def record_ours(model: ClipVision, pixels: Tensor) -> dict[str, Array]:
    """Every site of our tower; what it returns comes of a second run, which nobody watches."""
    held: dict[str, Array] = {}
    with watched_attention(model, held):
        held |= record(model, pixels, OURS, model.config.layers)[0]
    states: list[list[Tensor]] = []
    post: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for part, found in ((model, states), (model.ln_post, post)):
            hook = part.register_forward_hook(lambda _, __, out, found=found: found.append(out))
            stack.callback(hook.remove)
        if model.config.projection:
            held["image_features"] = as_array(model.image_features(pixels), "image_features")
        else:
            model.ln_post(model.hidden_states(pixels)[-1][:, 0])
    held |= as_states(states[0])
    if post:  # the last: states, too, may have gone through it, where that is the mistake
        array = as_array(post[-1], "ln_post")
        held["ln_post"] = array[:, 0] if array.ndim == 3 else array
    return held


def as_states(states: Sequence[Tensor]) -> dict[str, Array]:
    """What a tower returned, under the names of its sites."""
    return {
        f"hidden_states_{n:02}": as_array(state, "hidden_states") for n, state in enumerate(states)
    }


@contextmanager
def watched_attention(model: ClipVision, held: dict[str, Array]) -> Iterator[None]:
    """Inside, `held` gets q, k, v and the weights of each block, computed in steps."""
    layer = -1  # the block that is at work

    def attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **_: Any,
    ) -> Tensor:
        scores = (q @ k.transpose(-2, -1)).float() * (scale or 1 / math.sqrt(q.shape[-1]))
        if is_causal:
            scores = scores + torch.full_like(scores, -math.inf).triu(1)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)  # (B, H, T, T)
        for name, part in zip("qkv", (q, k, v), strict=True):  # (B, H, T, D)
            held[f"layer{layer:02}.{name}"] = as_array(part.transpose(1, 2).flatten(2), name)
        held[f"layer{layer:02}.weights"] = as_array(weights, "weights")
        return weights.to(v.dtype) @ v

    def enter(number: int) -> Any:
        def hook(*_: Any) -> None:
            nonlocal layer
            layer = number

        return hook

    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        # One kernel for a whole attention, which leaves nothing to watch.
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        for number, block in enumerate(model.transformer.resblocks):
            stack.enter_context(block.attn.register_forward_pre_hook(enter(number)))
        stack.enter_context(rebound(F, "scaled_dot_product_attention", attention))
        yield


def states_of(output: Any) -> Sequence[Any]:
    """The states that a tower returned, where it returned all of them, or meant to."""
    if isinstance(output, tuple | list) and all(isinstance(x, Tensor) for x in output):
        return output
    return getattr(output, "hidden_states", None) or ()


def count_fault(states: int, layers: int) -> tuple[str, ...]:
    """A line where so many states, if any, are not those of so many layers."""
    told = f"{states} states were returned, wanted {1 + layers}: after ln_pre, and of each block."
    return (told,) * (states not in (0, 1 + layers))


def of_output(output: Any, layers: int, projection: int) -> dict[str, Array]:
    """The sites in what anybody's tower returned: its states, its image vector, or both.

    A tensor (B, projection); the last state (B, 1 + P, W); a list of states; transformers' output;
    or a dict of sites.
    """
    found: dict[str, Any] = {}
    if isinstance(output, Mapping) and not hasattr(output, "last_hidden_state"):
        found = {str(site): value for site, value in output.items() if value is not None}
    elif isinstance(output, Tensor):
        vector = "image_features" if projection else "ln_post"
        found = {vector if output.ndim == 2 else f"hidden_states_{layers:02}": output}
    else:
        found |= {f"hidden_states_{n:02}": state for n, state in enumerate(states_of(output))}
        names = {
            "last_hidden_state": f"hidden_states_{layers:02}",
            "pooler_output": "ln_post",
            "image_embeds": "image_features",
        }
        for theirs, site in names.items():
            if (value := getattr(output, theirs, None)) is not None:
                found.setdefault(site, value)
    return {site: as_array(value, site) for site, value in found.items()}
