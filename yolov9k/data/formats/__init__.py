"""Label formats. A new one is a file here, or anywhere, and a line below."""

from yolov9k.data.formats.base import register
from yolov9k.data.formats.coco import Coco
from yolov9k.data.formats.csv_table import Csv
from yolov9k.data.formats.darknet import Darknet
from yolov9k.data.formats.data_yaml import DataYaml
from yolov9k.data.formats.labelme import Labelme
from yolov9k.data.formats.voc import Voc
from yolov9k.data.formats.yolo import Yolo

register(Yolo())  # takes any folder, so it is asked last
register(Csv())
register(Coco())
register(Labelme())
register(Voc())
register(Darknet())
register(DataYaml())
