"""Object detection: boxes with classes and scores, evaluated by COCO's average precision."""
