"""What broke a trainer, in words a person can act on, where the exception tells."""

import errno

_NO_MEMORY = (
    "内存（或显存）不足：请减小 max_length，设置 quantization，或使用更小的模型，然后重新开始",
    "out of memory: lower max_length, set quantization, or use a smaller model, and start the run again",
)
NO_ROOM = (
    "磁盘已满：请清理空间，然后用 tunesmith runs resume 从检查点继续",
    "the disk is full: free some room, then go on from the last checkpoint with tunesmith runs resume",
)
# how torch's allocators, the C++ library and safetensors say it: none of them has an exception of its own for it
_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "std::bad_alloc", "CUDA out of memory")
_ROOM_WORDS = ("No space left on device", "Disk quota exceeded")


def named(error: BaseException) -> tuple[str, str] | None:
    """The reason in Chinese and in English; None where it has no name."""
    if no_room(error):
        return NO_ROOM
    number = error.errno if isinstance(error, OSError) else None
    # torch.OutOfMemoryError by its name: whoever imports this file need not import torch
    starved = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or number == errno.ENOMEM
    return _NO_MEMORY if starved or any(words in str(error) for words in _MEMORY_WORDS) else None


def no_room(error: BaseException) -> bool:
    """Whether the disk is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(words in str(error) for words in _ROOM_WORDS)
