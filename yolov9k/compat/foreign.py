"""What a checkpoint is that is none of YOLOv9: told by the classes that it names, by its metadata, or by its keys."""

from __future__ import annotations

import re

from yolov9k.common.errors import one_line, shown
from yolov9k.compat.weights import Held

# A pickled module's classes: the first that is there tells.
_CLASSES = (
    (("Segment", "DSegment", "DualDSegment", "ISegment", "Panoptic", "DualDPanoptic"), "a segmentation model"),
    (("Pose", "IKeypoint"), "a pose model"),
    (("OBB",), "a model of rotated boxes"),
    (("Classify", "ClassificationModel"), "an image classifier"),
    (("v10Detect",), "YOLOv10"),
    (("WorldDetect",), "YOLO-World"),
    (("YOLOEDetect",), "YOLOE"),
    (("RTDETRDecoder",), "RT-DETR"),
    (("A2C2f",), "YOLO12"),
    (("C3k2",), "YOLO11 or YOLO26"),
    (("C2f",), "YOLOv8"),
    (("IDetect", "IAuxDetect"), "YOLOv7"),
    (("C3", "BottleneckCSP"), "YOLOv5"),
)
# Keys without wrappers' prefixes: the first pattern that is found at a key's beginning tells.
_KEYS = (
    (r"\d+\.(cv4|proto|heads)\..*\bproto\b|\d+\.proto\.|proto\.", "a segmentation model"),
    (r"\d+\.one2one_cv|head\.one2one_cv", "YOLOv10 or another model without suppression (one-to-one heads)"),
    (r"neck\.elan_(up3|down0)\.", "LibreYOLO's yolo9_p2 (a fourth level)"),
    (r"\d+\.linear\.weight", "an image classifier"),
    (r"(\w+\.)?(fc|classifier|head\.fc|heads\.head|classifier\.\d+)\.(weight|bias)", "an image classifier"),
    (r"\d+\.(m\.\d+\.)*(m\.\d+\.)?attn\.qkv\.", "YOLO11, YOLO12 or YOLO26 (attention blocks)"),
    (r"\d+\.(anchors|anchor_grid|ia\.\d+\.implicit|im\.\d+\.implicit)", "YOLOv5 or YOLOv7 (anchors)"),
    (r"\d+\.m\.\d+\.cv3\.conv\.weight|\d+\.m\.\d+\.m\.\d+\.cv1\.", "YOLO11 (C3k2 blocks)"),
    (r"\d+\.m\.\d+\.cv1\.conv\.weight", "YOLOv8 (C2f blocks)"),
    (r"(head|bbox_head)\.(cls_preds|stems|reg_preds)\.", "YOLOX"),
    (r"(roi_heads|rpn)\.", "a Faster R-CNN"),
    (r"head\.(classification_head|regression_head)\.", "a RetinaNet, FCOS or SSD"),
    (r"(transformer\.|class_embed|decoder\.(layers|dec_)|encoder\.layers|query_embed)", "a DETR"),
    (r"(blocks\.\d+\.attn|patch_embed|visual\.|vision_model)", "a transformer without a detection head"),
    (r"bbox_head\.|rtm_cls|head\.gfl_cls", "a detector of another family"),
)
_HINT = "give weights of a YOLOv9 or GELAN detector"


def what_it_is(held: Held) -> str:
    """What else than a YOLOv9 a file holds, empty where nothing tells."""
    family = held.facts.get("model_family")
    if isinstance(family, str) and family != "yolo9":
        return f"LibreYOLO's {one_line(family, 40)}"
    task = held.facts.get("task")
    if isinstance(family, str) and isinstance(task, str) and task != "detect":
        return f"LibreYOLO's {family} for the task {shown(task)}"
    for names, what in _CLASSES:
        if named := held.classes.intersection(names):
            return f"{what} (it has {min(named)})"
    for pattern, what in _KEYS:
        if any(re.match(pattern, key) for key in held.tensors):
            return what
    return ""


def refusal(held: Held, told: bool) -> str:
    """The line for a file that no layout takes. told: whether the user has said which model's it is."""
    if what := what_it_is(held):
        return f"{held.path}: is {what}, none of what is read here; {_HINT}"
    keys = ", ".join(one_line(key, 40) for key in list(held.tensors)[:3])
    remedy = _HINT if told else f"{_HINT}, or say with --cfg which model's they are"
    return f"{held.path}: no known network has its {len(held.tensors):,} tensors ({keys} ...); {remedy}"
