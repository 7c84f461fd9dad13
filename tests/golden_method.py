"""The method against the reference's numbers. Every size, name, parameter and tolerance comes from the case."""

import re
from functools import partial
from typing import Any

import golden_case
import torch
from golden_case import Case
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dora.config import (
    BackboneConfig,
    HeadConfig,
    LossConfig,
    OptimizerConfig,
    PretrainConfig,
    TrackingConfig,
)
from dora.data.augment import Views
from dora.method.cross_entropy import cross_entropy
from dora.method.dino import Judge, between_global_views, from_local_views
from dora.method.dora import Dora, object_weights
from dora.method.head import Head, Projected
from dora.method.ibot import choose_patches, of_patches
from dora.method.network import Network, build_network
from dora.method.objective import Moment, teacher_temperature, update_center_
from dora.method.sinkhorn import sinkhorn
from dora.method.tracking import discover_objects, object_masks
from dora.method.vit import (
    LastBlock,
    build_vit,
    clip_tokens,
    cls_token,
    last_block,
    last_blocks,
    position_embedding,
    tokens,
)
from dora.training.optimizer import (
    build_optimizer,
    clip_gradients,
    freeze_last_layer,
    parameter_groups,
    set_rates,
    update_teacher,
)
from dora.training.schedule import Schedules

PRECISIONS = {"f32": torch.float32, "f64": torch.float64}
F32_ROUNDING = {"rtol": 1e-4, "atol": 5e-5}  # where a case gives a tolerance for float64 only
F32_BROKEN = 1e-5  # so far from float64 the reference has lost small shares to underflow


def check_sinkhorn(case: Case) -> None:
    epsilon, n_iterations = case.doc["params"]["epsilon"], case.doc["params"]["num_iters"]
    for name, values in case.doc["values"].items():
        logits = case.tensors[f"{name}.logits"]
        for precision, dtype in PRECISIONS.items():
            got = sinkhorn(logits.to(dtype), epsilon=epsilon, n_iterations=n_iterations)
            assert got.isfinite().all(), name
            close(got.sum(-1), torch.ones_like(got[..., 0]), atol=1e-5)
            # Where float32 made the reference NaN, or lost most of a share, its float64 answer is the right one.
            is_broken = values["nan_count_f32"] or values["max_abs_f32_minus_f64"] > F32_BROKEN
            want = case.tensors[f"{name}.out_f64" if is_broken else f"{name}.out_{precision}"].to(dtype)
            finite = want.isfinite()
            close(got[finite], want[finite], **case.doc["tolerance"][precision])
        if not logits.isinf().any():
            once = sinkhorn(logits.double(), epsilon=epsilon, n_iterations=1)
            close(once, case.tensors[f"{name}.out_1iter_f64"], **case.doc["tolerance"]["f64"])


def check_mot(case: Case) -> None:
    params, tensors, tolerance = case.doc["params"], case.tensors, case.doc["tolerance"]
    heads, shape = params["head_indices"], tensors["masks_official"].shape
    assert heads == tensors["head_indices"].tolist()
    for precision, dtype in PRECISIONS.items():
        first, keys = _mot_inputs(tensors, dtype)
        for threshold, masks in (("batch", "masks_official"), ("map", "masks_clean")):
            config = TrackingConfig.model_validate({
                "n_objects": params["k_objects"], "threshold": threshold,
                "sinkhorn_epsilon": params["sinkhorn"]["epsilon"], "sinkhorn_iterations": params["sinkhorn"]["iters"],
            })  # fmt: skip
            tracks = object_masks(first, keys, head_indices=heads, config=config)
            want = tensors[f"soft_{precision}"].to(dtype)
            want = torch.where(want.isfinite(), want, tensors["soft_f64"].to(dtype))  # underflow is a clip's own
            close(tracks.soft.view(shape), want, **tolerance[f"soft_{precision}"])
            assert torch.equal(tracks.masks.view(shape), tensors[masks].bool()), (precision, threshold)
    query = first.query[:, :, 1:].transpose(1, 2).flatten(2)
    prototypes = discover_objects(first.attention[..., 1:], query, head_indices=heads)
    close(prototypes, tensors["prototypes_f64"], **tolerance["soft_f64"])
    share = sinkhorn(
        tensors["assignment_f64"], epsilon=params["sinkhorn"]["epsilon"], n_iterations=params["sinkhorn"]["iters"]
    )
    close(share, tensors["sinkhorn_out_f64"], **tolerance["soft_f64"])
    if "video" in tensors:
        _check_clip_tokens(case)


