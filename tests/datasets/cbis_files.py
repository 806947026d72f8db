"""A small set of CBIS-DDSM's mass films as JPEG, made in the published form."""

from pathlib import Path

import numpy as np
from PIL import Image

IMAGES_HEADER = (
    "split,file,patient_id,side,view,breast_density,n_abnormalities,pathology,mixed_pathology,max_birads,"
    "est_orig_width,est_orig_height,est_aspect_w_over_h"
)
CASES_HEADER = (
    "patient_id,{density},left or right breast,image view,abnormality id,abnormality type,pathology,image file path"
)
FILES = {
    "images.csv": [
        IMAGES_HEADER,
        "train,00001_LEFT_CC.jpg,P_00001,LEFT,CC,3,1,MALIGNANT,0,4,2400,4800,0.5",
        "train,00001_LEFT_MLO.jpg,P_00001,LEFT,MLO,3,2,MALIGNANT,1,4,3300,5500,0.6",
        "train,00002_RIGHT_MLO.jpg,P_00002,RIGHT,MLO,1,1,BENIGN,0,0,,,",
        "train,00003_RIGHT_CC.jpg,P_00003,RIGHT,CC,4,1,BENIGN,0,2,1800,6000,0.3",
    ],
    "boxes.csv": [
        "split,file,x,y,w,h,pathology",
        "train,00001_LEFT_CC.jpg,100,200,80,40,MALIGNANT",
        "train,00001_LEFT_MLO.jpg,0,0,60,50,MIXED",
        "train,00001_LEFT_MLO.jpg,740,750,60,50,MIXED",
        "train,00002_RIGHT_MLO.jpg,300,400,59,100,BENIGN",
        "train,00003_RIGHT_CC.jpg,10.5,20.25,30,40,BENIGN",
    ],
    # the published files quote a path with the line break behind it
    "mass_case_description_train_set.csv": [
        CASES_HEADER.format(density="breast_density"),
        'P_00001,3,LEFT,CC,1,mass,MALIGNANT,"a/000000.dcm\n"',
        'P_00001,3,LEFT,MLO,1,mass,BENIGN,"b/000000.dcm\n"',
        'P_00001,3,LEFT,MLO,2,mass,MALIGNANT,"c/000000.dcm\n"',
        'P_00002,1,RIGHT,MLO,1,mass,BENIGN_WITHOUT_CALLBACK,"d/000000.dcm\n"',
        'P_00003,4,RIGHT,CC,1,mass,BENIGN,"e/000000.dcm\n"',
    ],
    "calc_case_description_train_set.csv": [
        CASES_HEADER.format(density="breast density"),
        'P_00003,4,RIGHT,CC,2,calcification,MALIGNANT,"f/000000.dcm\n"',
        'P_00009,2,LEFT,CC,1,calcification,BENIGN,"g/000000.dcm\n"',
    ],
}
JPEGS = ("00001_LEFT_CC", "00001_LEFT_MLO", "00002_RIGHT_MLO", "00003_RIGHT_CC")


def write_cbis_jpegs(folder: Path) -> Path:
    """Three women, four films: one with masses of both kinds, one without an estimated size, one with a calc."""
    (folder / "train").mkdir(parents=True)
    for name, lines in FILES.items():
        (folder / name).write_bytes(("\r\n".join(lines) + "\r\n").encode())
    ramp = np.linspace(0, 200, 800).astype(np.uint8)
    for number, name in enumerate(JPEGS):
        Image.fromarray(np.tile(ramp + number, (800, 1))).save(folder / "train" / f"{name}.jpg", quality=95)
    return folder
