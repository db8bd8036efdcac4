"""Boxes are read from what labeling programs write, judged, and matched to the photos they name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from physadv.core.errors import DataError
from physadv.core.parsing import parse_number
from physadv.eot.scenes.boxes import BoxTable, find_box_file, match_names, read_boxes
from physadv.eot.scenes.load import read_signs

BOX = [[1, 2], [31, 2], [31, 42], [1, 42]]


def table(path: Path, content: str | bytes, name: str = "boxes.csv") -> Path:
    path.mkdir(exist_ok=True)
    file = path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def photo(path: Path, size: tuple[int, int] = (100, 80)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(path)
    return path


PLAIN = "file,x0,y0,x1,y1\na.jpg,1,2,31,42\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        ("sep=;\n" + PLAIN.replace(",", ";")).encode(),
        b"file;x0;y0;x1;y1\na.jpg;1,0;2,0;31,0;42,0\n",
        b"File, X0 ,Y0,X1,Y1\n\na.jpg,1,2,31,42\n,,,,\n",
        b"filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,100,80,stop,1,2,31,42\n",
        b"image,x1,y1,x2,y2\na.jpg,1,2,31,42\n",
        b"file,x0,y0,x1,y1\na.jpg,1,2,31,42,,\n",
    ],
    ids=[
        "plain",
        "bom",
        "utf-16",
        "crlf",
        "semicolons",
        "tabs",
        "sep",
        "decimal-commas",
        "blank-rows",
        "roboflow",
        "from-one",
        "empty-cells",
    ],
)
def test_what_programs_write_as_csv_is_one_table(tmp_path: Path, content: bytes) -> None:
    """Encoding, delimiter, decimal sign and names of columns do not change the box."""
    assert read_boxes(table(tmp_path, content))["a.jpg"][0].tolist() == BOX


def test_windows_1252_is_read_and_said(tmp_path: Path) -> None:
    """Excel's plain 'CSV' has no mark; it is read as Windows-1252, with a note."""
    boxes = read_boxes(table(tmp_path, PLAIN.replace("a.jpg", "Straße.jpg").encode("cp1252")))
    assert boxes["Straße.jpg"][0].tolist() == BOX
    assert boxes.notes == ("boxes.csv is no UTF-8: read as Windows-1252",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest", "is a workbook"),
        (b"file,x0,y0,x1\na.jpg,1,2,11\n", "lacks the column y1"),
        (b"file,x0,y0,x1,y1,x0\na.jpg,1,2,3,4,5\n", "the column x0 twice"),
        (b"file,x0,y0,x1,y1\na.jpg,1,2,11\n", r"boxes\.csv:2': 4 cells under 5"),
        (b"file,x0,y0,x1,y1\na,b.jpg,1,2,11,12\n", r"boxes\.csv:2': 6 cells under 5"),
        (b"file,x0,y0,x1,y1\na.jpg,1,2,oops,12\n", r"boxes\.csv:2': x1 is 'oops'"),
        (b"file,x0,y0,x1,y1\na.jpg,1,2,,12\n", r"boxes\.csv:2': x1 is ''"),
        (b"file,x0,y0,x1,y1\n\na.jpg,nan,2,11,12\n", r"boxes\.csv:3': x0 is 'nan'"),
        (b"file,x0,y0,x1,y1\na.jpg,1,2,inf,12\n", r"boxes\.csv:2': x1 is 'inf'"),
        (b"file,x0,y0,x1,y1\na.jpg,1,2,1e999,12\n", r"boxes\.csv:2': x1 is '1e999'"),
        (b"file,x0,y0,x1,y1\na.jpg,1,2,1_1,12\n", r"boxes\.csv:2': x1 is '1_1'"),
        (b"file,x0,y0,x1,y1\na.jpg,1,2,1,12\n", r"boxes\.csv:2.* is empty"),
        (b"file,x0,y0,x1,y1\n,1,2,11,12\n", r"boxes\.csv:2.*no name"),
        (b"file,x0,y0,x1,y1\n", "holds no box"),
        (b"file,class,x0,y0,x1,y1\na,b,1,2,3,4\na,c,1,2,3,4\n", "boxes of 2 classes"),
        (b"file,x0,y0,x1,y1\n\x81.jpg,1,2,3,4\n", "neither UTF-8 nor Windows-1252"),
    ],
)
def test_what_is_no_box_is_refused_by_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    """Missing cells, words, NaN, infinities and empty boxes are one line that names the place."""
    with pytest.raises(DataError, match=said):
        read_boxes(table(tmp_path, content))


def test_swapped_corners_are_put_in_order_and_said(tmp_path: Path) -> None:
    """A box drawn from its lower right is the same box, not a sign upside down."""
    boxes = read_boxes(table(tmp_path, "file,x0,y0,x1,y1\na.jpg,31,42,1,2\n"))
    assert boxes["a.jpg"][0].tolist() == BOX
    assert boxes.notes == ("boxes.csv: 1 box with corners swapped; put in order",)


