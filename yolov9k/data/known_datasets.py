"""Data sets that other tools know by a name and download by themselves: what to download by hand instead.

Addresses are those of the data sets' own pages and of the archives that Ultralytics' documentation links to.
"""

from __future__ import annotations

_ASSETS = "https://github.com/ultralytics/assets/releases/download/v0.0.0"
_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
_ARCHIVES = """
    african-wildlife brain-tumor carparts-seg coco128 coco128-seg coco8 coco8-seg construction-ppe crack-seg homeobjects-3k
    kitti medical-pills package-seg signature
"""
_PAGES = {
    "coco": "train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org/#download",
    "voc": f"the archives of 2007 and 2012 from {_VOC}/voc2007 and {_VOC}/voc2012",
    "objects365": "it from https://www.objects365.org",
    "oiv7": "Open Images V7 from https://storage.googleapis.com/openimages/web/index.html",
    "open-images-v7": "Open Images V7 from https://storage.googleapis.com/openimages/web/index.html",
    "lvis": "the COCO images and LVIS annotations from https://www.lvisdataset.org/dataset",
    "visdrone": "DET's parts from https://github.com/VisDrone/VisDrone-Dataset",
    "sku-110k": "it from https://github.com/eg4000/SKU110K_CVPR19",
    "xview": "it from https://challenge.xviewdataset.org",
    "argoverse": "Argoverse-HD from https://www.cs.cmu.edu/~mengtial/proj/streaming",
    "globalwheat2020": "it from https://www.global-wheat.com",
}
_SPELLED = {"homeobjects-3k": "homeobjects-3K"}
# Of other tasks: no boxes of objects to train on.
_OTHERS = """
    coco-pose coco8-pose tiger-pose dog-pose hand-keypoints dota8 dota128 dotav1 dotav1.5 dotav2 imagenet imagenet10 mnist
"""


def how_to_get(name: str) -> str:
    """What to do about a built-in data set's name, such as coco8.yaml, for which there is no file; empty where it is none."""
    stem, dot, suffix = name.lower().rpartition(".")
    if not dot or suffix not in ("yaml", "yml"):
        return ""
    begin, end = (
        "it is Ultralytics' built-in data set, which is not downloaded here: fetch",
        "unpack it, give its folder or a data.yaml",
    )
    if stem in _ARCHIVES.split():
        return f"{begin} {_ASSETS}/{_SPELLED.get(stem, stem)}.zip, {end}"
    if stem in _PAGES:
        return f"{begin} {_PAGES[stem]}, {end}"
    if stem in _OTHERS.split():
        return "a built-in data set of Ultralytics for another task than detection; give one with boxes"
    return ""
