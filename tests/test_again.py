import itertools
import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib.attack import Forward, Objective, logits
from attrib.data import Batch
from attrib.errors import InputError
from attrib.inference import frozen
from attrib.loss import cross_entropy
from attrib.models.classifier import Classifier, Residual
from attrib.models.gated import GatedClassifier, combined_loss
from train.attack import Attack, Start, pgd_attack
from train.methods import again, pgd_at, trades
from train.methods.fusion import draw_partners, draw_weight, fused, mix_statistics

IMAGES = torch.rand(6, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([0, 1, 2, 2, 0, 1])
BATCH = Batch(IMAGES, LABEL, torch.arange(6), None)
ADVERSARIAL = (IMAGES + 0.1 * torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def tiny(cls: type[Classifier] = Classifier, *, norm: bool = True, seed: int = 0) -> Classifier:
    """Two stages, the second with a residual block, three classes, float64, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU())
        stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.AvgPool2d(2), Residual(branch, nn.Identity(), nn.ReLU())),
        )
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return cls(stages, pool, nn.Linear(4, 3), mean=[0.5], std=[0.3]).double()


def tiny_gated(*, norm: bool = True) -> GatedClassifier:
    model = tiny(GatedClassifier, norm=norm)
    assert isinstance(model, GatedClassifier)
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unmoved(
    model: nn.Module,  # noqa: ARG001
    batch: Batch,  # noqa: ARG001
    *,
    objective: Objective = cross_entropy,  # noqa: ARG001
    start: Start = "uniform",  # noqa: ARG001
    forward: Forward = logits,  # noqa: ARG001
    target: Tensor | None = None,  # noqa: ARG001
) -> Tensor:
    """An attack with a known answer."""
    return ADVERSARIAL


def pgd() -> Attack:
    return pgd_attack(eps=0.1, step_size=0.04, steps=3, seed=0, epoch=1, precision="fp32")


def replayed(generator: torch.Generator, fakes: int) -> tuple[float, list[Tensor], float, Tensor]:
    """The documented draws: coin, fake labels, weight (the middle of three), partners (a cycle)."""
    coin = float(torch.rand((), generator=generator))
    labels = [LABEL[torch.randperm(6, generator=generator)] for _ in range(fakes)]
    weight = sorted(torch.rand(3, generator=generator).tolist())[1]
    cycle = torch.randperm(6, generator=generator).tolist()
    follows = {cycle[position]: cycle[position - 1] for position in range(6)}
    return coin, labels, weight, torch.tensor([follows[n] for n in range(6)])


def slow_fusion(features: Tensor, partner: Tensor, weight: float) -> Tensor:
    """Image by image and channel by channel."""
    out = torch.empty_like(features)
    for n, c in itertools.product(range(features.shape[0]), range(features.shape[1])):
        (mean, std), (other_mean, other_std) = (
            (values.mean(), (values.var(correction=0) + 1e-5).sqrt())
            for values in (features[n, c], features[int(partner[n]), c])
        )
        normal = (features[n, c] - mean) / std
        out[n, c] = normal * (weight * std + (1 - weight) * other_std) + weight * mean + (1 - weight) * other_mean
    return out


def minus_log_p(logits: Tensor) -> float:
    """The mean cross-entropy, image by image."""
    rows = zip(logits.tolist(), LABEL.tolist(), strict=True)
    return sum((math.log(sum(math.exp(z) for z in row)) - row[y] for row, y in rows), 0.0) / len(LABEL)


@torch.no_grad()
def test_the_logit_form_is_its_formula() -> None:
    model = tiny()
    found = again.loss(model, BATCH, attack=unmoved, progress=1.0, generator=seeded(), form="logit", alpha=0.7)
    _, (fake,), weight, partner = replayed(seeded(), 1)
    features = slow_fusion(model.stages[0]((ADVERSARIAL - 0.5) / 0.3), partner, weight)
    logits = model.fc(model.pool(model.stages[-1](features)))
    expected = 0.0
    for row, y, other in zip(logits.tolist(), LABEL, fake, strict=True):
        expected -= (0.7 * row[y] + 0.3 * row[other] - math.log(sum(math.exp(z) for z in row))) / 6
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gates", ["true", "own"])
@torch.no_grad()
def test_the_gate_form_is_its_formula(gates: again.Gates) -> None:
    model = tiny_gated()
    found = again.loss(model, BATCH, attack=unmoved, progress=1.0, generator=seeded(4), alpha=0.7, gates=gates)
    _, fakes, weight, partner = replayed(seeded(4), 2)
    x = slow_fusion(model.stages[0]((ADVERSARIAL - 0.5) / 0.3), partner, weight)
    inner, outer = model.gates
    stage = model.stages[-1]
    assert isinstance(stage, nn.Sequential)
    block = stage[1]
    assert isinstance(block, Residual)
    assert isinstance(block.branch, nn.Sequential)
    x = stage[0](x)

    def gated(features: Tensor, head: Tensor, weights: Tensor, fake: Tensor) -> Tensor:
        out = torch.empty_like(features)
        for n, c in itertools.product(range(6), range(4)):
            y = LABEL[n] if gates == "true" else head[n].argmax()
            out[n, c] = features[n, c] * (0.7 * weights[y, c] + 0.3 * weights[fake[n], c])
        return out

    first = inner.head(x.mean((2, 3)))
    # The gate is the first module of the branch, in front of its convolution.
    x = F.relu(block.branch[1:](gated(x, first, inner.head.weight, fakes[0])) + x)
    second = outer.head(x.mean((2, 3)))
    final = model.fc(gated(x, second, outer.head.weight, fakes[1]).mean((2, 3)))
    expected = minus_log_p(final) + 2 * (minus_log_p(first) + minus_log_p(second)) / 2
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", ["gate", "logit"])
def test_the_gradient_is_the_finite_difference(form: again.Form) -> None:
    model = tiny_gated() if form == "gate" else tiny()
    parameters = list(model.parameters())
    directions = [torch.randn(p.shape, dtype=p.dtype, generator=seeded(9)) for p in parameters]

    def loss(step: float) -> Tensor:
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=step)
        return again.loss(model, BATCH, attack=unmoved, progress=1.0, generator=seeded(), form=form)

    gradients = torch.autograd.grad(loss(0.0), parameters)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    up, down = float(loss(1e-6).detach()), float(loss(-2e-6).detach())
    assert (up - down) / 2e-6 == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("attack", [unmoved, pgd()])
def test_alpha_1_without_fusion_in_the_logit_form_is_pgd_at(attack: Attack) -> None:
    expected = pgd_at.loss(tiny(), BATCH, attack=attack)
    options = {"attack": attack, "generator": seeded(), "form": "logit"}
    found = again.loss(tiny(), BATCH, progress=1.0, alpha=1.0, fusion=False, **options)  # type: ignore[arg-type]
    assert torch.equal(found, expected)
    # So is the schedule's plain step, whatever alpha and fusion.
    assert torch.equal(again.loss(tiny(), BATCH, progress=0.0, **options), expected)  # type: ignore[arg-type]
    assert not torch.equal(again.loss(tiny(), BATCH, progress=1.0, **options), expected)  # type: ignore[arg-type]


def test_on_top_of_trades() -> None:
    expected = trades.loss(tiny(), BATCH, attack=pgd(), beta=4.0)

    def loss(*, progress: float = 1.0, alpha: float = 0.6, fusion: bool = False) -> Tensor:
        return again.loss(
            tiny(), BATCH, attack=pgd(), progress=progress, generator=seeded(), alpha=alpha, fusion=fusion,
            form="logit", base="trades", beta=4.0,
        )  # fmt: skip

    assert torch.equal(loss(alpha=1.0), expected)
    assert torch.equal(loss(progress=0.0, fusion=True), expected)
    _, (fake,), weight, partner = replayed(seeded(), 1)
    model = tiny()
    clean = model(torch.cat([IMAGES, trades_images(model)]))[:6]
    change = 0.4 * (F.cross_entropy(clean, fake) - F.cross_entropy(clean, LABEL))
    torch.testing.assert_close(loss(), expected + change)
    # With fusion clean and adversarial images are mixed alike, each with the partner of its own kind.
    model = tiny()
    features = model.stages[0]((torch.cat([IMAGES, trades_images(model)]) - 0.5) / 0.3)
    mixed = torch.cat([slow_fusion(half, partner, weight) for half in features.chunk(2)])
    first, second = model.fc(model.pool(model.stages[-1](mixed))).chunk(2)
    kl = trades.divergence(first, second).mean()
    expected = 0.6 * F.cross_entropy(first, LABEL) + 0.4 * F.cross_entropy(first, fake) + 4.0 * kl
    torch.testing.assert_close(loss(fusion=True), expected, rtol=1e-6, atol=0)


def trades_images(model: Classifier) -> Tensor:
    """The adversarial images of TRADES, which don't depend on AGAIN."""
    caught: list[Tensor] = []

    def attack(*args: object, **options: object) -> Tensor:
        caught.append(pgd()(*args, **options))  # type: ignore[arg-type]
        return caught[0]

    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trades.loss(model, BATCH, attack=attack)
    model.load_state_dict(state)
    return caught[0]


@pytest.mark.parametrize("labels", [[0, 0, 1, 2], [2, 2, 2, 2], [0, 1, 2]])
def test_over_all_permutations_the_logit_form_is_label_smoothing(labels: list[int]) -> None:
    alpha, label, size = 0.6, torch.tensor(labels), len(labels)
    batch = Batch(IMAGES[:size], label, torch.arange(size), None)

    def attack(*_: object, **__: object) -> Tensor:
        return ADVERSARIAL[:size]

    logits = tiny()(ADVERSARIAL[:size])
    losses = [
        again.two_label_loss(logits, label, fake=label[list(order)], alpha=alpha)
        for order in itertools.permutations(range(size))
    ]
    frequency = torch.bincount(label, minlength=3).double() / size
    target = alpha * F.one_hot(label, 3) + (1 - alpha) * frequency
    torch.testing.assert_close(torch.stack(losses).mean(), F.cross_entropy(logits, target))
    if len(set(labels)) == size == 3:  # a balanced batch
        smoothed = pgd_at.loss(tiny(), batch, attack=attack, label_smoothing=1 - alpha)
        torch.testing.assert_close(torch.stack(losses).mean(), smoothed)


def test_the_ramped_logit_form_is_the_ramped_label_smoothing() -> None:
    """At a step where the coin says plain both are PGD-AT; else label smoothing is the mean over all fake labels."""
    label = torch.tensor([2, 0, 1])
    batch = Batch(IMAGES[:3], label, torch.arange(3), None)

    def attack(*_: object, **__: object) -> Tensor:
        return ADVERSARIAL[:3]

    def losses(progress: float, seed: int) -> tuple[Tensor, Tensor]:
        logit = again.loss(
            tiny(), batch, attack=attack, progress=progress, generator=seeded(seed), form="logit", fusion=False
        )
        smooth = pgd_at.loss(
            tiny(), batch, attack=attack, label_smoothing=0.4, smoothing_ramp=True, progress=progress,
            generator=seeded(seed),
        )  # fmt: skip
        return logit.detach(), smooth.detach()

    plain, always = (pgd_at.loss(tiny(), batch, attack=attack, label_smoothing=share).detach() for share in (0.0, 0.4))
    by_fake: dict[tuple[int, ...], Tensor] = {}
    full = 0
    for seed in range(60):
        logit, smooth = losses(0.7, seed)
        generator = seeded(seed)
        if float(torch.rand((), generator=generator)) < 0.7:
            full += 1
            assert torch.equal(smooth, always)
            by_fake[tuple(label[torch.randperm(3, generator=generator)].tolist())] = logit
        else:
            assert torch.equal(smooth, plain)
            assert torch.equal(logit, plain)
    assert 30 < full < 55
    assert len(by_fake) == 6
    torch.testing.assert_close(torch.stack(list(by_fake.values())).mean(), always)
    with pytest.raises(InputError, match="generator: expected one for smoothing_ramp"):
        pgd_at.loss(tiny(), batch, attack=attack, label_smoothing=0.4, smoothing_ramp=True)


def test_the_fake_labels_are_all_permutations_equally_often() -> None:
    label, generator = torch.tensor([0, 1, 2]), seeded()
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(3000):
        _, (fake,), _, _ = again._draws(label, 1, 0.5, generator)
        order = tuple(fake.tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.001


def test_the_plain_step_with_own_gates_is_inference() -> None:
    """Without fake labels the gates follow their heads' predictions as at test time, and are trained."""
    model = tiny_gated(norm=False)
    found = again.loss(model, BATCH, attack=unmoved, progress=0.0, generator=seeded(), gates="own")
    torch.testing.assert_close(found, combined_loss(model.all_logits(ADVERSARIAL), LABEL).mean())
    found.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for gate in model.gates for p in gate.parameters())


def test_the_plain_step_of_the_gate_form_trains_the_gates_by_the_true_labels() -> None:
    model = tiny_gated(norm=False)
    found = again.loss(model, BATCH, attack=unmoved, progress=0.0, generator=seeded())
    with model.gated_by(LABEL, [LABEL, LABEL], 1.0):
        expected = combined_loss(model.all_logits(ADVERSARIAL), LABEL).mean()
    assert torch.equal(found, expected)
    found.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_the_coin(progress: float) -> None:
    model = tiny(norm=False)
    plain = pgd_at.loss(model, BATCH, attack=unmoved)
    generator = seeded()
    drawn = 0
    for _ in range(400):
        loss = again.loss(model, BATCH, attack=unmoved, progress=progress, generator=generator, form="logit", alpha=0.0)
        drawn += not torch.equal(loss, plain)
    assert drawn / 400 == pytest.approx(progress, abs=0.06)
    always = again.loss(model, BATCH, attack=unmoved, progress=progress, generator=seeded(), form="logit", ramp=False)
    scheduled = again.loss(model, BATCH, attack=unmoved, progress=1.0, generator=seeded(), form="logit")
    assert torch.equal(always, scheduled)


@pytest.mark.parametrize("form", ["gate", "logit"])
def test_the_attack_sees_the_deployed_model(form: again.Form) -> None:
    """No labels in the gates, no fusion; the combined loss and a normal start in the gate form."""
    model = tiny_gated() if form == "gate" else tiny()
    with frozen(model):
        deployed = model(IMAGES)
    seen: dict[str, object] = {}

    def attack(
        model: nn.Module,
        batch: Batch,
        *,
        objective: Objective = cross_entropy,
        start: Start = "uniform",
        forward: Forward = logits,
        target: Tensor | None = None,
    ) -> Tensor:
        seen.update(objective=objective, start=start, forward=forward)
        with frozen(model):
            assert torch.equal(model(batch.image), deployed)
        return pgd()(model, batch, objective=objective, start=start, forward=forward, target=target)

    again.loss(model, BATCH, attack=attack, progress=1.0, generator=seeded(), form=form).backward()
    if isinstance(model, GatedClassifier):
        assert seen == {"objective": combined_loss, "start": "normal", "forward": GatedClassifier.all_logits}
    else:
        assert seen == {"objective": cross_entropy, "start": "uniform", "forward": logits}


@pytest.mark.parametrize("form", ["gate", "logit"])
def test_the_generator_decides(form: again.Form) -> None:
    def loss(seed: int, **options: object) -> Tensor:
        model = tiny_gated() if form == "gate" else tiny()
        return again.loss(
            model, BATCH, attack=unmoved, progress=1.0, generator=seeded(seed), form=form, **options  # type: ignore[arg-type]
        )  # fmt: skip

    state = torch.get_rng_state()
    assert torch.equal(loss(1), loss(1))
    assert not torch.equal(loss(1), loss(2))
    assert torch.equal(torch.get_rng_state(), state)
    # Everything is drawn at every step, so that no option moves the other draws.
    after = []
    for options in ({}, {"fusion": False}, {"ramp": False}, {"partner": torch.arange(6)}, {"alpha": 1.0}):
        generator = seeded()
        model = tiny_gated() if form == "gate" else tiny()
        again.loss(model, BATCH, attack=unmoved, progress=0.5, generator=generator, form=form, **options)
        after.append(generator.get_state())
    assert all(torch.equal(state, after[0]) for state in after)


def test_parameters_of_fusion() -> None:
    def loss(**options: object) -> Tensor:
        return again.loss(
            tiny(), BATCH, attack=unmoved, progress=1.0, generator=seeded(), form="logit", **options  # type: ignore[arg-type]
        )  # fmt: skip

    assert torch.equal(loss(partner=torch.arange(6)), loss(fusion=False))
    assert not torch.equal(loss(fusion_stage=0), loss(fusion_stage=1))
    assert torch.equal(loss(), loss(fusion_stage=1))


def test_what_does_not_fit() -> None:
    def loss(model: Classifier, **options: object) -> Tensor:
        return again.loss(model, BATCH, attack=unmoved, progress=1.0, generator=seeded(), **options)  # type: ignore[arg-type]

    with pytest.raises(InputError, match=r"form: 'gate' needs build\(..., gated=True\), got a Classifier"):
        loss(tiny())
    with pytest.raises(InputError, match=r"form: 'logit' needs build\(..., gated=False\), got a GatedClassifier"):
        loss(tiny_gated(), form="logit")
    with pytest.raises(InputError, match="base: 'trades' goes with form 'logit' only"):
        loss(tiny_gated(), base="trades")
    with pytest.raises(InputError, match="gates: 'own' goes with form 'gate' only"):
        loss(tiny(), form="logit", gates="own")
    with pytest.raises(InputError, match=r"alpha: expected a number in \[0,1\], got -0.1"):
        loss(tiny(), form="logit", alpha=-0.1)


@pytest.mark.parametrize("form", ["gate", "logit"])
def test_nothing_is_left_behind_when_the_attack_fails(form: again.Form) -> None:
    model = tiny_gated() if form == "gate" else tiny()

    def attack(*_: object, **__: object) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        again.loss(model, BATCH, attack=attack, progress=1.0, generator=seeded(), form=form)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("form", ["gate", "logit"])
def test_it_learns(form: again.Form) -> None:
    """Three classes of bright thirds, in single precision."""
    model = (tiny_gated() if form == "gate" else tiny()).float()
    image, label = torch.full((48, 1, 6, 6), 0.2), torch.arange(48) % 3
    for n, y in enumerate(label.tolist()):
        image[n, :, :, 2 * y : 2 * y + 2] = 0.9
    model.pool, model.fc = nn.Flatten(), nn.Linear(36, 3)
    batch = Batch(image, label, torch.arange(48), None)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    generator = seeded()
    for step in range(80):
        loss = again.loss(model, batch, attack=pgd(), progress=step / 80, generator=generator, form=form)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    assert (model(pgd()(model, batch)).argmax(1) == label).float().mean() > 0.9


FEATURES = torch.randn(4, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
PARTNER = torch.tensor([1, 3, 0, 2])


def test_fusion_is_its_formula() -> None:
    torch.testing.assert_close(mix_statistics(FEATURES, PARTNER, 0.3), slow_fusion(FEATURES, PARTNER, 0.3))


def test_fusion_with_oneself_is_the_identity() -> None:
    assert torch.equal(mix_statistics(FEATURES, PARTNER, 1.0), FEATURES)
    assert torch.equal(mix_statistics(FEATURES, torch.arange(4), 0.3), FEATURES)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_after_fusion_the_statistics_are_the_mix(weight: float) -> None:
    mixed = mix_statistics(FEATURES, PARTNER, weight)
    expected = [
        weight * own + (1 - weight) * other
        for own, other in zip(statistics(FEATURES), statistics(FEATURES[PARTNER]), strict=True)
    ]
    torch.testing.assert_close(list(statistics(mixed)), expected, rtol=1e-4, atol=1e-4)


def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean((2, 3)), features.std((2, 3), correction=0)


def test_fusion_of_constant_channels_is_finite() -> None:
    features = FEATURES.clone()
    features[0], features[1, 1] = 0.0, 3.0
    features.requires_grad_()
    mixed = mix_statistics(features, PARTNER, 0.4)
    mixed.square().sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    # The channel takes on the mixed mean, and has nothing to vary.
    expected = 0.4 * features[1, 1].mean() + 0.6 * features[3, 1].mean()
    torch.testing.assert_close(mixed[1, 1], expected.expand(5, 7))
    single = mix_statistics(torch.tensor([1.0, 5.0]).view(2, 1, 1, 1), torch.tensor([1, 0]), 0.25)
    torch.testing.assert_close(single.flatten(), torch.tensor([4.0, 2.0]))


def test_fusion_in_bfloat16() -> None:
    mixed = mix_statistics(FEATURES.bfloat16(), PARTNER, 0.4)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.double(), mix_statistics(FEATURES, PARTNER, 0.4), atol=0.03, rtol=0.02)


def test_fused_acts_in_training_mode_only_and_goes_again() -> None:
    layer = nn.Identity()
    with fused(layer, PARTNER, 0.4):
        assert torch.equal(layer(FEATURES), mix_statistics(FEATURES, PARTNER, 0.4))
        twice = layer(torch.cat([FEATURES, -FEATURES]))
        assert torch.equal(twice[4:], mix_statistics(-FEATURES, PARTNER, 0.4))
        layer.eval()
        assert torch.equal(layer(FEATURES), FEATURES)
        layer.train()
    assert torch.equal(layer(FEATURES), FEATURES)
    with pytest.raises(ZeroDivisionError), fused(layer, PARTNER, 0.4):
        raise ZeroDivisionError
    assert torch.equal(layer(FEATURES), FEATURES)
    with pytest.raises(RuntimeError, match="fused: the layer did not run in training mode"), fused(layer, PARTNER, 0.4):
        layer.eval()(FEATURES)
    with pytest.raises(InputError, match=r"weight: expected a number in \[0,1\], got 2"), fused(layer, PARTNER, 2):
        pass


def test_the_weight_is_the_sum_of_two_of_four_uniform_on_the_simplex() -> None:
    generator = seeded()
    weights = [draw_weight(generator) for _ in range(3000)]
    assert scipy.stats.kstest(weights, scipy.stats.beta(2, 2).cdf).pvalue > 0.01
    simplex = scipy.stats.dirichlet.rvs([1, 1, 1, 1], size=3000, random_state=0)
    assert scipy.stats.ks_2samp(weights, simplex[:, :2].sum(1)).pvalue > 0.01


@pytest.mark.parametrize("images", [2, 3, 64])
def test_partners_are_other_images(images: int) -> None:
    partners = draw_partners(images, seeded())
    assert (partners != torch.arange(images)).all()
    assert torch.equal(partners.sort().values, torch.arange(images))
