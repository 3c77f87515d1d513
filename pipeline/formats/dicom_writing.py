"""Writing a volume as a DICOM series, for synthetic scans: sagittal slices, as knees are acquired."""

import io
from dataclasses import dataclass

import numpy as np

from pipeline.core.array_types import Array
from pipeline.formats.dicom import LPS_TO_RAS


@dataclass(frozen=True)
class SeriesFacts:
    """The facts of a series that its headers hold.

    Args:
        patient: The patient's id.
        description: The description of the series.
        number: A text that no other series has; the series' unique identifiers are made of it.
    """

    patient: str
    description: str
    number: str


def encode_series(intensity: Array, affine: Array, facts: SeriesFacts) -> list[bytes]:
    """Return the files of a series, a sagittal slice each, from left to right.

    Args:
        intensity: ``(right, anterior, superior)`` int16.
        affine: ``(4, 4)``, from voxel indices to world millimetres, right, anterior and superior positive.
        facts: What the headers hold.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    count, depth, height = intensity.shape
    # The first row of a slice is the highest, the first column the most anterior.
    slices = np.ascontiguousarray(intensity[:, ::-1, ::-1].transpose(0, 2, 1)).astype("<i2")
    lps = LPS_TO_RAS @ affine[:3]
    spacing_mm = np.linalg.norm(lps[:, :3], axis=0)
    along_row, along_column = -lps[:, 1] / spacing_mm[1], -lps[:, 2] / spacing_mm[2]
    study, series = (generate_uid(entropy_srcs=[kind, facts.number]) for kind in ("study", "series"))
    files = []
    for place in range(count):
        header = pydicom.Dataset()
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = MRImageStorage
        image = generate_uid(entropy_srcs=["image", facts.number, str(place)])
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = image
        header.StudyInstanceUID, header.SeriesInstanceUID = study, series
        header.Modality, header.PatientID, header.SeriesDescription = "MR", facts.patient, facts.description
        header.InstanceNumber = place + 1
        header.Rows, header.Columns = height, depth
        header.PixelSpacing = [f"{spacing_mm[2]:.6f}", f"{spacing_mm[1]:.6f}"]
        header.SliceThickness = f"{spacing_mm[0]:.6f}"
        header.ImageOrientationPatient = [f"{value:.9f}" for value in (*along_row, *along_column)]
        corner = lps @ np.array([place, depth - 1, height - 1, 1.0])
        header.ImagePositionPatient = [f"{value:.6f}" for value in corner]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
        header.PixelData = slices[place].tobytes()
        buffer = io.BytesIO()
        header.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    return files
