"""GPS: its update is that of masked gradients, and its selection outlives the process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.eva import Eva
from torch import Tensor

from petlbench import delta
from petlbench.delta import trained
from petlbench.errors import Unsupported, UserError
from petlbench.method import Method
from petlbench.methods.gps import GPS
from petlbench.methods.gps_entries import Selected
from petlbench.methods.gps_views import two_views
from petlbench.swap import swap_these
from petlbench.testing import images, tiny_method
from tests.loops import noise_trainer
from tests.settings import train

LABELS = torch.tensor([0, 1, 0])


def chosen(method: Method) -> dict[str, Tensor]:
    """The indices of each layer."""
    parts = method.named_modules()
    return {name: m.entries.index.clone() for name, m in parts if isinstance(m, Selected)}


def selected(family: str, **changed: object) -> GPS:
    method = tiny_method("gps", family, **changed)
    assert isinstance(method, GPS)
    method.select([(images(6).unflatten(0, (2, 3)), LABELS)])
    return method.double()


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_training_is_that_of_masked_gradients_and_masked_decay(family: str) -> None:
    method, plain = selected(family, per_neuron=2), tiny_method("full", family).double()
    weights = dict(plain.named_parameters())
    masks = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for name in trained(method):
        if name.endswith(".entries.values"):
            layer = name.removesuffix(".entries.values")
            rows = masks[f"{layer}.weight"].flatten(1)
            rows.scatter_(1, chosen(method)[layer], 1.0)
        else:
            masks[name].fill_(1.0)
    start = {name: tensor.detach().clone() for name, tensor in weights.items()}
    own = torch.optim.AdamW(trained(method).values(), lr=0.01, weight_decay=0.1)
    other = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        for network, optimiser in ((method, own), (plain, other)):
            optimiser.zero_grad()
            network(images().double()).square().mean().backward()
            for name, tensor in weights.items() if network is plain else ():
                tensor.grad = masks[name] * tensor.grad if tensor.grad is not None else None
            optimiser.step()
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(torch.where(masks[name] > 0, tensor, start[name]))
    batch = images().double()
    assert torch.allclose(method.eval()(batch), plain.eval()(batch), rtol=0, atol=1e-12)


def test_a_selection_depends_on_the_seed_and_is_in_the_delta(tmp_path: Path) -> None:
    before = chosen(tiny_method("gps", "vit"))
    networks = []
    for seed in (0, 0, 1):
        method = tiny_method("gps", "vit")
        fitted = method.fit(noise_trainer(12, seed=seed, train=train(epochs=1)))
        assert fitted.notes["selection_loss"] > 0
        networks.append(fitted.network)
    first, again, other = map(chosen, networks)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], before[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    path = tmp_path / "delta.safetensors"
    size = delta.save(path, networks[0], {"method": "gps", "values": {}})
    weights = sum(m.weight.nbytes for m in networks[0].modules() if isinstance(m, Selected))
    assert size < weights / 4
    delta.load(path, reloaded := tiny_method("gps", "vit"))
    assert torch.equal(reloaded.eval()(images()), networks[0].eval()(images()))
    assert not any(
        m.weight.requires_grad for m in networks[0].modules() if isinstance(m, Selected)
    )


def test_a_selection_by_cross_entropy_reads_the_images_themselves() -> None:
    method = tiny_method("gps", "vit", selection_loss="ce")
    assert isinstance(method, GPS)
    plain = tiny_method("full", "vit")
    batch = images()
    method.select([(batch.unsqueeze(0), LABELS)])
    torch.nn.functional.cross_entropy(plain(batch), LABELS).backward()
    for name, index in chosen(method).items():
        gradient = plain.get_parameter(f"{name}.weight").grad
        assert gradient is not None
        assert torch.equal(index, gradient.flatten(1).abs().argmax(1, keepdim=True))


def test_a_selection_by_a_loss_that_is_not_finite_is_refused() -> None:
    method = tiny_method("gps", "vit", temperature=1e-40)
    assert isinstance(method, GPS)
    with pytest.raises(UserError, match=r"method\.temperature=1e-40"):
        method.select([(torch.stack([images(), images()]), LABELS)])


def test_views_are_normalised_images_that_differ() -> None:
    pixels = torch.rand(4, 3, 20, 20)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    middle, spread = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
    normalised = (pixels - middle) / spread
    [(views, labels)] = two_views([(normalised, torch.arange(4))], mean, std)
    assert views.shape == (2, 4, 3, 20, 20)
    assert torch.equal(labels, torch.arange(4))
    shown = views * spread + middle
    assert shown.min() > -1e-6
    assert shown.max() < 1 + 1e-6
    assert not torch.equal(views[0], views[1])


def test_a_projection_that_the_network_does_not_call_is_refused() -> None:
    eva = Eva(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4)
    attention: Any = eva.blocks[0].attn
    qkv = attention.qkv
    with pytest.raises(Unsupported, match="without calling it"):
        swap_these(eva, {qkv: torch.nn.Identity()})
    assert attention.qkv is qkv
