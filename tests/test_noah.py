"""NOAH: the search space, the evolution, the supernet, and an interrupted search that resumes."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from petlbench import registry
from petlbench.config.schema import Config
from petlbench.cost.section import parameters
from petlbench.delta import load, trained
from petlbench.errors import UserError
from petlbench.layers.quantised import QuantisedLinear
from petlbench.method import Method, Step
from petlbench.methods.noah import NOAH
from petlbench.methods.noah_elastic import ElasticPrompts
from petlbench.methods.noah_genes import MODULES, Genes, Plan, Space, next_generation
from petlbench.run import build, training
from petlbench.run.record import Record, Store
from petlbench.run.training import run
from petlbench.testing import declared, images, randomised, tiny, tiny_method
from petlbench.train.trainer import SearchLoop
from tests.settings import config, with_values
from tests.shallow import BLOCKS, shallow

SPACE = Space(dims=(1, 5, 10), depths=(3, 6, 9, 12), blocks=12)
PLAN = Plan(2, 50, 10, 25, 25, module_chance=0.2, depth_chance=0.4)


BUDGET_M = 0.0125  # the largest subnet of three blocks has 0.021 M


def depth(sizes: tuple[int, ...]) -> int:
    return sum(size > 0 for size in sizes)


def allowed(genes: Genes) -> bool:
    for name in MODULES:
        sizes = getattr(genes, name)
        used = depth(sizes)
        if len(sizes) != 12 or used not in SPACE.depths or any(sizes[used:]):
            return False
        if not set(sizes[:used]) <= set(SPACE.dims):
            return False
    return True


def test_samples_lie_in_the_space() -> None:
    dice = random.Random(0)
    drawn = [SPACE.sample(dice) for _ in range(300)]
    assert all(map(allowed, drawn))
    assert {depth(genes.lora) for genes in drawn} == {3, 6, 9, 12}
    assert {size for genes in drawn for size in genes.adapter} == {0, 1, 5, 10}


def test_mutation_keeps_the_sizes_that_stay() -> None:
    dice = random.Random(0)
    for _ in range(300):
        parent = SPACE.sample(dice)
        child = SPACE.mutated(parent, dice, module=1.0, depth=1.0)
        assert allowed(child)
        for name in MODULES:
            before, after = getattr(parent, name), getattr(child, name)
            common = min(depth(before), depth(after))
            assert before[:common] == after[:common]
    assert SPACE.mutated(parent, dice, module=1.0, depth=0.0) == parent
    assert SPACE.mutated(parent, dice, module=0.0, depth=1.0) == parent


def test_crossover_takes_each_module_whole() -> None:
    dice = random.Random(0)
    first, second = SPACE.sample(dice), SPACE.sample(dice)
    children = {SPACE.crossed(first, second, dice) for _ in range(200)}
    assert len(children) == 8
    for child in children:
        for name in MODULES:
            assert getattr(child, name) in (getattr(first, name), getattr(second, name))


def test_a_generation_is_new_within_the_budget_and_from_the_best() -> None:
    dice = random.Random(0)
    first = next_generation({}, SPACE, PLAN, lambda genes: True, dice)
    assert len(set(first)) == 50
    seen = {genes: float(-genes.parameters(768)) for genes in first}
    limit = sorted(genes.parameters(768) for genes in first)[30]
    second = next_generation(seen, SPACE, PLAN, lambda g: g.parameters(768) <= limit, dice)
    assert len(set(second)) == 50
    assert not set(second) & set(first)
    assert all(genes.parameters(768) <= limit for genes in second)
    best = sorted(first, key=seen.__getitem__, reverse=True)[:10]
    parts = {name: {getattr(genes, name) for genes in best} for name in MODULES}
    crossed = second[25:]
    assert all(getattr(genes, name) in parts[name] for genes in crossed[:25] for name in MODULES)


def test_chance_has_more_tries_than_breeding() -> None:
    """Ten for each mutant or crossover of the plan, 250 for each random subnet."""
    tried: list[Genes] = []

    def unfit(genes: Genes) -> bool:
        tried.append(genes)
        return False

    plan = Plan(2, 4, 2, 2, 2, module_chance=1.0, depth_chance=1.0)
    parents = [SPACE.sample(random.Random(seed)) for seed in (1, 2)]
    next_generation(dict.fromkeys(parents, 1.0), SPACE, plan, unfit, random.Random(0))
    assert 4 * 250 < len(tried) <= (2 + 2) * 10 + 4 * 250
    tried.clear()
    next_generation({}, SPACE, plan, unfit, random.Random(0))
    assert len(tried) == 4 * 250


def test_an_impossible_budget_leaves_no_subnet() -> None:
    assert next_generation({}, SPACE, PLAN, lambda genes: False, random.Random(0)) == []


def test_parameters_of_genes_are_those_of_the_subnet() -> None:
    genes = SPACE.sample(random.Random(4))
    values = {name: list(getattr(genes, name)) for name in MODULES}
    method = registry.create("noah_subnet", tiny("vit"), **values)
    assert parameters(method)["method"] == genes.parameters(32)


def test_the_supernet_at_some_sizes_is_that_subnet() -> None:
    """Leading slices: copied into a subnet of exact size they give the same outputs."""
    supernet = randomised(tiny_method("noah", "vit")).eval()
    assert isinstance(supernet, NOAH)
    genes = SPACE.sample(random.Random(1))
    supernet.become(genes)
    values = {name: list(getattr(genes, name)) for name in MODULES}
    subnet = registry.create("noah_subnet", tiny("vit"), **values).eval()
    large = dict(supernet.named_parameters())
    with torch.no_grad():
        for name, tensor in trained(subnet).items():
            source = large[name]
            tensor.copy_(source[tuple(slice(0, size) for size in tensor.shape)])
    assert torch.equal(subnet(images()), supernet(images()))


def test_prompts_start_as_a_slice_of_torchs_xavier_uniform_tensor() -> None:
    """Of (1, 100, 768), as in the authors' code: torch counts 100 * 768 and 768 as its fans."""
    theirs = nn.init.xavier_uniform_(torch.empty(1, 100, 768))
    ours = ElasticPrompts(768, 10, dropout=0.0).tokens
    for tensor in (theirs, ours.detach()):
        assert 0.00870 < float(tensor.abs().max()) < 0.00880  # sqrt(6 / (101 * 768)) = 0.00880


