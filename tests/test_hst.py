"""HST: batch statistics, stages of several sizes, and mistakes in their lists."""

from pathlib import Path
from typing import Any

import pytest
import torch

from petlbench import delta
from petlbench.delta import trained
from petlbench.errors import UserError
from petlbench.methods.hst_side import Downsampling
from petlbench.model.drop_path import DropPath
from petlbench.testing import images, method_on, tiny, tiny_method


def test_batch_statistics_are_in_the_delta(tmp_path: Path) -> None:
    method, fresh = tiny_method("hst", "vit"), tiny_method("hst", "vit")
    for _ in range(3):
        method.train()(images(8))
    path = tmp_path / "delta.safetensors"
    delta.save(path, method, {})
    assert not torch.equal(fresh.eval()(images()), method.eval()(images()))
    delta.load(path, fresh)
    assert torch.equal(fresh.eval()(images()), method.eval()(images()))


def test_a_training_step_of_one_image_is_refused() -> None:
    method = tiny_method("hst", "vit")
    with pytest.raises(
        UserError, match="HST needs two images in a training step, and one has 1; set"
    ):
        method.train()(images(1))
    assert method.eval()(images(1)).shape == (1, 5)


def test_a_stage_may_read_a_part_of_its_blocks() -> None:
    lists = {"depths": [1, 2, 3, 4], "last_blocks": [2, 4, 8, 12]}
    method = method_on(tiny("vit"), "hst", **lists)
    method.eval()(images()).square().mean().backward()
    assert [name for name, p in trained(method).items() if p.grad is None] == []


def test_drop_paths_of_the_side_network_grow_to_the_rate_of_the_last_block() -> None:
    method = method_on(tiny("vit", drop_path=0.22), "hst")
    rates = [m.rate for m in method.get_submodule("side").modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.02 * number for number in range(1, 12) for _ in "12"])


@pytest.mark.parametrize("width", [16, 32, 64])
def test_a_map_of_one_value_has_a_gradient_at_the_centre_of_a_kernel(width: int) -> None:
    entry, h = Downsampling(width, 20), torch.randn(3, 1, 1, width)
    expected = entry.norm(entry.conv(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    torch.testing.assert_close(entry(h), expected)
    del expected
    spoilt = [torch.full((20 * width * 9,), 1e30) for _ in range(9)]
    del spoilt  # what a kernel leaves unwritten is seldom zero now
    with torch.autocast("cpu", torch.bfloat16):
        entry(h).square().sum().backward()
    assert entry.conv.weight.grad is not None
    taps = entry.conv.weight.grad.abs().sum((0, 1)).flatten()
    assert taps.nonzero().tolist() == [[4]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"widths": 8}, "method.widths is 8; it must be a list"),
        ({"heads": [2, 4, 4]}, "method.heads is .* one for each stage"),
        ({"depths": [3, 3, 3, 0]}, "method.depths is .* from 1 to"),
        ({"last_blocks": [3, 6, 9, 11]}, "must end with the 12 blocks"),
        ({"last_blocks": [2, 6, 9, 12]}, "as many of them as method.depths says"),
        ({"heads": [3, 4, 4, 5]}, "is 8; it must be a multiple of its 3 heads"),
    ],
)
def test_lists_that_do_not_fit_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        method_on(tiny("vit"), "hst", **changed)
