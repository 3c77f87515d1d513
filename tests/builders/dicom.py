"""DICOM series whose world coordinates are computed by hand."""

import numpy as np
import pydicom
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

# Rows and columns of a slice run along these directions (left, posterior, superior positive, as DICOM counts);
# the third is where the next slice lies. Sagittal as knees are acquired, coronal, axial, and one run backwards.
PLANES = {
    "sagittal": ([0, 1, 0], [0, 0, -1], [-1, 0, 0]),
    "sagittal from right to left": ([0, 1, 0], [0, 0, -1], [1, 0, 0]),
    "coronal": ([1, 0, 0], [0, 0, -1], [0, 1, 0]),
    "axial": ([1, 0, 0], [0, 1, 0], [0, 0, 1]),
}


SPACING = {0: 4.0, 1: 5.0, 2: 6.0}  # millimetres along left, posterior, superior


def write_series(folder, intensity, plane="sagittal", centre=(80.0, 0.0, 0.0), **changes):
    """Write ``intensity`` (right, anterior, superior) as DICOM; world coordinates are computed by hand, not by us."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = intensity[::-1, ::-1, :]  # now grows towards left, posterior, superior
    row, column, step = (np.array(direction) for direction in PLANES[plane])
    axes = [int(np.abs(direction).argmax()) for direction in (step, column, row)]
    stack = np.transpose(lps, axes)
    for place, direction in enumerate((step, column, row)):
        if direction.sum() < 0:
            stack = np.flip(stack, place)
    shape_lps = np.array(lps.shape)
    spacing = np.array([SPACING[axis] for axis in range(3)])
    centre_lps = np.array([-centre[0], -centre[1], centre[2]])
    start = centre_lps - sum(
        direction * (shape_lps[axis] - 1) / 2 * spacing[axis]
        for axis, direction in zip(axes, (step, column, row), strict=True)
    )
    series = generate_uid(entropy_srcs=[str(folder)])
    for number, pixels in enumerate(stack):
        header = pydicom.Dataset()
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = MRImageStorage
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid()
        header.SeriesInstanceUID = series
        header.PatientName = "Secret^Person"
        header.Modality = "MR"
        header.InstanceNumber = number + 1
        header.Rows, header.Columns = pixels.shape
        header.PixelSpacing = [spacing[axes[1]], spacing[axes[2]]]
        header.ImageOrientationPatient = [float(value) for value in (*row, *column)]
        header.ImagePositionPatient = [float(value) for value in start + number * spacing[axes[0]] * step]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
        header.PixelData = np.ascontiguousarray(pixels.astype("<i2")).tobytes()
        for name, value in changes.items():
            setattr(header, name, value(number) if callable(value) else value)
        # Names show nothing of the order.
        header.save_as(folder / f"{(number * 5) % 101:03d}.dcm", enforce_file_format=True)
    return folder


def write_radiograph(path, pixels, **changes):
    """Write a single image of 16 bits, as an X-ray machine does; pixels are 0.2 mm high and 0.3 mm wide."""
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = DigitalXRayImageStorageForPresentation
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    header.PatientName, header.PatientID, header.Modality = "Secret^Person", "Secret-ID", "DX"
    header.ImagerPixelSpacing = [0.2, 0.3]
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.PixelData = np.ascontiguousarray(pixels.astype("<u2")).tobytes()
    for name, value in changes.items():
        setattr(header, name, value)
    header.save_as(path, enforce_file_format=True)
    return path
