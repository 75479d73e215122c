"""The label leak of AGAIN's released gate form."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attrib
from attrib.attack import Forward, Objective, logits
from attrib.data import Batch
from attrib.loss import cross_entropy
from attrib.models.classifier import Residual
from attrib.models.gated import GatedClassifier
from train.attack import Start
from train.methods import again


def unmoved(
    model: nn.Module,  # noqa: ARG001
    batch: Batch,
    *,
    objective: Objective = cross_entropy,  # noqa: ARG001
    start: Start = "uniform",  # noqa: ARG001
    forward: Forward = logits,  # noqa: ARG001
    target: Tensor | None = None,  # noqa: ARG001
) -> Tensor:
    """The clean images: the leak does not need an attack."""
    return batch.image


def images(split: str, count: int) -> Batch:
    """Glyphs of 16x16 pixels."""
    batch = next(attrib.dataset("glyphs", split=split, limit=count).batches(count))
    return batch._replace(image=F.avg_pool2d(batch.image, 2))


def trained(gates: again.Gates, *, epochs: int) -> GatedClassifier:
    """A network of one residual block after AGAIN without ramp and fusion, 30 steps an epoch, in eval mode."""

    def layer(inputs: int, *, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, 16, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(16)]

    data, generator = images("train", 1500), torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        branch = nn.Sequential(*layer(16), nn.ReLU(), *layer(16))
        stages = nn.Sequential(
            nn.Sequential(*layer(3, stride=2), nn.ReLU()),
            nn.Sequential(Residual(branch, nn.Identity(), nn.ReLU())),
        )
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model = GatedClassifier(stages, pool, nn.Linear(16, 10), mean=[0.5] * 3, std=[0.3] * 3).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.label), generator=generator).split(50):
            batch = Batch(data.image[rows], data.label[rows], rows, None)
            loss = again.loss(
                model, batch, attack=unmoved, progress=1.0, generator=generator, gates=gates, ramp=False, fusion=False
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("gates", "epochs"), [("true", 10), ("own", 30)])
@torch.no_grad()
def test_with_true_labels_in_the_gates_the_label_leaks(gates: again.Gates, epochs: int) -> None:
    """Which class does a trained model answer if a wrong class is put into its gates?

    In the released training the gates multiply the features by weights of the true class. These weights
    tell the layers behind the gate the label, so they need not look at the image. Such a model answers the
    class in its gates on every image, on noise as well. So do its final layer and its second head, which lies behind
    the first gate; only the first head has to use the image. Its robustness is that of the first head, and an attack
    on the final logits, whose gradient does not pass the head's argmax, overestimates it. With ``gates="own"`` the
    gates hold no more than the model itself predicts, and a wrong class in the gates does not decide the answer,
    after three times as many epochs too.
    """
    with torch.enable_grad():
        model = trained(gates, epochs=epochs)
    test = images("test", 400)
    wrong = (test.label + 1 + torch.arange(400) % 9) % 10
    noise = torch.rand(test.image.shape, generator=torch.Generator().manual_seed(0))
    for image in (test.image, noise):
        with model.gated_by(wrong, [wrong, wrong], 1.0):
            final, _, second = (model.all_logits(image).argmax(2) == wrong).float().mean(1).tolist()
        if gates == "true":
            assert final >= 0.95
            assert second >= 0.95
        else:
            assert final < 0.75
            assert second < 0.25
    if gates == "own":
        assert (model(test.image).argmax(1) == test.label).float().mean() > 0.4
