"""k-NN against DINO's published procedure, and frozen features against a plain timm loop; on the CPU, one thread each.

The k-NN's plain side was written from the description of facebookresearch/dino's eval_knn (commit 7c446df): for each k
anew, 100 chunks of the test features, all products, a sorted top-k, votes by scattering ones into a (k, classes) array
for each image, classes sorted. Ours finds the neighbours once for all k, in float64 where it matters, and the
predictions of both are compared.

The features' plain side reads one photo after the other (PIL, torchvision's transforms, as a DataLoader without
workers does) and calls timm's own network in batches of 64; ours reads ahead in a thread and writes to a store that
outlasts a kill. Both decode the same JPEGs and multiply the same matrices in float32, which is nearly all that there is
to do: with one core the figure says that the store costs nothing, not that it is fast. What is saved is the work of the
last block's patches, and what the linear layers of dora/method/products.py save.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import timm
import torch
from bench import Measurement, alternate
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from dora.artifacts import Checkpoint, Machine
from eval.benchmark import checkpoint_from_file
from eval.features import IMAGENET_MEAN, IMAGENET_STD
from eval.finetune.team import joined
from eval.frozen.store import class_tokens
from eval.nearest_neighbours import is_correct, nearest_neighbours, votes

N_TRAIN, N_TEST, WIDTH, N_CLASSES = 60_000, 2_000, 384, 1_000
KS, TEMPERATURE = (10, 20, 100, 200), 0.07
N_PHOTOS, PHOTO, CROP, BATCH = 64, (375, 500), 224, 64


def plain_knn(
    train: Tensor, train_labels: Tensor, test: Tensor, labels: Tensor, k: int, n_chunks: int = 100
) -> tuple[Tensor, Tensor]:
    """Whether each test image is right at top-1 and at top-5."""
    size = len(test) // n_chunks
    ones = torch.zeros(k, N_CLASSES)
    right: list[Tensor] = []
    for start in range(0, len(test), size):
        features, target = test[start : start + size], labels[start : start + size]
        similarity, index = torch.mm(features, train.T).topk(k, largest=True, sorted=True)
        voted = train_labels.view(1, -1).expand(len(features), -1).gather(1, index)
        ones.resize_(len(features) * k, N_CLASSES).zero_()
        ones.scatter_(1, voted.view(-1, 1), 1)
        weight = similarity.clone().div_(TEMPERATURE).exp_()
        probability = torch.sum(ones.view(len(features), -1, N_CLASSES) * weight.view(len(features), -1, 1), 1)
        _, predicted = probability.sort(1, True)
        right.append(predicted.eq(target.view(-1, 1)))
    all_right = torch.cat(right)
    return all_right[:, 0], all_right[:, :5].any(dim=1)


def knn_ratio() -> Measurement:
    """60 000 training images in order of their classes, some hard to tell, and 2 000 test images; all four k."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(N_CLASSES, WIDTH, generator=generator)
    train_labels = torch.arange(N_TRAIN) * N_CLASSES // N_TRAIN
    labels = torch.randint(0, N_CLASSES, (N_TEST,), generator=generator)
    train, test = (
        normalize(centres[of] + 4.5 * torch.randn(len(of), WIDTH, generator=generator)) for of in (train_labels, labels)
    )

    def plain() -> list[tuple[Tensor, Tensor]]:
        return [plain_knn(train, train_labels, test, labels, k) for k in KS]

    def ours() -> list[tuple[Tensor, Tensor]]:
        found = nearest_neighbours(test, train, k=max(KS))
        summed = (votes(found.first(k), train_labels, n_classes=N_CLASSES, temperature=TEMPERATURE) for k in KS)
        return [(is_correct(one, labels, top=1), is_correct(one, labels, top=5)) for one in summed]

    for one, other in zip(plain(), ours(), strict=True):
        assert torch.equal(one[0], other[0])
        assert not (other[1] & ~one[1]).any()  # theirs also counts classes without a vote, as its sort leaves them
    return alternate(plain, ours)


@torch.inference_mode()
def plain_features(vit: VisionTransformer, photos: Sequence[Path]) -> Tensor:
    """[CLS] after the last block and the final LayerNorm."""
    resize = Resize(256, interpolation=InterpolationMode.BICUBIC)
    transform = Compose([resize, CenterCrop(CROP), ToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    batches: list[Tensor] = []
    for start in range(0, len(photos), BATCH):
        images: list[Tensor] = []
        for path in photos[start : start + BATCH]:
            with Image.open(path) as file:
                images.append(cast(Tensor, transform(file.convert("RGB"))))
        batches.append(vit.forward_features(torch.stack(images))[:, 0])
    return torch.cat(batches)


def features_ratio() -> Measurement:
    """64 photos of ImageNet's usual size through a ViT-S/16."""
    torch.manual_seed(0)
    vit = cast(VisionTransformer, timm.create_model("vit_small_patch16_224", num_classes=0)).eval()
    with TemporaryDirectory() as folder:
        photos, checkpoint = _write_photos(Path(folder)), _write_checkpoint(vit, Path(folder) / "vit.pth")
        runs = count()

        def ours() -> np.ndarray:
            machine = Machine(root=Path(folder) / f"root-{next(runs)}", device="cpu")
            with joined(machine, machine.root / "job") as team:
                return class_tokens(checkpoint, photos, crop=CROP, n_blocks=1, machine=machine, team=team)

        expected, found = plain_features(vit, photos), torch.from_numpy(np.array(ours()[:, 0]))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        return alternate(lambda: plain_features(vit, photos), ours)


def _write_photos(folder: Path) -> list[Path]:
    rng, paths = np.random.default_rng(0), list[Path]()
    for number in range(N_PHOTOS):
        rough = Image.fromarray(rng.integers(0, 255, (PHOTO[0] // 8, PHOTO[1] // 8, 3), dtype=np.uint8))
        paths.append(folder / f"{number}.jpg")
        rough.resize((PHOTO[1], PHOTO[0]), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def _write_checkpoint(vit: VisionTransformer, path: Path) -> Checkpoint:
    torch.save(vit.state_dict(), path)
    return checkpoint_from_file(path)


BENCHES = {"knn_ratio": knn_ratio, "features_ratio": features_ratio}
