"""Forward and training passes of a method on a tiny network: what they change and what they keep.

Each property raises AssertionError with a message if it does not hold.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from petlbench.cost import shapes
from petlbench.method import frozen_prefix
from petlbench.model.drop_path import DropPath, keep_masks
from petlbench.testing.case import Case, Forward, method_on, randomised, tensors, watch_blocks
from petlbench.testing.facts import Skipped, declared
from petlbench.testing.networks import images, tiny


def forward_is_pure(case: Case) -> None:
    """Forward repeats exactly, and writes no state, no attribute, no image and nothing into z."""
    method = case.randomised().eval()
    before = {name: tensor.clone() for name, tensor in tensors(method)}
    # Compared by identity below: an equal new object is a write too.
    attributes = {name: dict(vars(module)) for name, module in method.named_modules()}
    batch = images()
    z = method.backbone.embed(batch)
    original = z.clone()
    with torch.no_grad():
        method.features(z)
        assert torch.equal(z, original), "features writes into z"
        assert torch.equal(method(batch), method(batch)), "two passes give different logits"
    assert torch.equal(batch, images()), "forward writes into the images"
    for name, tensor in tensors(method):
        assert torch.equal(tensor, before[name]), f"forward writes into {name}"
    for name, module in method.named_modules():
        changed = [
            key
            for key in vars(module).keys() | attributes[name].keys()
            if vars(module).get(key) is not attributes[name].get(key)
        ]
        assert not changed, f"forward sets {changed} of {name or 'the method'}"


def images_are_independent(case: Case) -> None:
    """The logits of an image do not depend on the others of its batch, unless declared."""
    method = case.randomised().eval()
    batch = images()
    with torch.no_grad():
        logits = method(batch)
        alone = torch.cat([method(image[None]) for image in batch])
    mixed = not torch.allclose(logits, alone, rtol=1e-4, atol=1e-4)
    said = bool(declared(case.method).get("mixes_images"))
    assert said or not mixed, (
        "the logits of an image depend on its batch; declare facts.mixes_images"
    )
    assert mixed or not said, "facts.mixes_images is declared, but an image alone has equal logits"


def blocks_do_not_write_into_their_input(case: Case) -> None:
    """No z is changed in place after a block has read it."""
    method = case.randomised().eval()
    versions: list[tuple[Tensor, int]] = []

    def watch(forward: Forward) -> Forward:
        def call(z: Tensor) -> Tensor:
            versions.append((z, z._version))  # torch counts the in-place writes into a tensor
            return forward(z)

        return call

    watch_blocks(method, watch)
    method(images())
    assert len(versions) >= method.backbone.depth, "a block is never called"
    assert all(z._version == version for z, version in versions), "z is changed in place"


def drop_path_follows_its_mask(case: Case) -> None:
    """The keep-mask alone decides which branches are dropped, and only in training."""
    if declared(case.method).get("noise"):
        raise Skipped("facts.noise: two training passes differ anyway")
    method = randomised(method_on(tiny(case.family, drop_path=0.5), case.method)).train()
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # dropout draws in each pass, also with equal masks
    batch = images(4)

    def logits_of(seed: int, passes: int = 1) -> Tensor:
        with torch.no_grad(), keep_masks(method, len(batch), torch.Generator().manual_seed(seed)):
            logits, *others = [method(batch) for _ in range(passes)]
        assert all(torch.equal(other, logits) for other in others), "each pass draws a mask"
        return logits  # type: ignore[no-any-return]

    paths = [path for path in method.modules() if isinstance(path, DropPath)]
    drops = any(path.training for path in paths)  # VPT and VQT keep the backbone in eval mode
    first = logits_of(3, passes=2)
    assert paths, "the method has lost the backbone's drop paths"
    assert torch.equal(logits_of(3), first), "the same mask gives other logits"
    assert torch.equal(logits_of(4), first) != drops, "another mask must change the logits"
    with torch.no_grad():
        assert torch.equal(method.eval()(batch), first) != drops, "eval mode must drop nothing"


def blocks_of_the_frozen_prefix_save_nothing(case: Case) -> None:
    """Blocks before the first trained tensor keep nothing for backward; the next one does."""
    method = case.randomised().train()
    prefix, outputs = frozen_prefix(method), list[bool]()
    saved: list[Tensor] = []
    assert method.training, "frozen_prefix changes the mode"

    def watch(forward: Forward) -> Forward:
        def call(z: Tensor) -> Tensor:
            # What later blocks save is thrown away.
            keep = partial(_keep, saved if len(outputs) < prefix else [])
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                out = forward(z)
            outputs.append(z.requires_grad or out.requires_grad)
            return out

        return call

    watch_blocks(method, watch)
    with keep_masks(method, len(images())):
        method(images())
    assert not saved, f"the first {prefix} blocks save {len(saved)} tensors for backward"
    assert len(outputs) == method.backbone.depth, "each block must be called once"
    assert not any(outputs[:prefix]), f"gradients reach the first {prefix} blocks"
    assert all(outputs[prefix : prefix + 1]), f"block {prefix + 1} is frozen too"


def _keep(saved: list[Tensor], tensor: Tensor) -> Tensor:
    saved.append(tensor)
    return tensor


def no_tensor_stays_on_the_cpu(case: Case) -> None:
    """On shapes: torch refuses an operation between two devices, even without a GPU."""
    if declared(case.method).get("data_dependent"):
        raise Skipped("facts.data_dependent: it cannot run on shapes")
    gpu, fake = torch.device("cuda", 0), FakeTensorMode()
    method = shapes.empty_copy(case.start(), gpu, fake)
    with fake:
        batch = torch.empty(images().shape, device=gpu)
        for training in (True, False):
            method.train(training)
            with shapes.masks(method, len(batch)):
                assert method(batch).device == gpu


PASS_PROPERTIES: tuple[Callable[[Case], None], ...] = (
    forward_is_pure,
    images_are_independent,
    blocks_do_not_write_into_their_input,
    drop_path_follows_its_mask,
    blocks_of_the_frozen_prefix_save_nothing,
    no_tensor_stays_on_the_cpu,
)
