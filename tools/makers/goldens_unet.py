#!/usr/bin/env python3
"""Writes tests/golden/unet/NAME: small random U-Nets with what diffusers and PyTorch make of them.

Each folder is a model folder (config.json, diffusion_pytorch_model.safetensors) with
input.safetensors, as `strata eval unet --grad` reads it, and expected.safetensors: `prediction`,
`loss`, `grad.NAME` in fp32, and `bf16_error`, `bf16_grad_error`: the relative L2 error of PyTorch's own
bf16 run against its fp32 run. config.json's `_about` says what the corner is.

Made with torch 2.15, diffusers 0.42, safetensors 0.8 on the CPU.
Usage: goldens_unet.py OUTPUT_FOLDER [NAME ...]
"""
import copy
import json
import pathlib
import sys

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

DOWN = ["CrossAttnDownBlock2D", "DownBlock2D"]
UP = ["UpBlock2D", "CrossAttnUpBlock2D"]
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16

# What the small corners share: two levels, attention at the finer one and in the middle.
SMALL = dict(block_out_channels=[4, 8], down_block_types=DOWN, up_block_types=UP, layers_per_block=1,
             attention_head_dim=2, cross_attention_dim=6, norm_num_groups=2, use_linear_projection=True)


def small(about, size=(6, 6), batch=2, tokens=3, dtype=BF16, config=SMALL, lengths=None, mask=None,
          projection_bias=True, scalar_timestep=False, text_width=None, **changes):
    return dict(about=about, config=config | changes, size=size, batch=batch, tokens=tokens,
                dtype=dtype, projection_bias=projection_bias, scalar_timestep=scalar_timestep,
                text_width=text_width, **({"lengths": lengths} if lengths else {}),
                **({"mask": mask} if mask else {}))


