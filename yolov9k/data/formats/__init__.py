"""Label formats: YOLO text, COCO JSON, Pascal VOC XML."""
