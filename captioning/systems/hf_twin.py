"""The article's system S2: the same captioner from transformers' CLIPVisionModel and
GPT2LMHeadModel, joined by plain code.

It shares the numbers of one of ours and none of our code, so it can tell whether ours is right:
every token is computed, nothing is picked before, and no cache or loop of ours is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from captioning.config import CaptionerConfig
from captioning.model import Captioner
from connector.config import ConnectorConfig, VisionConfig
from gpt2_scratch.config import GPT2Config
from weights.twin import import_transformers

# B batch   T tokens   N image tokens   C channels   P patches   W CLIP width

# Our name of a part of a block of the tower, and theirs.
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
LEAVES = {"g": "weight", "w": "weight", "b": "bias"}


class HFTwin(nn.Module):
    """A captioner of ours in transformers, in eval mode; the two share their memory."""

    def __init__(self, ours: Captioner) -> None:
        super().__init__()
        self.config: CaptionerConfig = ours.config
        self.end = ours.tokenizer.end
        self.vision: Any = clip_twin(ours)
        self.gpt2: Any = gpt2_twin(ours)
        self.connector = nn.ParameterDict(
            {name.replace(".", "/"): p.detach() for name, p in ours.connector.named_parameters()}
        )
        self.eval()

    def image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, size, size) -> (B, N, C)."""
        states = self.vision(pixel_values=pixels, output_hidden_states=True).hidden_states
        config = self.config.connector
        return self._reduce(self._project(dense(list(states), config.variant)), config)

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        w = self.connector
        x = F.linear(x, w["dense/projection/0/weight"], w["dense/projection/0/bias"])
        gain, shift = w["dense/projection/2/weight"], w["dense/projection/2/bias"]
        if self.config.connector.variant in ("article", "last"):
            return F.layer_norm(x, x.shape[-1:], gain, shift)
        return F.linear(F.gelu(x), gain, shift)

    def _reduce(self, x: torch.Tensor, config: ConnectorConfig) -> torch.Tensor:
        kind, strides = config.reducer.kind, config.reducer.strides
        if kind == "none":
            return x
        if kind == "pool":
            cls, patches = (x[:, :1], x[:, 1:]) if config.class_token else (x[:, :0], x)
            side = round(patches.shape[1] ** 0.5)
            square = patches.transpose(1, 2).unflatten(2, (side, side))  # (B, C, side, side)
            pooled = F.avg_pool2d(square, config.reducer.window).flatten(2).transpose(1, 2)
            return torch.cat([cls, pooled], dim=1)  # (B, N, C)
        x = x.transpose(1, 2)  # (B, C, T)
        for number, stride in enumerate(strides):
            weight = self.connector[f"reducer/convs/{number}/weight"]
            bias = self.connector[f"reducer/convs/{number}/bias"]
            if kind == "conv":
                x = F.pad(x, (0, -x.shape[2] % stride))
            x = F.conv1d(x, weight, bias, stride=stride)
        return x.transpose(1, 2)  # (B, N, C)

    def loss_sum(
        self, pixels: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """The sum of the token losses of captions (B, T) that are `lengths` (B,) long."""
        image = self.image_tokens(pixels)  # (B, N, C)
        n = image.shape[1]
        x = torch.cat([image, self.gpt2.transformer.wte(ids[:, :-1])], dim=1)
        real = torch.arange(ids.shape[1]) < lengths[:, None]  # (B, T)
        mask = torch.cat([torch.ones(len(ids), n, dtype=torch.long), real[:, :-1].long()], dim=1)
        logits = self.gpt2(inputs_embeds=x, attention_mask=mask).logits[:, n - 1 :]  # (B, T, V)
        labels = ids.masked_fill(~real, -100)
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")

    @torch.no_grad()
    def greedy(self, pixels: torch.Tensor, max_new_tokens: int) -> torch.Tensor:
        """Ids (B, n) by transformers' own loop; rows that ended are filled with the end token."""
        image = self.image_tokens(pixels)
        found: torch.Tensor = self.gpt2.generate(
            inputs_embeds=image,
            attention_mask=torch.ones(image.shape[:2], dtype=torch.long),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.end,
            pad_token_id=self.end,
        )
        return found

    def gradients(self) -> dict[str, torch.Tensor]:
        """Every gradient there is, under our parameters' names."""
        held = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
        ours = {
            name.replace("/", "."): grad
            for name, grad in held.items()
            if name.startswith("connector.")
        }
        for name, theirs in clip_names(self.config.vision).items():
            parts = [held[f"vision.{part}"] for part in theirs if f"vision.{part}" in held]
            if parts:
                ours[f"vision.{name}"] = torch.cat(parts)
        for name, their in gpt2_names(self.config.gpt2).items():
            ours[f"gpt2.{name}"] = held[f"gpt2.{their}"]
        return ours


def dense(states: list[torch.Tensor], variant: str) -> torch.Tensor:
    """[(B, 1 + P, W)] -> (B, T, k W): the definitions of the article and of Yao et al. 2024."""
    last = len(states) - 1  # 24 for CLIP-L
    if variant == "last":
        return states[last]
    if variant == "article":
        half = (last + 1) // 2
        means = [torch.stack(s).mean(0) for s in (states[:half], states[half:])]
        return torch.cat([states[last], *means], dim=2)
    patches = [state[:, 1:] for state in states[:last]]  # without the class token and state 24
    high, low, middle = patches[last - 1], patches[last // 3 - 1], patches[2 * last // 3 - 1]
    if variant == "dci":
        half = last // 2
        means = [torch.stack(s).mean(0) for s in (patches[:half], patches[half:])]
        return torch.cat([high, *means], dim=2)
    if variant == "sci":
        return torch.cat([high, low, middle], dim=2)
    pooled = [F.avg_pool1d(s.transpose(1, 2), 8).transpose(1, 2) for s in (low, middle)]
    return torch.cat([high, *pooled], dim=1)


def clip_names(config: VisionConfig) -> dict[str, list[str]]:
    """Our parameters of the tower and theirs: one, or three that are stacked in ours."""
    names = {
        "conv1.weight": ["embeddings.patch_embedding.weight"],
        "class_embedding": ["embeddings.class_embedding"],
        "positional_embedding": ["embeddings.position_embedding.weight"],
    }
    for leaf in ("weight", "bias"):
        names[f"ln_pre.{leaf}"] = [f"pre_layrnorm.{leaf}"]  # their spelling
        names[f"ln_post.{leaf}"] = [f"post_layernorm.{leaf}"]
        for layer in range(config.layers):
            here, there = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
            for part, their in BLOCK.items():
                names[f"{here}.{part}.{leaf}"] = [f"{there}.{their}.{leaf}"]
            stacked = [f"{there}.self_attn.{kind}_proj.{leaf}" for kind in "qkv"]
            names[f"{here}.attn.in_proj_{leaf}"] = stacked
    return names


def gpt2_names(config: GPT2Config) -> dict[str, str]:
    """Our parameters of the language model and theirs."""
    names = {name: f"transformer.{name}" for name in ("wte.weight", "wpe.weight")}
    norms = ["ln_f"] + [f"h.{layer}.ln_{n}" for layer in range(config.n_layer) for n in (1, 2)]
    linears = [
        f"h.{layer}.{part}"
        for layer in range(config.n_layer)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    for parts, leaves in ((norms, "gb"), (linears, "wb")):
        names |= {
            f"{p}.{leaf}": f"transformer.{p}.{LEAVES[leaf]}" for p in parts for leaf in leaves
        }
    return names


def clip_twin(ours: Captioner) -> nn.Module:
    """transformers' CLIPVisionModel with the tensors of our tower."""
    transformers = import_transformers(wanted="for the twin", instead="")
    vision = ours.config.vision
    config = transformers.CLIPVisionConfig(
        hidden_size=vision.width,
        intermediate_size=int(vision.width * vision.mlp_ratio),
        num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        hidden_act="quick_gelu" if vision.quick_gelu else "gelu",
    )
    with torch.device("meta"):
        model = transformers.CLIPVisionModel(config)
    held = dict(ours.vision.named_parameters())
    tensors = {
        their: tensor
        for name, theirs in clip_names(vision).items()
        for their, tensor in zip(theirs, held[name].detach().chunk(len(theirs)), strict=True)
    }
    model.load_state_dict(tensors, assign=True)
    model.embeddings.position_ids = torch.arange(1 + vision.patches)[None]
    return model.eval()


def gpt2_twin(ours: Captioner) -> nn.Module:
    """transformers' GPT2LMHeadModel with the tensors of our GPT-2."""
    transformers = import_transformers(wanted="for the twin", instead="")
    gpt2 = ours.config.gpt2
    config = transformers.GPT2Config(
        vocab_size=gpt2.n_vocab,
        n_positions=gpt2.n_ctx,
        n_embd=gpt2.n_embd,
        n_head=gpt2.n_head,
        n_layer=gpt2.n_layer,
        bos_token_id=ours.tokenizer.end,
        eos_token_id=ours.tokenizer.end,
    )
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(config)
    held = dict(ours.gpt2.named_parameters())
    tensors = {theirs: held[name].detach() for name, theirs in gpt2_names(gpt2).items()}
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    left = [name for name, tensor in model.named_parameters() if tensor.is_meta]
    assert not left, left
    return model.eval()
