"""What a person does to get or mend the data sets that no program may fetch: sentences, and lines for a shell.

Each begins with the line `HERE`, in which the set's folder is filled in; the other lines use $FOLDER.
"""

import shlex
from pathlib import Path

HERE = "    FOLDER=?"

# PyTorch's own example sorts with the same list: github.com/pytorch/examples imagenet/extract_ILSVRC.sh
SORT_VAL = f"""\
Sort them with the list of moves that PyTorch's ImageNet example uses (read it before you run it):
{HERE}
    cd "$FOLDER/val"
    curl -fLO https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh
    bash valprep.sh && rm valprep.sh"""

SORT_KAGGLE_VAL = f"""\
Sort them by Kaggle's list:
{HERE}
    cd "$FOLDER/val"
    tail -n +2 LIST | tr ',' ' ' | while read -r image class boxes; do
      mkdir -p "$class" && mv "$image.JPEG" "$class/"; done"""

UNPACK_CLASSES = f"""\
{HERE}
    cd "$FOLDER/train"
    for class in n*.tar; do
      mkdir -p "${{class%.tar}}" && tar xf "$class" -C "${{class%.tar}}" && rm "$class"; done"""

# Md5: torchvision 0.29 datasets/imagenet.py, as on image-net.org's download page.
IMAGENET = f"""\
ImageNet-1k is given to registered researchers only; nothing of it can be fetched for you.
1. Register at https://image-net.org/download-images, accept the terms, and download from "ILSVRC2012" into $FOLDER
     ILSVRC2012_img_train.tar  147897477120 bytes  md5 1d675b47d978889d74fa0da5fadfb00e
     ILSVRC2012_img_val.tar      6744924160 bytes  md5 29b22e2961454d5413ddabcf34fc5622
{HERE}
    cd "$FOLDER" && md5sum ILSVRC2012_img_*.tar
2. Unpack both; the training tar holds a tar for each class:
    mkdir -p "$FOLDER/train" "$FOLDER/val"
    tar xf "$FOLDER/ILSVRC2012_img_train.tar" -C "$FOLDER/train"
    tar xf "$FOLDER/ILSVRC2012_img_val.tar" -C "$FOLDER/val"
{UNPACK_CLASSES}
3. The validation images come in no order. {SORT_VAL}
4. dora data check imagenet "$FOLDER" then finds nothing wrong.
Kaggle's imagenet-object-localization-challenge holds the same images in ILSVRC/Data/CLS-LOC, its training images
sorted; name that folder and check it, and you are told how to sort the others by its LOC_val_solution.csv."""

MERGE_SPLITS = f"""\
{HERE}
    cd "$FOLDER/train"
    for part in GOT-10k_Train_split_*; do mv "$part"/GOT-10k_Train_* . && rmdir "$part"; done"""

LIST_SEQUENCES = "ls -d GOT-10k_*_[0-9]* > list.txt"

GOT10K = f"""\
GOT-10k is given after registration; nothing of it can be fetched for you. No checksums are published.
1. Register at http://got-10k.aitestunion.com/downloads and download the full data (about 70 GB): either full_data.zip,
   which holds the rest, or train_data (GOT-10k_Train_split_01.zip … _19.zip and list.txt), val_data.zip, test_data.zip.
2. Where these files are:
{HERE}
    mkdir -p "$FOLDER/train" "$FOLDER/val" "$FOLDER/test"
    for part in train_data/GOT-10k_Train_split_*.zip; do unzip -q "$part" -d "$FOLDER/train"; done
    cp train_data/list.txt "$FOLDER/train/"
    unzip -q val_data.zip -d "$FOLDER/val" && unzip -q test_data.zip -d "$FOLDER/test"
   train/GOT-10k_Train_000001, val/GOT-10k_Val_000001 and a list.txt beside each must come out.
3. dora data check got10k "$FOLDER" then finds nothing wrong."""

MOVE_NYU_TRAIN = 'mv "$FOLDER"/sync/* "$FOLDER"/'
MOVE_NYU_TEST = 'mv "$FOLDER"/official_splits/test/* "$FOLDER"/'

NYU = f"""\
NYU Depth v2 comes in parts from several places, one of them a shared drive; collect them by hand. No checksums are
published.
1. Training pairs: sync.zip (about 6 GB) by the authors of BTS, linked in pytorch/README.md of
   https://github.com/cleinc/bts ("Preparation for Training"). Unpack it in $FOLDER, where it makes the folder sync.
2. Test pairs: http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat (about 3 GB), turned into
   files by utils/extract_official_train_test_set_from_mat.py of the same repository:
{HERE}
    python extract_official_train_test_set_from_mat.py nyu_depth_v2_labeled.mat splits.mat "$FOLDER/official_splits/"
3. The lists nyudepthv2_train_files_with_gt.txt and nyudepthv2_test_files_with_gt.txt of train_test_inputs/ in the same
   repository, into $FOLDER. Their paths mean files below it, so put the scenes there:
{HERE}
    {MOVE_NYU_TRAIN}
    {MOVE_NYU_TEST}
4. dora data check nyu "$FOLDER" then finds nothing wrong."""


def filled_in(text: str, folder: Path) -> str:
    """The text for a set in that folder."""
    return text.replace(HERE, f"    FOLDER={shlex.quote(str(folder))}")
