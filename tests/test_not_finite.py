"""Not a number is no class: such runs end as diverged, and predict refuses."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from petlbench import delta
from petlbench.commands import predictor
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.run.record import Store
from petlbench.run.training import run
from petlbench.testing import tiny, tiny_method
from petlbench.train.phase import Diverged
from petlbench.train.trainer import require_finite
from tests.settings import config
from tests.shallow import shallow


@pytest.mark.parametrize("lr", [1e37, 1e39])
@pytest.mark.parametrize("method", ["linear", "lora"])
def test_one_huge_step_diverges(tmp_path: Path, lr: float, method: str) -> None:
    """Its only loss is finite; at 1e37 the tensors are too, and the logits are not."""
    huge = config(tmp_path, method, epochs=1, batch_size=32, lr=lr, head_lr=lr)
    record = run(shallow(huge))
    assert record["status"] == "diverged"
    assert "lower train.lr" in record["reason"]
    assert record["scores"] == {}
    assert [stored["status"] for stored in Store(tmp_path).records()] == ["diverged"]


def test_a_selected_epoch_of_no_numbers_diverges(tmp_path: Path) -> None:
    rates = {"head_lr": 1e37, "lr": 1e37}
    huge = config(tmp_path, "linear", "best_on_val", epochs=1, batch_size=24, **rates)
    record = run(shallow(huge))
    assert record["status"] == "diverged"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_value_of_a_trained_tensor_is_enough(value: float, tmp_path: Path) -> None:
    method = tiny_method("lora", "vit")
    require_finite(method)
    name, tensor = list(delta.trained(method).items())[-1]
    with torch.no_grad():
        tensor.view(-1)[-1] = value
    with pytest.raises(Diverged, match=f"{name} is not finite"):
        require_finite(method)
    delta.save(tmp_path / "a.safetensors", method, {"method": "lora", "network": {}})
    with pytest.raises(UserError, match=f"a training that diverged: its {name} holds"):
        delta.load(tmp_path / "a.safetensors", tiny_method("lora", "vit"))


def test_predict_leaves_out_images_without_a_number(tmp_path: Path) -> None:
    from petlbench.data.images import OWN, View
    from petlbench.data.preparation import Preparation

    class Odd(Method):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Not a number for images that are dark."""
            logits = torch.zeros(len(images), 2)
            logits[images.mean((1, 2, 3)) < 0.5] = torch.nan
            return logits

    for name, shade in (("dark", 0), ("light", 255)):
        Image.new("RGB", (8, 8), (shade,) * 3).save(tmp_path / f"{name}.png")
    view = View(8, "bicubic", None, "squash")
    prepare = Preparation(view, mean=[0.0] * 3, std=[1.0] * 3)
    method = Odd(tiny("vit"))
    found = predictor.Predictor(
        method, method, OWN, view, prepare, ["a", "b"], torch.device("cpu")
    )
    refused: list[UserError] = []
    paths = [tmp_path / "dark.png", tmp_path / "light.png"]
    assert [path.name for path, _ in found.best(paths, 1, refused.append)] == ["light.png"]
    assert "dark.png' are not finite numbers" in str(refused[0])