def test_yolo_files_beside_the_photos(tmp_path: Path) -> None:
    """Shares of the sides become px of each photo; polygons give their box; the class is named."""
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png", (200, 40))
    table(tmp_path, "11 0.16 0.275 0.3 0.5\n", "a.txt")
    table(tmp_path, "11 0.1 0.5 0.2 0.5 0.2 0.75 0.1 0.75\n", "b.txt")
    table(tmp_path, "labels of the signs\n", "README.txt")
    signs, _, notes = read_signs(tmp_path)
    assert [np.round(sign.corners).tolist() for sign in signs] == [
        BOX,
        [[20, 20], [40, 20], [40, 30], [20, 30]],
    ]
    assert any("class 11" in note for note in notes)


def test_yolo_folder_of_its_own_with_names(tmp_path: Path) -> None:
    """images/ and labels/ belong together, and the wanted class is taken by its name."""
    photo(tmp_path / "images" / "a.jpg")
    table(tmp_path / "labels", "0 0.5 0.5 0.2 0.2\n1 0.16 0.275 0.3 0.5\n", "a.txt")
    table(tmp_path, "car\nstop sign\n", "classes.txt")
    signs, _, notes = read_signs(tmp_path / "images", class_name="stop_sign")
    assert [np.round(sign.corners).tolist() for sign in signs] == [BOX]
    assert any("1 box of stop_sign taken, 1 of other classes" in note for note in notes)
    with pytest.raises(DataError, match=r"2 classes: car \(1\), stop sign \(1\)"):
        read_signs(tmp_path / "images")


@pytest.mark.parametrize(
    ("line", "said"),
    [("0 0.5 0.5 0.2", "4 values"), ("0 50 40 20 20", "shares"), ("0 nan 0 1 1", "a value is")],
)
def test_yolo_rows_are_judged(tmp_path: Path, line: str, said: str) -> None:
    """Too few values, px and NaN are named."""
    with pytest.raises(DataError, match=said):
        read_boxes(table(tmp_path, line, "a.txt"))


def coco(box: list[float], **image: object) -> str:
    return json.dumps(
        {
            "images": [{"id": 7, "file_name": "a.jpg", **image}],
            "categories": [{"id": 3, "name": "stop"}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 3, "bbox": box},
                {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            ],
        }
    )


def test_coco(tmp_path: Path) -> None:
    """x, y, width and height in px of the stated size, crowds left out; what is no box is named."""
    photo(tmp_path / "a.jpg")
    table(tmp_path, coco([2, 4, 60, 80], width=200, height=160), "_annotations.coco.json")
    assert [sign.corners.tolist() for sign in read_signs(tmp_path)[0]] == [BOX]
    for broken, said in (
        (coco([1, 2, 0, 40]), "a side of 0 px"),
        (coco([1, 2, float("nan"), 40]), "NaN is no number of JSON"),
        ('{"images": []}', "no COCO file"),
        ("[1]", "no CreateML file"),
        ('[{"image": "a.jpg", "annotations": [{}]}]', "no CreateML file"),
        ("{", "no valid JSON"),
    ):
        with pytest.raises(DataError, match=said):
            read_boxes(table(tmp_path, broken, "boxes.json"))


