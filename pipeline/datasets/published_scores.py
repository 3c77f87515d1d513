"""Published scores of models on MedMNIST, to stand next to ours.

Only sets whose numbers were looked up are here, all of 28 pixels. AUC is the area under the ROC curve, of more than two
classes the mean over one class against the rest; ACC is the accuracy of the most probable class. Both are what
``auroc`` and ``accuracy`` are here.

Source:
    Yang 2023, "MedMNIST v2", Scientific Data 10.1038/s41597-022-01721-8, tables of the benchmark on 2-D and 3-D sets.
"""

from dataclasses import dataclass

SOURCE = "Yang 2023, MedMNIST v2, Scientific Data, doi 10.1038/s41597-022-01721-8"


@dataclass(frozen=True)
class PublishedScore:
    """The published scores of one model on one set.

    Args:
        model: The name of the model.
        auc: The area under the ROC curve.
        accuracy: The fraction of right answers.
    """

    model: str
    auc: float
    accuracy: float


PUBLISHED_SCORES = {
    "breastmnist": (
        PublishedScore("ResNet-18", 0.901, 0.863),
        PublishedScore("ResNet-50", 0.857, 0.812),
        PublishedScore("auto-sklearn", 0.836, 0.803),
        PublishedScore("AutoKeras", 0.871, 0.831),
        PublishedScore("Google AutoML Vision", 0.919, 0.861),
    ),
    "pneumoniamnist": (
        PublishedScore("ResNet-18", 0.944, 0.854),
        PublishedScore("ResNet-50", 0.948, 0.854),
        PublishedScore("auto-sklearn", 0.942, 0.855),
        PublishedScore("AutoKeras", 0.947, 0.878),
        PublishedScore("Google AutoML Vision", 0.991, 0.946),
    ),
    "retinamnist": (
        PublishedScore("ResNet-18", 0.717, 0.524),
        PublishedScore("ResNet-50", 0.726, 0.528),
        PublishedScore("auto-sklearn", 0.690, 0.515),
        PublishedScore("AutoKeras", 0.719, 0.503),
        PublishedScore("Google AutoML Vision", 0.750, 0.531),
    ),
    "adrenalmnist3d": (
        PublishedScore("ResNet-18, 2.5D", 0.718, 0.772),
        PublishedScore("ResNet-18, 3D", 0.827, 0.721),
        PublishedScore("ResNet-18, ACS", 0.839, 0.754),
        PublishedScore("ResNet-50, 3D", 0.828, 0.745),
        PublishedScore("auto-sklearn", 0.828, 0.802),
        PublishedScore("AutoKeras", 0.804, 0.705),
    ),
}