def _mot_inputs(tensors: dict[str, Tensor], dtype: torch.dtype) -> tuple[LastBlock, Tensor]:
    patches = tensors["patches"][0]
    with_cls = torch.cat([torch.full_like(patches[:, :1], torch.nan), patches], dim=1)  # [CLS] must not be read
    first = LastBlock(with_cls, tensors["attn_cls"][0], tensors["query"][0], tensors["key"][0])
    return LastBlock(*(part.to(dtype) for part in first)), tensors["key"].to(dtype)


def _check_clip_tokens(case: Case) -> None:
    params = case.doc["params"]
    of_this_size = {"num_heads": params["num_heads"], "embed_dim": params["num_heads"] * params["head_dim"]}
    weights = next(
        weights
        for weights in (golden_case.load(name) for name in golden_case.names() if name.startswith("vit_weights"))
        if of_this_size.items() <= weights.doc["params"].items()
    )
    clip = clip_tokens(vit_with(weights), case.tensors["video"].transpose(0, 1))
    close(clip.first.attention, case.tensors["attn_cls"][0], **F32_ROUNDING)
    close(clip.first.query, case.tensors["query"][0], **F32_ROUNDING)
    close(clip.first.tokens[:, 1:], case.tensors["patches"][0], **F32_ROUNDING)
    close(clip.keys, case.tensors["key"], **F32_ROUNDING)


def check_vit_weights(case: Case) -> None:
    vit = vit_with(case)
    size = case.doc["params"]["img_size"]
    assert tokens(vit, torch.zeros(1, 3, size, size)).isfinite().all()


def check_vit_io(case: Case) -> None:
    vit = vit_with(golden_case.load(case.doc["params"]["weights"].removesuffix(".safetensors")))
    tolerance = case.doc["tolerance"]
    for name in case.doc["values"]:
        part = {
            key.removeprefix(f"{name}."): value for key, value in case.tensors.items() if key.startswith(f"{name}.")
        }
        image = part["image"]
        vit.float()
        close(position_embedding(vit, *image.shape[-2:]), part["pos_embed"], **tolerance["pos_embed"])
        block = last_block(vit, image)
        close(block.tokens, part["tokens_f32"], **tolerance["tokens_f32"])
        close(block.attention, part["attn_last"][:, :, 0], **tolerance["attn_last"])
        close(block.query, part["q_last"], **tolerance["tokens_f32"])
        close(block.key, part["k_last"], **tolerance["tokens_f32"])
        earlier = [value for key, value in sorted(part.items()) if key.startswith("intermediate")]
        for got, want in zip(last_blocks(vit, image, len(earlier) + 1), [*earlier, part["tokens_f32"]], strict=True):
            close(got, want, **tolerance["tokens_f32"])
        vit.double()
        close(tokens(vit, image.double()), part["tokens_f64"], **tolerance["tokens_f64"])
        close(cls_token(vit, image.double()), part["tokens_f64"][:, 0], **tolerance["tokens_f64"])


