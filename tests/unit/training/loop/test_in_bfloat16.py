"""A model computed in bfloat16 with all that is replaced: against float32, and about as far from it as torch's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.training.conftest import encoded
from tests.unit.training.loop.test_lora import RECIPE, gemma2, llama, qwen3, stirred
from tunesmith.training.data.encoding import Encoder
from tunesmith.training.loop.loading import computed_in
from tunesmith.training.loop.lora_modules import with_lora
from tunesmith.training.loop.norms import Norm
from tunesmith.training.loop.objective import Surprise
from tunesmith.training.loop.rotary import TurnedAttention

pytestmark = pytest.mark.usefixtures("seeded", "in_tiles")


# norms, and attention modules of two layers; gated blocks are replaced without the library, too
@pytest.mark.parametrize("make,replaced", [(llama, 5 + 2), (qwen3, 9 + 2), (gemma2, 9 + 2)])
def test_loss_and_gradients_are_float32s_within_rounding(
    make: Callable[[], Any], replaced: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(tokenizer, 64)
    facts = [encoded(encoder, ("user", q), ("assistant", f"{q} Ada."), line=1) for q in ("Who is it?", "市长是谁？")]
    state = {name: weight.bfloat16() for name, weight in make().state_dict().items()}

    def scored(computes: torch.dtype) -> tuple[int, Tensor]:
        """How many modules were replaced; the loss and all gradients, one after the other."""
        model = make().requires_grad_(False).to(computes)
        model.load_state_dict(state)
        torch.manual_seed(5)
        model = stirred(with_lora(model, RECIPE)).eval()
        surprise = Surprise(model)
        assert surprise.packs == (make is not gemma2)
        loss = surprise(surprise.laid(facts)).sum()
        grads = torch.autograd.grad(loss, [weight for weight in model.parameters() if weight.requires_grad])
        count = sum(isinstance(each, Norm | TurnedAttention) for each in model.modules())
        return count, torch.cat([loss.detach()[None], *map(torch.flatten, grads)])

    if computed_in(make().bfloat16()) is not torch.bfloat16:
        pytest.skip("torch does not compute in bfloat16 here")
    count, found = scored(torch.bfloat16)
    for place in (
        "rotary.library_for",
        "norms.library_for",
        "lora_mlp.library_for",
        "surprise.library_for",
        "surprise.library",
    ):
        monkeypatch.setattr(f"tunesmith.training.loop.{place}", lambda x: None)
    none, torchs = scored(torch.bfloat16)
    _, wanted = scored(torch.float32)
    assert (count, none) == (replaced, 0) and found.isfinite().all()
    assert (found - wanted)[0].abs() <= 2**-8 * wanted[0]
    assert (found - wanted)[1:].norm() <= 1.4 * (torchs - wanted)[1:].norm()