def test_createml(tmp_path: Path) -> None:
    """Center and sides in px of the picture; an empty box is named."""
    photo(tmp_path / "a.jpg")
    x0, y0 = BOX[0]
    x1, y1 = BOX[2]

    def listing(width: float) -> str:
        place = {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": width, "height": y1 - y0}
        return json.dumps(
            [{"image": "a.jpg", "annotations": [{"label": "stop", "coordinates": place}]}]
        )

    table(tmp_path, listing(x1 - x0), "_annotations.createml.json")
    assert [sign.corners.tolist() for sign in read_signs(tmp_path)[0]] == [BOX]
    with pytest.raises(DataError, match="A box has an area"):
        read_boxes(table(tmp_path, listing(0), "boxes.json"))


def test_a_box_of_a_turned_picture_is_refused(tmp_path: Path) -> None:
    """A size that is the picture's on its side means boxes in other coordinates."""
    photo(tmp_path / "a.jpg")
    table(tmp_path, coco([1, 2, 30, 40], width=80, height=100), "_annotations.coco.json")
    with pytest.raises(DataError, match=r"of a picture of 80x100 px: a\.jpg is shown with 100x80"):
        read_signs(tmp_path)


def test_voc(tmp_path: Path) -> None:
    """An XML beside each photo gives its boxes; other XML and missing corners are named."""
    photo(tmp_path / "a.jpg")
    text = (
        "<annotation><filename>other.jpg</filename><size><width>100</width><height>80</height>"
        "</size><object><name>stop</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>31</xmax>"
        "<ymax>42</ymax></bndbox></object></annotation>"
    )
    file = table(tmp_path, text, "a.xml")
    assert [sign.corners.tolist() for sign in read_signs(tmp_path)[0]] == [BOX]
    for broken, said in (
        (text.replace("<xmin>1</xmin>", ""), "xmin is ''"),
        (text.replace("annotation", "svg"), "holds <svg>"),
        (text[:40], "no valid XML"),
    ):
        file.write_text(broken)
        with pytest.raises(DataError, match=said):
            read_boxes(file)


def test_rows_match_by_folder_then_case_and_say_so(tmp_path: Path) -> None:
    """A row counts for the photo of its own folder alone; looser matches are told of."""
    photo(tmp_path / "photos" / "1.jpg")
    photo(tmp_path / "photos" / "day" / "1.jpg")
    file = table(tmp_path / "photos", "file,x0,y0,x1,y1\nday/1.jpg,1,2,31,42\n")
    signs, _, notes = read_signs(tmp_path / "photos")
    assert [(sign.group, sign.corners.tolist()) for sign in signs] == [("day/1.jpg", BOX)]
    assert "1 photo without a box: red octagons were searched in them" in notes

    file.write_text("file,x0,y0,x1,y1\n1.jpg,1,2,31,42\n")
    assert [sign.group for sign in read_signs(tmp_path / "photos")[0]] == ["1.jpg"]
    file.write_text("file,x0,y0,x1,y1\nphotos/day/1.JPG,1,2,31,42\nday\\1.jpg,1,2,31,42\n")
    signs, _, notes = read_signs(tmp_path / "photos")
    assert [sign.group for sign in signs] == ["day/1.jpg"]
    assert any("'photos/day/1.JPG' is day/1.jpg" in note for note in notes)
    assert "boxes.csv: 1 repeated box counted once" in notes


def test_a_name_of_several_photos_is_refused() -> None:
    """A bare name that lies in two folders means neither."""
    with pytest.raises(DataError, match=r"'1\.jpg' may be day/1\.jpg or night/1\.jpg"):
        match_names(["1.jpg"], ["day/1.jpg", "night/1.jpg"], Path("boxes.csv"))
    assert match_names(["/home/me/day/1.jpg"], ["day/1.jpg"], Path("b"))[0] == {
        "/home/me/day/1.jpg": "day/1.jpg"
    }


def test_rows_that_name_nothing_are_said(tmp_path: Path) -> None:
    """A table of other photos is refused, and single rows that name none are counted."""
    photo(tmp_path / "a.jpg")
    file = table(tmp_path, "file,x0,y0,x1,y1\nb.jpg,1,2,31,42\n")
    with pytest.raises(DataError, match=r"no row names a photo that is there \('b\.jpg'\)"):
        read_signs(tmp_path)
    file.write_text("file,x0,y0,x1,y1\nb.jpg,1,2,31,42\na.jpg,1,2,31,42\n")
    assert "boxes.csv: 1 name of no photo here: 'b.jpg'" in read_signs(tmp_path)[2]


@pytest.mark.parametrize("box", ["101,2,131,42", "-60,2,10,42", "90,70,130,110"])
def test_a_box_outside_of_its_photo_is_refused(tmp_path: Path, box: str) -> None:
    """A box of which most is not in the picture was drawn in another one."""
    photo(tmp_path / "a.jpg")
    table(tmp_path, f"file,x0,y0,x1,y1\na.jpg,{box}\n")
    with pytest.raises(DataError, match=r"boxes\.csv:2'.* lies outside: a\.jpg has 100x80 px"):
        read_signs(tmp_path)


def test_several_files_of_boxes_are_refused(tmp_path: Path) -> None:
    """What lies beside the photos must be one; --boxes says which."""
    first = photo(tmp_path / "a.jpg")
    table(tmp_path, PLAIN)
    table(tmp_path, "0 0.5 0.5 0.2 0.2\n", "a.txt")
    with pytest.raises(DataError, match="boxes in several files"):
        find_box_file(tmp_path, [first])
    assert isinstance(read_boxes(tmp_path / "boxes.csv"), BoxTable)


def test_numbers_are_finite() -> None:
    """What Python takes for a number and a table does not is refused."""
    assert parse_number("-1.5e2", "x0", "a") == -150
    for text in ("", "nan", "-inf", "0x10", "1,5", "Infinity", "1e400"):
        with pytest.raises(DataError):
            parse_number(text, "x0", "a")


def test_stop_signs_of_gtsrb_are_read_with_their_boxes(tmp_path: Path) -> None:
    """Its test part alone; the frames of a track share a name, and have no transparency."""
    folder = tmp_path / "Images/00014"
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for track in range(5):
        name = f"{track:05d}_00000.png"
        photo(folder / name, (40, 40))
        rows.append(f"{name};40;40;4;5;36;35;14")
    table(folder, "\n".join(rows), "GT-00014.csv")
    photos, drawings, notes = read_signs(tmp_path)
    assert (len(photos), drawings, notes) == (1, [], [])
    assert photos[0].image.shape == (40, 40, 3)
