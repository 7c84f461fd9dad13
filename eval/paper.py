"""The paper's numbers (arXiv:2310.08584), each with where it was found. All models are ViT-S/16.

The tables of the PDF could not be retrieved, so these come from the authors' project page, from OpenReview and from
the DINO repository; iBOT's, for comparison, from memory. `verified` means that two independent sources agree, or that
the source is the publisher's own repository; everything else is one reading and is marked so wherever it is shown. A
number is comparable with ours only where protocol and pretraining are the same; who shows it has to say which it is.
A linear probe's is of one learning rate, the authors' or DINO's, where our headline is the best of many; a fine-tuned
network's is the best of all looks at the test set.
`caution` says of a number that its own protocol is in doubt: it stands beside none of ours.
"""

from dora.config import Frozen

PAGE = "bar chart of the authors' project page, read by eye"
REVIEWS = "OpenReview reviews, which quote the initial submission"
DINO_PAPER = "DINO's own paper as a reviewer of this one quotes it (OpenReview)"
ESSAY = "an essay that quotes the paper's Table 10"
DINO_REPOSITORY = "README of facebookresearch/dino"
LOST_REPOSITORY = "README of valeoai/LOST, VOC 2012 trainval"
GAINS = "derived: the chart's value for DoRA less the gain over DINO in a note on the paper's Table 3; low confidence"
IBOT_PAPER = "iBOT's own paper, quoted from memory and not looked up"

SHORT_OF_IBOT = (
    "Far below what iBOT's whole recipe gives a ViT-S (about 45 mIoU and 49 box AP), which the authors say they "
    "follow: the paper's protocol must differ from it, in what is not known."
)

TRACKER_UNKNOWN = (
    "Neither tracker nor metric nor split of the paper's number is known: SeqTrack and AO are presumed, and SeqTrack's "
    "own ViT-B has 74.7 on the test set."
)
SPLIT_UNKNOWN = (
    "DINO's 55.8 is not the 64.0 that LOST's authors have for it on VOC 2012 trainval: the paper's split or encoder "
    "must be another; which, is not known."
)

ONE_TOUR = "WT Venice"
TEN_TOURS = "all ten WT"
IMAGENET = "ImageNet-1k"


class PaperNumber(Frozen):
    """One published number; `value` in percent."""

    method: str
    pretraining: str
    benchmark: str
    metric: str
    value: float
    provenance: str
    verified: bool
    caution: str = ""


def _number(
    method: str, pretraining: str, benchmark: str, metric: str, value: float, provenance: str, *,
    verified: bool = False, caution: str = "",
) -> PaperNumber:  # fmt: skip
    return PaperNumber(
        method=method, pretraining=pretraining, benchmark=benchmark, metric=metric,
        value=value, provenance=provenance, verified=verified, caution=caution,
    )  # fmt: skip