def test_prompts_follow_the_authors_order() -> None:
    """A block appends its prompts in place of those of the block before it, if that has any."""
    counts = [2, 4, 0, 3, 1, 0, 0, 2, *[0] * 4]
    method = randomised(
        registry.create(
            "noah_subnet", tiny("vit"), lora=[0] * 12, adapter=[0] * 12, prompts=counts
        )
    ).eval()
    net = tiny("vit").eval().net
    z = net._pos_embed(net.patch_embed(images()))
    tensors = dict(method.named_parameters())
    lengths = []
    for number, block in enumerate(net.blocks, 1):
        if counts[number - 1]:
            fresh = tensors[f"prompts.{number}.tokens"].expand(3, -1, -1)
            before = counts[number - 2] if number > 1 else 0
            z = torch.cat([z[:, : z.shape[1] - before], fresh], dim=1)
        z = block(z)
        lengths.append(z.shape[1] - 17)
    assert lengths == [2, 4, 4, 7, 5, 5, 5, 7, 7, 7, 7, 7]  # 4 + 3, 4 + 1, 4 + 1 + 2
    logits = method.backbone.head(method.backbone.pooled(z[:, :17]))
    torch.testing.assert_close(method(images()), logits)


class Steps:
    """A search trainer that changes no weights and records the sizes at each step."""

    fit: Any = None
    val: Any = None

    def __init__(self, epochs: list[int]) -> None:
        self.epochs = epochs
        self.sizes: list[Genes] = []

    def train(
        self,
        method: Method,
        name: str,
        *,
        epochs: int,
        lr: float,
        before_step: Callable[[Step], None],
    ) -> None:
        for epoch in self.epochs:
            for index in range(3):
                before_step(Step(epoch, index, number=0, total=0))
                self.sizes.append(sizes(method))

    def score(self, method: nn.Module) -> float:
        """No score."""
        raise AssertionError("the supernet was scored")


def sizes(supernet: Any) -> Genes:
    """The sizes that a supernet uses."""
    blocks = list(supernet.backbone.net.blocks)
    return Genes(
        tuple(block.block.attn.qkv.size for block in blocks),
        tuple(block.after_mlp.size for block in blocks),
        tuple(supernet.prompts_of(number).size for number in range(1, 13)),
    )


def test_the_supernet_draws_sizes_at_each_step_from_dice_seeded_by_the_epoch() -> None:
    method = tiny_method("noah", "vit")
    assert isinstance(method, NOAH)
    search: Any = Steps(epochs=[2, 1, 2])
    method._train_supernet(search)
    expected = {}
    for epoch in (1, 2):
        dice = random.Random(epoch)
        expected[epoch] = [method.space.sample(dice) for _ in range(3)]
    assert search.sizes == expected[2] + expected[1] + expected[2]
    assert len(set(search.sizes)) == 6


def search_config(root: Path) -> Config:
    small = declared("noah")["tiny"] | {"depths": [1, BLOCKS], "budget_m": BUDGET_M}
    return with_values(shallow(config(root, "noah", epochs=1)), **small)


