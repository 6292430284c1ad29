"""ARC, RLRR and APLA: what the reference vectors do not tell."""

from typing import Any

import pytest
import torch

from petlbench.errors import UserError
from petlbench.methods.apla import PartlyTrained
from petlbench.testing import method_on, tiny, tiny_method
from petlbench.train.optim import parameter_groups
from tests.settings import train


def rates(name: str, end: str, **values: float) -> list[float]:
    """The rates of the dropouts of a ViT whose names end so, in the network's order."""
    modules = method_on(tiny("vit"), name, **values).backbone.net.named_modules()
    return [module.p for where, module in modules if where.endswith(end)]


def test_arc_can_drop_in_the_frozen_network() -> None:
    assert rates("arc", "pos_drop", backbone_dropout=0.2) == [0.2]
    for end in ("mlp.drop1", "mlp.drop2"):
        assert rates("arc", end, backbone_dropout=0.2) == [0.2] * 12
    assert set(rates("arc", "attn.proj_drop", backbone_dropout=0.2)) == {0.0}


def test_the_dropout_of_rlrr_grows_linearly_over_the_blocks() -> None:
    for end in ("attn.proj_drop", "mlp.drop2"):
        assert rates("rlrr", end, dropout=0.11) == pytest.approx([0.01 * n for n in range(12)])


def test_shifts_and_pairs_of_norms_of_rlrr_do_not_decay() -> None:
    method = tiny_method("rlrr", "vit")
    names = {id(tensor): name for name, tensor in method.named_parameters()}
    decays = {
        names[id(tensor)]: bool(part["weight_decay"])
        for part in parameter_groups(method, train(no_decay="biases"))
        for tensor in part["params"]
    }
    for name, decay in decays.items():
        is_factor = name.endswith((".scale_in", ".scale_out", "head.weight"))
        assert decay == (is_factor or "patch_embed" in name), name


def test_apla_draws_other_rows_for_each_block_and_trains_them_from_their_values() -> None:
    method = tiny_method("apla", "vit")
    layers = [module for module in method.modules() if isinstance(module, PartlyTrained)]
    assert len({tuple(layer.index.tolist()) for layer in layers}) == len(layers) == 12
    for layer in layers:
        assert len(layer.index.unique()) == len(layer.index) == 8
        assert torch.equal(layer.rows.weight, layer.op.weight[layer.index])
        assert torch.equal(layer.rows.bias, layer.op.bias[layer.index])


def test_apla_can_train_all_rows() -> None:
    layers = method_on(tiny("swin"), "apla", rows_per_block=None).modules()
    counts = [len(layer.index) for layer in layers if isinstance(layer, PartlyTrained)]
    assert counts == [16, 16, 32, 32, *[64] * 6, 128, 128]


def test_apla_takes_given_rows_of_any_number_for_each_block() -> None:
    rows = [list(range(block, 32, 3)) for block in range(12)]
    layers = method_on(tiny("vit"), "apla", rows_per_block=None, rows=rows).modules()
    assert [m.index.tolist() for m in layers if isinstance(m, PartlyTrained)] == rows
    with pytest.raises(UserError, match=r"^method.rows has \[\] .* a list of different whole"):
        method_on(tiny("vit"), "apla", rows_per_block=None, rows=[*rows[1:], []])


@pytest.mark.parametrize(
    "rows",
    [[[0, 1]], "all", [[0, 1]] * 11 + [[1, 1]], [[0, 1]] * 11 + [[1, 32]], [[True, 0]] * 12],
)
def test_wrong_rows_of_apla_are_refused(rows: Any) -> None:
    with pytest.raises(UserError, match=r"^method.rows (is|has) .*; it must be"):
        method_on(tiny("vit"), "apla", rows_per_block=2, rows=rows)
