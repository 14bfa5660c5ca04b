"""What is minimised: named, unweighted terms, and the weights that are applied to them once.

rgb, audio      criterion's terms (l1, silog) and smooth
distillation    the same, kd (the teacher's depth) and feat_<kind> (its features)
"""

# B batch, H x W pixels

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from shared.loop import Loop
from shared.run import World

from ..config import LossSettings, Settings
from ..losses import FeatureTerms, GradientBalance, anneal, gradient_norm, response_kd, task_losses, teacher_confidence
from ..losses.masked import ALONE, safe_log
from ..models import feature_channels
from .teaching import Lesson, Teacher


class Task:
    """The loss on measured depth. edges: smoothness is spared where the picture has edges (RGB training); world: the
    processes that share a batch, over all of which a mean is taken."""

    def __init__(self, loss: LossSettings, *, edges: bool, world: World = ALONE):
        self.loss, self.edges, self.world = loss, edges, world
        data = {
            "L1": {"l1": loss.lambda_l1},
            "SIlog": {"silog": 1.0},
            "Combined": {"l1": loss.l1_weight, "silog": loss.silog_weight},
        }[loss.criterion]
        self.weights = {**data, **({"smooth": loss.lambda_smooth} if loss.lambda_smooth else {})}

    def __call__(self, depth: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """depth (B,1,H,W) metres; batch: "depth", "valid" of that shape, and "rgb" with edges."""
        return task_losses(
            depth,
            batch["depth"],
            batch["valid"],
            criterion=self.loss.criterion,
            silog_lambda=self.loss.silog_lambda,
            smooth="smooth" in self.weights,
            image=batch["rgb"] if self.edges else None,
            world=self.world,
        )


class Taught(nn.Module):
    """The student with the projectors of its feature losses: what is trained and saved; the student alone is used."""

    def __init__(self, student: nn.Module, features: FeatureTerms | None):
        super().__init__()
        self.student, self.features = student, features

    def forward(self, audio: Tensor, teacher_features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """audio (B,C,H,W) -> depth (B,1,H,W) metres, and the feature terms."""
        if self.features is None:
            return self.student(audio), {}
        depth, features = self.student(audio, return_features=True)
        return depth, self.features(features, teacher_features)


class Distillation:
    """Teacher, weights and their rules. The Loop saves it beside the model (state_dict: the balances' means)."""

    def __init__(self, settings: Settings, task: Task, model: Taught, teacher: Teacher):
        self.kd = kd = settings.distillation
        self.task, self.model, self.teacher = task, model, teacher
        names = list(model.features.kinds) if model.features else []
        response = {"kd": kd.lambda_kd} if kd.lambda_kd else {}
        self.base_weights = {**response, **{f"feat_{name}": kd.lambda_feat for name in names}}
        self.balances: dict[str, GradientBalance] = {}
        if kd.adaptive.balance:
            rho = {"kd": kd.adaptive.rho_kd}
            self.balances = {name: GradientBalance(rho.get(name, kd.adaptive.rho_feat)) for name in self.base_weights}

    def response(self, depth: Tensor, lesson: Lesson, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"kd": pull to the teacher's depth}, or nothing with lambda_kd 0. depth (B,1,H,W) metres."""
        if "kd" not in self.base_weights:
            return {}
        term = response_kd(depth, lesson.depth, batch["depth"], batch["valid"], kind=self.kd.response,
                           region=self.kd.region, confidence=self._confidence(lesson, batch),
                           world=self.task.world)  # fmt: skip
        return {"kd": term}

    def _confidence(self, lesson: Lesson, batch: Mapping[str, Any]) -> Tensor | None:
        if not self.kd.adaptive.confidence:
            return None
        unsure = None
        if lesson.mirrored is not None:
            everywhere = batch["valid"] | True
            unsure = (safe_log(lesson.depth, everywhere) - safe_log(lesson.mirrored.float(), everywhere)).abs()
        return teacher_confidence(lesson.depth, batch["depth"], batch["valid"], uncertainty=unsure)

    def weights(
        self, loop: Loop, task: Mapping[str, Tensor], taught: Mapping[str, Tensor]
    ) -> dict[str, float | Tensor]:
        """The weights of the teacher's terms at this step: as configured or balanced, times the annealing factor.

        A balance takes the gradients of the weighted task loss and of the term on the last weight that both depend on.
        """
        factor = anneal(loop.steps_done, loop.total_steps, self.kd.adaptive.anneal)
        if not self.balances:
            return {name: factor * weight for name, weight in self.base_weights.items()}
        total = sum(self.task.weights[name] * term for name, term in task.items())
        return {name: factor * self._balanced(name, total, taught[name], loop) for name in self.balances}

    def _balanced(self, name: str, task: Tensor, term: Tensor, loop: Loop) -> Tensor:
        levels = () if name == "kd" else self.model.features.kinds[name.removeprefix("feat_")].levels
        shared = self.model.student.shared_weight(levels)
        return self.balances[name].update(gradient_norm(task, shared), gradient_norm(term, shared), loop.world)

    def state_dict(self) -> dict[str, Any]:
        return {name: balance.state_dict() for name, balance in self.balances.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, balance in self.balances.items():
            balance.load_state_dict(state[name])


def distillation_of(settings: Settings, task: Task, student: nn.Module, teacher: Teacher) -> Distillation:
    """The method of the settings around this student; projectors are made on the student's device."""
    kd, features = settings.distillation, None
    if kd.lambda_feat and kd.features:
        channels = feature_channels(settings.model.base_channels, settings.model.bilinear)
        features = FeatureTerms(kd.features, channels, channels).to(next(student.parameters()).device)
    return Distillation(settings, task, Taught(student, features), teacher)


def ignored_settings(settings: Settings) -> list[str]:
    """A line for each setting that was given and has no effect."""
    loss, usual, kd = settings.loss, LossSettings(), settings.distillation
    unused = {"L1": ("l1_weight", "silog_weight", "silog_lambda"), "SIlog": ("lambda_l1", "l1_weight", "silog_weight"),
              "Combined": ("lambda_l1",)}[loss.criterion]  # fmt: skip
    lines = [f"loss.{name} {getattr(loss, name)} has no effect with criterion {loss.criterion}"
             for name in unused if getattr(loss, name) != getattr(usual, name)]  # fmt: skip
    if settings.kind == "distillation" and kd.adaptive.balance:
        lines.append("lambda_kd and lambda_feat only switch their terms on: adaptive.balance sets the weights")
    return lines
