"""How much memory of a GPU is free for new tensors."""

import torch


def available(gpu: torch.device) -> int:
    """Bytes that no tensor takes, those that torch's allocator holds included."""
    free, _ = torch.cuda.mem_get_info(gpu)
    return free + torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
