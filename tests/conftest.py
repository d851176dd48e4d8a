"""What every test shares: one thread, so that two workers do not fight over two cores, and no test that needs a room's extra
without having it: where torch is absent, the rooms above the torch-free floors are not collected.
"""

import importlib.util
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

HAS_TORCH = importlib.util.find_spec("torch") is not None
NEEDS_TORCH = [
    "binding", "optim", "reference", "gauges", "finder", "demo",
    "test_snapshot.py", "test_task.py", "test_clip.py", "cli/test_torch_verbs.py",
    *(f"doctor/test_{what}trained.py" for what in ("", "gauged_", "plateaus_")),
    *(f"integrations/test_{host}.py" for host in ("torch", "lightning", "lightning_clip", "transformers", "accelerate")),
    *(f"integrations/test_find_{host}.py" for host in ("lightning", "transformers", "accelerate")),
    *(f"integrations/test_watch_{host}.py" for host in ("lightning", "transformers")),
]  # fmt: skip

collect_ignore = [] if HAS_TORCH else [*NEEDS_TORCH, "test_docs.py"]

if HAS_TORCH:
    import torch

    torch.set_num_threads(1)