CASES = {
    "sd2": dict(
        about="SD2: linear projections, heads by level, no attention at the coarsest level",
        config=dict(block_out_channels=[12, 24], down_block_types=DOWN, up_block_types=UP,
                    attention_head_dim=[2, 4], use_linear_projection=True, layers_per_block=1,
                    cross_attention_dim=20, norm_num_groups=4, sample_size=8),
        size=(8, 8), batch=2, tokens=5, dtype=F32),
    "sd1": dict(
        about="SD1: convolutions as projections, one number of heads, odd sizes, F16 file",
        config=dict(block_out_channels=[8, 16, 16],
                    down_block_types=[DOWN[0], DOWN[0], DOWN[1]],
                    up_block_types=[UP[0], UP[1], UP[1]], attention_head_dim=2,
                    use_linear_projection=False, layers_per_block=2, cross_attention_dim=12,
                    norm_num_groups=4, sample_size=[9, 7]),
        size=(9, 7), batch=2, tokens=4, dtype=F16),
    "pooled": dict(
        about="pooled vector, text projection without bias, two transformer layers, masks down to an empty one, BF16 file",
        config=dict(block_out_channels=[8, 16], down_block_types=[DOWN[0], DOWN[0]],
                    up_block_types=[UP[1], UP[1]], attention_head_dim=[1, 2],
                    use_linear_projection=True, layers_per_block=1,
                    transformer_layers_per_block=2, cross_attention_dim=12, norm_num_groups=2,
                    class_embed_type="projection", projection_class_embeddings_input_dim=10,
                    encoder_hid_dim=14, encoder_hid_dim_type="text_proj", sample_size=6),
        size=(6, 10), batch=3, tokens=6, lengths=[6, 0, 3], dtype=BF16,
        projection_bias=False),
    "projected": dict(
        about="text projection with bias, sine before cosine, freq_shift 1, 3 channels in and 5 out, uneven masks",
        config=dict(block_out_channels=[12, 16], down_block_types=DOWN, up_block_types=UP,
                    attention_head_dim=2, use_linear_projection=True, layers_per_block=1,
                    cross_attention_dim=16, norm_num_groups=2, norm_eps=1e-3,
                    flip_sin_to_cos=False, freq_shift=1, in_channels=3, out_channels=5,
                    encoder_hid_dim=20, sample_size=7),
        size=(7, 12), batch=2, tokens=7, lengths=[2, 7], dtype=F32),
    "attends_down_only": small(
        "attention on the way down only", up_block_types=[UP[0], UP[0]]),
    "attends_everywhere": small(
        "attention at every level, convolutions as projections", dtype=F16,
        down_block_types=[DOWN[0], DOWN[0]], up_block_types=[UP[1], UP[1]],
        use_linear_projection=False),
    "attends_nowhere": small(
        "no attention at all; the text may have any width", text_width=5,
        down_block_types=[DOWN[1], DOWN[1]], up_block_types=[UP[0], UP[0]],
        mid_block_type="UNetMidBlock2D"),
    "cross_dim_list": small("cross_attention_dim as a list", cross_attention_dim=[6, 6]),
    "downsample_padding_0": small(
        "downsample_padding 0, odd sizes", size=(7, 5), downsample_padding=0),
    "four_levels_odd": small(
        "four levels, 11 x 5 pixels", size=(11, 5), block_out_channels=[4, 4, 4, 8],
        down_block_types=[DOWN[0], DOWN[1], DOWN[0], DOWN[1]],
        up_block_types=[UP[0], UP[1], UP[0], UP[1]]),
    "heads_not_dividing": small(
        "3 heads on 10 channels: attention is 9 wide", dtype=F32, config=SMALL,
        block_out_channels=[10], down_block_types=DOWN[:1], up_block_types=UP[1:],
        attention_head_dim=3, norm_num_groups=5),
    "inpainting": small("9 channels in, 4 out, one caption", in_channels=9, batch=1),
    "kernels": small(
        "conv_in_kernel 5, conv_out_kernel 1, center_input_sample", conv_in_kernel=5,
        conv_out_kernel=1, center_input_sample=True),
    "layers_by_level": small("layers_per_block as a list", layers_per_block=[2, 1]),
    "mask_with_holes": small(
        "masks with holes, with nothing left and with everything", tokens=5, batch=4, dtype=F32,
        mask=[[1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
    "mask_empty_projected": small(
        "no caption has a token left, text projection with bias", lengths=[0, 0],
        encoder_hid_dim=7, encoder_hid_dim_type="text_proj"),
    "middle_none": small("mid_block_type null", mid_block_type=None),
    "middle_residual": small("mid_block_type UNetMidBlock2D", mid_block_type="UNetMidBlock2D"),
    "one_level": small(
        "a single level", block_out_channels=[8], down_block_types=DOWN[:1],
        up_block_types=UP[1:], attention_head_dim=[4]),
    "one_row": small("a single row of pixels, an odd number of them", size=(1, 9)),
    "only_cross_attention": small(
        "only_cross_attention true (not in the middle)", only_cross_attention=True),
    "only_cross_by_level": small(
        "only_cross_attention as a list, with a text projection",
        down_block_types=[DOWN[0], DOWN[0]], up_block_types=[UP[1], UP[1]],
        only_cross_attention=[False, True], encoder_hid_dim=5, dtype=F16),
    "pooled_alone": small(
        "pooled vector, time_embedding_dim 12, class_embed_type projection", time_embedding_dim=12,
        class_embed_type="projection", projection_class_embeddings_input_dim=7),
    "ten_a_group": small(
        "ten channels a group of the norms", block_out_channels=[10], down_block_types=DOWN[1:],
        up_block_types=UP[:1], attention_head_dim=5, norm_num_groups=1, norm_eps=1e-4),
    "timestep_scalar": small(
        "one timestep () for the batch, act_fn swish", scalar_timestep=True, act_fn="swish"),
    "transformers_asymmetric": small(
        "transformer layers by stage, other numbers on the way up, also none",
        layers_per_block=2, transformer_layers_per_block=[[1, 2], 1],
        reverse_transformer_layers_per_block=[1, [2, 0, 1]]),
    "transformers_by_level": small(
        "transformer_layers_per_block as a list", block_out_channels=[4, 4],
        down_block_types=[DOWN[0], DOWN[0]], up_block_types=[UP[1], UP[1]],
        transformer_layers_per_block=[1, 2]),
    "upcast": small("upcast_attention, wide heads", upcast_attention=True, attention_head_dim=1),
}


class MaskedAttention:
    """Attention from its formula; a row without keys gives 0 before `to_out`."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, rows, width = hidden_states.shape
        split = lambda x: x.view(batch, -1, attn.heads, width // attn.heads).transpose(1, 2)
        q, k, v = split(attn.to_q(hidden_states)), split(attn.to_k(context)), split(attn.to_v(context))
        scores = q @ k.transpose(-1, -2) * attn.scale
        if attention_mask is None:
            weights = scores.softmax(-1)
        else:
            keep = (attention_mask > -1)[:, None]
            scores = scores.masked_fill(~keep, -3e4)
            weights = scores.softmax(-1) * keep
        return attn.to_out[0]((weights @ v).transpose(1, 2).reshape(batch, rows, width))


def randomise(model, dtype):
    """Norms and biases that matter; every value exactly representable in `dtype`."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                is_scale = name.endswith(".weight")
                p.copy_((1.0 if is_scale else 0.0) + 0.3 * torch.randn_like(p))
            p.copy_(p.to(dtype).to(p.dtype))


def run(model, inputs, dtype):
    to = lambda name: inputs[name].to(dtype) if name in inputs else None
    prediction = model(to("sample"), inputs["timestep"], to("encoder_hidden_states"),
                       class_labels=to("class_labels"),
                       encoder_attention_mask=inputs.get("encoder_attention_mask")).sample
    loss = ((prediction.float() - inputs["target"]) ** 2).mean()
    model.zero_grad()
    loss.backward()
    return prediction.detach().float(), loss.detach(), {
        name: torch.zeros_like(p).float() if p.grad is None else p.grad.float().clone()
        for name, p in model.named_parameters()}


def relative(a, b):
    return (a - b).norm() / b.norm()


def text_width(case, config):
    width = config.cross_attention_dim
    width = width[0] if isinstance(width, (list, tuple)) else width
    return case.get("text_width") or config.encoder_hid_dim or width


def make(name, case, out):
    torch.manual_seed(sum(map(ord, name)))
    model = UNet2DConditionModel(**case["config"]).eval()
    if not case.get("projection_bias", True):
        old = model.encoder_hid_proj
        model.encoder_hid_proj = torch.nn.Linear(old.in_features, old.out_features, bias=False)
    if 0 in case.get("lengths", []) or "mask" in case:
        model.set_attn_processor(MaskedAttention())
    randomise(model, case["dtype"])

    config, batch = model.config, case["batch"]
    inputs = {
        "sample": torch.randn(batch, config.in_channels, *case["size"]),
        "timestep": torch.randint(0, 1000, () if case.get("scalar_timestep") else (batch,)),
        "encoder_hidden_states": torch.randn(batch, case["tokens"], text_width(case, config)),
        "target": torch.randn(batch, config.out_channels, *case["size"]),
    }
    if "lengths" in case:
        lengths = torch.tensor(case["lengths"])[:, None]
        inputs["encoder_attention_mask"] = (torch.arange(case["tokens"]) < lengths).long()
    if "mask" in case:
        inputs["encoder_attention_mask"] = torch.tensor(case["mask"])
    if config.class_embed_type:
        inputs["class_labels"] = torch.randn(batch, config.projection_class_embeddings_input_dim)

    prediction, loss, gradients = run(model, inputs, torch.float32)
    low, _, low_gradients = run(copy.deepcopy(model).bfloat16(), inputs, torch.bfloat16)
    flat = lambda g: torch.cat([g[k].flatten() for k in sorted(g)])
    expected = {"prediction": prediction, "loss": loss, "bf16_error": relative(low, prediction),
                "bf16_grad_error": relative(flat(low_gradients), flat(gradients))}
    expected.update({"grad." + k: v for k, v in gradients.items()})

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    written = {k: v for k, v in dict(config).items() if k in case["config"]}
    written |= {"_class_name": "UNet2DConditionModel", "_about": case["about"]}
    (folder / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
    save_file({k: v.to(case["dtype"]).contiguous() for k, v in model.state_dict().items()},
              folder / "diffusion_pytorch_model.safetensors")
    save_file({k: v.contiguous() for k, v in inputs.items()}, folder / "input.safetensors")
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    print(name, sum(p.numel() for p in model.parameters()), "parameters, loss %.4f, bf16 %.2e, %.2e"
          % (loss, expected["bf16_error"], expected["bf16_grad_error"]))


if __name__ == "__main__":
    for case_name in sys.argv[2:] or CASES:
        make(case_name, CASES[case_name], pathlib.Path(sys.argv[1]))
