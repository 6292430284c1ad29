"""GPS: Gradient-based Parameter Selection for Efficient Fine-Tuning,
https://arxiv.org/abs/2312.10136.

Fine-tunes K input connections of every neuron, those with the largest gradients of a contrastive
loss. As in FightingFighting/GPS @ 72e0c315, but for what `GPS` says.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import positive, whole
from petlbench.errors import Unsupported, UserError, unknown
from petlbench.method import Fitted, Method, Trainer
from petlbench.methods.gps_entries import SELECTED, Selected, selected
from petlbench.methods.gps_views import contrastive_loss, two_views
from petlbench.model.backbone import Backbone
from petlbench.model.drop_path import keep_masks
from petlbench.swap import swap_these

# In the name of a tensor; the first rule that holds counts.
FROZEN = ("norm", "pos_embed", "cls_token", "reg_token", "attn_pool.latent")
ENTIRE = ("head", "bias", "gamma")
LOSSES = ("supcon", "ce")


class GPS(Method):
    """K entries of each row of every weight train, and all biases outside the norms.

    A weight is seen as (out, in); a convolution's as (out, in kernel height kernel width). Layer
    scales train; norms, positions and learned tokens stay frozen. The entries are those with the
    largest absolute gradient, summed over the batches of one pass over the training data in
    training mode. selection_loss is one of
      supcon  the supervised contrastive loss of two augmented views of each image; features are
              the input of the head, and `temperature` divides their similarities
      ce      the cross-entropy of the images themselves, with the untrained head
    selection_batch: images of a batch, which the contrastive loss compares.
    In the authors' code the views are crops of the original image, here of the resized one; the
    last, smaller batch counts too; and the selection runs in the type of the weights. Where they
    set the gradients of the other entries to zero, those are no parameters here: the update is
    the same, and a delta holds the chosen entries alone.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        per_neuron: int,
        selection_loss: str,
        temperature: float,
        selection_batch: int,
    ) -> None:
        """Raises Unsupported for a network with weights outside linear layers and convolutions."""
        super().__init__(backbone)
        if selection_loss not in LOSSES:
            raise unknown("method.selection_loss", selection_loss, LOSSES)
        self.selection_loss = selection_loss
        self.temperature = positive("method.temperature", temperature)
        # The views of one image alone are each other's only choice: the loss is 0 for any weights.
        smallest = 2 if selection_loss == "supcon" else 1
        self.selection_batch = whole("method.selection_batch", selection_batch, low=smallest)
        modules = dict(backbone.net.named_modules())
        new: dict[nn.Module, nn.Module] = {}
        for name, tensor in list(backbone.net.named_parameters()):
            layer = name.rpartition(".")[0]
            # Some norms of a ConvNeXt are not named so.
            if any(word in name for word in FROZEN) or isinstance(modules[layer], nn.LayerNorm):
                continue
            if any(word in name for word in ENTIRE):
                tensor.requires_grad_(True)
            elif type(modules[layer]) in SELECTED:
                new[modules[layer]] = selected(modules[layer], per_neuron=per_neuron)
            else:
                raise Unsupported(
                    f"GPS selects in linear layers and convolutions, and {backbone.tag} has {name}"
                )
        swap_these(backbone.net, new)

    def fit(self, trainer: Trainer) -> Fitted:
        """Select the entries, then train."""
        self.to(trainer.device)
        batches = self._batches(trainer.examples(self.selection_batch))
        with torch.random.fork_rng(devices=[]):  # training draws as if nothing had been selected
            # torch.manual_seed would also seed a GPU, whose state is not restored.
            torch.default_generator.manual_seed(trainer.seed)
            losses = self.select(batches)
        trainer.train(self)
        return Fitted(self, notes={"selection_loss": float(torch.stack(losses).mean())})

    def _batches(
        self, examples: Iterable[tuple[Tensor, Tensor]]
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Batches of views (V, B, 3, H, W) and labels (B,), V = 2 for the contrastive loss"""
        if self.selection_loss == "supcon":
            return two_views(examples, self.backbone.mean, self.backbone.std)
        return ((images.unsqueeze(0), labels) for images, labels in examples)

    def select(self, batches: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Choose the entries by batches of views (V, B, 3, H, W) and labels (B,).

        Returns the loss of each batch.
        """
        self.train()
        layers = [part for part in self.modules() if isinstance(part, Selected)]
        sums = [torch.zeros_like(layer.weight) for layer in layers]
        losses = []
        for views, labels in batches:
            with _with_gradients([layer.weight for layer in layers]):
                loss = self._selection_loss(views, labels)
                for total, gradient in zip(sums, _gradients(loss, layers), strict=True):
                    total += gradient
            losses.append(loss.detach())
        if losses and not torch.stack(losses).isfinite().all():  # any entries would be chosen
            raise UserError(
                f"the loss by which GPS selects is not finite; {self.selection_loss} of these "
                f"images has none with method.temperature={self.temperature:g}"
            )
        for layer, gradient in zip(layers, sums, strict=True):
            layer.entries.choose(layer.weight, gradient)
        return losses

    def _selection_loss(self, views: Tensor, labels: Tensor) -> Tensor:
        """Views (V, B, 3, H, W) and labels (B,) -> scalar"""
        images, targets = views.flatten(0, 1), labels.repeat(len(views))
        with keep_masks(self, len(images)):
            if self.selection_loss == "ce":
                return F.cross_entropy(self(images), targets)
            features = self.backbone.pooled(self.features(self.backbone.embed(images)))
            return contrastive_loss(features, targets, self.temperature)


@contextmanager
def _with_gradients(weights: Iterable[Tensor]) -> Iterator[None]:
    """Record gradients of frozen weights."""
    weights = list(weights)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def _gradients(loss: Tensor, layers: Sequence[Selected]) -> Iterator[Tensor]:
    """The gradient of each layer's weight with its entries in place, (out, ...)"""
    tensors = [layer.weight for layer in layers] + [layer.entries.values for layer in layers]
    gradients = torch.autograd.grad(loss, tensors)
    # That of the frozen weight is zero where the values stand.
    frozen, values = gradients[: len(layers)], gradients[len(layers) :]
    return (
        layer.entries.put(own, rest)
        for layer, own, rest in zip(layers, values, frozen, strict=True)
    )
