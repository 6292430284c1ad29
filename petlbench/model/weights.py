"""Pre-trained weights: a file, weights in the package, or timm's on the Hugging Face hub."""

import logging
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import timm
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from torch import nn

from petlbench.errors import UserError, first_line
from petlbench.model.checkpoint import FORMATS, load_checkpoint
from petlbench.system import sha256_of

log = logging.getLogger("petlbench")

# tag, file (name only) and sha256, and what was mapped if names differ; no file: random weights
Checkpoint = dict[str, str | None]

HUB_FILE = "model.safetensors"
HUB_ANSWER_S = 3.0  # the wait before the hub counts as unreachable


@dataclass(frozen=True)
class WeightSource:
    """Where the weights of a network come from.

    A file `checkpoint` if there is one, or else, if `pretrained`, the package or the hub by
    timm's tagged `name`; otherwise they are random.
    """

    name: str
    checkpoint: str | None
    pretrained: bool

    def unloaded(self) -> Checkpoint:
        """The entry of a record for random weights."""
        return {"tag": self.name, "file": None, "sha256": None}

    def load(self, net: nn.Module, head: str, *, with_head: bool) -> Checkpoint:
        """Load the weights into `net`, whose classification head is the module named `head`.

        with_head: load the classifier of the file too. Raises UserError if the file is missing or
        damaged, or belongs to another network.
        """
        path = self.find()
        if path is None:
            return self.unloaded()
        mapped = "; ".join(load_checkpoint(net, head, path, with_head=with_head))
        loaded: Checkpoint = {"tag": self.name, "file": path.name, "sha256": sha256_of(path)}
        if not mapped:
            return loaded
        log.info("checkpoint %s: loaded %s", path.name, mapped)
        return loaded | {"mapped": mapped}

    @property
    def place(self) -> str:
        """Where they come from, in words; nothing is looked up but the local cache of the hub."""
        if self.checkpoint is not None:
            missing = not Path(self.checkpoint).expanduser().is_file()
            return f"weights {Path(self.checkpoint).name}" + " (missing)" * missing
        if not self.pretrained:
            return "random weights"
        if _packaged(self.name).is_file():
            return f"weights {self.name}"
        entry = timm.get_pretrained_cfg(self.name) if "." in self.name else None
        hub = entry.hf_hub_id if entry else None
        is_here = hub is not None and isinstance(try_to_load_from_cache(hub, HUB_FILE), str)
        return f"weights {self.name}" + ("" if is_here else " (to be downloaded)")

    def find(self) -> Path | None:
        """The file, downloaded if it is on the hub only; None for random weights.

        Raises UserError if it does not exist or cannot be downloaded.
        """
        if self.checkpoint is not None:
            return _existing(Path(self.checkpoint).expanduser())
        if not self.pretrained:
            return None
        packaged = _packaged(self.name)
        return packaged if packaged.is_file() else _from_hub(self.name)


def _packaged(name: str) -> Path:
    return Path(str(resources.files("petlbench.mini") / "weights" / f"{name}.safetensors"))


def _existing(path: Path) -> Path:
    if path.suffix not in FORMATS:
        raise UserError(
            f"checkpoint '{path}' has no known format; convert it to one of {', '.join(FORMATS)}"
        )
    if not path.is_file():
        raise UserError(f"checkpoint '{path}' does not exist; set backbone.checkpoint to a file")
    return path


def _from_hub(name: str) -> Path:
    """The hub's file of a tagged timm network: from the local cache, else downloaded."""
    # Without a tag timm chooses the weights, and its choice has changed between versions.
    entry = timm.get_pretrained_cfg(name) if "." in name else None
    if entry is None or not entry.hf_hub_id:
        tags = ", ".join(_tagged(name))
        raise UserError(
            f"backbone.name={name} does not say which pre-trained weights; use one of: "
            f"{tags or 'none'}; or set backbone.checkpoint=FILE or backbone.pretrained=false"
        )
    cached = try_to_load_from_cache(entry.hf_hub_id, HUB_FILE)
    if isinstance(cached, str):  # else None, or a marker that the hub has no such file
        return Path(cached)
    address = f"{constants.ENDPOINT}/{entry.hf_hub_id}/resolve/main/{HUB_FILE}"
    advice = (
        f"download {address} on another machine and set backbone.checkpoint=FILE, "
        "or set backbone.pretrained=false for random weights"
    )
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"the weights of {name} are not on this machine and HF_HUB_OFFLINE is set; {advice}"
        )
    if not _answers(constants.ENDPOINT):
        raise UserError(
            f"the weights of {name} are not on this machine and {constants.ENDPOINT} does not "
            f"answer; {advice}"
        )
    try:
        return Path(hf_hub_download(entry.hf_hub_id, HUB_FILE))
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"the weights of {name} cannot be downloaded ({first_line(error)}); {advice}"
        ) from error


def _tagged(name: str) -> list[str]:
    """Tagged names that a name without a tag may stand for; timm's old names end in the tag."""
    plain = name.partition(".")[0]
    base, _, old_tag = plain.rpartition("_")
    return timm.list_models(f"{plain}.*", pretrained=True) or [
        tagged
        for tagged in timm.list_models(f"{base}.*", pretrained=True)
        if tagged.endswith(old_tag)
    ]


def _answers(address: str) -> bool:
    """Whether a server answers within HUB_ANSWER_S; a thread, since name resolution may hang."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=HUB_ANSWER_S):
                answered.set()
        except urllib.error.HTTPError:  # an error page is an answer
            answered.set()
        except OSError:
            pass

    # A daemon, so that a hanging look-up does not keep the process alive.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_ANSWER_S)
    return answered.is_set()
