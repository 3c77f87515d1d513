"""The options of the synthetic knees."""

from dataclasses import dataclass

from pipeline.config.validation import require, require_at_least


@dataclass(frozen=True)
class PhantomConfig:
    """The synthetic knees: their number, and their differences from each other.

    The defaults are chosen so that a logistic regression on pixels cannot solve the task
    by patient split and a model that recognises shapes can.

    Args:
        num_patients: The number of patients; each has a left and a right knee.
        max_visits: The largest number of visits of a patient, at most 3.
        seed: The seed of the random number generator; the same seed gives the same files.
        shape: The numbers of voxels along right, anterior and superior.
        spacing_mm: The voxel size along right, anterior and superior.
        rotation_degrees: The standard deviation of a knee's rotation about the superior axis.
        shift_mm: The largest displacement of a knee from the centre, to the right and to the front.
        height_shift_mm: The largest displacement of the joint line from the middle of the scan.
        lean: The standard deviation of the limb's tilt to the side and to the front, as mm for each mm of height.
        zoom: The standard deviation of the logarithm of a patient's size.
        shape_variation: The differences of the parts of the knee between patients in place, size and turn;
            1 is about 1.5 mm, 7 % and 4 degrees.
        warp_mm: The size of a smooth random distortion of each scan.
        contrast_variation: The differences of the tissues' intensities between scans; 1 is up to
            1.2 standard deviations of each tissue's own range.
        texture: The relative size of the mottle inside tissues.
        bias_field: The size of the smooth change of brightness over a scan, in logarithms.
        noise: The standard deviation of the scanner's noise in the noisiest scan; fat is about 0.5.
        lesion_fraction: The fraction of the knees with a bone-marrow lesion, of grade 1, 2 or 3 by its size. Above 0
            the raw folder has a table ``lesions.csv`` with the labels lesion and none, for ``data.label_table``.
    """

    num_patients: int = 64
    max_visits: int = 3
    seed: int = 0
    shape: tuple[int, int, int] = (72, 72, 64)
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    rotation_degrees: float = 8.0
    shift_mm: float = 6.0
    height_shift_mm: float = 6.0
    lean: float = 0.05
    zoom: float = 0.07
    shape_variation: float = 1.0
    warp_mm: float = 2.5
    contrast_variation: float = 0.5
    texture: float = 0.1
    bias_field: float = 0.3
    noise: float = 0.05
    lesion_fraction: float = 0.0

    def __post_init__(self) -> None:
        require(1 <= self.num_patients <= 99_999, "phantom.num_patients", self.num_patients, "1 to 99999")
        require(1 <= self.max_visits <= 3, "phantom.max_visits", self.max_visits, "1 to 3")
        require(min(self.shape) >= 8, "phantom.shape", self.shape, "three numbers of voxels, 8 or more")
        require(min(self.spacing_mm) > 0, "phantom.spacing_mm", self.spacing_mm, "three lengths above 0 mm")
        require_at_least("phantom", self, 0, "seed", "rotation_degrees", "shift_mm", "height_shift_mm", "lean", "zoom")
        require_at_least("phantom", self, 0, "shape_variation", "warp_mm")
        require_at_least("phantom", self, 0, "contrast_variation", "texture", "bias_field", "noise")
        require(0 <= self.lesion_fraction <= 1, "phantom.lesion_fraction", self.lesion_fraction, "0 to 1")