PAPER: tuple[PaperNumber, ...] = (
    _number("DoRA", ONE_TOUR, "davis", "J_and_F_mean", 58.4, PAGE),
    _number("DINO", IMAGENET, "davis", "J_and_F_mean", 59.4, f"{PAGE}; {REVIEWS}", verified=True),
    _number("DINO", IMAGENET, "davis", "J_mean", 57.4, REVIEWS),
    _number("DINO", IMAGENET, "davis", "F_mean", 61.4, REVIEWS),
    _number("DINO", f"{IMAGENET}, 800 epochs", "davis", "J_and_F_mean", 61.8, DINO_PAPER),
    _number("DINO", f"{IMAGENET}, 800 epochs", "davis", "J_mean", 60.2, DINO_PAPER),
    _number("DINO", f"{IMAGENET}, 800 epochs", "davis", "F_mean", 63.4, DINO_PAPER),
    _number("DINO", "not named, perhaps WT Venice", "davis", "J_and_F_mean", 54.6, REVIEWS),

    _number("DoRA", ONE_TOUR, "imagenet_knn", "top1", 36.0, f"{REVIEWS} (rounded)"),
    _number("DINO", IMAGENET, "imagenet_knn", "top1", 70.0, f"{REVIEWS} (rounded; presumably DINO)"),
    _number("DINO", f"{IMAGENET}, 100 epochs", "imagenet_knn", "top1", 69.3, DINO_REPOSITORY, verified=True),
    _number("DINO", f"{IMAGENET}, 800 epochs", "imagenet_knn", "top1", 74.5, DINO_REPOSITORY, verified=True),

    _number("DoRA", ONE_TOUR, "imagenet_linear", "top1_lr_1e-2", 44.5, f"{PAGE}; {REVIEWS} (about 45)", verified=True),
    _number("DINO", ONE_TOUR, "imagenet_linear", "top1_lr_1e-2", 33.8, PAGE),
    _number("DINO", IMAGENET, "imagenet_linear", "top1_lr_1e-2", 72.0, f"{REVIEWS} (rounded; presumably DINO)"),
    _number("DINO", f"{IMAGENET}, 100 epochs", "imagenet_linear", "top1_lr_1e-3", 74.0, DINO_REPOSITORY, verified=True),
    _number("DINO", f"{IMAGENET}, 800 epochs", "imagenet_linear", "top1_lr_1e-3", 77.0, DINO_REPOSITORY, verified=True),
    _number("DoRA without tracking", f"{IMAGENET}, 60 epochs", "imagenet_linear", "top1_lr_1e-2", 71.9, ESSAY),
    _number("DoRA", "Kinetics-400, as many frames", "imagenet_linear", "top1_lr_1e-2", 43.0, PAGE),
    _number("DINO", "Kinetics-400, as many frames", "imagenet_linear", "top1_lr_1e-2", 40.7, PAGE),
    _number("DoRA", "EPIC-Kitchens, as many frames", "imagenet_linear", "top1_lr_1e-2", 41.8, PAGE),
    _number("DINO", "EPIC-Kitchens, as many frames", "imagenet_linear", "top1_lr_1e-2", 38.6, PAGE),
    _number("DoRA", "a romance film", "imagenet_linear", "top1_lr_1e-2", 35.3, PAGE),
    _number("DINO", "a romance film", "imagenet_linear", "top1_lr_1e-2", 34.9, PAGE),

    _number("DoRA", ONE_TOUR, "ade20k", "mIoU", 35.4, PAGE, caution=SHORT_OF_IBOT),
    _number("DINO", IMAGENET, "ade20k", "mIoU", 33.9, PAGE, caution=SHORT_OF_IBOT),
    _number("DINO", ONE_TOUR, "ade20k", "mIoU", 32.4, GAINS, caution=SHORT_OF_IBOT),
    _number("iBOT", IMAGENET, "ade20k", "mIoU", 45.4, IBOT_PAPER),

    _number("DoRA", ONE_TOUR, "coco", "box_AP", 39.5, f"{PAGE}; presumably box AP", caution=SHORT_OF_IBOT),
    _number("DINO", IMAGENET, "coco", "box_AP", 39.9, f"{PAGE}; presumably box AP", caution=SHORT_OF_IBOT),
    _number("DINO", ONE_TOUR, "coco", "box_AP", 37.1, GAINS, caution=SHORT_OF_IBOT),
    _number("iBOT", IMAGENET, "coco", "box_AP", 49.4, IBOT_PAPER),
    _number("iBOT", IMAGENET, "coco", "mask_AP", 42.6, IBOT_PAPER),

    _number("DoRA", ONE_TOUR, "got10k", "AO", 41.4, f"{PAGE}; presumably AO", caution=TRACKER_UNKNOWN),
    _number("DINO", IMAGENET, "got10k", "AO", 46.4, f"{PAGE}; presumably AO", caution=TRACKER_UNKNOWN),
    _number("DoRA", ONE_TOUR, "voc_lost", "CorLoc", 57.1, f"{PAGE}; presumably CorLoc", caution=SPLIT_UNKNOWN),
    _number("DINO", IMAGENET, "voc_lost", "CorLoc", 55.8, f"{PAGE}; presumably CorLoc", caution=SPLIT_UNKNOWN),
    _number("DINO", f"{IMAGENET}, 800 epochs", "voc_lost", "CorLoc", 64.0, LOST_REPOSITORY, verified=True),

    _number("DoRA", ONE_TOUR, "imagenet_finetune", "top1_best", 80.8, PAGE),
    _number("DoRA", TEN_TOURS, "imagenet_finetune", "top1_best", 81.4, PAGE),
    _number("DINO", IMAGENET, "imagenet_finetune", "top1_best", 81.3, PAGE),
    _number("DoRA", ONE_TOUR, "transfer_cifar10", "top1_best", 98.5, PAGE),
    _number("DoRA", TEN_TOURS, "transfer_cifar10", "top1_best", 98.8, PAGE),
    _number("DINO", IMAGENET, "transfer_cifar10", "top1_best", 98.7, PAGE),
    _number("DoRA", ONE_TOUR, "transfer_cifar100", "top1_best", 89.4, PAGE),
    _number("DoRA", TEN_TOURS, "transfer_cifar100", "top1_best", 89.9, PAGE),
    _number("DINO", IMAGENET, "transfer_cifar100", "top1_best", 89.8, PAGE),
    _number("DoRA", ONE_TOUR, "transfer_flowers", "top1_best", 94.0, PAGE),
    _number("DoRA", TEN_TOURS, "transfer_flowers", "top1_best", 98.7, PAGE),
    _number("DINO", IMAGENET, "transfer_flowers", "top1_best", 98.3, PAGE),
    _number("DoRA", ONE_TOUR, "transfer_cars", "top1_best", 92.5, PAGE),
    _number("DoRA", TEN_TOURS, "transfer_cars", "top1_best", 93.1, PAGE),
    _number("DINO", IMAGENET, "transfer_cars", "top1_best", 92.2, PAGE),
    _number("DoRA", ONE_TOUR, "transfer_inat18", "top1_best", 69.8, PAGE),
    _number("DoRA", TEN_TOURS, "transfer_inat18", "top1_best", 72.2, PAGE),
    _number("DINO", IMAGENET, "transfer_inat18", "top1_best", 71.5, PAGE),
)  # fmt: skip


MEASURED = frozenset(number.benchmark for number in PAPER)  # what the paper measures too, as far as is known


def numbers(benchmark: str, metric: str) -> tuple[PaperNumber, ...]:
    """Every published number of one metric, () if none was found."""
    return tuple(n for n in PAPER if n.benchmark == benchmark and n.metric == metric)
