"""The benchmarks' data sets: where each comes from, how big it is, and what must be in it.

Addresses are the publishers' own. Sizes and checksums are never ours: their source stands beside them.
"""

import json
from pathlib import Path

from pydantic import Field

from dora.artifacts import Machine
from dora.config import Frozen
from dora.data.datasets import gated


class Archive(Frozen):
    """One file of a publisher."""

    url: str
    size_bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    top: str = Field(default="", description="folder in it whose content becomes the set's; empty: all of it")

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rpartition("/")[2]


class DataSet(Frozen):
    """A data set: open ones have archives, for the others `how_to_get` says what a person does."""

    name: str = Field(description="key in Machine.datasets")
    title: str
    terms: str
    page: str = Field(description="the publisher's, for terms and news")
    archives: tuple[Archive, ...] = ()
    size_bytes: float = Field(description="unpacked, about")
    counts: dict[str, int] = Field(description="of things that dora/data/datasets/layouts.py counts")
    how_to_get: str = Field(default="", description="of a set without archives; see dora/data/datasets/gated.py")

    @property
    def is_open(self) -> bool:
        """Whether it may be downloaded without asking anybody."""
        return bool(self.archives)


# Counts: the data set's own paper or page, and what every reader of it prints.
ADE20K = DataSet(
    name="ade20k", title="ADE20K SceneParsing, 150 classes",
    terms="non-commercial research and education (https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/)",
    page="https://sceneparsing.csail.mit.edu",
    archives=(
        Archive(
            url="https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip", top="ADEChallengeData2016",
            # tensorflow/datasets url_checksums/ade20k.txt
            size_bytes=967_382_037, sha256="7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29",
        ),
    ),
    size_bytes=1.1e9,
    counts={"training images": 20_210, "validation images": 2_000},
)  # fmt: skip

# images.cocodataset.org has no certificate of its own; this is the bucket behind it.
_COCO = "https://s3.amazonaws.com/images.cocodataset.org"
COCO = DataSet(
    name="coco", title="COCO 2017, detection and instance segmentation",
    terms="annotations CC BY 4.0; images under their Flickr licences (https://cocodataset.org/#termsofuse)",
    page="https://cocodataset.org",
    # Sizes and checksums: tensorflow/datasets url_checksums/coco2017.txt
    archives=(
        Archive(
            url=f"{_COCO}/annotations/annotations_trainval2017.zip", size_bytes=252_907_541,
            sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        ),
        Archive(
            url=f"{_COCO}/zips/val2017.zip", size_bytes=815_585_330,
            sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        ),
        Archive(
            url=f"{_COCO}/zips/train2017.zip", size_bytes=19_336_861_798,
            sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        ),
    ),
    size_bytes=21.1e9,
    counts={"training images": 118_287, "validation images": 5_000, "categories": 80},
)  # fmt: skip

DAVIS = DataSet(
    name="davis", title="DAVIS 2017 at 480p, training and validation",
    terms="Creative Commons, some videos under terms of their own (README.md and SOURCES.md in the archive)",
    page="https://davischallenge.org/davis2017/code.html",
    archives=(
        Archive(
            url="https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-trainval-480p.zip", top="DAVIS",
            # tensorflow/datasets video/davis/checksums.tsv
            size_bytes=832_766_765, sha256="e3d0b5b77c3d031b000a19e0e25e3e2cac65d183755601bc2cf066df1a2aa492",
        ),
    ),
    size_bytes=0.9e9,
    # Frames as in the archive; the paper's table (arXiv:1704.00675) has slightly others.
    counts={"train sequences": 60, "val sequences": 30, "frames of train": 4_209, "frames of val": 1_999},
)  # fmt: skip

# Addresses and md5: torchvision 0.29 datasets/voc.py. Sizes and sha256: tensorflow/datasets url_checksums/voc.txt.
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"
_VOC_TERMS = "images under the Flickr terms of use (http://host.robots.ox.ac.uk/pascal/VOC/)"
VOC2012 = DataSet(
    name="voc2012", title="PASCAL VOC 2012, training and validation",
    terms=_VOC_TERMS, page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    archives=(
        Archive(
            url=f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar", top="VOCdevkit/VOC2012",
            size_bytes=1_999_639_040, md5="6cd6e144f989b92b3379bac3b3de84fd",
            sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        ),
    ),
    size_bytes=2.0e9,
    counts={
        "images": 17_125, "images with boxes (trainval)": 11_540,
        "label maps (train)": 1_464, "label maps (val)": 1_449,
    },
)  # fmt: skip
VOC2007 = DataSet(
    name="voc2007", title="PASCAL VOC 2007, training and validation",
    terms=_VOC_TERMS, page="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
    archives=(
        Archive(
            url=f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar", top="VOCdevkit/VOC2007",
            size_bytes=460_032_000, md5="c52e279531787c972589f7e41ab4ae64",
            sha256="7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
        ),
    ),
    size_bytes=0.5e9,
    counts={
        "images": 5_011, "images with boxes (trainval)": 5_011,
        "label maps (train)": 209, "label maps (val)": 213,
    },
)  # fmt: skip

IMAGENET = DataSet(
    name="imagenet", title="ImageNet-1k (ILSVRC 2012), training and validation",
    terms="non-commercial research and education, by registration", page="https://image-net.org/download-images",
    size_bytes=155e9, how_to_get=gated.IMAGENET,
    counts={
        "training classes": 1_000, "validation classes": 1_000,
        "training images": 1_281_167, "validation images": 50_000,
    },
)  # fmt: skip
GOT10K = DataSet(
    name="got10k", title="GOT-10k, tracking",
    terms="by registration, see the publisher's page", page="http://got-10k.aitestunion.com/downloads",
    size_bytes=70e9, how_to_get=gated.GOT10K,
    counts={"train sequences": 9_335, "val sequences": 180, "test sequences": 180},
)  # fmt: skip
NYU = DataSet(
    name="nyu", title="NYU Depth v2, the pairs that depth estimators use",
    terms="see the publisher's page", page="https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html",
    size_bytes=9e9, how_to_get=gated.NYU,
    counts={"training pairs": 24_231, "test pairs": 654},
)  # fmt: skip

SETS = {each.name: each for each in (ADE20K, COCO, DAVIS, VOC2012, VOC2007, IMAGENET, GOT10K, NYU)}


def find(name: str) -> DataSet:
    """The data set of that name.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    if name not in SETS:
        raise ValueError(f"unknown data set {name!r}. Known: {', '.join(SETS)}.")
    return SETS[name]


def folder_of(wanted: DataSet, machine: Machine) -> Path:
    """Where the set lies or would lie: the folder that the machine names, else root/datasets/NAME."""
    named = machine.datasets.get(wanted.name)
    return (named or machine.root / "datasets" / wanted.name).expanduser().absolute()


def how_to_name(wanted: DataSet, folder: Path) -> str:
    """How the benchmarks are told where a set lies."""
    line = f"{wanted.name} = {json.dumps(str(folder))}"  # TOML's strings are JSON's
    return f"DORA_DATASETS__{wanted.name.upper()}={folder}, or in machine.toml:\n  [datasets]\n  {line}"
