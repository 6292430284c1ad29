"""ARC and RLRR: what the reference vectors, which have no dropout, do not tell."""

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


def test_the_dropout_of_rlrr_grows_over_the_blocks() -> None:
    for end in ("attn.proj_drop", "mlp.drop2"):
        assert rates("rlrr", end, dropout=0.11)[::11] == [0.0, 0.11]
        assert rates("rlrr", end, dropout=0.11) == sorted(rates("rlrr", end, dropout=0.11))


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