def check_dino_head(case: Case) -> None:
    params = case.doc["params"]
    for name, values in case.doc["values"].items():
        config = HeadConfig(
            n_prototypes=params["out_dim"],
            hidden_dim=params["hidden_dim"],
            bottleneck_dim=params["bottleneck_dim"],
            n_layers=values["options"].get("nlayers", params["defaults_in_reference"]["nlayers"]),
            norm_last_layer=values["options"].get("norm_last_layer", True),
        )
        head = Head(params["in_dim"], config)
        head.load_state_dict(_below(case.tensors, f"{name}."))
        assert set(head.state_dict()) == set(values["state_dict_keys"])
        assert head.last_layer.weight_g.requires_grad == values["weight_g_requires_grad"]
        index = name.removeprefix("head")
        for precision, dtype in PRECISIONS.items():
            got = head.to(dtype)(case.tensors[f"in{index}"].to(dtype))
            close(got, case.tensors[f"out{index}_{precision}"], **case.doc["tolerance"][precision])


def check_dora_loss(case: Case) -> None:
    """The case has logits, so each prototype is an axis and a point's coordinates are its logits."""
    params, values, tolerance = case.doc["params"], case.doc["values"], case.doc["tolerance"]
    loss = LossConfig(
        student_temperature=params["student_temp"], teacher_temperature=params["teacher_temp"],
        warmup_teacher_temperature=params["warmup_teacher_temp"],
        warmup_teacher_temperature_epochs=params["warmup_teacher_temp_epochs"],
    )  # fmt: skip
    temperature = teacher_temperature(loss, params["epoch"])
    close(temperature, values["teacher_temp"], rtol=1e-12)

    def run(
        dtype: torch.dtype, *, average: str, skip_first: bool
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        tensors = {key: value.to(dtype, copy=True) for key, value in case.tensors.items()}
        objects = tensors["student_global"].requires_grad_()
        crops = tensors["student_local"].requires_grad_()  # T, L·B, K
        teacher, axes = tensors["teacher_global"].flatten(0, 1), torch.eye(objects.shape[-1], dtype=dtype)

        def terms(views: Tensor) -> Tensor:
            return cross_entropy(
                Projected(views.flatten(1, 2), axes), Projected(teacher, axes),
                center=tensors["center_before"].squeeze(0), teacher_temperature=temperature,
                student_temperature=loss.student_temperature,
            ).terms  # fmt: skip

        local = terms(crops.unflatten(1, (params["local_crops"], params["B"])).transpose(0, 1)[skip_first:]).mean()
        of_object, weights = (
            terms(objects).mean(1),
            objects.new_tensor(object_weights(len(objects), len(crops), average)),
        )
        total = (weights * (of_object + local)).mean() / 2
        total.backward()
        assert objects.grad is not None and crops.grad is not None
        return (total, of_object.mean(), local), objects.grad, crops.grad

    for precision, dtype in PRECISIONS.items():
        parts, objects_grad, crops_grad = run(dtype, average="authors", skip_first=True)
        close(parts[0].item(), values[f"official_{precision}"], **tolerance[f"{precision}_loss"])
        rounding = tolerance["grad_f64"] if precision == "f64" else F32_ROUNDING
        close(objects_grad, case.tensors[f"grad_student_global_{precision}"], **rounding)
        close(crops_grad, case.tensors[f"grad_student_local_{precision}"], **rounding)
        center = case.tensors["center_before"].squeeze(0).to(dtype, copy=True)
        update_center_(center, case.tensors["teacher_global"].to(dtype).mean((0, 1)), params["center_momentum"])
        want = case.tensors[f"center_after_{precision}"].squeeze(0)
        close(center, want, **(tolerance["center_f64"] if precision == "f64" else F32_ROUNDING))
    (clean, *_), *_ = run(torch.float64, average="mean", skip_first=True)
    close(clean.item(), values["clean_mean_of_terms_f64"], **tolerance["f64_loss"])
    (clean, object_loss, local_loss), *_ = run(torch.float64, average="mean", skip_first=False)
    close(clean.item(), values["clean_all_local_crops_f64"], **tolerance["f64_loss"])
    close(object_loss, case.tensors["mask_terms_f64"].mean(), **tolerance["f64_loss"])
    close(local_loss, case.tensors["local_terms_f64"].mean(), **tolerance["f64_loss"])


def check_ibot_loss(case: Case) -> None:
    """As in check_dora_loss, points are logits and prototypes are axes."""
    params, values = case.doc["params"], case.doc["values"]
    wanted = r"cls (.+)->(.+), patch (.+)->(.+) over (.+) epochs, epoch (.+), student (.+)"
    described = re.fullmatch(wanted, params["temps"])
    assert described, f"cannot read the temperatures in {params['temps']!r}"
    *ends, n_warmup, epoch, student_temperature = map(float, described.groups())

    def judge(center: Tensor, start: float, end: float) -> Judge:
        config = LossConfig(
            warmup_teacher_temperature=start, teacher_temperature=end,
            warmup_teacher_temperature_epochs=int(n_warmup),
        )  # fmt: skip
        temperature = teacher_temperature(config, int(epoch))
        return partial(
            cross_entropy, center=center, teacher_temperature=temperature, student_temperature=student_temperature
        )

    masks, n_local = case.tensors["masks"].flatten(0, 1).flatten(1), params["local"]
    chosen = choose_patches(masks, masks.device)
    for precision, dtype in PRECISIONS.items():
        tensors = {name: value.to(dtype, copy=True) for name, value in case.tensors.items()}
        on_axes = {
            name: Projected(value.flatten(0, -2), torch.eye(value.shape[-1], dtype=dtype))
            for name, value in tensors.items()
        }
        center, patch_center = tensors["center_before"].flatten(), tensors["center2_before"].flatten()
        judge_cls, judge_patches = judge(center, *ends[:2]), judge(patch_center, *ends[2:])
        cls = between_global_views(on_axes["student_cls"], on_axes["teacher_cls"], judge_cls).terms.mean()
        if n_local:
            local = from_local_views(on_axes["student_local_cls"], on_axes["teacher_cls"], judge_cls)
            cls = (cls + n_local * local) / (1 + n_local)
        masked = [
            Projected(patches.points[chosen.place], patches.prototypes)
            for patches in (on_axes["student_patch"], on_axes["teacher_patch"])
        ]
        patch, _ = of_patches(*masked, chosen, judge_patches)
        got = {"cls": params["lambda1"] * cls.item(), "patch": params["lambda2"] * patch.item()}
        got["loss"] = got["cls"] + got["patch"]
        tolerance = case.doc["tolerance"][precision]
        for name, value in values[precision].items():
            close(got[name], value, **tolerance)
        update_center_(center, on_axes["teacher_cls"].mean_logits(), params["center_momentum"])
        update_center_(patch_center, on_axes["teacher_patch"].mean_logits(), params["center_momentum"])
        for after, name in ((center, "center_after"), (patch_center, "center2_after")):
            close(after, case.tensors[f"{name}_{precision}"].flatten(), **tolerance, atol=tolerance["rtol"])


def check_schedules(case: Case) -> None:
    params, tolerance = case.doc["params"], case.doc["tolerance"]
    for name, run in ((name, run) for name, run in params.items() if isinstance(run, dict)):
        config = PretrainConfig(
            epochs=run["epochs"],
            clips_per_batch=run["batch"] * run["world"],
            optimizer=OptimizerConfig(
                lr_per_256=run["lr"], min_lr=run["min_lr"], warmup_epochs=run["warm"], weight_decay=run["wd"],
                weight_decay_end=run["wd_end"], teacher_momentum=run["mom"],
            ),
            loss=LossConfig(
                teacher_temperature=run["tt"], warmup_teacher_temperature=run["wt"],
                warmup_teacher_temperature_epochs=run["we"],
            ),
        )  # fmt: skip
        schedules = Schedules(config, run["niter"])
        steps, epochs = range(run["epochs"] * run["niter"]), range(run["epochs"])
        for key, got in {
            "lr": [schedules.lr(step) for step in steps],
            "wd": [schedules.weight_decay(step) for step in steps],
            "momentum": [schedules.teacher_momentum(step) for step in steps],
            "teacher_temp": [teacher_temperature(config.loss, epoch) for epoch in epochs],
        }.items():
            close(torch.tensor(got, dtype=torch.float64), case.tensors[f"{name}.{key}"], **tolerance["schedules"])
    _check_clipping(case)
    for key, groups in case.doc["values"].items():
        if match := re.fullmatch(r"param_groups_norm_last_layer_(True|False)", key):
            network = _network_with(groups, norm_last_layer=match[1] == "True")
            names = {id(parameter): name for name, parameter in network.named_parameters()}
            decayed, plain = parameter_groups(network)
            assert [names[id(parameter)] for parameter in decayed["params"]] == groups["regularized"]
            assert [names[id(parameter)] for parameter in plain["params"]] == groups["not_regularized"]
            assert plain["weight_decay"] == groups["not_regularized_weight_decay"]
        if match := re.fullmatch(r"cancelled_last_layer_at_epoch(\d+)_freeze(\d+)", key):
            network = _network_with(case.doc["values"]["param_groups_norm_last_layer_False"], norm_last_layer=False)
            for parameter in network.parameters():
                parameter.grad = torch.ones_like(parameter)
            freeze_last_layer(network, epoch=int(match[1]), n_epochs=int(match[2]))
            assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == groups


def _check_clipping(case: Case) -> None:
    before = [case.tensors[f"clip.grad_before{index}"] for index in range(len(case.doc["values"]["clip_norms"]))]
    parameters = [torch.zeros_like(gradient, requires_grad=True) for gradient in before]
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient.clone()
    clip_gradients(parameters, case.doc["params"]["clip"], by="parameter")
    for index, parameter in enumerate(parameters):
        close(parameter.grad, case.tensors[f"clip.grad_after{index}"], **case.doc["tolerance"]["clip"])


def check_train_step(case: Case) -> None:
    params, tensors, tolerance = case.doc["params"], case.tensors, case.doc["tolerance"]
    backbone = BackboneConfig(
        image_size=params["img"], patch_size=params["patch"], embed_dim=params["dim"], depth=params["depth"],
        num_heads=params["num_heads"], mlp_ratio=params["mlp_ratio"], drop_path_rate=params["drop_path"],
    )  # fmt: skip
    head = HeadConfig(
        n_prototypes=params["out"], hidden_dim=params["hid"], bottleneck_dim=params["bot"],
        norm_last_layer=params["nll"],
    )  # fmt: skip
    config = PretrainConfig(
        backbone=backbone, head=head, tracking=TrackingConfig(threshold="batch"),
        loss=LossConfig(
            object_average="authors", skip_first_local_crop=True, **_temperatures(params["teacher_temp"])
        ),
    )  # fmt: skip
    student = build_network(config, drop_path=True).double()
    teacher = build_network(config, drop_path=False).double()
    student.load_state_dict(_below(tensors, "student_before."))
    teacher.load_state_dict(_below(tensors, "teacher_before."))
    objective, optimizer = Dora(config), build_optimizer(student)
    center = torch.zeros(params["out"], dtype=torch.float64)

    for iteration, values in enumerate(case.doc["values"]["iterations"]):
        views = Views(tensors[f"it{iteration}.global"].double()[None], tensors[f"it{iteration}.local"].double(), ())
        seen: list[Tensor] = []
        hooks = [
            network.register_forward_hook(lambda _module, _args, output, seen=seen: seen.append(_logits(output)))
            for network in (teacher, student)
        ]
        lesson = objective.teach(
            teacher, views, {"cls": center}, Moment(iteration, params["epoch"]), heads=values["head_indices"]
        )
        optimizer.zero_grad()
        loss = 0.0
        for task in lesson.tasks:
            part = task(student).loss
            part.backward()
            loss += part.item()
        for hook in hooks:
            hook.remove()
        teacher_logits, object_logits, crop_logits = seen
        want = {key: tensors[f"it{iteration}.{key}"] for key in ("student_global", "student_local", "teacher_global")}
        assert lesson.masks is not None and torch.equal(lesson.masks, tensors[f"it{iteration}.masks"].bool())
        close(teacher_logits.view_as(want["teacher_global"]), want["teacher_global"], **tolerance["logits"])
        close(object_logits.view_as(want["student_global"]), want["student_global"], **tolerance["logits"])
        crops = crop_logits.unflatten(0, (params["L"] - 1, params["T"], params["B"])).transpose(0, 1).flatten(1, 2)
        close(crops, want["student_local"][:, params["B"] :], **tolerance["logits"])  # crop 0 is skipped, so not made
        close(loss, values["loss_official"], **tolerance["loss"])

        set_rates(optimizer, lr=values["lr"], weight_decay=values["weight_decay"])
        for name, norm in values["grad_norms_before_clip"].items():
            gradient = student.get_parameter(name).grad
            assert gradient is not None, name
            close(gradient.norm().item(), norm, rtol=1e-7)
        clip_gradients(student.parameters(), params["clip"], by="parameter")
        freeze_last_layer(student, epoch=params["epoch"], n_epochs=params["freeze_last_layer"])
        optimizer.step()
        update_teacher(teacher, student, values["teacher_momentum"])
        update_center_(center, lesson.means["cls"], config.loss.center_momentum)

    for network, prefix in ((student, "student_after."), (teacher, "teacher_after.")):
        for name, want_weight in _below(tensors, prefix).items():
            close(network.get_parameter(name), want_weight, **tolerance["weights_after"])
    close(center, tensors["center_after"].squeeze(0), **tolerance["weights_after"])


def _logits(output: Any) -> Tensor:
    projected = output if isinstance(output, Projected) else output[1]  # the teacher's comes with what tracking needs
    return projected.logits().detach()


def _temperatures(described: str) -> dict[str, Any]:
    match = re.match(r"([\d.]+) -> ([\d.]+) over (\d+) epochs", described)
    assert match, f"cannot read the teacher temperature in {described!r}"
    return {
        "warmup_teacher_temperature": float(match[1]),
        "teacher_temperature": float(match[2]),
        "warmup_teacher_temperature_epochs": int(match[3]),
    }


def vit_with(weights: Case) -> VisionTransformer:
    params = weights.doc["params"]
    config = BackboneConfig(
        image_size=params["img_size"], patch_size=params["patch_size"], embed_dim=params["embed_dim"],
        depth=params["depth"], num_heads=params["num_heads"], mlp_ratio=params["mlp_ratio"],
    )  # fmt: skip
    vit = build_vit(config, drop_path=False)
    vit.load_state_dict(weights.tensors)
    return vit


def _network_with(groups: dict[str, list[str]], *, norm_last_layer: bool) -> Network:
    """A tiny network with as many blocks and head layers as the parameter names tell."""
    names = "\n".join(groups["regularized"])
    depth = len(set(re.findall(r"blocks\.(\d+)\.", names)))
    n_layers = len(set(re.findall(r"head\.mlp\.(\d+)\.", names)))
    backbone = BackboneConfig(image_size=16, patch_size=8, embed_dim=8, depth=depth, num_heads=2)
    head = HeadConfig(
        n_prototypes=4, hidden_dim=4, bottleneck_dim=4, n_layers=n_layers, norm_last_layer=norm_last_layer
    )
    return build_network(PretrainConfig(backbone=backbone, head=head), drop_path=False)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def close(got: Any, want: Any, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


CHECKS = {
    "sinkhorn": check_sinkhorn,
    "mot": check_mot,
    "vit_weights": check_vit_weights,
    "vit_io": check_vit_io,
    "dino_head": check_dino_head,
    "dora_loss": check_dora_loss,
    "ibot_loss": check_ibot_loss,
    "schedules": check_schedules,
    "train_step": check_train_step,
}