def subnet(root: Path, sizes: dict[str, list[int]]) -> Method:
    return build.method(with_values(shallow(config(root, "noah_subnet")), **sizes))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """An uninterrupted search: the folder of its records, and its record."""
    root = tmp_path_factory.mktemp("searched")
    return root, run(search_config(root))


def test_a_search_records_the_subnet_and_its_generations(
    searched: tuple[Path, Record], tmp_path: Path
) -> None:
    root, record = searched
    assert record["status"] == "finished", record["reason"]
    search = record["notes"]["search"]
    assert [generation["scored"] for generation in search["generations"]] == [4, 4]
    assert record["cost"]["parameters"]["method"] == search["parameters"]
    assert record["cost"]["search"]["parameters"]["method"] > search["parameters"]
    assert search["parameters"] <= BUDGET_M * 1e6
    assert record["cost"]["images_scored"] == 8 * 8  # subnets x val images; the test comes later
    cost = record["cost"]
    assert cost["scored_s"] > 0
    trained_s = cost["train_s"] - cost["scored_s"]
    assert cost["train_images_per_s"] == pytest.approx(cost["images_seen"] / trained_s, rel=0.05)
    assert len(record["curve"]["epoch"]) == 1
    path = Store(root).path(record, ".safetensors")
    largest = dict.fromkeys(MODULES, [10] * BLOCKS)
    with pytest.raises(UserError, match="does not fit"):
        load(path, subnet(tmp_path, largest))
    load(path, subnet(tmp_path, search["genes"]))
    assert not Store(root).path(record, ".unfinished").exists()


def test_a_subnet_is_quantised_as_its_supernet(tmp_path: Path) -> None:
    """Else `predict`, which quantises it, would answer with other logits than the test had."""
    settings = search_config(tmp_path)
    settings = replace(settings, backbone=replace(settings.backbone, weights="int8"))
    supernet: Any = build.method(settings)
    search: Any = SimpleNamespace(
        seed=0, search=lambda: None, train=lambda method: None, device=torch.device("cpu")
    )
    genes = Genes(*[(5,) + (0,) * (BLOCKS - 1)] * 3)
    supernet._train_supernet = lambda trainer: None
    supernet._search = lambda trainer, seed: ({genes: 50.0}, {})
    fitted = supernet.fit(search)
    layers = [type(layer) for layer in fitted.network.backbone.net.modules()]
    assert layers.count(QuantisedLinear) >= 4 * BLOCKS


def test_a_killed_search_resumes(
    searched: tuple[Path, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, whole = searched
    costs = {key: whole["cost"][key] for key in ("parameters", "units", "gflops", "saved_mb")}
    # the subnet of `whole` is found again: counting its costs takes longer than the search
    monkeypatch.setattr(training, "section", lambda *_: costs | {"peak_mib": None})
    scores = SearchLoop.score
    calls = 0

    def stops(self: SearchLoop, method: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return scores(self, method)

    with monkeypatch.context() as patch:
        patch.setattr(SearchLoop, "score", stops)
        with pytest.raises(KeyboardInterrupt):
            run(search_config(tmp_path / "cut"))
    [unfinished] = (tmp_path / "cut").glob("**/*.unfinished")
    assert {path.name for path in unfinished.iterdir()} == {"supernet.pt", "search.pt"}
    shutil.copytree(tmp_path / "cut", tmp_path / "damaged")
    resumed = run(search_config(tmp_path / "cut"))
    assert resumed["status"] == "finished"
    place = "supernet after epoch 1 of 1, search after generation 1 of 2"
    assert resumed["notes"]["resumed"] == place
    assert resumed["notes"]["search"] == whole["notes"]["search"]
    for cost in ("images_seen", "images_scored"):
        assert resumed["cost"][cost] == whole["cost"][cost] > 0
    deltas = [
        load_file(Store(folder).path(record, ".safetensors"))
        for folder, record in ((root, whole), (tmp_path / "cut", resumed))
    ]
    assert deltas[0].keys() == deltas[1].keys()
    assert all(torch.equal(tensor, deltas[1][name]) for name, tensor in deltas[0].items())
    assert not unfinished.exists()
    # a damaged file is made again, and the scores, which were of the network that is lost
    [damaged] = (tmp_path / "damaged").glob("**/supernet.pt")
    damaged.write_bytes(b"PK cut")
    again = run(search_config(tmp_path / "damaged"))
    assert again["status"] == "finished", again["reason"]
    assert "resumed" not in again["notes"]
    assert again["notes"]["search"] == whole["notes"]["search"]
    assert again["cost"]["images_scored"] == whole["cost"]["images_scored"]
