"""The network's blocks. A file here registers its own when it is imported; a new file is one line below."""

from yolov9k.models.blocks.conv import Conv as Conv
from yolov9k.models.blocks.conv import RepConvN as RepConvN
from yolov9k.models.blocks.down import AConv as AConv
from yolov9k.models.blocks.down import ADown as ADown
from yolov9k.models.blocks.elan import ELAN1 as ELAN1
from yolov9k.models.blocks.elan import SPPELAN as SPPELAN
from yolov9k.models.blocks.elan import RepNBottleneck as RepNBottleneck
from yolov9k.models.blocks.elan import RepNCSP as RepNCSP
from yolov9k.models.blocks.elan import RepNCSPELAN4 as RepNCSPELAN4
from yolov9k.models.blocks.routes import CBFuse as CBFuse
from yolov9k.models.blocks.routes import CBLinear as CBLinear
from yolov9k.models.blocks.routes import Concat as Concat
from yolov9k.models.blocks.routes import Silence as Silence
