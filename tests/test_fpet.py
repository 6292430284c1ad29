"""FPET: attention to merged tokens, and the grids that it can merge."""

import pytest
import torch

from petlbench.errors import Unsupported, UserError
from petlbench.methods.fpet_merging import SizedBlock, checkerboard
from petlbench.testing import images, method_on, randomised, tiny


def test_a_token_of_size_n_counts_as_n_equal_tokens() -> None:
    block = SizedBlock(tiny("vit").net.blocks[0]).double().eval()
    tokens = torch.randn(2, 3, 32, dtype=torch.float64)
    sizes = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    column = sizes.log().expand(2, 3).unsqueeze(-1)
    repeated = tokens.repeat_interleave(sizes.long(), dim=1)
    merged = block(torch.cat([tokens, column], dim=-1))
    plain = block.block(repeated)
    assert torch.allclose(merged[..., :-1], plain[:, [0, 1, 3]], rtol=0, atol=1e-12)
    assert torch.equal(merged[..., -1:], column)


def test_fused_and_unfused_attention_have_equal_gradients() -> None:
    gradients = []
    for fused in (True, False):
        backbone = tiny("vit", fused_attention=fused)
        method = randomised(method_on(backbone, "fpet_lora", dropout=0.0)).double()
        method(images().double()).square().mean().backward()
        gradients.append([p.grad for p in method.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_every_patch_of_an_odd_grid_is_merged_or_stays() -> None:
    sources, targets = checkerboard(7, 5)
    assert (len(sources), len(targets)) == (18, 17)
    assert sorted([*sources.tolist(), *targets.tolist()]) == list(range(35))


def test_a_grid_without_two_targets_is_refused() -> None:
    with pytest.raises(Unsupported, match="1 x 1 grid; it needs 2 x 2 or more"):
        method_on(tiny("vit", image_size=4), "fpet_lora")


def test_what_the_last_block_merges_must_reach_the_readout() -> None:
    depth = tiny("vit").depth
    message = f"method.merge_block is {depth}, and what the last block merges does not reach"
    with pytest.raises(UserError, match=message):
        method_on(tiny("vit", pool="cls"), "fpet_lora", merge_block=depth)
    method_on(tiny("vit", pool="norm_then_mean"), "fpet_lora", merge_block=depth)
