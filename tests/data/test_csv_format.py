"""Tables of boxes: names and orders of columns, delimiters, units, splits, and what is said of each faulty row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data_cases import only_issue, write_image
from tests.format_cases import put
from yolov9k.common.errors import UserError
from yolov9k.data.config import find_splits, load_split

HEAD = "filename,width,height,class,xmin,ymin,xmax,ymax"
ROW = "a.png,100,50,dog,10,10,30,40"


def table(root: Path, text: str, name: str = "train.csv") -> Path:
    write_image(root / "a.png", 100, 50)
    return put(root / name, text)


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}\n{ROW}",
        f"\ufeff{HEAD}\r\n{ROW}\r\n\r\n",
        f"{HEAD}\n{ROW}".replace(",", ";"),
        f"{HEAD}\n{ROW}".replace(",", "\t"),
        ROW,  # TensorFlow's order without its header
        "a.png,10,10,30,40,dog",  # RetinaNet's
        "images/a.png,10,10,30,40,dog",
        "/content/data/a.png,10,10,30,40,dog",
        "Image Name,X Min,Y Min,X Max,Y Max,Label Name\na.png,10,10,30,40,dog",
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\na,dog,3,R1,10,10,30,40",
        "image_id,width,height,bbox,source,label\na,100,50,\"[10.0, 10.0, 20.0, 30.0]\",x,dog",
        "img,x,y,w,h,category\na.png,10,10,20,30,dog",
        "image,x,y,width,height,label\na.png,10,10,20,30,dog",
        "image,x_center,y_center,width,height,label\na.png,20,25,20,30,dog",
        "left,top,right,bottom,object,path\n10,10,30,40,dog,C:\\data\\a.png",
        'filename,class,xmin,ymin,xmax,ymax,note\na.png,"dog",1e1,10.0,30,40,"a, ""b"""',
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\na,x,dog,1,0.1,0.3,0.2,0.8",
    ],
)  # fmt: skip
def test_columns_go_by_the_names_that_tools_give_them(text: str, tmp_path: Path) -> None:
    path = table(tmp_path, text)
    split = load_split(path, "train")
    assert split.names == ["dog"]
    np.testing.assert_allclose(split.records[0].boxes, [[0.1, 0.2, 0.3, 0.8]], atol=1e-6)
    fractions = "taken as fractions"
    assert [fractions in issue.message for issue in split.issues] == [True] * ("0.1,0.3" in text)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.png,100,50,dog,10,10,x,40", "row 'a.png,100,50,dog,10,10,x,40': box 10 10 x 40; it needs four numbers"),
        ("a.png,100,50,dog,10,,30,40", "box 10 ? 30 40; it needs four numbers"),
        ("a.png,100,50,dog,1_0,10,30,40", "box 1_0 10 30 40; it needs four numbers"),
        ("a.png,100,50,dog,١٠,10,30,40", "it needs four numbers"),
        ("a.png,100,50,dog", "4 columns, 8 are needed; complete the row"),
        ("a.png,100,50,,10,10,30,40", "no class; complete the row"),
        (",100,50,dog,10,10,30,40", "no image; complete the row"),
        ("a.png,100,50,dog,30,10,10,40", "dog box 30 10 10 40 has no area"),
        ("a.png,100,50,dog,nan,10,30,40", "dog box nan 10 30 40 has a coordinate that is not a finite number"),
        ("a.png,100,50,dog,90,10,120,40", "reaches beyond the image and was clipped"),
        ("gone.png,100,50,dog,10,10,30,40", "image not found"),
        ("a.png,100,50,cat,5,5,9,9\na.png,100,50,cat,5,5,9,9", "is a duplicate of an earlier one"),
    ],
)
def test_a_faulty_row_is_told_with_its_line(row: str, words: str, tmp_path: Path) -> None:
    path = table(tmp_path, f"{HEAD}\n{ROW}\n{row}\n")
    issue = only_issue(load_split(path, "train"))
    assert str(issue).startswith(f"{path}:{4 if 'duplicate' in words else 3}: ")
    assert words in issue.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "train.csv: is empty; it needs a header such as filename,width,height"),
        ("id,target\n1,2\n", "train.csv:1: ['id', 'target'] names no columns of images and boxes; it needs a header"),
        ("a.txt,10,10,30,40,dog\n", "names no columns of images and boxes"),
        (f'{HEAD}\n{ROW}\n"a{"b" * 200_000}\n', "not a table (field larger than field limit"),
    ],
)
def test_what_is_no_table_of_boxes_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_split(table(tmp_path, text), "train")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stated_size_that_is_not_the_images_is_told(tmp_path: Path) -> None:
    issue = only_issue(load_split(table(tmp_path, f"{HEAD}\n{ROW.replace(',50,', ',60,')}"), "train"))
    assert issue.message.startswith("states 100 x 60 pixels for a.png")


def test_classes_by_number_stand_in_their_order(tmp_path: Path) -> None:
    rows = [f"a.png,{n},1,{n + 5},9,{n}" for n in (10, 9, 2)]
    path = table(tmp_path, "\n".join(["filename,xmin,ymin,xmax,ymax,class_id", *rows]))
    assert load_split(path, "train").names == ["2", "9", "10"]
    data = put(tmp_path / "data.yaml", f"train: train.csv\nnames: [{', '.join('abcdefghijk')}]\n")
    assert load_split(data, "train").records[0].classes.tolist() == [10, 9, 2]


def test_without_a_column_of_classes_all_are_objects(tmp_path: Path) -> None:
    assert load_split(table(tmp_path, "filename,xmin,ymin,xmax,ymax\na.png,1,1,9,9"), "train").names == ["object"]


def test_rows_of_no_split_are_left_out_with_a_word(tmp_path: Path) -> None:
    write_image(tmp_path / "b.png")
    path = table(
        tmp_path, "filename,xmin,ymin,xmax,ymax,class,split\na.png,1,1,9,9,x,TRAIN\nb.png,1,1,9,9,x,holdout\n", "all.csv"
    )
    assert find_splits(path) == ["train"]
    split = load_split(path, "train")
    assert [record.path.stem for record in split.records] == ["a"]
    assert str(only_issue(split)).startswith(f"{path}:3: 1 rows, the first here, are of no split")


def test_tables_of_other_things_beside_do_not_count(tmp_path: Path) -> None:
    table(tmp_path, f"{HEAD}\n{ROW}", "boxes.csv")
    put(tmp_path / "sample_submission.csv", "image_id,PredictionString\na,14 1 0 0 1 1\n")
    put(tmp_path / "classes.csv", "dog,0\n")
    assert load_split(tmp_path, "train").records[0].objects == 1
    table(tmp_path, f"{HEAD}\n{ROW}", "more.csv")
    with pytest.raises(UserError, match=r"several tables of train \(boxes\.csv, more\.csv\); name the one to use"):
        find_splits(tmp_path)
